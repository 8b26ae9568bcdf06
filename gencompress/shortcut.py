"""`gencompress splat IN OUT...`: the recipe for scenes behind options that one types, or a conversion without a budget.

Pruning happens in a run directory beside the first OUT, named after it with `.run`, from which the same command
resumes; it is removed when everything is written, unless `--run` names one to keep. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gencompress.config import FORMATS
from gencompress.errors import ConfigError, RunError, nearest
from gencompress.hub import locate_scene

if TYPE_CHECKING:
    from gencompress.domains.splats.frame import Up

_FOLDER = "folder"  # of the viewer: what a name without a known ending stands for
_BUDGETS = {"keep": "budget.keep", "count": "budget.target", "max_mb": "budget.max_mb", "min_psnr": "budget.min_psnr"}
_HOW = {
    "criterion": "criterion",
    "unseen": "criterion.unseen",
    "views": "rig.views",
    "cameras": "rig.cameras",
    "up": "rig.up",
    "threads": "run.threads",
}
_NAMES = _BUDGETS | _HOW  # of options, in the configuration
_MEASURED = {"psnr_db": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "psnr_close_db": "close-ups {:.2f} dB"}
_DESCRIPTION = """\
Make a scene of Gaussian splats smaller, without its photographs, or convert it.

IN is .ply, .compressed.ply, .splat, .spz, .sog, .glb, or sample:NAME. OUT is the same by its ending, or .html for one
offline page with its viewer; a name without an ending is a folder to host. Without a budget, IN is only converted.
"""


@dataclass(frozen=True)
class Output:
    """A file or folder to write, and what it is: one of `gencompress.config.FORMATS`, or a viewer's folder."""

    path: Path
    kind: str


def splat(arguments: list[str]) -> None:
    """Prune or convert a scene, and print what was written.

    Raises:
        ConfigError: options that contradict each other, or an ending that is no format.
        RunError: an output exists and `--force` was not given, or is the input.
        GencompressError: whatever reading, the recipe and writing raise.
    """
    options = _parser().parse_args(arguments)
    source = locate_scene(options.source)
    outputs = [_output(path) for path in options.outputs]
    _refuse(source, outputs, options.force)
    if any(getattr(options, key) is not None for key in _BUDGETS):
        _prune(options, outputs)
    else:
        _refuse_unused(options)
        _convert(source, outputs, options.up or "auto")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gencompress splat", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", help="scene file")
    parser.add_argument("outputs", type=Path, nargs="+", metavar="OUT", help="file or folder to write; several may be")
    budget = parser.add_argument_group("budget, one of").add_mutually_exclusive_group()
    budget.add_argument("--keep", metavar="PART", help="part of the splats that stays, in (0, 1]")
    budget.add_argument("--count", metavar="N", help="number of splats that stay")
    budget.add_argument("--max-mb", metavar="MB", help="size of the first OUT in 10^6 bytes")
    budget.add_argument("--min-psnr", metavar="DB", help="PSNR to the input's own renders, on views apart")
    how = parser.add_argument_group("how it is pruned")
    how.add_argument("--criterion", metavar="NAME", help="how splats are scored; default: leave_one_out")
    how.add_argument("--unseen", choices=("keep", "prune"), help="splats that no view hits; default: keep")
    how.add_argument("--cameras", metavar="FILE", help="cameras.json, COLMAP folder or transforms.json")
    how.add_argument("--views", metavar="N", help="views to score and refine on; default: 24")
    how.add_argument("--up", metavar="AXIS", help="direction of up; default: --up=-y, as most scenes have it")
    how.add_argument("--no-merge", action="store_true", help="delete only, merge no pairs of splats")
    how.add_argument("--no-refine", action="store_true", help="do not train what is left on renders of the input")
    how.add_argument("--seed", metavar="N", help="of everything that is drawn; default: 0")
    parser.add_argument("--threads", metavar="N", help="CPU threads; default: all")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run directory to keep: report, figures, plan")
    parser.add_argument("--force", action="store_true", help="replace outputs that exist")
    return parser


def _output(path: Path) -> Output:
    """What a name stands for. ConfigError for an ending that is no format."""
    name = path.name.lower()
    kind = max((f for f in FORMATS if name.endswith(f".{f}")), key=len, default=None)
    if kind is None and path.suffix:
        raise ConfigError(f"{path}: {path.suffix!r} is no format: {nearest(path.suffix[1:], FORMATS)}")
    return Output(path, kind or _FOLDER)


def _refuse(source: Path, outputs: Sequence[Output], force: bool) -> None:
    """RunError for what must not be overwritten, before anything is computed; ConfigError for a name given twice."""
    from gencompress.run.atomic import refuse_occupied

    paths = [os.path.realpath(output.path) for output in outputs]
    if len(set(paths)) < len(paths):
        raise ConfigError("the same OUT is given twice")
    for output in outputs:
        path = output.path
        if path.exists() and path.samefile(source):
            raise RunError(f"{path} is the input: name another file")
        if not path.parent.is_dir():
            raise RunError(f"{path}: there is no folder {path.parent}")
        if output.kind == _FOLDER:
            refuse_occupied(path)
        elif path.is_dir():
            raise RunError(f"{path} is a folder: name a file")
        elif path.exists() and not force:
            raise RunError(f"{path} already exists: name another file, or add --force to replace it")


