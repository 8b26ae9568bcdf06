"""Hydra behind `gencompress run`: compose and check the options first, then run the recipe, once or for a sweep.

Imports Hydra but no torch; a recipe is imported only when its run starts.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from gencompress.config import Config, build, register
from gencompress.errors import ConfigError, GencompressError, Interrupted, nearest
from gencompress.hub import locate, locate_scene, locate_segmenter
from gencompress.run import settings, sweep, usage
from gencompress.run.directory import Run
from gencompress.run.mistakes import typed_errors

_LONGEST_NAME = 120
_PLUGINS = ("hydra._internal.", "hydra_plugins.")


def main(arguments: list[str]) -> None:
    """`gencompress run ARGUMENTS` in Hydra's grammar.

    Raises ConfigError for what is wrong in the options, before a folder is made; whatever the recipe raises; and
    SystemExit from Hydra's own flags.
    """
    parsed = _parse(arguments)
    if parsed.help:
        print(usage.text(), end="")
    elif parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion:
        _hydra_main(arguments, parsed.overrides)
    elif parsed.multirun:
        for overrides in _each_value_once(parsed.overrides):
            compose(overrides, parsed.config_dir)
        _sweep(parsed.overrides, parsed.config_dir)
    else:
        execute(*compose(parsed.overrides, parsed.config_dir))


def compose(overrides: list[str], config_dir: str | None = None) -> tuple[Config, Path]:
    """The checked options of one run and its directory. ConfigError or ModelError for what is wrong."""
    with typed_errors(overrides), hydra.initialize_config_module("gencompress.conf", version_base="1.3"):
        composed = hydra.compose("config", [*overrides, *_further_yaml(config_dir)], return_hydra_config=True)
        hydra_options = OmegaConf.to_container(composed.hydra, resolve=False)
        path = Path(str(composed.hydra.run.dir)).absolute()
        config = _checked(composed)
    _refuse_foreign_plugins(hydra_options)
    return config, path


def _further_yaml(config_dir: str | None) -> list[str]:
    """The override that adds a user's folder of YAML files."""
    return [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []


def execute(config: Config, path: Path) -> None:
    """Run or resume a recipe in a run directory."""
    set_threads(config.run.threads)
    with Run.open(path, config) as run:
        recipe(config)(run)
        run.say(f"finished: {path}")


def reopen(path: Path) -> Run:
    """Open an existing run directory with the options it was made with. RunError if it is none."""
    config = build(settings.read(path))
    set_threads(config.run.threads)
    return Run.open(path, config)


def load(name: str) -> Callable[..., Any]:
    """Import the function that one of this package's own tables names as "module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def recipe(config: Config) -> Callable[[Run], None]:
    """The recipe that `config` names, imported now. ConfigError with the nearest names if there is none."""
    return load(_recipe(config.recipe.name, config.domain.name))


def action(name: str, config: Config) -> Callable[..., Any]:
    """The function behind `gencompress eval`, `export` or `report` for runs of the domain of `config`."""
    from gencompress.pipelines import ACTIONS

    return load(ACTIONS[config.domain.name][name])


def set_threads(threads: int) -> None:
    """Let torch, its libraries and the splat kernels, which ask torch, use that many CPU threads.

    Whether they are imported already or later.
    """
    if threads == 0:
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parsed = get_args_parser().parse_intermixed_args(arguments)
    if parsed.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun is refused: it unpickles a file. The same command resumes a run")
    if parsed.config_path is not None or parsed.config_name is not None:
        raise ConfigError("--config-path and --config-name are refused: add your own YAML files with --config-dir")
    for override in parsed.overrides:
        if "_target_" in override.partition("=")[0]:
            raise ConfigError(f"{override}: `_target_` is refused, a configuration never names code to import")
    return parsed


def _checked(composed: DictConfig) -> Config:
    options = {key: value for key, value in composed.items() if key != "hydra"}
    plain = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
    assert isinstance(plain, dict)
    config = build({str(key): value for key, value in plain.items()})
    _recipe(config.recipe.name, config.domain.name)
    if config.domain.name == "splats":
        locate_scene(str(config.scene))
    else:
        {"diffusion": locate, "sam": locate_segmenter}[config.domain.name](config.model.path)
    return config


def _recipe(name: str, domain: str) -> str:
    """Where a recipe is. ConfigError with the nearest names if the domain has none of that name."""
    from gencompress.pipelines import RECIPES

    recipes = RECIPES[domain]
    if name in recipes:
        return recipes[name]
    other = next((d for d in RECIPES if name in RECIPES[d]), None)
    hint = nearest(name, recipes) if other is None else f"it is of domain={other}, and this run is of domain={domain}"
    raise ConfigError(f"recipe.name={name!r}: {hint}")


def _each_value_once(overrides: list[str]) -> Iterator[list[str]]:
    """The first combination of a sweep, then each other value with the first ones of the rest."""
    with typed_errors(overrides):
        choices = [_texts(o) for o in OverridesParser.create().parse_overrides(overrides)]
    first = [texts[0] for texts in choices]
    yield first
    for index, texts in enumerate(choices):
        for text in texts[1:]:
            yield [*first[:index], text, *first[index + 1 :]]


def _texts(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _refuse_foreign_plugins(options: Any) -> None:
    """Hydra's own node names classes; only Hydra's are let through, whatever a --config-dir says."""
    if isinstance(options, Mapping):
        target = options.get("_target_")
        if target is not None and not str(target).startswith(_PLUGINS):
            raise ConfigError(f"hydra: _target_={target} is refused, it is no launcher or sweeper of Hydra")
        for value in options.values():
            _refuse_foreign_plugins(value)
    elif isinstance(options, list):
        for value in options:
            _refuse_foreign_plugins(value)


def _sweep(overrides: list[str], config_dir: str | None) -> None:
    """Every combination of the values, by the launcher that `hydra/launcher` names; a run that fails stops no other.

    Raises RunError, or Interrupted, naming the runs that did not finish, when all others have.
    """
    with typed_errors(overrides), hydra.initialize_config_module("gencompress.conf", version_base="1.3"):
        inner = GlobalHydra.instance().hydra
        assert inner is not None
        try:
            with sweep.stoppable():
                batches = inner.multirun("config", _task, [*overrides, *_further_yaml(config_dir)])
        except KeyboardInterrupt as error:
            raise Interrupted("the sweep was stopped; run the same command again to resume") from error
    ends = [job.return_value for batch in batches for job in batch]
    sweep.check([end for end in ends if end is not None], len(ends))


def _hydra_main(arguments: list[str], overrides: list[str]) -> None:
    """Hydra's own program: `--cfg`, `--info`, help and shell completion."""
    flags = [a for a in arguments if a not in overrides]  # Hydra itself takes no flag between two overrides
    with typed_errors(overrides), _environment([*flags, *overrides]):
        hydra.main(config_path="pkg://gencompress.conf", config_name="config", version_base="1.3")(_task)()


@contextmanager
def _environment(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and raises errors rather than printing them if HYDRA_FULL_ERROR is 1."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["gencompress", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _task(composed: DictConfig) -> sweep.Failure | None:
    """One run of a sweep, started by a process of the launcher; how it failed, if it did."""
    path = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = _checked(composed)
    except GencompressError as error:  # values that do not go together
        return sweep.record_failure(path, error)
    return sweep.run_apart(config, path)


def _run_name(overrides: str) -> str:
    """A folder name from the overrides, so that the same command resumes and another one starts anew."""
    name = re.sub(r"(^|,)\+?experiment=", r"\1", overrides).replace(",", "_").replace("=", "-")
    name = re.sub(r"[^\w.-]+", "-", name).strip("-") or "default"  # what Hydra's grammar takes without quotes
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    return name


def _run_dir(chosen: str | None, overrides: str) -> str:
    return chosen or f"runs/{_run_name(overrides)}"


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("sweep_dir", lambda chosen: chosen or "runs", replace=True)
register()
