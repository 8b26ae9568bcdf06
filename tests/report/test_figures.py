from __future__ import annotations

import pytest

from gencompress.report import figures


def plain(text):
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1812345, "1.81 M"),
        (999_999, "1.00 M"),
        (2_570_000_000, "2.57 B"),
        (12e9, "12.0 B"),
    ],
)
def test_count(value, text):
    assert plain(figures.count(value)) == text


def test_units():
    assert plain(figures.operations(1.2e9)) == "1.20 G"
    assert plain(figures.size(7_249_380)) == "7.25 MB"
    assert plain(figures.size(12)) == "12 B"
    joules = {0.0312: "31.2 mJ", 1: "1.00 J", 4321: "4.32 kJ", None: "–"}
    assert {value: plain(figures.energy(value)) for value in joules} == joules


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "0.400 ms"),
        (0.4123, "412 ms"),
        (1.312, "1.31 s"),
        (99.4, "99.4 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds(value, text):
    assert plain(figures.seconds(value)) == text


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [(67, 100, "−33 %"), (95, 100, "−5.0 %"), (120, 100, "+20 %"), (100, 100, "0 %"), (None, 100, "–"), (1, 0, "–")],
)
def test_change(value, base, text):
    assert plain(figures.change(value, base)) == text


def test_fixed_has_a_true_minus_sign():
    assert plain(figures.fixed(-1.25, 1, "dB")) in ("−1.2 dB", "−1.3 dB")
    assert figures.digits(0.00775) == "0.00775" and figures.digits(-12345) == "−12,345"
