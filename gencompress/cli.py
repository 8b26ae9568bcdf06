"""The command line. Standard library alone at import: `gencompress --help` needs neither torch nor Hydra.

Exit codes: 0 done, 2 a typed error (its message is the last line on standard error), 75 interrupted and resumable,
130 aborted by a second Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from gencompress import __version__
from gencompress.errors import ConfigError, GencompressError, nearest

_ABORTED = 130
_KEEPS = (0.8, 0.67)
_COMPLETION = ("-sc", "--shell-completion")

_HELP = """\
usage: gencompress COMMAND ...

Compress generative models and 3D scenes into files that the stock tools open.

commands:
  run      prune a model:  gencompress run +experiment=ecodiff_sample budget.keep=0.7
           (Hydra: key=value options, -m for sweeps, --cfg job to see the options, --help)
  eval     measure a finished run again:  gencompress eval RUN
  export   write the pruned pipeline of a run elsewhere:  gencompress export RUN --out DIR [--portable]
  report   write the report of a finished run again:  gencompress report RUN
  measure  FID, KID, CMMD, precision and recall, CLIP score of image sets:
           gencompress measure IMAGES --reference FOLDER --extractor inception
  splat    make a scene of Gaussian splats smaller, or convert it:  gencompress splat in.ply out.sog --keep 0.25
  view     show a scene in the browser:  gencompress view out.sog
  photos   judge a scene file by photographs:  gencompress photos out.sog images/ --out DIR
  board    a leaderboard of runs, as a static site:  gencompress board RUNS... -o site/
  compare  is one run better than another, or is it noise?  gencompress compare RUN_A RUN_B
  convert  a StyleGAN2 checkpoint into a folder, executing nothing in it:  gencompress convert CKPT.pkl|.pt OUT
  demo     prune the bundled samples, a model and a scene, and name the reports

options:
  --help, --version

