"""Saved models in new processes: stock configs with plain transformers, widths per layer after `import gencompress`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gencompress.core.budget import Budget, solve, solve_ratio
from gencompress.core.plan import Plan
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.export import export_sam
from gencompress.domains.sam.load import load_sam
from gencompress.errors import RunError
from tests.domains.sam.tiny import prompted, segment, tiny_sam, tiny_sam2
from tests.laws.denoisers import relative

NAMES = ("uniform", "per_layer", "uniform_sam2", "per_layer_sam2")
PRELUDE = """
    import json, sys
    from pathlib import Path
    root, found = Path(sys.argv[1]), {}

    def check(name, again=None):
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModel, Sam2Model, SamModel
        torch.set_num_threads(1)
        wanted = load_file(root / f"{name}.safetensors")
        given = {n: wanted[n] for n in ("pixel_values", "input_points", "input_labels", "input_boxes")}
        for attention in ("eager", "sdpa"):
            own = Sam2Model if "sam2" in name else SamModel
            for kind in (own, AutoModel):
                model = kind.from_pretrained(root / name, attn_implementation=attention)
                assert type(model) is own
                with torch.no_grad():
                    out = model(**given)
                for field in ("pred_masks", "iou_scores"):
                    error = (out[field] - wanted[field]).abs().max() / wanted[field].abs().max()
                    found[f"{name} {attention} {kind.__name__} {field}"] = float(error)
        if again is not None:
            model.save_pretrained(root / again)
            (root / f"{again}.safetensors").write_bytes((root / f"{name}.safetensors").read_bytes())
"""


def pruned(name: str) -> tuple[Sam, Plan]:
    dense = Sam(tiny_sam2() if "sam2" in name else tiny_sam(), uniform=name.startswith("uniform"))
    scores = random_scores(dense.groups)
    if dense.uniform:
        plan = solve_ratio(dense.groups, scores, 0.5, dense.cost("params"), dense.source)
    else:
        plan = solve(dense.groups, scores, Budget(keep=0.5), dense.cost("params"), dense.source)
    return dense.prune(plan), plan


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Folders of all results, with the prompts and the answers given before saving."""
    root = tmp_path_factory.mktemp("exported")
    for name in NAMES:
        small, plan = pruned(name)
        masks, scores = segment(small.model)
        save_file({**prompted(), "pred_masks": masks, "iou_scores": scores}, root / f"{name}.safetensors")
        export_sam(small.model, plan, root / name, card="# Model card")
    return root


def in_a_new_process(root: Path, code: str) -> dict[str, float]:
    """Run `code`, which calls ``check(name)``; relative differences of masks and scores."""
    script = textwrap.dedent(PRELUDE) + textwrap.dedent(code) + "\nprint(json.dumps(found))\n"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf")}
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_uniform_results_open_in_plain_transformers_and_uneven_ones_fail_loudly(exported):
    code = """
        check("uniform")
        check("uniform_sam2")
        assert not any(module.startswith("gencompress") for module in sys.modules)
        from transformers import AutoModel
        for name in ("per_layer", "per_layer_sam2"):
            try:
                AutoModel.from_pretrained(root / name)
            except RuntimeError as error:
                assert "mismatch" in str(error)
            else:
                raise SystemExit("plain transformers opened a folder that it cannot know how to build")
        import gencompress                      # after transformers has imported its modules
        check("per_layer")
    """
    found = in_a_new_process(exported, code)
    assert len(found) == 24 and max(found.values()) <= 1e-5


def test_import_gencompress_is_all_that_uneven_results_need(exported):
    code = """
        import gencompress
        assert not {"torch", "transformers"} & set(sys.modules)
        check("per_layer", again="per_layer-2")
        check("per_layer-2")
        check("per_layer_sam2")
        assert not any(module.startswith("gencompress.domains.sam.groups") for module in sys.modules)
    """
    found = in_a_new_process(exported, code)
    assert len(found) == 24 and max(found.values()) <= 1e-5
    first, second = (json.loads((exported / f / "config.json").read_text()) for f in ("per_layer", "per_layer-2"))
    assert first["vision_config"]["pruning"] == second["vision_config"]["pruning"]


def test_the_folder_of_a_uniform_result_has_a_stock_config(exported):
    config = json.loads((exported / "uniform" / "config.json").read_text())
    vision = config["vision_config"]
    assert config["model_type"] == "sam" and config["architectures"] == ["SamModel"]
    assert (vision["hidden_size"], vision["num_attention_heads"], vision["mlp_dim"]) == (16, 2, 24)
    assert vision.keys() <= tiny_sam().config.to_dict()["vision_config"].keys()
    assert Plan.load(exported / "uniform" / "plan.json").counts == pruned("uniform")[1].counts
    assert (exported / "uniform" / "README.md").read_text() == "# Model card"
    assert {p.suffix for p in (exported / "uniform").iterdir()} == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize("name", NAMES)
def test_our_own_loading_gives_the_same_answers(exported, name):
    wanted = load_file(exported / f"{name}.safetensors")
    for attention in ("eager", "sdpa"):
        masks, scores = segment(load_sam(exported / name, attention=attention))
        assert relative(masks, wanted["pred_masks"]) <= 1e-5 and relative(scores, wanted["iou_scores"]) <= 1e-5


def test_half_precision_survives(tmp_path):
    small, plan = pruned("per_layer")
    export_sam(small.model.to(torch.bfloat16), plan, tmp_path / "out")
    loaded = load_sam(tmp_path / "out", dtype=torch.bfloat16)
    ours, theirs = small.model.state_dict(), loaded.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) and theirs[k].dtype == torch.bfloat16 for k in ours)


def test_stages_of_a_uniform_sam2_are_in_its_stock_config(exported):
    vision = json.loads((exported / "uniform_sam2" / "config.json").read_text())["vision_config"]
    backbone = vision["backbone_config"]
    assert (backbone["embed_dim_per_stage"], backbone["hidden_size"], backbone["mlp_ratio"]) == (
        [8, 16, 32, 64],
        8,
        4.0,
    )
    assert vision["backbone_channel_list"] == [64, 32, 16, 8] and "pruning" not in vision


def test_the_processor_travels_along(tmp_path):
    from transformers import AutoProcessor, SamImageProcessor, SamProcessor

    small, plan = pruned("uniform")
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    export_sam(small.model, plan, tmp_path / "out", processor=SamProcessor(SamImageProcessor(**sizes)))
    again = AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(again) is SamProcessor and dict(again.image_processor.size)["longest_edge"] == 64


def test_a_folder_of_the_users_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    small, plan = pruned("uniform")
    with pytest.raises(RunError, match=str(tmp_path)):
        export_sam(small.model, plan, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
