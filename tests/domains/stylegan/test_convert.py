"""Checkpoints of others: what they make is what the converted networks make; other networks are refused."""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from gencompress.cli import run_command
from gencompress.domains.stylegan.convert import convert, read_networks
from gencompress.domains.stylegan.load import load_networks
from gencompress.errors import FormatError, GencompressError, ModelError, RunError
from tests.domains.stylegan import held, reference
from tests.domains.stylegan.tiny import DIM, normal, tiny_discriminator, tiny_generator

WIDTHS = {4: 7, 8: 6, 16: 5}


def nvidia(tmp_path, clamp=256, protocol=4, group=4):
    torch.manual_seed(0)
    generator = held.nvidia_generator(WIDTHS, DIM, clamp=clamp)
    discriminator = held.nvidia_discriminator(WIDTHS, clamp, group)
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(held.nvidia_pickle(generator, discriminator, protocol))
    return path, generator, discriminator


@pytest.mark.parametrize(("clamp", "protocol"), [(None, 4), (0.7, 3), (256, 2)])
def test_a_network_of_nvidia_makes_the_same_pictures(tmp_path, clamp, protocol):
    path, theirs, _ = nvidia(tmp_path, clamp, protocol)
    assert not {"torch_utils", "dnnlib"} & sys.modules.keys()
    networks = convert(path, tmp_path / "out").networks
    assert networks.generator.config.channels == (7, 7, 6, 6, 5, 5) and networks.generator.config.clamp == clamp
    assert torch.equal(networks.generator.latent_avg, theirs.mapping.w_avg)
    z = normal(2, DIM, dtype=torch.float64)
    loaded = load_networks(tmp_path / "out").generator.double()
    for row, picture in zip(z, loaded(z), strict=True):
        expected = held.nvidia_forward(theirs, row.numpy(), clamp=clamp)
        assert abs(picture.numpy() - expected).max() <= 1e-6 * abs(expected).max()


def test_their_discriminator_comes_along(tmp_path):
    path, _, theirs = nvidia(tmp_path, clamp=None, group=2)
    found = convert(path, tmp_path / "out")
    assert found.notes == ()
    ours = load_networks(tmp_path / "out").discriminator
    assert ours.config.channels == (5, 6, 7) and ours.config.stddev_group == 2
    t = {name: tensor.double().numpy() for name, tensor in theirs.state_dict().items()}
    names = {
        "convs.0.0": "b16.fromrgb", "convs.1.conv1.0": "b16.conv0", "convs.1.conv2.1": "b16.conv1",
        "convs.1.skip.1": "b16.skip", "convs.2.conv1.0": "b8.conv0", "convs.2.conv2.1": "b8.conv1",
        "convs.2.skip.1": "b8.skip", "final_conv.0": "b4.conv", "final_linear.0": "b4.fc", "final_linear.1": "b4.out",
    }  # fmt: skip
    for mine, their in names.items():
        assert np.array_equal(ours.state_dict()[f"{mine}.weight"].double().numpy(), t[f"{their}.weight"])
    biases = {"convs.0.1": "b16.fromrgb", "convs.2.conv2.2": "b8.conv1", "final_conv.1": "b4.conv"}
    for mine, their in biases.items():
        assert np.array_equal(ours.state_dict()[f"{mine}.bias"].double().numpy(), t[f"{their}.bias"])
    pictures = normal(4, 3, 16, 16)
    alone = [reference.discriminate(reference.arrays(ours), pictures[i::2].double().numpy(), 2) for i in range(2)]
    assert np.allclose(ours(pictures)[:, 0].numpy(), np.stack(alone, 1).ravel(), rtol=1e-4)


def test_gains_that_do_not_follow_from_the_widths_go_into_the_weights(tmp_path):
    torch.manual_seed(0)
    theirs = held.nvidia_generator(WIDTHS, DIM)
    before = theirs.synthesis.b8.torgb.weight.clone(), theirs.mapping.fc1.weight.clone()
    theirs.synthesis.b8.torgb.weight_gain *= 3
    theirs.mapping.fc1.weight_gain /= 2
    (tmp_path / "a.pkl").write_bytes(held.nvidia_pickle(theirs))
    found = read_networks(tmp_path / "a.pkl")
    assert torch.allclose(found.networks.generator.to_rgbs[0].conv.weight[0], 3 * before[0])
    assert torch.allclose(found.networks.generator.style[2].weight, before[1] / 2)
    assert found.networks.discriminator is None and "no discriminator" in found.notes[0]


