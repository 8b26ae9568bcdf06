from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# The same examples every time, and no clock: a busy machine is no failure.
settings.register_profile("core", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("core")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)
