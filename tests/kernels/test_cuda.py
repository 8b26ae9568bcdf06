"""The CUDA road as far as it goes without a GPU: the sums over pairs, and what a missing or broken gsplat says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from gencompress.errors import KernelError
from gencompress.kernels import cuda
from gencompress.kernels.pairs import Pairs, Totals
from tests.kernels import reference
from tests.kernels.worlds import make


def pairs_of(weights: Tensor, depths: Tensor) -> Pairs:
    """All pairs with a weight [N, H, W], ordered as gsplat lists them."""
    order = torch.argsort(depths, stable=True)
    pixels, ranks = torch.nonzero(weights[order].flatten(1).t() > 0, as_tuple=True)
    return Pairs(order[ranks], pixels, weights.shape[2])


def test_sums_over_pairs_equal_the_kernel_on_the_cpu():
    world = make("wide opacity", count=80, background=torch.tensor([0.1, 0.7, 0.3]))
    target = torch.rand(world.height, world.width, 3, generator=torch.Generator().manual_seed(0))
    dense = reference.render(world)
    depths = world.means @ world.viewmats[0, 2, :3]
    pairs = pairs_of(dense.weights, depths)
    alpha = torch.empty(len(pairs.pixels), dtype=torch.float64)
    passed = torch.ones(world.height * world.width, dtype=torch.float64)
    for i, (n, p) in enumerate(zip(pairs.splats.tolist(), pairs.pixels.tolist(), strict=True)):
        weight = dense.weights[n].flatten()[p]
        alpha[i] = weight / passed[p]
        passed[p] -= weight
    totals, image = Totals(len(world), torch.device("cpu")), world.background.repeat(world.height, world.width, 1)
    totals.add_(pairs, alpha, world.colors, image, target)
    found = totals.contributions(image[None])
    expected = world.contributions(target[None])
    for name in ("leave_one_out", "toward", "blend_sum", "blend_max", "image"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    assert int((found.hits - expected.hits).abs().sum()) <= 2


def test_alpha_of_a_pair_is_that_of_its_pixels_centre():
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([13, 13]), 10)
    centres, conics = torch.tensor([[3.5, 1.5], [4.0, 1.0]]), torch.tensor([[1.0, 0, 1.0], [0.5, 0.1, 0.25]])
    exponent = 0.5 * (0.5 * 0.25 + 0.25 * 0.25) - 0.1 * 0.25
    expected = torch.tensor([0.999, 0.5]).double() * torch.tensor([1, -exponent]).double().exp().clamp(max=1)
    torch.testing.assert_close(pairs.alphas(centres, conics, torch.tensor([1.0, 0.5])), expected, rtol=1e-6, atol=0)


def test_no_pairs_leave_the_background():
    totals, image = Totals(3, torch.device("cpu")), torch.full((4, 5, 3), 0.5)
    none = torch.zeros(0, dtype=torch.int64)
    totals.add_(Pairs(none, none, 5), torch.zeros(0).double(), torch.ones(3, 3), image, None)
    found = totals.contributions(image[None])
    assert bool((found.image == 0.5).all()) and not found.hits.any() and not found.leave_one_out.any()


@pytest.mark.parametrize("most", [10, 25, 1000])
def test_bands_cover_all_lines_and_are_small(monkeypatch, most):
    monkeypatch.setattr(cuda, "_BAND", most)
    starts = [0, 5, 12, 12, 40, 41, 60]
    bands = list(cuda._bands(starts))
    assert [line for first, last in bands for line in range(first, last)] == list(range(6))
    assert all(last == first + 1 or starts[last] - starts[first] <= most for first, last in bands)


@pytest.fixture
def fresh(monkeypatch) -> Iterator[None]:
    """gsplat not looked for yet, and no trace of the fakes afterwards."""
    for name in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delenv("MAX_JOBS", raising=False)
    cuda.gsplat.cache_clear()
    yield
    cuda.gsplat.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_missing_gsplat_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(KernelError, match=r"pip install 'gencompress\[splats\]'"):
        cuda.gsplat()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "failure",
    [
        IndexError("list index out of range"),
        RuntimeError("Error building extension 'gsplat_cuda'\nlong compiler output"),
        ImportError("/cache/gsplat_cuda.so: cannot open shared object file"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_failing_build_is_one_message_with_the_cure(tmp_path, monkeypatch, failure):
    folder = tmp_path / "gsplat" / "cuda"
    folder.mkdir(parents=True)
    (tmp_path / "gsplat" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "_backend.py").write_text(f"raise {failure!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KernelError) as caught:
        cuda.gsplat()
    message = str(caught.value)
    assert type(failure).__name__ in message and str(failure).splitlines()[0] in message
    assert "\n" not in message
    assert all(word in message for word in ("CUDA_HOME", "nvcc", "MAX_JOBS", "torch_extensions", "CPU"))


@pytest.mark.usefixtures("fresh")
def test_a_machine_without_toolkit_is_told(monkeypatch):
    names = ("gsplat", "gsplat.cuda", "gsplat.cuda._backend")
    modules = {name: ModuleType(name) for name in names}
    modules["gsplat"].cuda = modules["gsplat.cuda"]
    modules["gsplat.cuda"]._backend = modules["gsplat.cuda._backend"]
    modules["gsplat.cuda._backend"]._C = None
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(KernelError, match="finds no CUDA toolkit"):
        cuda.gsplat()


def test_zero_quaternions_are_replaced_before_gsplat_divides():
    quats = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 2.0]])
    assert cuda._turning(quats).tolist() == [[1, 0, 0, 0], [0, 0, 0, 2]]
