from __future__ import annotations

import json

import numpy as np
import pytest

from gencompress.board import compare_runs
from gencompress.board.compare import differences
from gencompress.board.verdict import as_page, as_text, headline, verdict
from gencompress.cli import run_command
from gencompress.errors import ConfigError, DataError, RunError
from tests.board.runs import make_run, write_journal, write_options

N = 24
LEVEL = np.random.default_rng(7).normal(30, 5, N)  # pictures differ far more than methods do


def pictures(gain, seed, noise=0.5):
    """PSNR per picture: its own level, the method's gain, and noise."""
    return (LEVEL + gain + np.random.default_rng(seed).normal(0, noise, N)).tolist()


def pair(tmp_path, a, b, **more):
    return make_run(tmp_path / "a", "magnitude", psnr=a), make_run(
        tmp_path / "b", psnr=b, **{"method": "taylor", **more}
    )


@pytest.mark.parametrize(("gain", "outcome"), [(1.0, "A is better"), (-1.0, "B is better")])
def test_a_true_difference_is_found(tmp_path, gain, outcome):
    found = compare_runs(*pair(tmp_path, pictures(gain, 1), pictures(0, 2)))
    psnr = found.differences[0]
    assert headline(found) == outcome and psnr.gain.low < gain < psnr.gain.high
    assert psnr.gain.mean == pytest.approx(psnr.first - psnr.second) and psnr.gain.n == N
    (sentence,) = verdict(found)
    name = "magnitude" if gain > 0 else "taylor"
    assert (
        sentence.startswith(f"{name} + compensation is better in PSNR by ")
        and f"over {N} pictures at keep 0.7" in sentence
    )


def test_no_difference_is_told_where_there_is_none(tmp_path):
    found = compare_runs(*pair(tmp_path, pictures(0, 1), pictures(0, 2)))
    assert headline(found) == "No difference can be told" and [d.better for d in found.differences] == [0, 0]
    assert verdict(found)[0].startswith(f"No difference can be told over {N} pictures at keep 0.7 of parameters: PSNR ")


def test_two_seeds_of_one_method_are_no_difference_of_method_however_large(tmp_path):
    """Two random choices do differ on the same pictures; what that says is what a seed does."""
    runs = [
        make_run(tmp_path / str(s), "random", psnr=pictures(2.0 * s, s), options={"criterion.seed": s}) for s in (0, 1)
    ]
    found = compare_runs(*runs)
    assert found.seeds_only and headline(found) == "No difference of method"
    assert (
        "differ in their seeds alone" in verdict(found)[0]
        and "A gain of another method has to be larger" in verdict(found)[0]
    )
    assert (found.first, found.second) == ("random + compensation, seed 0", "random + compensation, seed 1")
    alike = [
        make_run(tmp_path / f"x{s}", "random", psnr=pictures(0, 5 + s), options={"criterion.seed": s}) for s in (0, 1)
    ]
    assert "and no difference" in verdict(compare_runs(*alike))[0]


def test_the_verdict_can_be_mixed(tmp_path):
    a = make_run(tmp_path / "a", psnr=pictures(2, 1), ssim=[0.5 + 0.001 * i for i in range(N)])
    b = make_run(tmp_path / "b", "random", psnr=pictures(0, 2), ssim=[0.6 + 0.001 * i for i in range(N)])
    found = compare_runs(a, b)
    assert headline(found) == "A is better in PSNR, B is better in SSIM" and len(verdict(found)) == 3
    assert "Each method was run once" in verdict(found)[2], "random has a seed"


def test_equal_runs_differ_by_nothing(tmp_path):
    found = compare_runs(*pair(tmp_path, pictures(0, 1), pictures(0, 1)))
    assert all(d.gain.mean == d.gain.low == d.gain.high == 0 and d.better == 0 for d in found.differences)


def test_of_lpips_less_is_better():
    low, high = (np.full(N, v) + np.random.default_rng(0).normal(0, 0.01, N) for v in (0.1, 0.3))
    (found,) = differences({"lpips": low.tolist()}, {"lpips": high.tolist()}, resamples=500)
    assert found.better == 1 and found.gain.mean < 0


def test_all_intervals_together_hold_with_the_confidence_asked_for():
    """Three dependent measures without a difference: a false alarm in any of them in at most 5 % of comparisons."""
    generator, trials, alarms = np.random.default_rng(11), 600, 0
    for _ in range(trials):
        common = generator.normal(0, 1, (N, 1))
        a, b = (common + generator.normal(0, 1, (N, 3)) for _ in range(2))
        values = [{key: v[:, i].tolist() for i, key in enumerate(("psnr_db", "ssim", "lpips"))} for v in (a, b)]
        alarms += any(d.better for d in differences(*values, resamples=400))
    # three standard deviations of the count above 5 %
    assert alarms <= trials * 0.05 + 3 * np.sqrt(trials * 0.05 * 0.95)
    assert alarms > 0, "an interval that never misses is too wide"


def test_the_interval_covers_the_true_difference():
    generator, trials, true, covered = np.random.default_rng(3), 500, 0.8, 0
    for _ in range(trials):
        level = generator.normal(30, 5, N)
        a, b = level + true + generator.standard_t(5, N), level + generator.standard_t(5, N)
        (found,) = differences({"psnr_db": a.tolist()}, {"psnr_db": b.tolist()}, resamples=400)
        covered += found.gain.low <= true <= found.gain.high
    assert abs(covered / trials - 0.95) <= 3 * np.sqrt(0.05 * 0.95 / trials)


