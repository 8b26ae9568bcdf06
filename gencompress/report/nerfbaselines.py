"""Predictions and results as nerfbaselines writes them, with what it lacks: the bytes that were needed.

A folder with ``info.json``, ``color/*.png`` and ``gt-color/*.png``, and a result JSON beside it, so that
`nerfbaselines evaluate FOLDER` recomputes every figure; an extra ``compression`` block holds sizes and times. The
survey's CSV (3dgs.zip, Bagdasarian et al. 2024) has one row per scene and method.
"""

from __future__ import annotations

import base64
import csv
import datetime
import hashlib
import io
import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gencompress import __version__
from gencompress.errors import DataError
from gencompress.metrics.views import PROTOCOL, PROTOCOL_VERSION, ViewScores
from gencompress.report.escape import csv_cell
from gencompress.run.atomic import write_bytes, write_dir, write_json, write_text

SURVEY_COLUMNS = ("Submethod", "PSNR", "SSIM", "LPIPS", "Size [Bytes]", "#Gaussians")
_DIGITS = 5


@dataclass(frozen=True)
class Compression:
    """What it takes to decode a scene.

    Args:
        bytes_total: every file that decoding needs, networks and masks included.
        bytes_by_part: the same by part.
        params_stored: numbers stored.
        decode_s: seconds from the file to a renderable scene.
        encode_s: seconds from the scene to the file, where known.
        fps: rendered pictures per second.
        device: that `fps` and the seconds belong to.
        decoded_from_file: whether the pictures were rendered from the decoded file; always so here.
    """

    bytes_total: int
    bytes_by_part: Mapping[str, int]
    params_stored: int
    decode_s: float
    encode_s: float | None
    fps: float
    device: str
    decoded_from_file: bool = True


def write_predictions(
    folder: Path,
    names: Sequence[str],
    predictions: Iterable[NDArray[np.uint8]],
    truths: Iterable[NDArray[np.uint8]],
    *,
    method: str,
    dataset: Mapping[str, Any],
) -> None:
    """Write the folder that `nerfbaselines evaluate` reads.

    Args:
        folder: must not exist, or be empty.
        names: one per view, ascending, unique, without suffix; letters, digits and ``_-.`` only.
        predictions: [H, W, 3] or [H, W, 4] uint8.
        truths: the same sizes.
        method: name of the method.
        dataset: metadata such as ``id``, ``scene``, ``background_color`` (0 to 255), plain JSON.

    Raises:
        DataError: a name that is no plain file name, names that do not ascend, or lists of different lengths.
    """
    _check_names(names)
    moment = _now()
    metadata = {"color_space": "srgb", "evaluation_protocol": PROTOCOL, **dataset}
    info = {
        "method": method,
        "nb_version": PROTOCOL_VERSION,
        "datetime": moment,
        "evaluation_protocol": PROTOCOL,
        "dataset_metadata": metadata,
        "render_version": PROTOCOL_VERSION,
        "render_datetime": moment,
        "render_dataset_metadata": metadata,
    }
    with write_dir(folder) as temporary:
        for kind, pictures in (("color", predictions), ("gt-color", truths)):
            (temporary / kind).mkdir()
            for name, picture in _paired(names, pictures, kind):
                write_bytes(temporary / kind / f"{name}.png", _png(picture))
        write_json(temporary / "info.json", info)


def write_result(
    path: Path,
    predictions: Path,
    scores: ViewScores,
    compression: Compression,
    *,
    method: str,
    dataset: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the result JSON of a predictions folder and return it.

    The figures carry five decimals, ``metrics_raw`` the float32 of every view, and the hashes are those that
    nerfbaselines computes from the same folder.
    """
    names = sorted(p.name for p in (predictions / "color").iterdir())
    bits = 8 * compression.bytes_total
    result = {
        "nb_info": {"method": method, "dataset_metadata": dict(dataset), "evaluation_protocol": PROTOCOL},
        "evaluate_datetime": _now(),
        "evaluate_version": PROTOCOL_VERSION,
        "metrics": {name: round(value, _DIGITS) for name, value in scores.means.items()},
        "metrics_raw": {name: encode_values(values) for name, values in scores.per_view.items()},
        "metrics_sha256": metrics_hash(scores.per_view),
        "predictions_sha256": _hash_files(predictions / "color", names),
        "ground_truth_sha256": _hash_files(predictions / "gt-color", names),
        "evaluation_protocol": PROTOCOL,
        "compression": {**asdict(compression), "bits_per_param": bits / compression.params_stored},
        "written_by": f"gencompress {__version__}",
    }
    write_json(path, result)
    return result


def write_survey_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the survey's CSV; every row needs all of `SURVEY_COLUMNS`, None where a figure was not measured.

    Raises:
        DataError: a row lacks a column.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SURVEY_COLUMNS)
    for row in rows:
        missing = [column for column in SURVEY_COLUMNS if column not in row]
        if missing:
            raise DataError(f"{path}: a row of the survey lacks {missing[0]!r}")
        writer.writerow([csv_cell(row[column]) for column in SURVEY_COLUMNS])
    write_text(path, text.getvalue())


def encode_values(values: Iterable[float]) -> str:
    """Little-endian float32 in base64."""
    return base64.b64encode(b"".join(struct.pack("<f", value) for value in values)).decode("ascii")


def metrics_hash(per_view: Mapping[str, Sequence[float]]) -> str:
    """SHA-256 over names and sorted values, as nerfbaselines computes it."""
    digest = hashlib.sha256()
    for name in sorted(per_view):
        digest.update(name.lower().encode())
        digest.update(encode_values(sorted(per_view[name])).encode("ascii") + b"\n")
    return digest.hexdigest()


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or name.startswith(".") or not all(c.isalnum() or c in "_-." for c in name):
            raise DataError(f"view name {name!r} must be made of letters, digits and _ - . alone")
    for one, other in itertools.pairwise(names):
        if one >= other:
            raise DataError(f"view names must ascend, so that figures and files agree: {other!r} comes after {one!r}")


def _paired(names: Sequence[str], pictures: Iterable[Any], kind: str) -> Iterator[tuple[str, Any]]:
    """Names with pictures, or a `DataError` if there are not as many."""
    pictures = iter(pictures)
    for name in names:
        picture = next(pictures, None)
        if picture is None:
            raise DataError(f"{kind}: fewer pictures than the {len(names)} view names")
        yield name, picture
    if next(pictures, None) is not None:
        raise DataError(f"{kind}: more pictures than the {len(names)} view names")


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _hash_files(folder: Path, names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat(timespec="seconds")
