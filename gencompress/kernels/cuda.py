"""The rasterizer on CUDA: gsplat (arXiv 2409.06765), loaded and built on first use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from gencompress.errors import KernelError
from gencompress.kernels.pairs import Pairs, Totals
from gencompress.kernels.rasterizer import Contributions, Render, Scene, Views

_TILE = 16  # pixels; gsplat tests no other
_BAND = 1 << 17  # splats in tiles that are scored at once, of up to 256 pixels each: some GB of pairs at worst
_CHANNELS = 32  # that one pass of gsplat blends


@cache
def gsplat() -> ModuleType:
    """The package with its CUDA extension in place; the first import on a machine compiles it for minutes.

    Raises:
        KernelError: it is not installed, or cannot be built; the message names the cure.
    """
    os.environ.setdefault("MAX_JOBS", "4")  # gsplat's own ten compilers need more memory than many machines have
    try:
        import gsplat as package
        from gsplat.cuda import _backend
    except ModuleNotFoundError as error:
        raise KernelError(
            f"splats on CUDA need gsplat, and {error.name!r} is not installed: pip install 'gencompress[splats]'; "
            "or render on the CPU, which needs nothing more"
        ) from error
    except Exception as error:  # ninja, nvcc and the loader each fail in their own way
        raise KernelError(f"gsplat's CUDA extension cannot be built or loaded ({_brief(error)}). {_cure()}") from error
    if _backend._C is None:
        raise KernelError(f"gsplat finds no CUDA toolkit to build its extension with. {_cure()}")
    return package


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _cure() -> str:
    """What to do about a build that failed."""
    arch = ""
    if torch.cuda.is_available():
        arch = f"TORCH_CUDA_ARCH_LIST={'.'.join(map(str, torch.cuda.get_device_capability()))}, "
    return (
        f"Install the CUDA toolkit {torch.version.cuda or 'of your torch build'} with nvcc and ninja, set CUDA_HOME to "
        f"it, {arch}MAX_JOBS=2 if memory runs out, and delete gsplat_cuda from torch's extension cache "
        "(TORCH_EXTENSIONS_DIR, by default ~/.cache/torch_extensions) so that it is built anew; behind a proxy or with "
        "CUDA 13 install it with --no-build-isolation. Or render on the CPU, which needs no build"
    )


def rasterize(scene: Scene, views: Views, antialiased: bool, absgrad: bool) -> Render:
    """As `gencompress.kernels.rasterize`."""
    renders = [_render(scene, views, i, antialiased, absgrad) for i in range(len(views.viewmats))]
    image, alpha, depth = (torch.stack([getattr(r, name) for r in renders]) for name in ("image", "alpha", "depth"))
    if not absgrad:
        return Render(image, alpha, depth)
    absolute = image.new_zeros(len(renders), len(scene.means), 2)
    for i, render in enumerate(renders):
        if render.absgrad is not None and render.absgrad.requires_grad:
            render.absgrad.register_hook(lambda _, i=i, points=render.absgrad: absolute[i].copy_(points.absgrad[0]))
    return Render(image, alpha, depth, absolute)


def _render(scene: Scene, views: Views, index: int, antialiased: bool, absgrad: bool) -> Render:
    """One view; `absgrad` holds gsplat's points on the image, which get an attribute of that name in backward."""
    channels = scene.channels
    if len(scene.means) == 0:
        size = views.height, views.width
        nothing = scene.means.new_zeros(size)
        return Render(scene.background.expand(*size, channels), nothing, nothing)
    opacities = scene.opacities if scene.gates is None else scene.opacities * scene.gates
    blended, alpha, meta = gsplat().rasterization(
        scene.means,
        _turning(scene.quats),
        scene.scales,
        opacities,
        scene.colors,
        views.viewmats[index, None],
        views.Ks[index, None],
        views.width,
        views.height,
        sh_degree=None if scene.sh_degree < 0 else scene.sh_degree,
        packed=False,
        tile_size=_TILE,
        backgrounds=scene.background[None],
        render_mode="RGB+D",
        rasterize_mode="antialiased" if antialiased else "classic",
        absgrad=absgrad,
        channel_chunk=channels + 1 if absgrad else _CHANNELS,  # of several chunks gsplat keeps the last one's absgrad
    )
    return Render(blended[0, ..., :channels], alpha[0, ..., 0], blended[0, ..., channels], meta["means2d"])


def _turning(quats: Tensor) -> Tensor:
    """Quaternions of zeros, which gsplat divides by, as those that turn nothing."""
    identity = quats.new_tensor([1.0, 0.0, 0.0, 0.0])
    return torch.where((quats == 0).all(1, keepdim=True), identity, quats)


def contributions(scene: Scene, views: Views, target: Tensor | None, antialiased: bool) -> Contributions:
    """As `gencompress.kernels.contributions`: gsplat lists the pairs of splat and pixel, torch does the sums."""
    totals = Totals(len(scene.means), scene.means.device)
    image = scene.background.repeat(len(views.viewmats), views.height, views.width, 1)
    if len(scene.means):
        for i in range(len(image)):
            _score_(scene, views, i, antialiased, image[i], None if target is None else target[i], totals)
    return totals.contributions(image)


def _score_(
    scene: Scene, views: Views, index: int, antialiased: bool, image: Tensor, target: Tensor | None, totals: Totals
) -> None:
    """Add view `index` to `totals` and to `image` [H, W, D], band of tiles by band of tiles."""
    package = gsplat()
    viewmat, K = views.viewmats[index, None], views.Ks[index, None]
    radii, centres, depths, conics, compensations = package.fully_fused_projection(
        scene.means, None, _turning(scene.quats), scene.scales, viewmat, K, views.width, views.height,
        calc_compensations=antialiased, opacities=scene.opacities,
    )  # fmt: skip
    opacities = scene.opacities[None] if compensations is None else scene.opacities[None] * compensations
    colors = scene.colors
    if scene.sh_degree >= 0:
        directions = scene.means - torch.inverse(viewmat)[0, :3, 3]
        seen = (radii[0] > 0).all(-1)
        colors = (package.spherical_harmonics(scene.sh_degree, directions, colors, masks=seen) + 0.5).clamp(min=0)
    columns, lines = -(-views.width // _TILE), -(-views.height // _TILE)
    _, ids, splats = package.isect_tiles(centres, radii, depths, _TILE, columns, lines)
    offsets = package.isect_offset_encode(ids, 1, columns, lines).reshape(1, lines, columns)
    starts = [*offsets[0, :, 0].tolist(), len(splats)]
    for first, last in _bands(starts):
        rows = slice(first * _TILE, min(last * _TILE, views.height))
        shifted = centres - centres.new_tensor([0.0, rows.start])
        listed, pixels, _ = package.rasterize_to_indices_in_range(
            0, 2**31 - 1, centres.new_ones(1, rows.stop - rows.start, views.width), shifted, conics, opacities,
            views.width, rows.stop - rows.start, _TILE, offsets[:, first:last] - starts[first],
            splats[starts[first] : starts[last]],
        )  # fmt: skip
        pairs = Pairs(listed, pixels, views.width)
        alpha = pairs.alphas(shifted[0], conics[0], opacities[0])
        totals.add_(pairs, alpha, colors, image[rows], None if target is None else target[rows])


def _bands(starts: list[int]) -> Iterator[tuple[int, int]]:
    """First line of tiles and one past the last of every band; `starts` count the entries ahead of every line."""
    first = 0
    while first < len(starts) - 1:
        last = first + 1
        while last < len(starts) - 1 and starts[last + 1] - starts[first] <= _BAND:
            last += 1
        yield first, last
        first = last
