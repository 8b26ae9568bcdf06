"""The discriminator against formulas written out in numpy."""

from __future__ import annotations

import copy

import pytest
import torch

from gencompress.domains.stylegan.config import standard_discriminator
from gencompress.domains.stylegan.discriminator import Discriminator
from tests.domains.stylegan import reference
from tests.domains.stylegan.tiny import normal, tiny_discriminator


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_logits(batch):
    discriminator = tiny_discriminator().double()
    pictures = normal(batch, 3, 16, 16, dtype=torch.float64)
    expected = torch.from_numpy(reference.discriminate(reference.arrays(discriminator), pictures.numpy(), 2))
    found = discriminator(pictures)
    assert found.shape == (batch, 1)
    assert torch.allclose(found[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_second_derivatives():
    """What R1 needs."""
    discriminator = tiny_discriminator(channels=(2, 2)).double()
    pictures = normal(2, 3, 8, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(discriminator, (pictures,), fast_mode=True)


def test_activations_are_clamped():
    loose, tight = tiny_discriminator(), tiny_discriminator(clamp=1e-3)
    pictures = normal(2, 3, 16, 16)
    tensors = reference.arrays(tight)
    found = tight.convs[0](pictures).double().numpy()
    expected = reference.clamped(reference.plain(tensors, "convs.0", pictures[0].double().numpy()), 1e-3)
    assert abs(found[0] - expected).max() < 1e-7 and abs(found).max() < 1.001e-3
    assert not torch.allclose(loose(pictures), tight(pictures))


def test_half_precision():
    discriminator, pictures = tiny_discriminator(), normal(4, 3, 16, 16)
    exact = discriminator(pictures)
    half = copy.deepcopy(discriminator).bfloat16()(pictures.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = discriminator(pictures)
    for found in (half, mixed):
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) <= 0.1 * float(exact.abs().max())


def test_names_and_shapes_are_those_that_people_hold():
    with torch.device("meta"):
        discriminator = Discriminator(standard_discriminator(256))
    shapes = {name: tuple(t.shape) for name, t in discriminator.state_dict().items()}
    expected = {
        "convs.0.0.weight": (128, 3, 1, 1), "convs.0.1.bias": (128,), "convs.1.conv1.0.weight": (128, 128, 3, 3),
        "convs.1.conv1.1.bias": (128,), "convs.1.conv2.0.kernel": (4, 4), "convs.1.conv2.1.weight": (256, 128, 3, 3),
        "convs.1.conv2.2.bias": (256,), "convs.1.skip.0.kernel": (4, 4), "convs.1.skip.1.weight": (256, 128, 1, 1),
        "final_conv.0.weight": (512, 513, 3, 3), "final_conv.1.bias": (512,), "final_linear.0.weight": (512, 8192),
        "final_linear.1.weight": (1, 512), "final_linear.1.bias": (1,),
    }  # fmt: skip
    assert {name: shapes[name] for name in expected} == expected
    assert len(shapes) == 2 + 6 * 7 + 2 + 4
    assert sum(p.numel() for p in discriminator.parameters()) == 28_864_129
