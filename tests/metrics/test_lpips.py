from __future__ import annotations

from functools import partial

import lpips as published
import pytest
import torch
import torchvision

from gencompress.errors import ModelError
from gencompress.metrics.lpips import BACKBONES, Lpips, lpips_or_note
from gencompress.metrics.weights import load_state_dict


def pictures(size=48):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, size, size, generator=generator)
    return a, (a + 0.2 * torch.rand(3, 3, size, size, generator=generator)).clamp(0, 1)


def theirs(net):
    """The published implementation with its real heads on a backbone of random weights."""
    torch.manual_seed(0)
    return published.LPIPS(net=net, pnet_rand=True, verbose=False)


def backbone_of(metric, net):
    """The published metric's backbone as a torchvision state dict; layers behind the last tap do not matter."""
    network = getattr(torchvision.models, BACKBONES[net].model)(weights=None)
    state = network.state_dict()
    for name, value in metric.net.state_dict().items():
        state["features." + name.split(".", 1)[1]] = value
    return state


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_equals_the_published_implementation(net):
    metric = theirs(net)
    heads = {k: v for k, v in metric.state_dict().items() if k.startswith("lin")}
    a, b = pictures()
    ours = Lpips(net, backbone_of(metric, net), heads)(a, b)
    expected = metric(a, b, normalize=True).flatten().tolist()
    assert ours.per_image == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0


def test_shared_heads_are_the_official_ones_and_fit(shared):
    for net, table in BACKBONES.items():
        heads = load_state_dict(shared / "features/lpips-lin" / f"{net}.pth")
        assert [heads[f"lin{i}.model.1.weight"].shape[1] for i in range(len(table.channels))] == list(table.channels)


def test_absent_weights_give_a_note_and_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    found = lpips_or_note(*pictures(), partial(Lpips.load, "alex", tmp_path))
    assert set(found) == {"lpips_note"}
    assert "(alexnet-owt-7be5be79.pth) were not at hand" in found["lpips_note"]
    assert str(tmp_path) not in found["lpips_note"]
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"not it")
    with pytest.raises(ModelError, match="not the official weights"):
        lpips_or_note(*pictures(), partial(Lpips.load, "alex", tmp_path))


def test_other_weights_under_the_official_name_are_refused(tmp_path):
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(ModelError, match="not the official weights"):
        Lpips.load("squeeze", tmp_path)
    torch.save({}, tmp_path / "squeeze.pth")
    with pytest.raises(ModelError, match="not the official LPIPS"):
        Lpips.load("squeeze", tmp_path)


def test_squeezenet_1_0_does_not_pass_for_1_1():
    other = torchvision.models.squeezenet1_0(weights=None).state_dict()
    with pytest.raises(ModelError, match="do not fit"):
        Lpips("squeeze", other, {})


def test_tiny_images_give_a_note_before_any_weight_is_looked_for():
    found = lpips_or_note(*pictures(size=28), load=lambda: pytest.fail("weights were loaded"))
    assert "32 pixels" in found["lpips_note"]


def test_present_weights_give_numbers():
    metric = theirs("alex")
    load = partial(Lpips, "alex", backbone_of(metric, "alex"), metric.state_dict())
    found = lpips_or_note(*pictures(), load)
    assert found["lpips"]["net"] == "LPIPS v0.1 alex" and len(found["lpips"]["per_image"]) == 3
