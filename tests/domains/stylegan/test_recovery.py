"""Recovery of pruned generators: it learns, resumes to the same bits, and leaves the mapping alone."""

from __future__ import annotations

import copy

import pytest
import torch

from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.recovery import GanRecover, mapping_only, recover_
from gencompress.errors import ConfigError, Interrupted, NumericsError, RunError
from gencompress.run import NullContext
from tests.criteria.toy import Recorder
from tests.domains.stylegan.test_removal import without
from tests.domains.stylegan.tiny import DIM, normal, tiny_discriminator, tiny_generator

TEACHER = (8, 8, 8, 8)


def cast():
    """A pruned generator, its dense one, and a discriminator, the same every time."""
    teacher = StyleGan(Networks(tiny_generator(TEACHER)))
    student = teacher.prune(without(teacher.groups, 0.5)).generator
    return student, teacher.generator, tiny_discriminator((4, 6))


def real(index, size):
    return normal(size, 3, 8, 8, seed=100 + index)


def settings(**changes):
    return GanRecover(**{"steps": 6, "batch": 4, "r1_every": 3, "path_every": 2, "every": 2} | changes)


def distance(student, teacher):
    w = teacher.mapping(normal(16, DIM, seed=5))
    return float((student(w, space="w") - teacher(w, space="w")).abs().mean())


def test_the_student_comes_nearer_to_its_teacher():
    student, teacher, discriminator = cast()
    before, dense = distance(student, teacher), copy.deepcopy(teacher.state_dict())
    critic = copy.deepcopy(discriminator.state_dict())
    losses = recover_(student, teacher, discriminator, real, NullContext(), settings(steps=60, lr=1e-2, batch=4))
    assert len(losses) == 60 and not any(p.requires_grad for p in student.parameters())
    assert all(torch.equal(dense[n], t) for n, t in teacher.state_dict().items())
    assert all(torch.equal(student.state_dict()[n], dense[n]) for n in dense if n.startswith(("style.", "latent_avg")))
    assert not torch.equal(critic["convs.0.0.weight"], discriminator.state_dict()["convs.0.0.weight"])
    assert distance(student, teacher) < 0.9 * before
    assert sum(losses[-10:]) < sum(losses[:10])


def test_a_stopped_recovery_ends_with_the_same_bits():
    whole = cast()
    recover_(*whole, real, Recorder(), settings())
    stopped, halves = Recorder(stop_after=3), cast()
    with pytest.raises(Interrupted):
        recover_(*halves, real, stopped, settings())
    again = cast()
    recover_(*again, real, Recorder(saved=stopped.saved), settings())
    for i in (0, 2):
        ours, theirs = again[i].state_dict(), whole[i].state_dict()
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_every_loss_takes_part():
    """Each option changes what comes out."""

    def trained(**changes):
        student, teacher, discriminator = cast()
        recover_(student, teacher, discriminator, real, NullContext(), settings(steps=3, **changes))
        return torch.cat([t.flatten() for t in student.state_dict().values()])

    base = trained()
    assert torch.equal(base, trained())
    for change in ({"l1": 0.0}, {"relation": 0.0}, {"r1": 0.0}, {"path": 0.0}, {"mixing": 0.0}, {"seed": 1}):
        assert not torch.equal(base, trained(**change)), change
    student, teacher, discriminator = cast()
    seen = []

    def perceptual(made, wanted):
        seen.append((made.shape, made.requires_grad, wanted.requires_grad))
        return (made - wanted).square().mean((1, 2, 3))

    recover_(student, teacher, discriminator, real, NullContext(), settings(steps=1), perceptual)
    assert seen == [((4, 3, 8, 8), True, False)]


def test_the_average_follows_the_weights():
    student, teacher, discriminator = cast()
    before, ctx = copy.deepcopy(student.state_dict()), Recorder()
    recover_(student, teacher, discriminator, real, ctx, settings(steps=1))
    name, decay = "convs.0.conv.weight", 1 / 10
    moved = ctx.saved.tensors[f"g.{name}"]
    assert not torch.equal(moved, before[name])
    assert torch.allclose(student.state_dict()[name], decay * before[name] + (1 - decay) * moved, atol=1e-7)


def test_bfloat16():
    student, teacher, discriminator = cast()
    losses = recover_(student, teacher, discriminator, real, NullContext(), settings(autocast=torch.bfloat16))
    exact = recover_(*cast(), real, NullContext(), settings())
    assert losses == pytest.approx(exact, rel=0.1) and losses != exact
    assert student.conv1.conv.weight.dtype == torch.float32


def test_starting_anew_keeps_the_mapping_alone():
    student, _, _ = cast()
    fresh = mapping_only(student)
    assert fresh.config == student.config
    for name, tensor in student.state_dict().items():
        same = torch.equal(fresh.state_dict()[name], tensor)
        assert same or not name.startswith(("style.", "latent_avg", "noises."))
    assert not torch.equal(fresh.conv1.conv.weight, student.conv1.conv.weight)
    assert torch.equal(mapping_only(student).conv1.conv.weight, fresh.conv1.conv.weight)


def test_what_cannot_be_is_refused():
    student, teacher, discriminator = cast()
    with pytest.raises(ConfigError, match="different resolution"):
        recover_(tiny_generator(), teacher, discriminator, real, NullContext(), settings())
    with pytest.raises(ConfigError, match="batch=6"):
        recover_(student, teacher, discriminator, real, NullContext(), settings(batch=6))
    for change in ({"steps": 0}, {"l1": -1}, {"lr": 0}, {"mixing": 2}, {"autocast": torch.float16}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            settings(**change)
    other = Recorder()
    recover_(student, teacher, discriminator, real, other, settings(steps=1))
    narrower = StyleGan(Networks(teacher)).prune(without(StyleGan(Networks(teacher)).groups, 0.8)).generator
    with pytest.raises(RunError, match="another model"):
        recover_(narrower, teacher, tiny_discriminator((4, 6)), real, Recorder(saved=other.saved), settings(steps=2))
    with pytest.raises(NumericsError):
        recover_(*cast(), lambda i, n: real(i, n) * float("nan"), NullContext(), settings(steps=1))


def _recover_in_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    networks, seen = cast(), []

    def mine(index, size):
        seen.append(index)
        return real(index, size)

    losses = recover_(*networks, mine, NullContext(), settings(batch=2))
    states = [{n: t for n, t in networks[i].state_dict().items()} for i in (0, 2)]
    torch.save({"states": states, "losses": losses, "seen": seen}, f"{folder}/rank{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_share_one_step(tmp_path):
    """Both end with the same weights, after other pictures each; a lone process ends elsewhere."""
    # forked, since this process has paid for importing torch
    torch.multiprocessing.start_processes(_recover_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / f"rank{rank}") for rank in (0, 1))
    assert one["seen"] == [0, 2, 4, 6, 8, 10] and two["seen"] == [1, 3, 5, 7, 9, 11]
    assert one["losses"] == two["losses"]
    for ours, theirs in zip(one["states"], two["states"], strict=True):
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    alone = cast()
    recover_(*alone, real, NullContext(), settings(batch=2))
    assert not torch.equal(alone[0].conv1.conv.weight, one["states"][0]["conv1.conv.weight"])
