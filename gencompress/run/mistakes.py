"""Hydra's and OmegaConf's errors as ConfigError, with the nearest valid names of options, groups and choices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from gencompress.config import about_option, option_names
from gencompress.errors import ConfigError, GencompressError, nearest

_KEY = re.compile(r"^[+~]*([^=@]*)")


@contextmanager
def typed_errors(overrides: list[str]) -> Iterator[None]:
    """Raise ConfigError in place of what Hydra and OmegaConf raise about `overrides`."""
    try:
        yield
    except GencompressError:
        raise
    except OverrideParseException as error:
        advice = "write option=value, and quote what has commas or spaces"
        raise ConfigError(f"cannot read {error.override!r}: {advice}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from error


def groups() -> dict[str, list[str]]:
    """The config groups of `conf/` and the names in each."""
    folders = [f for f in resources.files("gencompress.conf").iterdir() if f.is_dir()]
    found = {}
    for folder in sorted(folders, key=lambda f: f.name):
        names = [f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")]
        if names:
            found[folder.name] = sorted(names)
    return found


def _explain(error: Exception, overrides: list[str]) -> str:
    choices, options = groups(), option_names()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name}: {nearest(name, error.options)}"
    for override in overrides:
        match = _KEY.match(override)
        key = match[1] if match else override
        if key in choices and key == "experiment" and not override.startswith("+"):
            return f"{override}: an experiment is added to the defaults, write +{override}"
        if key in choices or key in options or key.startswith("hydra"):
            continue
        return f"unknown option {key!r}: {nearest(key, [*choices, *options])}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return about_option(cause)
    return str(error).strip()
