"""A scene file judged by the photographs that it was trained for, under the "nerf" protocol of nerfbaselines.

What is scored is the decoded file, against every 8th photograph in the order of the names. The pictures and the result
JSON are written so that nerfbaselines recomputes every figure from them, and a row of the survey's CSV with them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gencompress.errors import DataError
from gencompress.formats import find_cameras, read_pinholes, read_scene
from gencompress.formats.cameras import Cameras
from gencompress.formats.pictures import SUFFIXES
from gencompress.formats.pinhole import Pinhole
from gencompress.formats.scene import SplatScene
from gencompress.kernels.splats import Splats
from gencompress.metrics.hardware import bytes_on_disk, device_name
from gencompress.metrics.lpips import Lpips
from gencompress.metrics.views import ViewScores, held_out_views, score_views, to_srgb8
from gencompress.metrics.weights import WeightsMissing
from gencompress.report.nerfbaselines import (
    Compression,
    write_predictions,
    write_result,
    write_survey_csv,
)
from gencompress.run.atomic import refuse_occupied

BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
_ASPECT = 0.01  # how far width over height of a photograph may be off its camera's
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Request:
    """What to judge.

    Args:
        scene: the scene file.
        photos: folder with the photographs; searched below it by the names that the cameras give.
        out: new folder for ``predictions/``, ``result.json`` and ``survey.csv``.
        cameras: cameras.json, transforms.json or COLMAP folder; None takes what lies beside photographs or scene.
        background: of `BACKGROUNDS`; behind transparent pixels of the photographs, and of the renders.
        every: judge all photographs instead of every 8th.
        lpips: folder with the backbones of LPIPS (AlexNet and VGG); None leaves LPIPS out.
    """

    scene: Path
    photos: Path
    out: Path
    cameras: Path | None = None
    background: str = "black"
    every: bool = False
    lpips: Path | None = None


def judge(request: Request) -> dict[str, Any]:
    """Render, compare, write `Request.out`, and return the result.

    Raises:
        FormatError: the scene or the cameras cannot be read.
        DataError: no photograph belongs to a camera, one cannot be read, or its shape is not the camera's.
        RunError: `Request.out` is there already, or cannot be written.
    """
    refuse_occupied(request.out)
    views = _views(request)
    began = time.perf_counter()
    scene = read_scene(request.scene)
    decode_s = time.perf_counter() - began
    renderer = _Renderer(scene, BACKGROUNDS[request.background])
    names = [f"{i:04d}_{re.sub('[^A-Za-z0-9_-]', '_', Path(v.name).stem)}" for i, (v, _) in enumerate(views)]
    colour = [int(255 * c) for c in BACKGROUNDS[request.background]]
    dataset = {"id": "photographs", "scene": request.photos.name, "background_color": colour}
    folder = request.out / "predictions"
    request.out.mkdir(parents=True, exist_ok=True)
    method = f"gencompress {request.scene.name}"
    renders = (renderer(view, photo) for view, photo in views)
    truths = (_photo(photo, renderer.background) for _, photo in views)
    write_predictions(folder, names, renders, truths, method=method, dataset=dataset)
    scores = _scores(folder, names, request.lpips)
    size = bytes_on_disk(request.scene) if request.scene.is_dir() else request.scene.stat().st_size
    stored = len(scene) * (14 + 3 * scene.sh_rest.shape[1])
    fps = len(views) / renderer.seconds
    compression = Compression(size, {"scene": size}, stored, decode_s, None, fps, device_name(renderer.device))
    result = write_result(request.out / "result.json", folder, scores, compression, method=method, dataset=dataset)
    means = scores.means
    row = (request.scene.name, means["psnr"], means["ssim"], means.get("lpips"), size, len(scene))
    columns = ("Submethod", "PSNR", "SSIM", "LPIPS", "Size [Bytes]", "#Gaussians")
    write_survey_csv(request.out / "survey.csv", [dict(zip(columns, row, strict=True))])
    return result


class _Renderer:
    """8-bit pictures of a scene, and the seconds that rendering took."""

    def __init__(self, scene: SplatScene, background: tuple[float, ...]) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.background, self.seconds = background, 0.0
        self._splats = Splats.of(scene, self.device)

    def __call__(self, view: Pinhole, photo: Path) -> Picture:
        camera = _fitted(view, photo)
        began = time.perf_counter()
        with torch.inference_mode():
            found = self._splats.render(camera)
        behind = torch.tensor(self.background, device=self.device)
        image = found.image[0] + (1 - found.alpha[0])[..., None] * behind
        picture = image.cpu().numpy()
        self.seconds += time.perf_counter() - began
        return to_srgb8(picture, None, "srgb", f"render of {photo.name}")


def _views(request: Request) -> list[tuple[Pinhole, Path]]:
    """The cameras to judge with their photographs, in the order of the photographs' names."""
    places = (request.photos / "any", request.photos, request.scene)  # in the folder, beside it, beside the scene
    cameras = request.cameras or next(filter(None, map(find_cameras, places)), None)
    if cameras is None:
        raise DataError(
            f"{request.photos}: no cameras beside the photographs or the scene; name them with --cameras PATH"
        )
    files = sorted(p for p in request.photos.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    by_stem = {file.stem: file for file in files}
    found = {}
    for view in read_pinholes(cameras):
        photo = by_stem.get(Path(view.name).stem) if view.name else None
        if photo is not None:
            found[str(photo)] = (view, photo)
    if not found:
        raise DataError(f"{request.photos}: none of its {len(files)} pictures has the name of an image in {cameras}")
    chosen = sorted(found) if request.every else held_out_views(list(found))
    return [found[name] for name in chosen]


def _fitted(view: Pinhole, photo: Path) -> Cameras:
    """The camera at the photograph's size: photographs are often scaled after their cameras were found."""
    with Image.open(photo) as picture:
        width, height = picture.size
    if abs(width / height / (view.width / view.height) - 1) > _ASPECT:
        raise DataError(f"{photo}: {width}x{height} has not the shape of its camera, {view.width}x{view.height}")
    K = view.K * np.array([[width / view.width], [height / view.height], [1]], np.float32)
    return Cameras(view.viewmat[None], K[None].astype(np.float32), width, height)


def _photo(file: Path, background: tuple[float, ...]) -> Picture:
    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGBA" if "A" in picture.getbands() else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file}: not a readable picture ({error})") from error
    return to_srgb8(pixels, background, "srgb", file.name)


def _scores(folder: Path, names: list[str], lpips: Path | None) -> ViewScores:
    """Figures of the written pictures, LPIPS where its weights are at hand."""

    def pictures(kind: str) -> Iterator[Picture]:
        for name in names:
            with Image.open(folder / kind / f"{name}.png") as picture:
                yield np.asarray(picture)

    per_view = dict(score_views(pictures("color"), pictures("gt-color")).per_view)
    for net, name in (("alex", "lpips"), ("vgg", "lpips_vgg")):
        if lpips is None:
            continue
        try:
            metric = Lpips.load(net, lpips)  # type: ignore[arg-type]
        except WeightsMissing:
            continue
        pairs = zip(pictures("gt-color"), pictures("color"), strict=True)
        per_view[name] = tuple(metric(_batch(a), _batch(b)).mean for a, b in pairs)
    return ViewScores(per_view)


def _batch(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
