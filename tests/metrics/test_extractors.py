from __future__ import annotations

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from PIL import Image

from gencompress.errors import DataError, ModelError
from gencompress.metrics.distances import bias_note, feature_distances
from gencompress.metrics.efficientnet import EfficientNetLite0, Network
from gencompress.metrics.extractors import RandomConvolutions, extract
from gencompress.metrics.inception import Inception


def noise(n=12, size=32, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_random_convolutions_are_the_same_everywhere():
    """The hash is over numpy's draws, so a change of it means other numbers for everybody."""
    extractor = RandomConvolutions()
    assert extractor.sha256[:16] == "254810da8ab8041f"
    features = extract(extractor, noise(), batch_size=5)
    assert features.shape == (12, extractor.dimension) and features.dtype == np.float64
    np.testing.assert_allclose(features, extract(RandomConvolutions(), noise(), batch_size=12), rtol=1e-9)
    assert not np.allclose(features, extract(RandomConvolutions(seed=1), noise()))


def test_float_images_count_as_the_eight_bit_picture_they_would_be_saved_as():
    images = noise()
    extractor = RandomConvolutions()
    nearly = (images / 255 + 0.4 / 255).clamp(0, 1)
    np.testing.assert_array_equal(extract(extractor, images), extract(extractor, nearly))


def test_grey_images_are_seen_as_colour():
    grey = noise()[:, :1]
    extractor = RandomConvolutions()
    np.testing.assert_array_equal(extract(extractor, grey), extract(extractor, grey.expand(-1, 3, -1, -1)))


def test_distances_carry_their_protocol_and_are_not_called_fid():
    found = feature_distances(RandomConvolutions(), noise(40), noise(30, seed=1) // 2)
    frechet = found["frechet"].to_json()
    assert frechet["name"] == "Fréchet distance" and found["kernel"].name == "kernel distance"
    assert frechet["extractor"] == "random-convolutions-64px-seed0" and len(frechet["extractor_sha256"]) == 64
    assert (frechet["n"], frechet["n_reference"]) == (30, 40)
    assert "singular" in frechet["note"] and "biased upwards" in frechet["note"]
    same = feature_distances(RandomConvolutions(), noise(40), noise(30, seed=1))
    assert frechet["value"] > 5 * same["frechet"].value
    assert found["kernel"].value > 5 * abs(same["kernel"].value)


def test_bias_note_goes_with_enough_images():
    assert bias_note(50_000, 2048) is None
    assert "singular" not in bias_note(5_000, 2048)


def fake_inception(images):
    """[B, 3, 299, 299] to three numbers per image."""
    return images.mean((2, 3))


def test_inception_sees_what_clean_fid_shows_it_and_is_called_fid():
    extractor = Inception(fake_inception, "0" * 64)
    images = noise(4)
    resize = build_resizer("clean")
    theirs = np.stack([resize(picture).mean((0, 1)) for picture in images.permute(0, 2, 3, 1).numpy()])
    np.testing.assert_allclose(extract(extractor, images), theirs, rtol=1e-5)
    assert feature_distances(extractor, images, images)["frechet"].name == "FID"


def test_inception_weights_are_opened_only_if_they_are_the_official_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"inception-2015-12-05\.pt is neither in"):
        Inception.load(tmp_path)
    (tmp_path / "inception-2015-12-05.pt").write_bytes(b"not it")
    with pytest.raises(ModelError, match="not the official weights"):
        Inception.load(tmp_path)


def test_efficientnet_recognises_photographs(shared):
    extractor = EfficientNetLite0(shared / "features/efficientnet-lite0")
    for name, classes in [("hot_dog.jpg", {934}), ("sunflower.png", {985}), ("parrot.jpg", {87, 88, 89, 90, 91, 96})]:
        picture = np.array(Image.open(shared / "images/coral-photos" / name).convert("RGB").resize((224, 224)))
        logits = extractor.logits(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
        assert int(logits.argmax()) in classes, name


def test_efficientnet_features_and_hash(shared):
    extractor = EfficientNetLite0(shared / "features/efficientnet-lite0")
    assert extractor.sha256.startswith("57934424")
    assert extract(extractor, noise(2)).shape == (2, 1280)


def test_efficientnet_refuses_other_files(tmp_path):
    with pytest.raises(ModelError, match="no such weight file"):
        EfficientNetLite0(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="not the weights"):
        EfficientNetLite0(tmp_path / "a.pth")
    torch.save(Network(), tmp_path / "module.pth")  # a pickle that would run code
    with pytest.raises(ModelError, match="not a readable state dict"):
        EfficientNetLite0(tmp_path / "module.pth")


def test_extract_wants_images():
    with pytest.raises(DataError, match="channels first"):
        extract(RandomConvolutions(), noise().permute(0, 2, 3, 1))


def test_legacy_inception_equals_clean_fid_s(monkeypatch):
    """The same random weights in clean-fid's own network and in ours."""
    from cleanfid import features, inception_pytorch

    from gencompress.metrics.inception_legacy import LegacyInception

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = inception_pytorch._inception_v3(num_classes=1008, aux_logits=False, pretrained=False)
        shapes.Mixed_5b = inception_pytorch.FIDInceptionA(192, pool_features=32)
        shapes.Mixed_7b, shapes.Mixed_7c = (
            inception_pytorch.FIDInceptionE_1(1280),
            inception_pytorch.FIDInceptionE_2(2048),
        )
    weights = {name: random_weight(name, tensor) for name, tensor in shapes.state_dict().items()}
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: weights)
    theirs = features.build_feature_extractor("legacy_pytorch", torch.device("cpu"), use_dataparallel=False)
    resize = build_resizer("legacy_pytorch")
    images = noise(2)
    resized = np.stack([resize(picture) for picture in images.permute(0, 2, 3, 1).numpy()])
    expected = theirs(torch.from_numpy(resized).permute(0, 3, 1, 2)).detach().numpy()
    found = extract(LegacyInception(weights, "0" * 64), images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="do not fit"):
        LegacyInception({}, "0" * 64)


def random_weight(name, tensor):
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tensor.shape, dtype=torch.int64)
    if name.endswith(("running_var", "bn.weight")):
        return torch.rand(tensor.shape) + 0.5
    return torch.randn(tensor.shape) * (0.05 if tensor.ndim > 1 else 0.1)
