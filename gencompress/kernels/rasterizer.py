"""`rasterize` and `contributions`: checked input, on the CPU or on CUDA as the tensors are."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from gencompress.errors import ConfigError, NumericsError


@dataclass(frozen=True, eq=False)
class Render:
    """What C cameras see.

    Args:
        image: blended colours with the background [C, H, W, D].
        alpha: 1 - the light that passes all splats, in [0, 1] [C, H, W].
        depth: z in camera space, summed with the blend weights [C, H, W]; ``depth / alpha`` is its expectation.
        absgrad: None, or [C, N, 2]: zero until the backward pass fills it.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    absgrad: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Contributions:
    """What every splat does to the images of C cameras, summed over them.

    Args:
        leave_one_out: squared error over pixels and channels if this splat alone is removed [N], fp32.
        toward: what of it brings the image nearer to a target that it differs from: the squared error against the
            target changes by ``leave_one_out - toward`` [N], fp32; zero without a target.
        blend_sum: sum of its blend weights alpha * transmittance [N], fp32.
        blend_max: its largest blend weight in any pixel of any camera [N], fp32.
        hits: pixels to which it is drawn [N], int64.
        image: the renders themselves [C, H, W, D].
    """

    leave_one_out: Tensor
    toward: Tensor
    blend_sum: Tensor
    blend_max: Tensor
    hits: Tensor
    image: Tensor


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    gates: Tensor | None = None,
    background: Tensor | None = None,
    antialiased: bool = False,
    absgrad: bool = False,
) -> Render:
    """Images of N Gaussian splats, with the maths of gsplat's `rasterization` (arXiv 2409.06765).

    EWA projection with 0.3 px^2 added, alpha at most 0.999, nothing below 1/255, a pixel stops before its transmittance
    falls to 1e-4. Differentiable in means, quats, scales, opacities, colors and gates.

    Args:
        means: centres in the world [N, 3].
        quats: rotations as wxyz [N, 4], of any length; zeros turn nothing.
        scales: standard deviations along the splat's own axes [N, 3], >= 0.
        opacities: in [0, 1] [N].
        colors: [N, D], D >= 1, or with `sh_degree` spherical harmonics [N, K, 3] of which the colour is
            ``max(0, 0.5 + SH(direction))``.
        viewmats: world to camera [C, 4, 4]; x right, y down, z forward.
        Ks: intrinsics in pixels [C, 3, 3].
        width: of the images in pixels.
        height: of the images in pixels.
        sh_degree: degree to evaluate, 0 to 4, (sh_degree + 1)^2 <= K.
        gates: factors of the opacities [N], >= 0 (default: 1).
        background: colour behind everything [D] (default: 0).
        antialiased: opacities compensated for the added 0.3 px^2 (Mip-Splatting, arXiv 2311.16493).
        absgrad: give `Render.absgrad`: in the backward pass the absolute values of the gradient of the projected
            centres are summed over the pixels (AbsGS, arXiv 2404.10484).

    Raises:
        ConfigError: a tensor has a wrong shape or device, or an option is out of range.
        NumericsError: a tensor holds NaN or infinity.
        KernelError: the rasterizer cannot be built or run on this machine.
    """
    scene = _checked(means, quats, scales, opacities, colors, sh_degree, gates, background)
    views = _checked_cameras(means.device, viewmats, Ks, width, height)
    return _backend(means.device).rasterize(scene, views, antialiased, absgrad)


@torch.no_grad()
def contributions(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    background: Tensor | None = None,
    target: Tensor | None = None,
    antialiased: bool = False,
) -> Contributions:
    """Leave-one-out error, blend weights and hits of every splat, exact, without a backward pass.

    The error is that of removing the splat from each pixel's list: ``alpha * (T * color - behind / (1 - alpha))`` per
    channel, squared and summed. A render without the splat differs from it only where removal moves the point at which
    a pixel stops. Scores are held for one view at a time.

    Args:
        means: as in `rasterize`, and so are all others.
        quats: [N, 4].
        scales: [N, 3].
        opacities: [N].
        colors: [N, D] or spherical harmonics [N, K, 3].
        viewmats: [C, 4, 4].
        Ks: [C, 3, 3].
        width: in pixels.
        height: in pixels.
        sh_degree: degree of the spherical harmonics.
        background: [D].
        target: images [C, H, W, D] that the renders should resemble, for `Contributions.toward`.
        antialiased: compensate opacities.

    Raises:
        ConfigError: a tensor has a wrong shape or device, or an option is out of range.
        NumericsError: a tensor holds NaN or infinity.
        KernelError: the rasterizer cannot be built or run on this machine.
    """
    scene = _checked(means, quats, scales, opacities, colors, sh_degree, None, background)
    views = _checked_cameras(means.device, viewmats, Ks, width, height)
    if target is not None:
        target = _tensor("target", target, (len(views.viewmats), height, width, scene.channels), means.device)
    return _backend(means.device).contributions(scene, views, target, antialiased)