def test_intervals_are_the_same_every_time(tmp_path):
    runs = pair(tmp_path, pictures(0.3, 1), pictures(0, 2))
    assert compare_runs(*runs).to_json() == compare_runs(*runs).to_json()


def test_console_json_and_page(tmp_path, capsys):
    a, b = pair(tmp_path, pictures(1, 1), pictures(0, 2))
    arguments = ["compare", str(a), str(b), "--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    assert run_command(arguments) == 0
    found = compare_runs(a, b)
    assert capsys.readouterr().out == as_text(found) and (tmp_path / "c.html").read_text() == as_page(found)
    value = json.loads((tmp_path / "c.json").read_text())
    assert value["differences"]["psnr_db"]["better"] == "first" and value["budget"] == "keep 0.7 of parameters"
    assert len(value["differences"]["psnr_db"]["per_image"]) == N
    text = as_text(found)
    assert (
        "A  magnitude + compensation\nB  taylor + compensation\n" in text
        and "interval (0.975)" in text
        and "A better" in text
    )
    page = as_page(found)
    assert page.count('class="kept r0"') == 2 * N and "<script" not in page and "default-src 'none'" in page


@pytest.mark.parametrize(
    ("options", "change", "keep", "field"),
    [
        ({}, lambda m: m.update(model="sample:other"), 0.7, "model: emoji in the first run and other in the second"),
        ({}, lambda m: None, 0.6, r"budget\.keep: 0\.7 in the first run and 0\.6"),
        ({}, lambda m: m["budget"].update(metric="macs"), 0.7, r"budget\.metric: params"),
        ({}, lambda m: m["budget"].update(scope="total"), 0.7, r"budget\.scope: prunable"),
        ({}, lambda m: m["budget"].update(reached=720), 0.7, r"budget\.reached: 700 and 720 are more than 1% apart"),
        ({}, lambda m: m.update(steps=20), 0.7, "steps: 10 in the first run and 20 in the second"),
        ({}, lambda m: m.update(scheduler="Euler"), 0.7, "scheduler: DDIMScheduler"),
        ({}, lambda m: m.update(guidance_scale=None), 0.7, "guidance_scale: 1 in the first run and not recorded"),
        ({"denoise.seeds": 64}, lambda m: None, 0.7, "first_seed: 0 in the first run and 64"),
        ({}, lambda m: m.update(seeds=12), 0.7, f"seeds: {N} in the first run and 12"),
        ({"model.dtype": "bf16"}, lambda m: None, 0.7, "dtype: fp32"),
        ({}, lambda m: m["quality"]["protocol"].update(ssim="other"), 0.7, "ssim: Gaussian 11x11"),
        ({}, lambda m: m["images"].update(prompts=["a cat"]), 0.7, r"images\.prompts: not recorded"),
    ],
)
def test_runs_that_do_not_compare_are_refused_by_the_field(tmp_path, options, change, keep, field):
    a = make_run(tmp_path / "a", psnr=pictures(0, 1))
    b = make_run(tmp_path / "b", "taylor", keep, pictures(0, 2), options=options, change=change)
    with pytest.raises(DataError, match=field):
        compare_runs(a, b)


def test_budgets_within_one_rounding_step_do_compare(tmp_path):
    a, b = pair(tmp_path, pictures(0, 1), pictures(0, 2), change=lambda m: m["budget"].update(reached=697))
    assert len(compare_runs(a, b).differences) == 2


def test_a_budget_of_quality_cannot_be_compared_by_quality(tmp_path):
    def change(m):
        m["budget"].update(keep=None, min_psnr=35.0)

    runs = [make_run(tmp_path / name, name, change=change) for name in ("magnitude", "taylor")]
    with pytest.raises(DataError, match=r"budget\.min_psnr: .* compare their sizes instead"):
        compare_runs(*runs)


def test_what_has_no_result_cannot_be_compared(tmp_path):
    a = make_run(tmp_path / "a")
    write_options(tmp_path / "b", "taylor", 0.7, {})
    write_journal(tmp_path / "b", {"event": "opened"}, {"event": "ended", "error": "ModelError", "message": "NaN"})
    with pytest.raises(RunError, match="has no result to compare, it is failed: ModelError: NaN"):
        compare_runs(a, tmp_path / "b")
    with pytest.raises(RunError, match="no such folder"):
        compare_runs(a, tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"confidence=1\.5"):
        compare_runs(a, a, confidence=1.5)


def test_measures_without_values_per_picture_are_left_out(tmp_path):
    def change(m):
        m["quality"]["ssim"]["per_image"] = [0.5, None]

    a, b = pair(tmp_path, [30.0, 31.0], [29.0, 30.0], change=change)
    assert [d.measure.key for d in compare_runs(a, b).differences] == ["psnr_db"]
    b = make_run(tmp_path / "c", "taylor", change=lambda m: m["quality"].update(psnr_db={}, ssim={}))
    with pytest.raises(DataError, match="no figures per picture in common"):
        compare_runs(a, b)
