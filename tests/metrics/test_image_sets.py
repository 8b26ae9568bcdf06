from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.extractors import RandomConvolutions, extract
from gencompress.metrics.feature_sets import METRICS, extract_set, frechet_infinity, set_distances
from gencompress.metrics.frechet import FeatureStatistics, frechet_distance
from gencompress.metrics.image_sets import generated_images, image_set
from gencompress.metrics.kernel import kernel_distance


def pictures(n=12, size=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def all_of(images):
    return torch.cat(list(images.batches()))


def test_a_folder_an_archive_and_a_generator_give_the_same_images(tmp_path):
    images = pictures()
    folder = save(tmp_path / "set", images)
    np.savez(tmp_path / "set.npz", images)
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    live = generated_images("live", lambda: expected.split(5))
    for source in (image_set(folder, batch_size=5), image_set(tmp_path / "set.npz", batch_size=7), live):
        assert torch.equal(all_of(source), expected)
        assert torch.equal(all_of(source), expected), "a set can be read again"


def test_one_corrupt_image_among_many_is_named_or_skipped_and_counted(tmp_path):
    folder = save(tmp_path / "set", pictures())
    data = (folder / "004.png").read_bytes()
    (folder / "004.png").write_bytes(data[: len(data) // 2])
    (folder / "007.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"004\.png: not a readable picture"):
        all_of(image_set(folder))
    images = image_set(folder, skip_bad=True)
    assert len(all_of(images)) == 10 and images.skipped == ["004.png", "007.png"]
    assert len(all_of(images)) == 10 and len(images.skipped) == 2, "reading again does not count twice"
    found = extract_set(RandomConvolutions(), images, rows=False)
    assert (found.statistics.n, found.skipped) == (10, 2)


def test_mixed_sizes_modes_and_alpha_are_refused_by_name(tmp_path):
    folder = save(tmp_path / "size", pictures())
    Image.fromarray(pictures(1, 20)[0]).save(folder / "500.png")
    with pytest.raises(DataError, match=r"500\.png: RGB 20x20, but 000\.png is RGB 24x24"):
        all_of(image_set(folder))
    folder = save(tmp_path / "mode", pictures())
    Image.fromarray(pictures(1)[0, :, :, 0]).save(folder / "500.png")
    with pytest.raises(DataError, match=r"500\.png: L 24x24, but 000\.png is RGB"):
        all_of(image_set(folder))
    folder = save(tmp_path / "alpha", [])
    Image.new("RGBA", (24, 24)).save(folder / "a.png")
    with pytest.raises(DataError, match="mode RGBA"):
        all_of(image_set(folder))


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        image_set(tmp_path / "empty")
    with pytest.raises(DataError, match="no folder of pictures"):
        image_set(tmp_path / "nowhere")
    np.savez(tmp_path / "floats.npz", np.zeros((3, 8, 8, 3)))
    with pytest.raises(DataError, match="expected uint8"):
        image_set(tmp_path / "floats.npz")
    np.savez(tmp_path / "objects.npz", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="plain arrays"):
        image_set(tmp_path / "objects.npz")


def test_streamed_distances_equal_those_of_all_rows(tmp_path):
    a, b = pictures(40), pictures(30, seed=1) // 2
    extractor = RandomConvolutions()
    reference = extract_set(extractor, image_set(save(tmp_path / "a", a), batch_size=7), rows=True)
    measured = extract_set(extractor, image_set(save(tmp_path / "b", b), batch_size=11), rows=True)
    out = set_distances(extractor, reference, measured, ("frechet", "kernel", "manifold"))
    rows = [extract(extractor, torch.from_numpy(x).permute(0, 3, 1, 2)) for x in (a, b)]
    assert out["frechet"]["value"] == pytest.approx(frechet_distance(*rows), rel=1e-6)
    assert out["kernel"]["value"] == pytest.approx(kernel_distance(*rows).mean, rel=1e-5)
    assert (out["n"], out["n_reference"], out["frechet"]["name"]) == (30, 40, "Fréchet distance")
    assert "singular" in out["frechet"]["note"] and out["extractor_sha256"] == extractor.sha256


def test_statistics_are_remembered_by_content_and_a_damaged_memory_is_made_again(tmp_path):
    class Counting(RandomConvolutions):
        calls = 0

        def __call__(self, images):
            Counting.calls += 1
            return super().__call__(images)

    extractor, cache = Counting(), tmp_path / "cache"
    folder = save(tmp_path / "a", pictures(20))
    first = extract_set(extractor, image_set(folder), rows=True, cache=cache)
    seen = Counting.calls
    again = extract_set(extractor, image_set(folder.rename(tmp_path / "moved")), rows=True, cache=cache)
    assert Counting.calls == seen
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.statistics.covariance, again.statistics.covariance)
    (stored,) = cache.iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    extract_set(extractor, image_set(tmp_path / "moved"), rows=True, cache=cache)
    assert Counting.calls > seen
    Image.fromarray(pictures(1, seed=9)[0]).save(tmp_path / "moved/000.png")
    changed = extract_set(extractor, image_set(tmp_path / "moved"), rows=True, cache=cache)
    assert not np.array_equal(changed.features, first.features)


def test_extrapolation_takes_the_bias_of_few_images_away():
    """Two samples of one Gaussian: the distance is all bias, and its extrapolation is near zero."""
    generator = np.random.default_rng(0)
    reference = FeatureStatistics(8)
    reference.update(generator.normal(size=(200_000, 8)))
    ours = generator.normal(size=(600, 8)).astype(np.float32)
    statistics = FeatureStatistics(8)
    statistics.update(ours)
    plain = frechet_distance(reference, statistics)
    assert abs(frechet_infinity(reference, ours)) < plain / 3
    with pytest.raises(DataError, match="150 or more"):
        frechet_infinity(reference, ours[:100])


def test_nan_features_and_too_few_images_are_refused(tmp_path):
    class Broken(RandomConvolutions):
        def __call__(self, images):
            features = super().__call__(images)
            features[-1] = torch.nan
            return features

    folder = save(tmp_path / "a", pictures(10))
    with pytest.raises(NumericsError, match="image 3 of a hold NaN"):
        extract_set(Broken(), image_set(folder, batch_size=4), rows=True)
    single = save(tmp_path / "one", pictures(1))
    with pytest.raises(DataError, match="two or more images, got 1"):
        extract_set(RandomConvolutions(), image_set(single), rows=True)
    found = extract_set(RandomConvolutions(), image_set(folder), rows=False)
    with pytest.raises(DataError, match="rows=True"):
        set_distances(RandomConvolutions(), found, found, ("kernel",))
    with pytest.raises(DataError, match="valid are " + ", ".join(METRICS)):
        set_distances(RandomConvolutions(), found, found, ("fid",))
