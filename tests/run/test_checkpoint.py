from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gencompress.errors import RunError
from gencompress.run import Run, StageContext, checkpoint, read_journal
from tests.run.recipe import Options, artefacts, execute


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder, step, {"w": torch.full((3,), float(step))}, {"step": step})


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def test_tensors_and_data_come_back(tmp_path: Path) -> None:
    weight = torch.randn(4, 6, dtype=torch.bfloat16)
    tensors = {
        "weight": weight,
        "view": weight[:, 2:5],
        "transposed": weight.t(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "state": torch.Generator().get_state(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int64),
    }
    checkpoint.save(tmp_path, 7, tensors, {"epoch": 2, "best": [1.5, None]})
    found, damaged = checkpoint.load(tmp_path)
    assert found is not None and damaged == []
    assert found.step == 7 and found.meta == {"epoch": 2, "best": [1.5, None]}
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert found.tensors[name].equal(tensor.detach()) and found.tensors[name].dtype == tensor.dtype


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 100):
        save(tmp_path, step)
    assert [int(p.name[5:14]) for p in files(tmp_path)] == [30, 100]


def test_nothing_saved_gives_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "absent") == (None, [])


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = files(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes({"cut": bytes(data[:-1]), "flip": bytes(data), "empty": b""}[damage])
    found, damaged = checkpoint.load(tmp_path)
    assert found is not None and found.step == 1 and damaged == [newest]


def test_a_foreign_file_with_a_true_hash_is_refused_by_name(tmp_path: Path) -> None:
    import hashlib

    data = b"not safetensors"
    path = tmp_path / f"step-000000009-{hashlib.sha256(data).hexdigest()}.safetensors"
    path.write_bytes(data)
    with pytest.raises(RunError, match="step-000000009"):
        checkpoint.load(tmp_path)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    save(tmp_path, 1)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(RunError, match="12 bytes are needed"):
        save(tmp_path, 2)
    found, _ = checkpoint.load(tmp_path)
    assert found is not None and found.step == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_stage_goes_on_from_the_sound_checkpoint_and_ends_the_same(tmp_path: Path) -> None:
    path, calm = tmp_path / "run", tmp_path / "calm"
    execute(calm)

    def stop_at_eight(ctx: StageContext, options: Options) -> None:
        from tests.run import recipe

        original = ctx.progress

        def progress(step: int, total: int, **figures: float) -> None:
            original(step, total, **figures)
            if step == 8:
                raise ZeroDivisionError

        ctx.progress = progress  # type: ignore[method-assign]
        recipe.learn(ctx, options)

    with pytest.raises(ZeroDivisionError), Run.open(path, Options()) as run:
        run.stage("scores", stop_at_eight, run.config)
    kept = files(path / "checkpoints" / "scores")
    assert [int(p.name[5:14]) for p in kept] == [3, 6]
    kept[-1].write_bytes(b"torn")
    execute(path)
    assert artefacts(path) == artefacts(calm)
    journal = read_journal(path)
    assert [e["file"] for e in journal if e["event"] == "checkpoint_damaged"] == [kept[-1].name]
    assert [e["step"] for e in journal if e["event"] == "checkpoint_loaded"] == [3]


def test_checkpoints_made_from_an_earlier_outcome_are_void(tmp_path: Path) -> None:
    """A stage that has to run again drops the checkpoints of those after it."""
    path = tmp_path / "run"

    def half(ctx: StageContext) -> None:
        found = ctx.load_checkpoint()
        assert found is None
        ctx.save_checkpoint(1, {"w": torch.zeros(1)})
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError), Run.open(path, Options()) as run:
            run.stage("scores", lambda ctx: (ctx.dir / "a").write_text("1"))
            run.redo("scores")
            run.stage("scores", lambda ctx: (ctx.dir / "a").write_text("2"))
            run.stage("recover", half)