def rosinality(tmp_path, zipped=True, **more):
    generator, discriminator = tiny_generator(), tiny_discriminator()
    state = {name: t for name, t in generator.state_dict().items() if name != "latent_avg"}
    optimizer = torch.optim.Adam(generator.style.parameters())
    checkpoint = {
        "g": state, "d": discriminator.state_dict(), "g_ema": state, "g_optim": optimizer.state_dict(),
        "args": argparse.Namespace(size=16, latent=DIM, n_mlp=2, ckpt=None), "ada_aug_p": 0.0, **more,
    }  # fmt: skip
    path = tmp_path / "550000.pt"
    torch.save({k: v for k, v in checkpoint.items() if v is not None}, path, _use_new_zipfile_serialization=zipped)
    return path, generator, discriminator


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_rosinality(tmp_path, zipped):
    mean = normal(DIM, seed=9)
    path, generator, discriminator = rosinality(tmp_path, zipped, latent_avg=mean)
    assert convert(path, tmp_path / "out").notes == ()
    loaded = load_networks(tmp_path / "out")
    w, pictures = normal(2, DIM), normal(2, 3, 16, 16)
    assert torch.equal(loaded.generator(w), generator(w)) and torch.equal(loaded.generator.latent_avg, mean)
    assert torch.equal(loaded.discriminator(pictures), discriminator(pictures))


@pytest.mark.parametrize("layout", ["without the mean", "g_ema alone", "bare"])
def test_checkpoints_with_less_in_them(tmp_path, layout):
    path, generator, _ = rosinality(tmp_path)
    state = torch.load(path, weights_only=False)["g_ema"]
    torch.save({"without the mean": {"g_ema": state, "d": {"x": torch.ones(1)}}, "g_ema alone": {"g_ema": state},
                "bare": state}[layout], path)  # fmt: skip
    found = read_networks(path)
    assert torch.equal(found.networks.generator.latent_avg, generator.mean_latent())
    assert found.networks.discriminator is None and len(found.notes) == 2
    w = normal(2, DIM)
    assert torch.equal(found.networks.generator(w), generator(w))


def test_transposed_tensors_and_half_precision(tmp_path):
    path, _, _ = rosinality(tmp_path)
    state = torch.load(path, weights_only=False)["g_ema"]
    state["style.1.weight"] = state["style.1.weight"].T.contiguous().T
    state["convs.0.conv.weight"] = state["convs.0.conv.weight"][0].to(memory_format=torch.channels_last)[None]
    state["style.2.weight"] = state["style.2.weight"].half()
    state["style.2.bias"] = state["style.2.bias"].bfloat16()
    torch.save({"g_ema": state}, path)
    found = read_networks(path).networks.generator.state_dict()
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in state.items())


def changed(change):
    def make(tmp_path):
        torch.manual_seed(0)
        generator = held.nvidia_generator(WIDTHS, DIM)
        change(generator)
        (tmp_path / "a.pkl").write_bytes(held.nvidia_pickle(generator))
        return tmp_path / "a.pkl"

    return make


def saved(change):
    def make(tmp_path):
        path, _, _ = rosinality(tmp_path)
        checkpoint = torch.load(path, weights_only=False)
        change(checkpoint)
        torch.save(checkpoint, path)
        return path

    return make


def pickled(value):
    def make(tmp_path):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
        return tmp_path / "a.pkl"

    return make


