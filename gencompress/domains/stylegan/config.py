"""What a StyleGAN2 network is made of: sizes, and the width of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from gencompress.errors import ModelError

VERSION = 1  # of config.json
_RESOLUTIONS = tuple(2**n for n in range(3, 12))
_WIDEST = 1 << 14


@dataclass(frozen=True, slots=True)
class _NetworkConfig:
    resolution: int
    channels: tuple[int, ...]
    clamp: float | None

    model_type = ""

    def __post_init__(self) -> None:
        if self.resolution not in _RESOLUTIONS or type(self.resolution) is not int:
            raise ModelError(f"resolution {_shown(self.resolution)} is none of {', '.join(map(str, _RESOLUTIONS))}")
        if not isinstance(self.channels, (tuple, list)) or len(self.channels) != self._layers():
            raise ModelError(f"channels must be the widths of {self._layers()} layers at {self.resolution} px")
        object.__setattr__(self, "channels", tuple(self.channels))
        for width in self.channels:
            _integer("channels", width, 1, _WIDEST)
        if self.clamp is not None and not (_is_number(self.clamp) and self.clamp > 0):
            raise ModelError(f"clamp {_shown(self.clamp)} is neither null nor a number above 0")

    def _layers(self) -> int:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": self.model_type, "version": VERSION, **asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: object) -> Self:
        """The config in the content of a config.json. ModelError names `where` and the field at fault."""
        if value.get("model_type") != cls.model_type or value.get("version") != VERSION:
            raise ModelError(f"{where}: model_type and version are not {cls.model_type!r} and {VERSION}")
        return cls.of_file(where, **{name: v for name, v in value.items() if name not in ("model_type", "version")})

    @classmethod
    def of_file(cls, where: object, /, **fields: Any) -> Self:
        """The config of what a file says. ModelError names `where` and the field at fault."""
        try:
            return cls(**fields)
        except (TypeError, ModelError) as error:
            raise ModelError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True)
class GeneratorConfig(_NetworkConfig):
    """Sizes of a `Generator`.

    Args:
        resolution: pixels of a side, a power of two from 8 to 2048.
        channels: c_0 to c_L, L = 2 log2(resolution) - 3: the constant input, the convolution at 4 px, then per
            resolution from 8 px the outputs of the up-sampling convolution and of the one after it.
        clamp: bound of activations and of RGB before up-sampling, as StyleGAN2-ADA trains with (256); None for none.
        style_dim: components of z and w.
        n_mlp: layers of the mapping from z to w.
        lr_mlp: learning-rate multiplier that the weights of the mapping are scaled by.
    """

    clamp: float | None = None
    style_dim: int = 512
    n_mlp: int = 8
    lr_mlp: float = 0.01

    model_type = "stylegan2_generator"

    def __post_init__(self) -> None:
        _NetworkConfig.__post_init__(self)
        _integer("style_dim", self.style_dim, 1, _WIDEST)
        _integer("n_mlp", self.n_mlp, 1, 64)
        if not (_is_number(self.lr_mlp) and self.lr_mlp > 0):
            raise ModelError(f"lr_mlp {_shown(self.lr_mlp)} is no number above 0")

    def _layers(self) -> int:
        return 2 * self.resolution.bit_length() - 4

    @property
    def latents(self) -> int:
        """Entries of w+, one per style: 2 log2(resolution) - 2."""
        return self._layers()


@dataclass(frozen=True, slots=True)
class DiscriminatorConfig(_NetworkConfig):
    """Sizes of a `Discriminator`.

    Args:
        resolution: pixels of a side, a power of two from 8 to 2048.
        channels: of every resolution, from the largest down to 4 px.
        clamp: as in `GeneratorConfig`.
        stddev_group: pictures whose deviation is taken together.
    """

    clamp: float | None = None
    stddev_group: int = 4

    model_type = "stylegan2_discriminator"

    def __post_init__(self) -> None:
        _NetworkConfig.__post_init__(self)
        _integer("stddev_group", self.stddev_group, 1, 1 << 10)

    def _layers(self) -> int:
        return self.resolution.bit_length() - 2


def standard_widths(resolution: int, multiplier: int = 2) -> list[int]:
    """Channels at 4, 8, ... `resolution` px in the paper's networks: 512, halved from some resolution on.

    Args:
        resolution: pixels of a side.
        multiplier: 2 for config F of the paper, 1 for half the width from 64 px on.
    """
    return [min(512, (multiplier << 14) >> n) for n in range(2, resolution.bit_length())]


def standard_generator(resolution: int, multiplier: int = 2, **options: Any) -> GeneratorConfig:
    """The paper's generator (config F with `multiplier` 2); `options` are fields of `GeneratorConfig`."""
    twice = [width for width in standard_widths(resolution, multiplier) for _ in range(2)]
    return GeneratorConfig(resolution, tuple(twice), **options)


def standard_discriminator(resolution: int, multiplier: int = 2, **options: Any) -> DiscriminatorConfig:
    """The paper's discriminator, as wide as the generator."""
    return DiscriminatorConfig(resolution, tuple(standard_widths(resolution, multiplier)[::-1]), **options)


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ModelError(f"{name} {_shown(value)} is no integer from {low} to {high:,}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9  # integers may be too large to be floats


def _shown(value: Any) -> str:
    return repr(value)[:60]