@dataclass(frozen=True, eq=False)
class Scene:
    """Checked fp32 input of a backend; fields as in `rasterize`, `sh_degree` -1 where colors are [N, D]."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    gates: Tensor | None
    background: Tensor
    sh_degree: int

    @property
    def channels(self) -> int:
        """Of the image, D."""
        return len(self.background)


@dataclass(frozen=True, eq=False)
class Views:
    """Checked cameras of one image size; fields as in `rasterize`."""

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int


def _checked(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    sh_degree: int | None,
    gates: Tensor | None,
    background: Tensor | None,
) -> Scene:
    count = len(means)
    shapes = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,), "gates": (count,)}
    if sh_degree is None:
        channels = colors.shape[-1]
        shapes["colors"] = (count, max(channels, 1))
    else:
        channels = 3
        terms = colors.shape[1] if colors.ndim == 3 else 0
        shapes["colors"] = (count, terms, 3)
        if sh_degree not in range(5) or terms < (sh_degree + 1) ** 2:
            raise ConfigError(
                f"sh_degree={sh_degree} must be 0 to 4 with colors [N, K, 3], K >= (sh_degree + 1)^2; "
                f"colors have shape {tuple(colors.shape)}"
            )
    shapes["background"] = (channels,)
    device = means.device

    def tensor(name: str, given: Tensor) -> Tensor:
        return _tensor(name, given, shapes[name], device)

    return Scene(
        tensor("means", means),
        tensor("quats", quats),
        tensor("scales", scales),
        tensor("opacities", opacities),
        tensor("colors", colors),
        None if gates is None else tensor("gates", gates),
        torch.zeros(channels, device=device) if background is None else tensor("background", background),
        -1 if sh_degree is None else sh_degree,
    )


def _checked_cameras(device: torch.device, viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Views:
    if width < 1 or height < 1:
        raise ConfigError(f"width={width} and height={height} must be at least 1")
    count = len(viewmats)
    views = Views(
        _tensor("viewmats", viewmats, (count, 4, 4), device), _tensor("Ks", Ks, (count, 3, 3), device), width, height
    )
    if not bool((views.Ks[:, 0, 0] > 0).all() and (views.Ks[:, 1, 1] > 0).all()):
        raise ConfigError("Ks: focal lengths must be positive")
    if not bool((torch.linalg.det(views.viewmats[:, :3, :3].double()).abs() > 1e-12).all()):
        raise ConfigError("viewmats: the rotation of a camera is singular")
    return views


def _tensor(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """`tensor` as contiguous fp32, after checks that cost one pass over it."""
    if tuple(tensor.shape) != shape:
        raise ConfigError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if tensor.device != device:
        raise ConfigError(f"{name} is on {tensor.device}, means are on {device}")
    # a sum is one pass without a mask; it overflows where finite numbers are huge, so a bad one is looked at again
    if not bool(torch.isfinite(tensor.detach().sum())) and not bool(torch.isfinite(tensor.detach()).all()):
        bad = int((~torch.isfinite(tensor.detach())).sum())
        raise NumericsError(f"{name} holds NaN or infinity in {bad} of {tensor.numel()} numbers; filter them first")
    return tensor.float().contiguous()


def _backend(device: torch.device) -> ModuleType:
    if device.type == "cpu":
        from gencompress.kernels import cpu

        return cpu
    if device.type == "cuda":
        from gencompress.kernels import cuda

        return cuda
    raise ConfigError(f"splats are rendered on cpu and cuda, not on {device.type}")
