from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gencompress.core.group import Group, Groups, Slice, per_unit, shapes_of
from gencompress.errors import PlanError


@st.composite
def addressings(draw):
    """A slice, its group's size, and the length of the dimension it lives on; copies never overlap."""
    size, block, repeat, offset = (draw(st.integers(low, 4)) for low in (1, 1, 1, 0))
    pitch = size * block + draw(st.integers(0, 3))
    length = offset + (repeat - 1) * pitch + size * block + draw(st.integers(0, 3))
    return Slice("w", 0, offset, block, repeat, pitch), size, length


def owner_of(index: int, s: Slice, size: int) -> int | None:
    """The unit that owns `index`, straight from the definition."""
    for u in range(size):
        for r in range(s.repeat):
            start = s.offset + u * s.block + r * s.pitch
            if start <= index < start + s.block:
                return u
    return None


@given(addressings(), st.data())
def test_indices_are_those_of_the_definition(addressing, data):
    s, size, length = addressing
    units = sorted(data.draw(st.sets(st.integers(0, size - 1))))
    indices = s.indices(torch.tensor(units, dtype=torch.int64)).tolist()
    assert sorted(indices) == [i for i in range(length) if owner_of(i, s, size) in units]
    assert len(indices) == len(units) * s.width


@given(addressings())
def test_runs_hold_every_owned_index(addressing):
    s, size, length = addressing
    inside = [i for a, b in s.runs(size) for i in range(a, b)]
    assert inside == [i for i in range(length) if owner_of(i, s, size) is not None]


@given(addressings(), st.integers(0, 2))
def test_sums_per_unit(addressing, dim):
    s, size, length = addressing
    shape = [2, 3, 2]
    shape[dim] = length
    values = torch.randn(shape, dtype=torch.float64)
    s = Slice("w", dim, s.offset, s.block, s.repeat, s.pitch)
    expected = [
        sum(values.select(dim, i).sum() for i in range(length) if owner_of(i, s, size) == u) for u in range(size)
    ]
    torch.testing.assert_close(per_unit(Group("g", "k", size), s, values), torch.stack(expected))


def test_sums_per_unit_do_not_lose_small_half_precision_values():
    values = torch.full((2, 4096), 1.0, dtype=torch.bfloat16)
    sums = per_unit(Group("g", "k", 2), Slice("w", 0), values)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [4096.0, 4096.0]


@pytest.mark.parametrize("bad", [{"dim": -1}, {"offset": -1}, {"block": 0}, {"repeat": 0}, {"repeat": 2, "pitch": -4}])
def test_impossible_slices_are_refused(bad):
    with pytest.raises(PlanError, match="Slice"):
        Slice("w", **{"dim": 0, **bad})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"size": 0}, "at least one unit"),
        ({"min_keep": 5}, "min_keep 5 is outside"),
        ({"min_keep": -1}, "min_keep -1 is outside"),
        ({"round_to": 0}, "round_to 0"),
        ({"size": 1, "stack": "blocks.1"}, "depth group"),
        ({"size": 1, "stack": "blocks."}, "depth group"),
        ({"size": 2, "stack": "blocks.1."}, "depth group"),
    ],
)
def test_impossible_groups_are_refused(bad, says):
    with pytest.raises(PlanError, match=says):
        Group(**{"name": "g", "kind": "ffn", "size": 4, **bad})


def test_groups_are_a_sequence_with_unique_names():
    a, b, c = Group("a", "head", 2), Group("b", "ffn", 3), Group("c", "head", 1)
    groups = Groups((a, b, c))
    assert list(groups) == [a, b, c]
    assert (len(groups), groups.units, groups.by_name["b"]) == (3, 6, b)
    assert list(groups.of_kind("head")) == [a, c]
    with pytest.raises(PlanError, match=r"repeated: \['a'\]"):
        Groups((a, b, a))


@pytest.mark.parametrize(
    ("s", "says"),
    [
        (Slice("other", 0), "'other', which the model does not have"),
        (Slice("w", 2), "no dimension 2"),
        (Slice("w", 0, offset=3), "reaches index 7 of 'w' dim 0, size 6"),
        (Slice("w", 0, block=2), "reaches index 8"),
        (Slice("w", 1, repeat=3, pitch=4), "reaches index 12 of 'w' dim 1, size 9"),
        (Slice("w", 1, repeat=2, pitch=3), "both own index 3"),
    ],
)
def test_slices_must_fit_the_tensors(s, says):
    with pytest.raises(PlanError, match=says):
        Groups((Group("g", "ffn", 4, (s,)),)).check({"w": (6, 9)})


def test_two_groups_may_share_a_tensor_but_no_index():
    one = Group("one", "ffn", 4, (Slice("w", 0),))
    beside = Group("beside", "ffn", 2, (Slice("w", 0, offset=4), Slice("w", 1)))
    across = Group("across", "ffn", 2, (Slice("w", 0, offset=3),))
    shapes = shapes_of({"w": torch.empty(6, 9, device="meta")})
    Groups((one, beside)).check(shapes)
    with pytest.raises(PlanError, match="'one' and 'across' both own index 3 of 'w' dim 0"):
        Groups((one, across)).check(shapes)
