"""Vector arithmetic, harmonics, and how compiled code is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gencompress.kernels import simd
from gencompress.kernels.compiled import jit, parallel
from gencompress.kernels.harmonics import TERMS, harmonics, harmonics_gradient
from tests.kernels import reference


@jit
def _exponentials(start, stop, numbers, out):
    for i in range(start, stop):
        simd.store(out, 8 * i, simd.exp2(simd.load(numbers, 8 * i)))


@jit
def _arithmetic(start, stop, a, b, out):
    for i in range(start, stop):
        x, y = simd.load(a, 8 * i), simd.load(b, 8 * i)
        mask = (x > y) & (y >= -0.5)
        z = simd.select(mask, (x + 1) * 2.0 - y / 4, simd.minimum(x, y) - simd.maximum(x, simd.broadcast(0.5)))
        z += simd.square_root(simd.absolute(y)) * simd.lane_numbers()
        simd.store(out, 8 * i, z)
        out[-3], out[-2], out[-1] = simd.total(z), simd.largest(z), simd.any_lane(mask)


def test_exp2_is_exact_to_rounding_and_does_not_wrap():
    numbers = np.concatenate([np.linspace(-126, 20, 8000), [-126.5, -127, -150, -1e4, -1e10, -3e38, 0, 1]])
    numbers = numbers.astype(np.float32)
    out = np.empty_like(numbers)
    parallel(_exponentials, len(numbers) // 8, numbers, out)
    expected = np.exp2(np.maximum(numbers.astype(np.float64), -126))
    assert np.abs(out / expected - 1).max() < 3e-7


def test_lanes_compute_what_arrays_compute():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8)).astype(np.float32)
    out = np.zeros(11, np.float32)
    parallel(_arithmetic, 1, a, b, out)
    mask = (a > b) & (b >= -0.5)
    expected = np.where(mask, (a + 1) * 2 - b / 4, np.minimum(a, b) - np.maximum(a, 0.5))
    expected = expected + np.sqrt(np.abs(b)) * np.arange(8)
    np.testing.assert_allclose(out[:8], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[8:], [expected.sum(), expected.max(), mask.any()], rtol=1e-5)


@pytest.mark.parametrize("degree", range(5))
def test_harmonics_and_their_gradient(degree):
    """On the sphere: off it the polynomials may differ, so gradients are compared along the sphere."""
    generator = torch.Generator().manual_seed(degree)
    for _ in range(5):
        direction = torch.nn.functional.normalize(torch.randn(3, generator=generator, dtype=torch.float64), dim=0)
        weights = torch.randn(TERMS, generator=generator, dtype=torch.float64)
        terms = (degree + 1) ** 2
        basis = np.zeros(TERMS)
        harmonics.py_func(*direction.tolist(), degree, basis)
        along = direction.clone().requires_grad_()
        expected = reference.spherical_harmonics(torch.nn.functional.normalize(along, dim=0)[None], degree)[0]
        np.testing.assert_allclose(basis[:terms], expected.detach().numpy(), atol=1e-12)
        ((expected * weights[:terms]).sum() + 0 * along.sum()).backward()  # degree 0 is constant
        gradient = harmonics_gradient.py_func(*direction.tolist(), degree, weights.numpy())
        found = torch.tensor(gradient, dtype=torch.float64)
        tangent = found - direction * (direction @ found)
        torch.testing.assert_close(tangent, along.grad, rtol=1e-10, atol=1e-10)


def test_pieces_cover_everything_once():
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for count in (0, 1, 3, 100, 1001):
                seen = np.zeros(count, np.int64)
                parallel(_Count(seen), count)
                assert (seen == 1).all()
    finally:
        torch.set_num_threads(before)


class _Count:
    """A kernel that is compiled already."""

    signatures = (None,)

    def __init__(self, seen: np.ndarray) -> None:
        self.seen = seen

    def __call__(self, start: int, stop: int) -> None:
        self.seen[start:stop] += 1


SCRIPT = """
import numpy as np
from gencompress.kernels.compiled import jit, parallel

@jit
def double(start, stop, x):
    for i in range(start, stop):
        x[i] *= 2

@jit
def triple(start, stop, x):
    for i in range(start, stop):
        x[i] *= 3

x = np.ones(3, np.float32)
parallel(double, 3, x)
parallel(triple, 3, x)
print(x.sum(), sum(double.stats.cache_hits.values()))
"""


def run(folder: Path, script: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)


def test_the_first_use_says_so_once_and_the_next_process_is_silent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    first, second = run(tmp_path / "cache", script), run(tmp_path / "cache", script)
    assert first.stdout.split() == ["18.0", "0"]
    assert first.stderr.count("\n") == 1
    assert "Compiling the kernels takes about" in first.stderr and str(tmp_path / "cache") in first.stderr
    assert second.stdout.split() == ["18.0", "1"]
    assert second.stderr == ""


def test_without_a_writable_folder_the_cure_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(tmp_path / "file", script)
    assert done.stdout.split() == ["18.0", "0"]
    assert "in every process" in done.stderr and "set NUMBA_CACHE_DIR to a folder that can" in done.stderr


def test_a_fork_renders_with_threads_of_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch, numpy as np\n"
        "from gencompress.kernels.compiled import parallel\n"
        "class Kernel:\n"
        "    signatures = (None,)\n"
        "    def __call__(self, start, stop, x): x[start:stop] += 1\n"
        "torch.set_num_threads(2)\n"
        "x = np.zeros(100); parallel(Kernel(), 100, x)\n"
        "if (child := os.fork()) == 0:\n"
        "    parallel(Kernel(), 100, x); os._exit(int((x != 2).any()))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, script], check=True, timeout=120)