The same `gencompress run` command resumes what was interrupted or killed.
Tab completion:  eval "$(gencompress run -sc install=bash)"
"""


def run_command(arguments: list[str]) -> int:
    """Run one command; returns the exit code. A typed error is printed as its message alone."""
    try:
        _dispatch(arguments)
    except GencompressError as error:
        print(f"gencompress: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("gencompress: aborted; the same command resumes from the last checkpoint", file=sys.stderr)
        return _ABORTED
    except BrokenPipeError:  # the reader, `head` say, has gone; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _dispatch(arguments: list[str]) -> None:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(_HELP, end="")
    elif name == "--version":
        print(f"gencompress {__version__}")
    elif name in _COMPLETION:
        _complete(arguments)
    elif name in _COMMANDS:
        _COMMANDS[name](rest)
    else:
        raise ConfigError(f"unknown command {name!r}: {nearest(name, _COMMANDS)}")


def _run(arguments: list[str]) -> None:
    from gencompress.run import launch

    launch.main(arguments)


def _eval(arguments: list[str]) -> None:
    from gencompress.run import launch

    parsed = _parser("eval", "Measure a finished run again.").parse_args(arguments)
    with launch.reopen(parsed.run) as run:
        launch.action("eval", run.config)(run)


def _export(arguments: list[str]) -> None:
    from gencompress.run import launch

    parser = _parser("export", "Write the pruned pipeline of a finished run into a new folder.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--portable", action="store_true", help="self-contained, for users without gencompress")
    parsed = parser.parse_args(arguments)
    with launch.reopen(parsed.run) as run:
        launch.action("export", run.config)(run, parsed.out, parsed.portable)
    print(parsed.out)


def _report(arguments: list[str]) -> None:
    from gencompress.run import launch

    parsed = _parser("report", "Write the report of a finished run again.").parse_args(arguments)
    with launch.reopen(parsed.run) as run:
        path = launch.action("report", run.config)(run)
    print(path)


def _measure(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gencompress measure", description="Compare image sets: folders of pictures, or .npz of uint8 images."
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder or .npz that is measured")
    parser.add_argument("--reference", type=Path, metavar="SET", help="folder or .npz that is aimed at")
    parser.add_argument(
        "--extractor",
        default="inception",
        help="inception (FID, KID), inception-legacy, random, clip:FOLDER-OR-HUB-ID, a folder with EfficientNet-lite0",
    )
    parser.add_argument(
        "--metrics", default="frechet", help="of frechet,frechet_infinity,kernel,manifold,cmmd; default: frechet"
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with Inception's weight file")
    parser.add_argument("--download", action="store_true", help="fetch that file where it is not at hand")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable images, and count them")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="remember features by content in this folder")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt per image: adds the CLIP score")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    options = vars(parser.parse_args(arguments))
    from gencompress.metrics.measure import Request, lines, measure

    out = options.pop("out")
    options["metrics"] = tuple(options["metrics"].split(","))
    print("\n".join(lines(measure(Request(**options), out))))


def _splat(arguments: list[str]) -> None:
    from gencompress.shortcut import splat

    splat(arguments)


def _view(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gencompress view", description="Show a scene in the browser, from a server on 127.0.0.1 alone."
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="scene file, folder of a viewer, or run directory")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port; default: a free one")
    parser.add_argument("--up", default="auto", metavar="AXIS", help="direction of up in the scene; default: --up=-y")
    parsed = parser.parse_args(arguments)
    from gencompress.viewer.serve import Server, serve
    from gencompress.viewer.site import site_of

    with site_of(parsed.path, parsed.up) as site:
        server = Server(site, parsed.port)
        print(f"{server.url}  (Ctrl-C ends)", flush=True)
        serve(server)


def _photos(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gencompress photos", description="Judge a scene file by photographs, every 8th of them."
    )
    parser.add_argument("scene", type=Path, metavar="SCENE", help="scene file")
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of the photographs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for pictures and figures")
    parser.add_argument("--cameras", type=Path, metavar="PATH", help="default: those beside photographs or scene")
    parser.add_argument("--background", choices=("black", "white"), default="black", help="default: black")
    parser.add_argument("--every", action="store_true", help="judge all photographs")
    parser.add_argument("--lpips", type=Path, metavar="DIR", help="folder with the backbones of LPIPS")
    options = vars(parser.parse_args(arguments))
    from gencompress.domains.splats.photos import Request, judge

    result = judge(Request(**options))
    figures = "  ".join(f"{name} {value}" for name, value in result["metrics"].items())
    print(f"{figures}\n{result['compression']['bytes_total']:,} bytes, {options['out'] / 'result.json'}")


def _board(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="gencompress board", description="Write a leaderboard as a static site.")
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUNS", help="run directories, or folders of them")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the site")
    parser.add_argument("--baseline", metavar="METHOD", help="method that the others are compared with")
    quoted = "CSV file of published figures; 3dgs: those bundled"
    parser.add_argument("--quoted", action="append", default=[], metavar="FILE", help=quoted)
    parser.add_argument("--title", default="Compression leaderboard", help="heading of the page")
    parsed = parser.parse_args(arguments)
    from gencompress.board import write_board

    print(write_board(parsed.runs, parsed.out, baseline=parsed.baseline, quoted=parsed.quoted, title=parsed.title))


def _compare(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="gencompress compare", description="Compare two runs, picture by picture.")
    parser.add_argument("first", type=Path, metavar="RUN_A", help="run directory")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="run directory, of the same budget and seeds")
    parser.add_argument("--confidence", type=float, default=0.95, help="of all intervals together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page")
    parsed = parser.parse_args(arguments)
    from gencompress.board import verdict
    from gencompress.board.compare import compare_runs
    from gencompress.run.atomic import write_json, write_text

    comparison = compare_runs(parsed.first, parsed.second, confidence=parsed.confidence)
    print(verdict.as_text(comparison), end="")
    if parsed.json:
        write_json(parsed.json, comparison.to_json())
    if parsed.html:
        write_text(parsed.html, verdict.as_page(comparison))


def _convert(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gencompress convert",
        description="Turn a StyleGAN2 checkpoint, NVIDIA's .pkl or rosinality's .pt, into config.json and safetensors.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="file; nothing in it is executed")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parsed = parser.parse_args(arguments)
    from gencompress.domains.stylegan.convert import convert

    found = convert(parsed.checkpoint, parsed.out)
    generator = found.networks.generator
    count = sum(p.numel() for p in generator.parameters())
    beside = ", with its discriminator" if found.networks.discriminator is not None else ""
    print(f"{parsed.out}  StyleGAN2, {generator.config.resolution} px, {count:,} parameters{beside}")
    for note in found.notes:
        print(f"  {note}")


def _demo(arguments: list[str]) -> None:
    from gencompress.run import launch
    from gencompress.run.settings import quoted

    parser = argparse.ArgumentParser(prog="gencompress demo", description="Prune the bundled samples.")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where the run folders go")
    out = parser.parse_args(arguments).out.absolute()

    def run(experiment: str, name: str, *options: str) -> Path:
        words = [f"+experiment={experiment}", *options, f"run.dir={quoted(str(out / name))}"]
        config, path = launch.compose(words)
        launch.execute(config, path)
        return path

    runs = [run("ecodiff_sample", f"demo-keep-{keep}", f"budget.keep={keep}") for keep in _KEEPS]
    scene = run("splat_sample", "demo-guitar")
    from gencompress.report import write_report

    report = write_report(runs, out / "demo.html")
    pages = [report, scene / "report" / "report.html", *sorted((scene / "export").glob("*.html"))]
    print("Open these in a browser: the reports of both samples, and the pruned scene itself.")
    print("\n".join(f"  {page}" for page in pages))


def _complete(arguments: list[str]) -> None:
    """Answer the shell, which asks the program without its command: the commands, then Hydra's answer for `run`."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        print(" ".join(_COMMANDS))
    elif words[1] == "run":
        os.environ["COMP_LINE"] = line.replace(" run", "", 1)
        _run(arguments)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"gencompress {name}", description=description)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    return parser


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    "eval": _eval,
    "export": _export,
    "report": _report,
    "measure": _measure,
    "splat": _splat,
    "view": _view,
    "photos": _photos,
    "board": _board,
    "compare": _compare,
    "convert": _convert,
    "demo": _demo,
}
