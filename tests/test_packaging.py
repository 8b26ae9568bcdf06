"""What pyproject.toml says is what the checkout holds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"conf": "gencompress.conf", "pipelines": "gencompress.pipelines", "scenes": "gencompress.scenes"}
# used through another package: the launcher is a plugin that Hydra finds
INDIRECT = {"hydra-joblib-launcher"}


def modules() -> Iterator[Path]:
    for top in ("gencompress", *MAPPED):
        yield from (p for p in (ROOT / top).rglob("*.py") if not any(part.startswith(".") for part in p.parts[-3:]))


def test_every_package_is_listed() -> None:
    found = set()
    for init in (ROOT / top for top in ("gencompress", *MAPPED)):
        for file in init.rglob("__init__.py"):
            top, *rest = file.parent.relative_to(ROOT).parts
            found.add(".".join([MAPPED.get(top, top), *rest]))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_folder_of_code_is_a_package() -> None:
    assert {p.parent for p in modules()} == {p.parent for p in modules() if p.name == "__init__.py"}


def test_mapped_packages_hold_the_top_level_folders() -> None:
    for folder, package in MAPPED.items():
        assert Path(str(resources.files(package))).resolve() == ROOT / folder


def imported() -> set[str]:
    names: set[str] = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"gencompress"}


def distributions(requirements: list[str]) -> set[str]:
    return {plain(re.split(r"[<>=!~\[; ]", r)[0]) for r in requirements}


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def test_dependencies_are_imported_and_imports_are_declared() -> None:
    declared = distributions(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"]
    optional = set().union(*(distributions(v) for k, v in extras.items() if k != "dev"))
    by_module = metadata.packages_distributions()
    used = {plain(d) for name in imported() for d in by_module.get(name, [name])}
    assert used - declared - optional == set(), "imported but not declared"
    assert declared - used - INDIRECT == set(), "declared but never imported"