def _refuse_unused(options: argparse.Namespace) -> None:
    """ConfigError for options of pruning where nothing is pruned."""
    names = [*(name for name in _HOW if name != "up"), "seed", "run", "no_merge", "no_refine"]
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: there is no budget: add --keep, --count, --max-mb or --min-psnr")


def _convert(source: Path, outputs: Sequence[Output], up: Up) -> None:
    """Write the scene as it is; only splats that no format can hold are left out, and counted."""
    from gencompress.domains.splats.filter import clean
    from gencompress.formats import read_scene, write_scene
    from gencompress.viewer import write_folder, write_page
    from gencompress.viewer.page import sog_of

    scene = read_scene(source)
    count = len(scene)
    cleaned = clean(scene)
    if cleaned.removed["not finite"]:
        scene = cleaned.scene
        gone = ", ".join(f"{number:,} {reason}" for reason, number in cleaned.removed.items() if number)
        print(f"{source.name}: {count - len(scene):,} of {count:,} splats are left out: {gone}")
    pages: dict[str, Callable[..., None]] = {"html": write_page, _FOLDER: write_folder}
    sog: bytes | None = None
    for output in sorted(outputs, key=lambda output: output.kind in pages):  # pages hold a .sog: it is made once
        if output.kind in pages:
            sog = sog or sog_of(scene)
            pages[output.kind](output.path, scene, title=source.name, up=up, sog=sog)
        else:
            write_scene(output.path, scene)
            sog = output.path.read_bytes() if output.kind == "sog" else sog
        print(_line(output.path, len(scene)))


def _prune(options: argparse.Namespace, outputs: Sequence[Output]) -> None:
    """Run the recipe, or resume it, and copy what it exported."""
    from gencompress.run import launch

    folder = options.run or outputs[0].path.with_name(f"{outputs[0].path.name}.run")
    config, path = launch.compose(_overrides(options, outputs, folder))
    launch.execute(config, path)
    metrics = json.loads((path / "eval" / "metrics.json").read_text(encoding="utf-8"))
    files = {file["format"]: file for file in metrics["files"]}
    for output in outputs:
        _copied(output, {kind: path / file["path"] for kind, file in files.items()}, options.up or "auto")
        print(_line(output.path, metrics["pruned"]["units"], metrics["dense"]["units"], files.get(output.kind)))
    if options.run:
        print(f"report: {path / 'report' / 'report.html'}")
    else:
        shutil.rmtree(path)


def _overrides(options: argparse.Namespace, outputs: Sequence[Output], folder: Path) -> list[str]:
    """The options in Hydra's grammar."""
    from gencompress.run.settings import quoted

    kinds = ["sog" if output.kind == _FOLDER else output.kind for output in outputs]
    if kinds[0] == "html":
        kinds.insert(0, "sog")  # what the page holds, and what is measured
    words = ["+experiment=splat_prune", f"scene={quoted(options.source)}"]
    words += [f"export.formats=[{','.join(dict.fromkeys(kinds))}]", f"run.dir={quoted(str(folder))}"]
    words += [f"{name}={quoted(v)}" for key, name in _NAMES.items() if (v := getattr(options, key)) is not None]
    words += [f"run.seed={quoted(options.seed)}", f"rig.seed={quoted(options.seed)}"] if options.seed else []
    words += ["merge.pairs=false"] if options.no_merge else []
    words += ["recover=none"] if options.no_refine else []
    return words


def _copied(output: Output, exported: dict[str, Path], up: Up) -> None:
    """Put an exported file in its place; a folder is made of the exported .sog."""
    from gencompress.formats import read_scene
    from gencompress.run.atomic import write_file
    from gencompress.viewer import write_folder

    if output.kind == _FOLDER:
        sog = exported["sog"]
        write_folder(output.path, read_scene(sog), title=sog.stem, up=up, sog=sog.read_bytes())
        return
    source = exported[output.kind]
    write: Callable[[Path], object] = lambda temporary: shutil.copyfile(source, temporary)  # noqa: E731
    write_file(output.path, write, needed=source.stat().st_size)


def _line(path: Path, count: int, of: int | None = None, measured: dict[str, Any] | None = None) -> str:
    """What was written, in one line, and how close it is to the input if that was measured."""
    from gencompress.viewer.page import heavy

    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    splats = f"{count:,} splats" if of is None else f"{count:,} of {of:,} splats"
    parts = [str(path), f"{size / 1e6:.2f} MB", splats]
    for key, words in _MEASURED.items():
        value = (measured or {}).get(key)
        parts += [words.format(value)] if value is not None else []
    warning = heavy(size) if path.suffix == ".html" else None
    return "  ".join(parts) + (f"\n  {warning}" if warning else "")