def _tensorflow(tmp_path):
    made = {name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")}
    network = type("Network", (), {"__module__": "dnnlib.tflib.network"})
    made["dnnlib.tflib.network"].Network = network
    sys.modules.update(made)
    try:
        return pickled((network(),) * 3)(tmp_path)
    finally:
        for name in made:
            del sys.modules[name]


def _stylegan3(generator):
    generator.synthesis.input = held.Persistent("SynthesisInput")
    generator.synthesis.input.register_buffer("transform", torch.eye(3))


def _pop(name):
    return lambda generator: generator.get_submodule(name.rpartition(".")[0])._parameters.pop(name.rpartition(".")[2])


REFUSED = {
    "TensorFlow": (_tensorflow, FormatError, "TensorFlow"),
    "StyleGAN3": (changed(_stylegan3), ModelError, "StyleGAN3"),
    "conditional": (changed(lambda g: setattr(g, "c_dim", 10)), ModelError, "class-conditional"),
    "another activation": (changed(lambda g: setattr(g.mapping.fc0, "activation", "relu")), ModelError, "'relu'"),
    "another filter": (changed(lambda g: g.synthesis.b8.conv0.resample_filter.mul_(2)), ModelError, r"\[1, 3, 3, 1\]"),
    "residual": (changed(lambda g: setattr(g.synthesis.b8, "skip", held._conv(7, 6, 1, None))), ModelError, "b8.skip"),
    "a layer less": (changed(lambda g: delattr(g.synthesis.b8, "conv1")), ModelError, "b8.conv1.weight is missing"),
    "a block less": (changed(lambda g: delattr(g.synthesis, "b8")), ModelError, "no blocks from 4 px"),
    "no noise": (changed(_pop("synthesis.b8.conv0.noise_strength")), ModelError, "noise_strength is missing"),
    "no bias": (changed(_pop("mapping.fc1.bias")), ModelError, "mapping.fc1.bias is missing"),
    "NaN": (changed(lambda g: g.synthesis.b4.const.fill_(float("nan"))), ModelError, "input.input holds NaN"),
    "a gain that is no number": (changed(lambda g: setattr(g.mapping.fc0, "bias_gain", "x")), ModelError, "no number"),
    "a gain beyond floats": (changed(lambda g: setattr(g.mapping.fc0, "bias_gain", 10**400)), ModelError, "no number"),
    "noise of several strengths": (
        changed(lambda g: setattr(g.synthesis.b8.conv1, "noise_strength", torch.nn.Parameter(torch.ones(3)))),
        ModelError,
        "shape",
    ),
    "a clamp that is no number": (
        changed(lambda g: setattr(g.synthesis.b16.conv1, "conv_clamp", "a")), ModelError, "no number",
    ),
    "an infinite gain": (changed(lambda g: setattr(g.mapping.fc0, "bias_gain", 1e400)), ModelError, "no number"),
    "a width that does not fit": (
        changed(lambda g: setattr(g.synthesis.b8.conv1, "bias", torch.nn.Parameter(torch.ones(3)))),
        ModelError,
        "convs.1.activate.bias has shape",
    ),
    "a list": (pickled([1, 2]), ModelError, "no dict of networks"),
    "an empty dict": (pickled({}), ModelError, "neither G_ema"),
    "numbers": (pickled({"g_ema": {"a": 1}}), ModelError, "neither G_ema"),
    "g_ema is a list": (pickled({"g_ema": [1]}), ModelError, "no state dict"),
    "a key less": (saved(lambda c: c["g_ema"].pop("noises.noise_3")), ModelError, "lack noises.noise_3"),
    "a key more": (saved(lambda c: c["g_ema"].update(x=torch.ones(1))), ModelError, "have x"),
    "another shape": (
        saved(lambda c: c["g_ema"].update({"conv1.noise.weight": torch.ones(2)})), ModelError, "conv1.noise.weight",
    ),
    "a hundred layers": (
        saved(lambda c: c["g_ema"].update({f"convs.{i}.conv.weight": torch.ones(1, 2, 2, 3, 3) for i in range(100)})),
        ModelError,
        "resolution",
    ),
    "flat weights": (
        saved(lambda c: c["g_ema"].update({"conv1.conv.weight": torch.ones(2)})), ModelError, "do not have the shapes",
    ),
    "other networks": (saved(lambda c: c.update(g_ema=torch.nn.Linear(2, 2).state_dict())), ModelError, "neither"),
    "NaN in rosinality's": (
        saved(lambda c: c["g_ema"]["input.input"].fill_(float("nan"))), ModelError, "input.input holds NaN",
    ),
    "a whole module": (saved(lambda c: c.update(g_ema=torch.nn.Linear(2, 2))), FormatError, "torch.nn.modules.linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused(tmp_path, name):
    make, kind, words = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(GencompressError, match=words) as caught:
        convert(path, tmp_path / "out")
    assert type(caught.value) is kind and str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_discriminator_of_another_kind_is_left_out(tmp_path):
    torch.manual_seed(0)
    generator, discriminator = held.nvidia_generator(WIDTHS, DIM), held.nvidia_discriminator(WIDTHS)
    discriminator.b8.fromrgb = held._conv(3, 6, 1, None)  # pictures of every size come in
    (tmp_path / "a.pkl").write_bytes(held.nvidia_pickle(generator, discriminator))
    found = read_networks(tmp_path / "a.pkl")
    assert found.networks.discriminator is None and "left out" in found.notes[0] and "fromrgb" in found.notes[0]


def test_the_command(tmp_path, capsys):
    path, generator, _ = rosinality(tmp_path)
    out = tmp_path / "out"
    assert run_command(["convert", str(path), str(out)]) == 0
    shown = capsys.readouterr().out
    count = sum(p.numel() for p in generator.parameters())
    assert f"{out}  StyleGAN2, 16 px, {count:,} parameters, with its discriminator" in shown and "mean latent" in shown
    assert torch.allclose(load_networks(out).generator(normal(1, DIM)), generator(normal(1, DIM)), atol=1e-5)

    assert run_command(["convert", str(path), str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert run_command(["convert", str(tmp_path / "none.pkl"), str(tmp_path / "b")]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(ModelError, match="gencompress convert 550000"):
        load_networks(path)
    with pytest.raises(RunError):
        convert(path, out)


def test_a_pickle_is_converted_where_nothing_of_theirs_is_installed(tmp_path):
    path, _, _ = nvidia(tmp_path)
    command = [sys.executable, "-m", "gencompress", "convert", str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "16 px" in done.stdout


def test_arrays_and_sets_beside_the_networks_are_passed_over(tmp_path):
    extra = {"array": np.ones((2, 3), "f4"), "set": {1, "a"}, "number": np.float32(2.5), "flag": np.bool_(True)}
    path, generator, _ = rosinality(tmp_path, latent_avg=normal(DIM), extra=extra)
    assert torch.equal(read_networks(path).networks.generator.input.input, generator.input.input)
