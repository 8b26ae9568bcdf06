"""Numbers as people read them: three significant digits, a unit, a true minus sign."""

from __future__ import annotations

import math

NONE = "–"
_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_OPERATIONS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_JOULES = ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"))
_SPACE = "\u00a0"  # a number and its unit stay on one line


def count(value: float | None) -> str:
    """Parameters: 1812345 is "1.81 M"."""
    return _scaled(value, _COUNTS, "")


def operations(value: float | None) -> str:
    """Multiply-accumulates: 1.2e9 is "1.20 G"."""
    return _scaled(value, _OPERATIONS, "")


def size(value: float | None) -> str:
    """Bytes, decimal: 7250000 is "7.25 MB"."""
    return _scaled(value, _BYTES, "B")


def seconds(value: float | None) -> str:
    """A duration: "412 ms", "1.83 s", "3 min 20 s", "2 h 5 min"."""
    if value is None:
        return NONE
    if value < 1:
        return f"{digits(value * 1000)}{_SPACE}ms"
    if value < 100:
        return f"{digits(value)}{_SPACE}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def energy(value: float | None) -> str:
    """Joules: 0.0312 is "31.2 mJ"."""
    if value is not None and value < 0.9995:
        return f"{digits(value * 1000)}{_SPACE}mJ"
    return _scaled(value, _JOULES, "J")


def change(value: float | None, base: float | None) -> str:
    """Relative change in per cent: "−33 %"."""
    if value is None or not base:
        return NONE
    percent = 100 * (value / base - 1)
    text = f"{abs(percent):.1f}" if 0 < abs(percent) < 9.95 else f"{abs(percent):.0f}"
    sign = "" if float(text) == 0 else "−" if percent < 0 else "+"
    return f"{sign}{text}{_SPACE}%"


def share(value: float | None) -> str:
    """A fraction in per cent: 0.6712 is "67.1 %"."""
    return NONE if value is None else f"{100 * value:.1f}{_SPACE}%"


def fixed(value: float | None, places: int, unit: str = "") -> str:
    """A fixed number of decimals, with a true minus sign."""
    if value is None:
        return NONE
    return f"{value:.{places}f}".replace("-", "−") + (_SPACE + unit if unit else "")


def digits(value: float, significant: int = 3) -> str:
    """Three significant digits without an exponent, grouped by thousands above that."""
    if value == 0:
        return "0"
    value = float(f"{value:.{significant}g}") if abs(value) < 10**significant else value  # 0.9999 becomes 1.00
    places = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace("-", "−")


def _scaled(value: float | None, scales: tuple[tuple[float, str], ...], unit: str) -> str:
    if value is None:
        return NONE
    for scale, name in scales:
        if abs(value) >= scale * 0.9995:
            return f"{digits(value / scale)}{_SPACE}{name}"
    return f"{value:,.0f}{_SPACE}{unit}".rstrip(_SPACE)
