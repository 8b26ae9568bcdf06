from __future__ import annotations

import math
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gencompress import config as options
from gencompress.config import CRITERIA, RECOVERIES, TABLES, Config, build, refuse_targets
from gencompress.errors import ConfigError
from gencompress.run import launch
from gencompress.run import settings as saved

CONF = Path(options.__file__).parents[1] / "conf"


def plain(**parts: Any) -> dict[str, Any]:
    """Complete valid options, with parts of some groups replaced."""
    base: dict[str, Any] = {
        "model": {"path": "org/model"},
        "domain": {"name": "diffusion"},
        "criterion": {"name": "ecodiff"},
        "recover": {"name": "none"},
        "budget": {"keep": 0.7},
    }
    return {**base, **parts}


def splats(**parts: Any) -> dict[str, Any]:
    """The same for a scene."""
    base: dict[str, Any] = {
        "scene": "scene.ply",
        "domain": {"name": "splats"},
        "recipe": {"name": "splat_prune"},
        "criterion": {"name": "leave_one_out"},
        "recover": {"name": "refine"},
        "budget": {"metric": "units", "keep": 0.25},
    }
    return {**base, **parts}


def sam(**parts: Any) -> dict[str, Any]:
    """The same for a SAM."""
    base: dict[str, Any] = {
        "model": {"path": "owner/sam"},
        "domain": {"name": "sam"},
        "data": {"images": "pictures"},
        "recipe": {"name": "slimsam"},
        "criterion": {"name": "disturbed_taylor"},
        "recover": {"name": "align"},
        "budget": {"keep": 0.5},
    }
    return {**base, **parts}


BASES = {"diffusion": plain, "sam": sam, "splats": splats}


@pytest.mark.parametrize("domain", BASES)
def test_saved_options_come_back_equal(domain: str, tmp_path: Path) -> None:
    for criterion in [name for name, kind in CRITERIA.items() if domain in kind.domains]:
        for recover in [name for name, kind in RECOVERIES.items() if domain in kind.domains]:
            config = build(BASES[domain](criterion={"name": criterion}, recover={"name": recover}))
            assert type(config.criterion) is CRITERIA[criterion] and type(config.recover) is RECOVERIES[recover]
            saved.save(tmp_path, config)
            assert build(saved.read(tmp_path)) == config


@settings(max_examples=25)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_keep_is_taken_exactly_in_its_range(keep: float) -> None:
    if 0 < keep <= 1:
        assert build(plain(budget={"keep": keep})).budget.keep == keep
    else:
        with pytest.raises(ConfigError, match=r"budget\.keep=.* is outside \(0, 1\]"):
            build(plain(budget={"keep": keep}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"criterion": {"name": "taylr"}}, r"criterion\.name='taylr': did you mean 'taylor'"),
        ({"criterion": None}, r"criterion\.name='nothing': valid are 'blend_max'"),
        ({"criterion": {"name": "random", "updates": 3}}, "RandomCriterion has no option 'updates'"),
        ({"recover": {"name": "distil", "steps": 0}}, r"recover\.steps=0 is outside \[1, inf\)"),
        ({"recover": {"name": "distil", "ema": 1.0}}, r"recover\.ema=1\.0 is outside"),
        ({"budget": {"keep": None}}, r"give one of budget\.keep"),
        ({"budget": {"keep": 0.5, "target": 10}}, r"give one of budget\.keep"),
        ({"budget": {"keep": 0.5, "metric": "mac"}}, "budget.metric='mac': did you mean 'macs'"),
        ({"denoise": {"steps": "many"}}, r"option denoise\.steps: Value 'many'"),
        ({"modle": {}}, "unknown option 'modle': did you mean 'model'"),
        ({"model": {}}, r"option model\.path is missing"),
        ({"criterion": {"name": "ecodiff", "lr": math.inf}}, r"criterion\.lr=inf is outside \(0, inf\)"),
    ],
)
def test_wrong_options_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(plain(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scene": None}, "option scene is missing: give scene=FILE"),
        ({"criterion": {"name": "taylor"}}, "criterion=taylor is not for domain=splats: valid are random, opacity"),
        ({"recover": {"name": "distil"}}, "recover=distil is not for domain=splats: valid are none, refine"),
        ({"denoise": {"steps": 3}}, "denoise.steps=3 is of domain=diffusion, and this run is of domain=splats"),
        ({"model": {"path": "org/model"}}, "model.path=org/model is of domain=diffusion"),
        ({"domain": {"name": "splats", "heads": False}}, "domain.heads: SplatsDomain has no option 'heads'"),
        ({"budget": {"keep": 0.5}}, "budget.metric=params is of models: add budget=units"),
        ({"budget": {"metric": "units"}}, "budget.min_psnr=DB; given are none"),
        ({"budget": {"metric": "units", "keep": 0.5, "max_mb": 8}}, "given are keep, max_mb"),
        ({"budget": {"metric": "units", "keep": 0.5, "uniform": True}}, "budget.uniform.* mean nothing for splats"),
        ({"export": {"formats": ["plly"]}}, "export.formats: 'plly': did you mean 'ply'"),
        ({"export": {"formats": []}}, "name one format or more"),
        ({"export": {"formats": ["ply", "ply"]}}, "each once"),
        ({"export": {"formats": ["html", "ply"]}}, "the first one is measured, and html is a page"),
        ({"rig": {"up": "north"}}, "rig.up='north': "),
        ({"criterion": {"name": "spectral", "neighbours": 1}}, r"criterion\.neighbours=1 is outside \[2, 64\]"),
    ],
)
def test_wrong_options_of_a_scene_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(splats(**changed))


