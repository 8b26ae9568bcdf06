"""All hostile scene files, made the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.hostile.corpus_glb import glb, glb_containers, glb_nodes, glb_numbers, glb_references
from tests.hostile.corpus_ply import compressed, compressed_cases, ply, ply_headers, ply_values, splat_cases
from tests.hostile.corpus_spz import spz3, spz3_cases, spz4, spz4_cases

GARBAGE = {
    "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "zip": b"PK\x03\x04" + bytes(64),
    "html": b"<!doctype html><script>alert(1)</script>",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "text": "Gaußsche Glocken\n".encode("latin-1") * 10,
    "zeros": bytes(1000),
}


def cuts(data: bytes, count: int) -> Iterator[int]:
    """Places at which to cut a file: its beginning, its end, and evenly in between."""
    yield from sorted({0, 1, 3, len(data) - 1, *np.linspace(4, len(data) - 2, count).astype(int).tolist()})


def scene_cases() -> dict[str, tuple[str, bytes, str]]:
    """Every case by its name."""
    cases: dict[str, tuple[str, bytes, str]] = {}
    groups = {
        ".ply": [ply_headers, ply_values, compressed_cases],
        ".splat": [splat_cases],
        ".spz": [spz3_cases, spz4_cases],
        ".glb": [glb_containers, glb_references, glb_numbers, glb_nodes],
    }
    for ending, makers in groups.items():
        for maker in makers:
            cases |= {f"{maker.__name__}: {name}": (ending, data, wrong) for name, data, wrong in maker()}
    for ending in (".ply", ".compressed.ply", ".spz", ".glb"):
        for name, data in GARBAGE.items():
            cases[f"{ending}: {name}"] = (ending, data, "not a .|no valid")
    wholes = {"ply": (".ply", ply()), "compressed": (".compressed.ply", compressed(sh=9)), "spz3": (".spz", spz3()),
              "spz4": (".spz", spz4()), "glb": (".glb", glb())}  # fmt: skip
    for name, (ending, data) in wholes.items():
        for at in cuts(data, 8):
            cases[f"{name} cut at {at}"] = (ending, data[:at], "")
    return cases


def whole_files() -> dict[str, tuple[str, bytes]]:
    """What the hostile files were made from: these are read without complaint."""
    return {
        "ply": (".ply", ply()), "compressed": (".compressed.ply", compressed(sh=9)), "splat": (".splat", bytes(64)),
        "spz3": (".spz", spz3()), "spz4": (".spz", spz4()), "glb": (".glb", glb()),
    }  # fmt: skip
