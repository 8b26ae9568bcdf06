"""Reading extractor weights: local files only unless asked to download, tensors only, the hash checked where known."""

from __future__ import annotations

import hashlib
import pickle
import urllib.error
from pathlib import Path

import torch
from torch import Tensor

from gencompress.errors import ModelError


class WeightsMissing(ModelError):
    """Official weights are nowhere to be found and may not, or could not, be downloaded.

    Args:
        file: name of the weight file, without its folder, fit for a published note.
        reason: where it was looked for.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file = file


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file on the CPU; `ModelError` if it is missing or holds anything but tensors."""
    if not path.is_file():
        raise ModelError(f"{path}: no such weight file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{path}: not a readable state dict of tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: expected a state dict of tensors, found {type(state).__name__}")
    return state


def official_file(url: str, sha256: str, folder: Path | None, *, download: bool) -> Path:
    """A file whose bytes are the official ones: from `folder`, else torch's cache, else downloaded into that cache.

    Args:
        url: where the file is published; its last part is the file name.
        sha256: the hash, or its first digits.
        folder: a local folder to look in first.
        download: whether to fetch the file if it is nowhere.

    Raises:
        WeightsMissing: nowhere to be found and not to be downloaded.
        ModelError: other bytes than the official ones.
    """
    name = url.rsplit("/", 1)[-1]
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    places = [place / name for place in (folder, cache) if place is not None]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        if not download:
            where = " nor ".join(str(place.parent) for place in places)
            raise WeightsMissing(name, f"is neither in {where}; put it there or allow the download")
        found = _download(url, cache / name, sha256)
    if not sha256_of(found).startswith(sha256):
        raise ModelError(f"{found}: not the official weights, whose sha256 begins with {sha256[:16]}")
    return found


def _download(url: str, target: Path, sha256: str) -> Path:
    """Fetch into a temporary, check the hash, rename (torch.hub does all three)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(target), hash_prefix=sha256, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise WeightsMissing(target.name, f"could not be downloaded: {error}") from error
    return target
