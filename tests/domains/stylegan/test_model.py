"""The generator against formulas written out in numpy, and its ways of taking latents and noise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gencompress.domains.stylegan.blocks import StyledConv, ToRGB
from gencompress.domains.stylegan.config import GeneratorConfig, standard_generator
from gencompress.domains.stylegan.fir import Blur, Upsample
from gencompress.domains.stylegan.layers import EqualLinear, PixelNorm
from gencompress.domains.stylegan.model import Generator
from gencompress.domains.stylegan.modulation import ModulatedConv2d
from gencompress.errors import ConfigError, ModelError
from tests.domains.stylegan import reference
from tests.domains.stylegan.tiny import CHANNELS, DIM, normal, shaken, tiny_generator

double = {"dtype": torch.float64}
LAYERS = len(CHANNELS) - 1


def close(ours, theirs, tolerance=1e-12):
    theirs = torch.from_numpy(np.asarray(theirs))
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def test_filters():
    x = normal(2, 3, 5, 6, **double)
    blur, up = Blur(pad=2).double(), Upsample().double()
    close(blur(x), [reference.filtered(s, 2, 2, 1) for s in x.numpy()])
    close(blur(x, stride=2), [reference.filtered(s, 2, 2, 1)[:, ::2, ::2] for s in x.numpy()])
    close(up(x), [reference.filtered(reference.zeros_between(s), 2, 1, 4) for s in x.numpy()])


def test_linear_layers_and_norm():
    x = normal(3, DIM, **double)
    for lr_mult, activate in ((1.0, False), (0.01, True)):
        layer = shaken(EqualLinear(DIM, 4, bias=1.0, lr_mult=lr_mult, activate=activate)).double()
        tensors = {f"a.{name}": t for name, t in reference.arrays(layer).items()}
        expected = np.stack([reference.linear(tensors, "a", row, lr_mult) for row in x.numpy()])
        close(layer(x), reference.lrelu(expected) if activate else expected)
    close(PixelNorm()(x).square().mean(1), np.ones(3), 1e-7)


# one sample with more activations than weights has weights of its own; all others share the convolution
@pytest.mark.parametrize(("batch", "side"), [(1, 2), (1, 9), (3, 5)])
@pytest.mark.parametrize("kind", ["plain", "up", "rgb"])
def test_modulated_convolution(kind, batch, side):
    options = {"plain": {}, "up": {"upsample": True}, "rgb": {"demodulate": False}}[kind]
    layer = shaken(ModulatedConv2d(5, 4, 1 if kind == "rgb" else 3, DIM, **options)).double()
    x, w = normal(batch, 5, side, side, **double), normal(batch, DIM, seed=2, **double)
    tensors = {f"a.{name}": t for name, t in reference.arrays(layer).items()}
    expected = [reference.modulated(tensors, "a", *xw, **options) for xw in zip(x.numpy(), w.numpy(), strict=True)]
    close(layer(x, w), expected)
    close(layer(x, w, 3.0), 3 * np.stack(expected))


def test_both_ways_of_modulation_have_the_same_gradients():
    layer = shaken(ModulatedConv2d(5, 4, 3, DIM)).double().requires_grad_()
    x, w = normal(1, 5, 9, 9, **double).requires_grad_(), normal(1, DIM, seed=2, **double).requires_grad_()
    wanted = [x, w, *layer.parameters()]
    own = torch.autograd.grad(layer(x, w).sin().sum(), wanted)
    pair = layer(torch.cat([x, x]), torch.cat([w, w])).sin()
    shared = torch.autograd.grad(pair.sum() / 2, wanted)
    for a, b in zip(own, shared, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_second_derivatives():
    """What path-length regularisation needs, on both ways."""
    layer = shaken(StyledConv(2, 2, 3, upsample=True)).double().requires_grad_()
    noise = normal(1, 1, 6, 6, **double)
    for batch in (1, 2):
        x = normal(batch, 2, 3, 3, **double).requires_grad_()
        w = normal(batch, 3, seed=2, **double).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x, w: layer(x, w, noise), (x, w))


@pytest.mark.parametrize("clamp", [None, 0.8])
def test_blocks(clamp):
    x, w = normal(2, 5, 4, 4, **double), normal(2, DIM, seed=2, **double)
    for upsample in (False, True):
        layer = shaken(StyledConv(5, 4, DIM, upsample, clamp)).double()
        noise = normal(1, 1, *[8 if upsample else 4] * 2, **double)
        tensors = {f"a.{name}": t for name, t in reference.arrays(layer).items()}
        options = {"upsample": upsample, "clamp": clamp}
        expected = [
            reference.styled(tensors, "a", s, v, noise[0, 0].numpy(), **options)
            for s, v in zip(x.numpy(), w.numpy(), strict=True)
        ]
        close(layer(x, w, noise), expected)
        assert clamp is None or float(layer(x, w, noise).abs().max()) == clamp
    layer, picture = shaken(ToRGB(5, DIM, clamp=clamp)).double(), normal(2, 3, 2, 2, seed=3, **double)
    tensors = {f"a.{name}": t for name, t in reference.arrays(layer).items()}
    rows = zip(x.numpy(), w.numpy(), picture.numpy(), strict=True)
    close(layer(x, w, picture), [reference.to_rgb(tensors, "a", s, v, p, clamp) for s, v, p in rows])


@pytest.mark.parametrize("clamp", [None, 1.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_whole_generator(batch, clamp):
    generator = tiny_generator(clamp=clamp).double()
    tensors, z = reference.arrays(generator), normal(batch, DIM, **double)
    w = np.stack([reference.mapping(tensors, row, 2) for row in z.numpy()])
    close(generator.mapping(z), w)
    noise = reference.own_noise(tensors, LAYERS)
    expected = [reference.synthesis(tensors, [row] * (LAYERS + 1), noise, clamp) for row in w]
    close(generator(z), expected)
    close(generator(torch.from_numpy(w), space="w"), expected)


def test_a_w_for_every_layer_and_style_mixing():
    generator = tiny_generator().double()
    tensors, a, b = reference.arrays(generator), normal(1, DIM, **double), normal(1, DIM, seed=5, **double)
    noise = reference.own_noise(tensors, LAYERS)
    for crossover in range(LAYERS + 2):
        mixed = generator.mix(a, b, crossover)
        rows = [(a if i < crossover else b)[0].numpy() for i in range(LAYERS + 1)]
        close(generator(mixed, space="w"), [reference.synthesis(tensors, rows, noise)])


def test_truncation():
    generator = tiny_generator().double()
    w, mean = normal(2, DIM, **double), generator.latent_avg
    close(generator.truncate(w, 0.3), (mean + 0.3 * (w - mean)).numpy())
    assert torch.equal(generator.truncate(w, 1.0), w)
    partly = generator.truncate(w, 0.3, layers=2)
    close(partly[:, :2], generator.truncate(w, 0.3)[:, None].expand(-1, 2, -1).numpy())
    assert torch.equal(partly[:, 2:], w[:, None].expand(-1, LAYERS - 1, -1))
    alike = generator(w, space="w", truncation=0.0)
    close(alike[0], alike[1].numpy())
    z = normal(3000, DIM, **double)
    assert float((generator.mean_latent(20_000) - generator.mapping(z).mean(0)).abs().max()) < 0.1


def test_noise():
    generator = tiny_generator().double()
    z = normal(2, DIM, **double)
    own = generator(z)
    assert torch.equal(own, generator(z, noise=list(generator.noises.buffers())))
    none = generator(z, noise="none")
    close(none, generator(z, noise=[torch.zeros_like(b) for b in generator.noises.buffers()]).numpy())
    drawn = [generator(z, noise="random", generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    same = generator(z[:1].expand(2, -1), noise="random", generator=torch.Generator().manual_seed(1))
    assert not torch.equal(same[0], same[1])


def test_half_precision():
    generator, z = tiny_generator(), normal(3, DIM)
    exact = generator(z)
    for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 5e-2)):
        half = copy.deepcopy(generator).to(dtype)
        for batch in (z, z[:1]):
            out = half(batch)
            assert out.dtype == torch.float32
            assert float((out - exact[: len(batch)]).abs().max()) <= tolerance * float(exact.abs().max())
        with torch.autocast("cpu", dtype):
            assert float((generator(z) - exact).abs().max()) <= tolerance * float(exact.abs().max())


def test_half_precision_holds_styles_far_from_one():
    layer = shaken(ModulatedConv2d(64, 8, 3, DIM))
    layer.modulation.bias.fill_(3e4)
    x, w = normal(2, 64, 8, 8), normal(2, DIM, seed=2)
    exact = layer(x, w)
    out = copy.deepcopy(layer).half()(x.half(), w)
    assert float((out - exact).abs().max()) <= 5e-3 * float(exact.abs().max())


def test_names_and_shapes_are_those_that_people_hold():
    with torch.device("meta"):
        generator = Generator(standard_generator(256))
    shapes = {name: tuple(t.shape) for name, t in generator.state_dict().items()}
    assert generator.config.channels == (*[512] * 10, 256, 256, 128, 128) and generator.config.latents == 14
    expected = {
        "style.1.weight": (512, 512), "style.8.bias": (512,), "input.input": (1, 512, 4, 4),
        "conv1.conv.weight": (1, 512, 512, 3, 3), "conv1.conv.modulation.weight": (512, 512),
        "conv1.conv.modulation.bias": (512,), "conv1.noise.weight": (1,), "conv1.activate.bias": (512,),
        "to_rgb1.bias": (1, 3, 1, 1), "to_rgb1.conv.weight": (1, 3, 512, 1, 1), "to_rgb1.conv.modulation.bias": (512,),
        "convs.10.conv.weight": (1, 128, 256, 3, 3), "convs.10.conv.blur.kernel": (4, 4),
        "convs.10.conv.modulation.weight": (256, 512), "to_rgbs.5.upsample.kernel": (4, 4),
        "to_rgbs.5.conv.weight": (1, 3, 128, 1, 1), "noises.noise_0": (1, 1, 4, 4), "noises.noise_12": (1, 1, 256, 256),
    }  # fmt: skip
    assert {name: shapes[name] for name in expected} == expected
    assert len(shapes) == 8 * 2 + 1 + 5 * 13 + 6 + 4 * 7 + 6 + 13 + 1
    assert sum(p.numel() for p in generator.parameters()) == 30_034_338  # of config F at 256 px


def test_a_state_dict_without_the_mean_latent_loads():
    generator = tiny_generator()
    held = {name: t for name, t in generator.state_dict().items() if name != "latent_avg"}
    other = tiny_generator(seed=1)
    mean = other.latent_avg.clone()
    other.load_state_dict(held)
    assert torch.equal(other.latent_avg, mean) and "latent_avg" not in held
    w = normal(2, DIM)
    assert torch.equal(other(w, space="w"), generator(w, space="w"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g(normal(2, DIM), space="x"), "space='x'"),
        (lambda g: g(normal(2, DIM + 1)), "z has shape"),
        (lambda g: g(normal(2, 3, DIM), space="w"), "w has shape"),
        (lambda g: g(normal(2, DIM), noise="rnadom"), "did you mean 'random'"),
        (lambda g: g(normal(2, DIM), noise=[normal(1, 1, 4, 4)]), "noise for 1 layers"),
    ],
)
def test_wrong_calls_are_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call(tiny_generator())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 24}, "resolution 24"),
        ({"resolution": 16.0}, "resolution 16.0"),
        ({"channels": [4] * 5}, "widths of 6 layers"),
        ({"channels": 9}, "widths of 6 layers"),
        ({"channels": [4] * 5 + [0]}, "channels 0"),
        ({"channels": [4] * 5 + [10**9]}, "channels 1000000000"),
        ({"channels": [4] * 5 + [True]}, "channels True"),
        ({"style_dim": "8"}, "style_dim '8'"),
        ({"n_mlp": 0}, "n_mlp 0"),
        ({"lr_mlp": float("nan")}, "lr_mlp nan"),
        ({"clamp": -1}, "clamp -1"),
        ({"clamp": 10**400}, "clamp 1000"),
        ({"lr_mlp": 10**400}, "lr_mlp 1000"),
        ({"style_dim": "a" * 10**6}, "style_dim 'aaa.{,80} is no integer"),
        ({"depth": 3}, "depth"),
        ({"where": 3}, "where"),
        ({"self": 3}, "self"),
        ({"version": 2}, "version"),
        ({"model_type": "sam"}, "model_type"),
    ],
)
def test_a_wrong_config_is_refused(change, words):
    value = tiny_generator().config.to_json()
    assert GeneratorConfig.from_json(value, "here") == tiny_generator().config
    with pytest.raises(ModelError, match=f"^here: .*{words}"):
        GeneratorConfig.from_json(value | change, "here")