def test_options_of_a_scene_are_refused_for_models() -> None:
    message = r"is of domain=splats, and this run is of domain=diffusion; \+experiment"
    for changed in ({"scene": "a.ply"}, {"budget": {"keep": None, "max_mb": 8.0}}, {"rig": {"views": 3}}):
        with pytest.raises(ConfigError, match=message):
            build(plain(**changed))
    with pytest.raises(ConfigError, match=r"budget\.metric=units counts splats"):
        build(plain(budget={"keep": 0.5, "metric": "units"}))


def test_nothing_to_remove_is_refused() -> None:
    off: dict[str, Any] = {f.name: False for f in fields(options.DiffusionDomain) if f.name != "name"}
    with pytest.raises(ConfigError, match="every kind of group is switched off"):
        build(plain(domain=off | {"name": "diffusion"}))


@pytest.mark.parametrize("bad", [{"_target_": "a"}, {"x": {"y": [{"_target_": "a"}]}}, [[{"_target_": 1}]]])
def test_targets_are_refused_however_deep(bad: Any) -> None:
    with pytest.raises(ConfigError, match="`_target_` is refused"):
        refuse_targets(bad)
    refuse_targets({"target": "_target_", "x": [{"y": 1}]})


SAM = ["model.path=org/model", "data.images=pictures", "budget.keep=0.5"]
SCENE = [f"scene={CONF}", "budget.keep=0.5"]


def composed_with(choice: str) -> Config:
    """The options with `choice` of a group, in the first domain that takes it."""
    bases = (["model.path=org/model"], ["+experiment=slimsam", *SAM], ["+experiment=splat_prune", *SCENE])
    errors = []
    for base in bases:
        try:
            return launch.compose([*base, choice])[0]
        except ConfigError as error:
            errors.append(str(error))
    raise AssertionError(f"{choice} is of no domain: {errors}")


def test_every_yaml_composes_and_no_file_restates_a_default() -> None:
    experiments = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
    assert experiments
    presets = dict.fromkeys(("slimsam_50", "slimsam_77", "slimsam_heads"), SAM[:2])
    needed = {"splat_prune": SCENE, "slimsam": SAM, **presets}
    for name in experiments:
        config, _ = launch.compose([f"+experiment={name}", *needed.get(name, [])])
        assert isinstance(config, Config)
    for group in ("criterion", "recover", "budget", "metrics", "recipe"):
        for file in sorted((CONF / group).glob("*.yaml")):
            config = composed_with(f"{group}={file.stem}")
            part = getattr(config, group)
            written = {
                k: v for k, v in (yaml.safe_load(file.read_text()) or {}).items() if k not in ("defaults", "name")
            }
            defaults = type(part)()
            for key, value in written.items():
                assert getattr(part, key) == value
                assert group == "budget" or getattr(defaults, key) != value, f"{file.name} repeats {key}"


@pytest.mark.parametrize("group", TABLES)
def test_every_class_that_is_chosen_by_name_has_a_file(group: str) -> None:
    assert {p.stem for p in (CONF / group).glob("*.yaml")} == set(TABLES[group])


def test_every_option_says_what_it_means() -> None:
    missing = [name for name, about, _ in options._leaves(Config()) if not about.get("meaning")]
    for kind in (kind for table in TABLES.values() for kind in table.values()):
        missing += [f"{kind.__name__}.{f.name}" for f in fields(kind) if f.name != "name" and not f.metadata["meaning"]]
    assert missing == []


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("+experiment=ecodiff_sample,budget.keep=0.7", "ecodiff_sample_budget.keep-0.7"),
        ("model.path=runwayml/stable", "model.path-runwayml-stable"),
        ("", "default"),
        ("run.x='a b'", "run.x--a-b"),
    ],
)
def test_the_folder_is_named_after_the_overrides(overrides: str, name: str) -> None:
    assert launch._run_name(overrides) == name


def test_long_names_are_cut_and_stay_distinct() -> None:
    first, second = (launch._run_name("model.path=" + "x" * 200 + end) for end in "ab")
    assert first != second and len(first) < 140


def test_the_command_of_a_scene_makes_the_same_options() -> None:
    config = build(splats(scene="x", budget={"metric": "units", "max_mb": 2.5}, rig={"up": "-y"}))
    config.scene, config.export.formats, config.criterion = str(CONF), ["ply", "spz"], options.SpectralCriterion()
    words = shlex.split(saved.command(config))
    assert launch.compose(words[2:])[0] == config


def test_the_command_in_the_report_makes_the_same_options() -> None:
    overrides = "+experiment=ecodiff_sample criterion=gauss_newton budget=macs budget.keep=0.65 recover=distil"
    more = ["denoise.prompts='my prompts, all.txt'", "domain.heads=false", "recipe=one_shot"]
    config, _ = launch.compose([*overrides.split(), *more])
    words = shlex.split(saved.command(config))
    assert words[:2] == ["gencompress", "run"]
    assert launch.compose(words[2:])[0] == config
