"""Exported folders open in new processes: after `import gencompress` alone, or portable without the package."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoModel

import gencompress
from gencompress.core.plan import Plan
from gencompress.domains.diffusion.export import export_pipeline
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.load import denoiser_name, denoiser_of
from gencompress.domains.diffusion.removal import remove
from gencompress.errors import RunError
from tests.domains.diffusion.tiny import tiny_dit, tiny_sd

PIPES = {"sd": tiny_sd, "dit": tiny_dit}
KINDS = {"sd": None, "dit": ("head", "ffn", "adaln")}


def pruned(name, kinds=None, share=0.5):
    pipe = PIPES[name]()
    groups = groups_of(denoiser_of(pipe), kinds or KINDS[name])
    plan = Plan({g.name: torch.arange(round(g.size * share)) for g in groups}, {g.name: g.size for g in groups})
    setattr(pipe, denoiser_name(pipe), remove(denoiser_of(pipe), groups, plan))
    return pipe, plan


def picture(pipe) -> np.ndarray:
    options = {"generator": torch.Generator().manual_seed(3), "num_inference_steps": 2, "output_type": "np"}
    if hasattr(pipe, "unet"):
        return pipe("a red fox", **options).images
    return pipe(class_labels=[3], **options).images


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of both pipelines, plain and portable, with the pictures made before saving."""
    root = tmp_path_factory.mktemp("exported")
    for name in PIPES:
        pipe, plan = pruned(name)
        np.save(root / f"{name}.npy", picture(pipe))
        export_pipeline(pipe, plan, root / name, card="# Model card")
        export_pipeline(pipe, plan, root / f"{name}-portable", portable=True)
    return root


def in_a_new_process(root: Path, code: str) -> dict[str, float]:
    """Run `code`, which calls ``check(folder, name, again, **options)``; largest picture difference by folder."""
    prelude = """
        import json, sys
        import numpy as np
        import torch
        from pathlib import Path
        torch.set_num_threads(1)
        root, found = Path(sys.argv[1]), {}

        def check(folder, name, again, **options):
            from diffusers import DiffusionPipeline
            pipe = DiffusionPipeline.from_pretrained(root / folder, **options)
            pipe.set_progress_bar_config(disable=True)
            made = {"generator": torch.Generator().manual_seed(3), "num_inference_steps": 2, "output_type": "np"}
            image = (pipe("a red fox", **made) if name == "sd" else pipe(class_labels=[3], **made)).images
            found[folder] = float(np.abs(image - np.load(root / f"{name}.npy")).max())
            pipe.save_pretrained(root / again)
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(code) + "\nprint(json.dumps(found))\n"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "HF_MODULES_CACHE": str(root / "modules")}
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_import_gencompress_is_all_that_stock_diffusers_needs(exported):
    code = """
        import gencompress
        assert "torch" in sys.modules and "diffusers" not in sys.modules
        for name in ("sd", "dit"):
            check(name, name, f"{name}-2")
            check(f"{name}-2", name, f"{name}-3")
    """
    found = in_a_new_process(exported, code)
    assert len(found) == 4 and max(found.values()) <= 1e-5
    for name, part in (("sd", "unet"), ("dit", "transformer")):
        first, last = (json.loads((exported / f / "model_index.json").read_text())[part] for f in (name, f"{name}-3"))
        assert first == last and first[0] == "gencompress.diffusers"


def test_portable_folders_open_without_the_package_and_after_a_second_saving(exported):
    code = """
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "gencompress":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        for name in ("sd", "dit"):
            check(f"{name}-portable", name, f"{name}-portable-2", trust_remote_code=True)
            check(f"{name}-portable-2", name, f"{name}-portable-3", trust_remote_code=True)
        assert not any(module.startswith("gencompress") for module in sys.modules)
    """
    found = in_a_new_process(exported, code)
    assert len(found) == 4 and max(found.values()) <= 1e-5
    for name, part in (("sd", "unet"), ("dit", "transformer")):
        folders = [exported / f"{name}-portable{again}" for again in ("", "-2", "-3")]
        module, _ = json.loads((folders[0] / "model_index.json").read_text())[part]
        texts = {(f / part / f"{module}.py").read_text() for f in folders}
        entries = {tuple(json.loads((f / "model_index.json").read_text())[part]) for f in folders}
        assert len(texts) == len(entries) == 1


def test_gencompress_load_opens_portable_folders_without_running_their_code(exported, tmp_path):
    part = next((exported / "sd-portable" / "unet").glob("*.py"))
    text = part.read_text()
    try:
        part.write_text("raise SystemExit('this code was run')")
        pipe = gencompress.load(exported / "sd-portable")
    finally:
        part.write_text(text)
    assert type(pipe.unet).__module__ == "gencompress.diffusers"
    pipe.set_progress_bar_config(disable=True)
    assert np.abs(picture(pipe) - np.load(exported / "sd.npy")).max() <= 1e-5


def test_stock_auto_model_opens_the_component(exported):
    unet = AutoModel.from_pretrained(str(exported / "sd"), subfolder="unet")
    assert type(unet).__name__ == "PrunedUNet2DConditionModel"


def test_the_folder_holds_plan_card_and_safetensors(exported):
    plan = Plan.load(exported / "sd" / "plan.json")
    assert plan.counts == pruned("sd")[1].counts
    assert (exported / "sd" / "README.md").read_text() == "# Model card"
    files = [p for p in (exported / "sd").rglob("*") if p.is_file()]
    assert not any(p.suffix in (".bin", ".pt", ".py") for p in files)
    assert sum(p.suffix == ".safetensors" for p in files) == 3


def test_class_names_of_dit_survive(exported):
    pipe = gencompress.load(exported / "dit")
    assert pipe.get_label_ids(["class7", "label9"]) == [7, 9]


def test_stock_classes_need_no_component_file(tmp_path):
    pipe, plan = pruned("dit", kinds=["depth"], share=0)
    out = export_pipeline(pipe, plan, tmp_path / "out", portable=True)
    index = json.loads((out / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    assert not list(out.rglob("*.py"))


def test_a_folder_of_the_users_is_not_overwritten(exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    pipe, plan = pruned("dit")
    with pytest.raises(RunError, match=str(tmp_path)):
        export_pipeline(pipe, plan, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    pipe, plan = pruned("dit")

    def full(folder, **options):
        Path(folder, "model_index.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipe, "save_pretrained", full)
    with pytest.raises(RunError, match="disk is full"):
        export_pipeline(pipe, plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
