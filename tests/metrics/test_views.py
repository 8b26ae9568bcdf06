"""The "nerf" protocol against figures that nerfbaselines 1.2.12 itself computed on the same pictures.

The pictures are made from formulas, so nothing but its figures is kept here (`PUBLISHED`, its `compute_metrics` after
`image_to_srgb(..., np.uint8)`, LPIPS aside).
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.views import ViewScores, held_out_views, score_view, score_views, ssim, to_srgb8
from gencompress.report.nerfbaselines import (
    SURVEY_COLUMNS,
    Compression,
    encode_values,
    metrics_hash,
    write_predictions,
    write_result,
    write_survey_csv,
)


def scene(number: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a distorted one, floating RGBA in [0, 1], by formula."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / (3 + c + number)) * np.cos(y / (5 - c)) for c in range(3)]
    truth = 0.5 + 0.5 * np.stack([*waves, np.cos(x / 20 + number)], axis=-1)
    ripple = 0.06 * np.sin((x * y) / 37 + number)[..., None]
    return truth.astype(np.float32), np.clip(truth + ripple, 0, 1).astype(np.float32)


# case: (background, color space, with mask) -> psnr, ssim, mae, mse
PUBLISHED: dict[str, tuple[float, float, float, float]] = {
    "black 0": (27.35874939, 0.8069193, 0.03435457, 0.00183707),
    "black 1": (29.03576088, 0.7141532, 0.02759651, 0.0012486),
    "black 4": (25.6135273, 0.8036593, 0.0456142, 0.00274566),
    "white 0": (34.34365845, 0.93278605, 0.01374379, 0.00036782),
    "white 1": (35.46334076, 0.87510552, 0.01264595, 0.00028423),
    "white 4": (33.49123764, 0.96504052, 0.01598456, 0.00044759),
    "linear 0": (24.09533501, 0.74161762, 0.04861622, 0.00389463),
    "linear 1": (22.68510056, 0.50874084, 0.05953457, 0.00538877),
    "linear 4": (25.66467285, 0.80987199, 0.04361596, 0.00271352),
    "masked 0": (40.28915787, 0.98924624, 0.00449219, 9.356e-05),
    "masked 1": (39.39914703, 0.95333616, 0.00501132, 0.00011484),
    "masked 4": (37.49295807, 0.98645755, 0.00623298, 0.00017812),
}


def arguments(case: str) -> dict:
    y, x = np.mgrid[0:48, 0:64]
    mask = ((x - 30) ** 2 + (y - 20) ** 2 < 400).astype(np.uint8) * 255
    return {
        "black": {},
        "white": {"background": (1.0, 1.0, 1.0)},
        "linear": {"color_space": "linear"},
        "masked": {"background": (1.0, 1.0, 1.0), "masks": [mask]},
    }[case]


@pytest.mark.parametrize("case", sorted(PUBLISHED))
def test_equals_nerfbaselines_to_five_decimals(case):
    kind, number = case.split()
    truth, prediction = scene(int(number))
    means = score_views([prediction], [truth], **arguments(kind)).means
    for name, expected in zip(("psnr", "ssim", "mae", "mse"), PUBLISHED[case], strict=True):
        assert round(means[name], 5) == pytest.approx(round(expected, 5), abs=1.1e-5), name


def test_values_are_truncated_to_eight_bits():
    image = np.full((16, 16, 3), 0.9999, np.float32)
    assert to_srgb8(image, None, "srgb", "image").max() == 254


def test_ssim_of_equal_pictures_is_one_and_small_ones_are_refused():
    truth, prediction = scene(0)
    assert ssim(truth[..., :3], truth[..., :3]) == pytest.approx(1.0)
    assert ssim(truth[..., :3], prediction[..., :3]) == pytest.approx(ssim(prediction[..., :3], truth[..., :3]))
    with pytest.raises(DataError, match="11 x 11"):
        ssim(truth[:10, :, :3], truth[:10, :, :3])


def test_the_scene_mean_is_that_of_the_views():
    pairs = [scene(n) for n in range(3)]
    whole = score_views([p for _, p in pairs], [t for t, _ in pairs])
    single = [score_views([p], [t]).means["psnr"] for t, p in pairs]
    assert whole.per_view["psnr"] == pytest.approx(single)
    assert whole.means["psnr"] == pytest.approx(np.mean(single))


def test_every_eighth_sorted_name_is_a_test_view():
    names = [f"{n:03d}.png" for n in range(20)]
    assert held_out_views(names[::-1]) == ["000.png", "008.png", "016.png"]


def test_wrong_views_are_named():
    truth, prediction = scene(0)
    with pytest.raises(DataError, match="as many"):
        score_views([prediction], [truth, truth])
    with pytest.raises(DataError, match="no views"):
        score_views([], [])
    with pytest.raises(DataError, match="do not fit"):
        score_views([prediction[:40]], [truth])
    with pytest.raises(DataError, match="prediction 0: expected"):
        score_views([prediction[..., 0]], [truth])
    prediction[3, 3] = np.nan
    with pytest.raises(NumericsError, match="prediction 0"):
        score_views([prediction], [truth])


def write_scene(folder):
    pairs = [tuple((255 * image[..., :3]).astype(np.uint8) for image in scene(n)) for n in range(2)]
    names = ["view_0", "view_1"]
    dataset = {"id": "made", "scene": "waves", "background_color": [255, 255, 255]}
    write_predictions(folder, names, [p for _, p in pairs], [t for t, _ in pairs], method="ours", dataset=dataset)
    scores = ViewScores({name: tuple(score_view(p, t)[name] for t, p in pairs) for name in ("psnr", "ssim", "mse")})
    return scores, dataset


def test_predictions_and_result_are_those_of_nerfbaselines_and_say_what_was_needed(tmp_path):
    scores, dataset = write_scene(tmp_path / "predictions")
    assert sorted(p.name for p in (tmp_path / "predictions/color").iterdir()) == ["view_0.png", "view_1.png"]
    info = json.loads((tmp_path / "predictions/info.json").read_text())
    assert info["evaluation_protocol"] == "nerf" and info["render_dataset_metadata"]["scene"] == "waves"
    compression = Compression(1000, {"splats": 900, "network": 100}, 2000, 0.1, 2.0, 30.0, "cpu")
    out = tmp_path / "result.json"
    result = write_result(out, tmp_path / "predictions", scores, compression, method="ours", dataset=dataset)
    assert json.loads(out.read_text()) == result
    assert result["metrics"]["psnr"] == round(scores.means["psnr"], 5)
    assert result["compression"]["bits_per_param"] == 4.0 and result["compression"]["decoded_from_file"] is True
    assert len(result["predictions_sha256"]) == 64 and result["predictions_sha256"] != result["ground_truth_sha256"]


def test_hash_and_encoding_are_those_of_nerfbaselines():
    """Computed by nerfbaselines 1.2.12 (`get_metrics_hash`, `_encode_values`)."""
    assert encode_values([1.0, 0.5, -2.25]) == "AACAPwAAAD8AABDA"
    digest = "02cf24b0b2f4f0ecc7e9a653d37c8d5e58e5647b905a745be711da28bdb976a5"
    assert metrics_hash({"psnr": (30.5, 20.25), "SSIM": (0.75, 0.5)}) == digest


def test_names_of_views_are_file_names_in_order(tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    for names, message in [(["../a"], "letters"), (["b", "a"], "ascend"), (["a", "a"], "ascend"), ([".a"], "letters")]:
        with pytest.raises(DataError, match=message):
            pictures = [picture] * len(names)
            write_predictions(tmp_path / "out", names, pictures, pictures, method="m", dataset={})
    with pytest.raises(DataError, match="fewer pictures"):
        write_predictions(tmp_path / "out", ["a", "b"], [picture], [picture] * 2, method="m", dataset={})
    assert not (tmp_path / "out").exists()


def test_the_survey_has_its_columns_and_no_formulas(tmp_path):
    row = dict(zip(SURVEY_COLUMNS, ("=cmd()", 27.2, 0.81, None, 3_230_000, 272_000), strict=True))
    write_survey_csv(tmp_path / "survey.csv", [row])
    with (tmp_path / "survey.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(SURVEY_COLUMNS) and rows[1] == ["'=cmd()", "27.2", "0.81", "", "3230000", "272000"]
    with pytest.raises(DataError, match="lacks 'LPIPS'"):
        write_survey_csv(tmp_path / "survey.csv", [{k: v for k, v in row.items() if k != "LPIPS"}])
