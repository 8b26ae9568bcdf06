from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def shared():
    """The folder of real data beside the repository, if it is there."""
    folder = Path(os.environ.get("GENCOMPRESS_SHARED", _ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set GENCOMPRESS_SHARED to its parent")
    return folder
