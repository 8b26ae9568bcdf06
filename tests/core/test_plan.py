from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gencompress.core.group import Group, Groups
from gencompress.core.plan import MAX_UNITS, Plan, fingerprint, from_ranges, to_ranges
from gencompress.errors import PlanError
from tests.core.nets import plan_of, plans

names = st.text(min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def any_plans(draw):
    sizes = draw(st.dictionaries(names, st.integers(1, 60), max_size=4))
    groups = Groups(tuple(Group(n, "ffn", size, min_keep=0) for n, size in sizes.items()))
    plan = draw(plans(groups))
    budget, method = (draw(st.dictionaries(names, json_values, max_size=2)) for _ in range(2))
    source = draw(st.dictionaries(st.text(), st.none() | st.text(), max_size=2))
    return Plan(plan.keep, plan.sizes, budget, source, method)


@given(any_plans())
def test_json_round_trip(plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert list(again.keep) == list(plan.keep)
    assert all(torch.equal(again.keep[n], plan.keep[n]) and again.keep[n].dtype == torch.int64 for n in plan.keep)
    assert (again.sizes, again.budget, again.source, again.method) == (
        plan.sizes,
        plan.budget,
        plan.source,
        plan.method,
    )


@given(st.sets(st.integers(0, 500)))
def test_ranges_round_trip(units):
    kept = torch.tensor(sorted(units), dtype=torch.int64)
    assert torch.equal(from_ranges(to_ranges(kept), 501, "here"), kept)


def test_ranges_read_well():
    assert to_ranges(torch.tensor([0, 1, 2, 7, 9, 10])) == "0-2,7,9-10"
    assert to_ranges(torch.tensor([4])) == "4"
    assert to_ranges(torch.empty(0, dtype=torch.int64)) == ""


def test_many_units_round_trip():
    kept = torch.arange(0, 200_000, 2)
    plan = Plan({"splats": kept}, {"splats": 200_000})
    assert torch.equal(Plan.from_json(plan.to_json()).keep["splats"], kept)


@pytest.mark.parametrize(
    "text",
    ["0-3,2-5", "0,0", "3,1", "3-1", "0-10", "10", "-1", "-3--1", "0--3", "0-3-5", "1,,2", ",", "a", "1.0", "0x1",
     "１", " 1", "+1", "1_0", "0-99999999999999999999", "9" * 5000, "0-9\n"],
)  # fmt: skip
def test_hostile_ranges(text):
    with pytest.raises(PlanError, match="here: "):
        from_ranges(text, 10, "here")


GOOD = {
    "schema": 1, "budget": {}, "source": {"weights": None}, "method": {}, "groups": {"g": {"size": 4, "keep": "0-2"}}
}  # fmt: skip


def changed(**fields):
    return json.dumps(GOOD | fields)


def group(**fields):
    return changed(groups={"g": GOOD["groups"]["g"] | fields})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSON is malformed"),
        ("{", "JSON is malformed"),
        ("[" * 100_000, "JSON is malformed"),
        ("[]", "must be of type dict, not list"),
        ("null", "must be of type dict, not NoneType"),
        ("{}", "schema None is not supported"),
        (changed(schema=2), "schema 2 is not supported, expected 1"),
        (changed(groups=[]), "field 'groups' must be of type dict"),
        (changed(budget=None), "field 'budget' must be of type dict"),
        (changed(method="x"), "field 'method' must be of type dict"),
        (changed(source={"weights": 3}), "field 'source.weights' must be of type str or NoneType"),
        (changed(groups={"g": 3}), "group 'g' must be of type dict"),
        (group(size="4"), "'size' must be of type int, not str"),
        (group(size=4.0), "'size' must be of type int, not float"),
        (group(size=True), "'size' must be of type int, not bool"),
        (group(size=0), "size 0 must be >= 1"),
        (group(size=-4), "size -4 must be >= 1"),
        (group(keep=[0, 1]), "'keep' must be of type str, not list"),
        (group(keep=None), "'keep' must be of type str, not NoneType"),
        (group(keep="0-4"), r"outside \[0, 4\)"),
        (group(keep="0-2,2-3"), "overlaps"),
        (group(size=10**13, keep="0-9999999999999"), "more than 100,000,000 units"),
        (changed(groups={str(i): {"size": MAX_UNITS, "keep": ""} for i in range(2)}), "more than 100,000,000 units"),
        (json.dumps(GOOD)[:-1] + ', "groups": {}}', "given twice"),
        (changed(budget={"keep": float("nan")}), "NaN is not a number"),
        (changed(budget={"keep": float("-inf")}), "-Infinity is not a number"),
    ],
)
def test_hostile_json(text, says):
    with pytest.raises(PlanError, match=says) as error:
        Plan.from_json(text, "some/plan.json")
    assert str(error.value).startswith("some/plan.json")


@given(json_values)
def test_any_other_json_is_refused_with_a_plan_error(value):
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(value))


def test_files(tmp_path):
    plan = Plan({"g": torch.tensor([1, 2])}, {"g": 4})
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(PlanError, match=r"other\.json: no such plan file"):
        Plan.load(tmp_path / "other.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"binary\.json: not a plan"):
        Plan.load(tmp_path / "binary.json")


def test_a_plan_with_nan_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Plan({}, {}, {"reached": float("nan")}).to_json()


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (torch.tensor([1, 0]), "sorted and unique"),
        (torch.tensor([1, 1]), "sorted and unique"),
        (torch.tensor([-1, 0]), r"-1 to 0 are outside \[0, 3\)"),
        (torch.tensor([0, 3]), r"0 to 3 are outside \[0, 3\)"),
        (torch.tensor([0.0]), "1-d int64"),
        (torch.tensor([0], dtype=torch.int32), "1-d int64"),
        (torch.tensor([[0]]), "1-d int64"),
    ],
)
def test_kept_units_are_checked(kept, says):
    with pytest.raises(PlanError, match=says):
        Plan({"g": kept}, {"g": 3})


def test_kept_units_and_sizes_name_the_same_groups():
    with pytest.raises(PlanError, match=r"different groups: \['g', 'h'\]"):
        Plan({"g": torch.tensor([0])}, {"h": 3})


def test_masks_and_counts():
    plan = Plan({"g": torch.tensor([0, 2]), "h": torch.empty(0, dtype=torch.int64)}, {"g": 3, "h": 1})
    assert plan.counts == {"g": 2, "h": 0}
    masks = plan.masks(torch.float64)
    assert {n: m.tolist() for n, m in masks.items()} == {"g": [1, 0, 1], "h": [0]}
    assert masks["g"].dtype == torch.float64


def test_plans_differ_when_anything_differs():
    plan = Plan({"g": torch.tensor([0, 2])}, {"g": 3})
    assert plan != Plan({"g": torch.tensor([0, 1])}, {"g": 3})
    assert plan != Plan({"g": torch.tensor([0, 2])}, {"g": 4})
    assert plan != Plan({"g": torch.tensor([0, 2])}, {"g": 3}, {"keep": 0.5})
    assert plan != "plan"


def test_a_plan_is_for_its_groups():
    groups = Groups((Group("a", "ffn", 2), Group("b", "ffn", 3)))
    plan_of(groups).check_groups(groups)
    with pytest.raises(PlanError, match=r"lacks \['c'\] and adds none"):
        plan_of(groups).check_groups(Groups((*groups, Group("c", "ffn", 1))))
    with pytest.raises(PlanError, match=r"lacks none and adds \['b'\]"):
        plan_of(groups).check_groups(groups[:1] and Groups(groups[:1]))
    with pytest.raises(PlanError, match="'a' has 9 units here, but the plan was made for 2"):
        plan_of(groups).check_groups(Groups((Group("a", "ffn", 9), groups[1])))


def test_a_plan_is_for_its_weights():
    weights = {"w": torch.randn(2, 3), "b": torch.zeros(())}
    mine = fingerprint(weights)
    tuned = fingerprint(weights | {"w": weights["w"] + 1})
    other = fingerprint(weights | {"w": torch.randn(3, 2)})
    blank = fingerprint({n: t.to("meta") for n, t in weights.items()})
    plan = Plan({}, {}, source=mine)
    plan.check_source(mine)
    plan.check_source(blank)
    plan.check_source(tuned, other_weights=True)
    with pytest.raises(PlanError, match=r"other weights .* other_weights=True applies it"):
        plan.check_source(tuned)
    for lenient in (False, True):
        with pytest.raises(PlanError, match="other shapes"):
            plan.check_source(other, other_weights=lenient)
    with pytest.raises(PlanError, match="other shapes"):
        Plan({}, {}, source=blank).check_source(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_fingerprints_see_every_change(dtype):
    tensors = {"w": torch.arange(6).reshape(2, 3).to(dtype), "s": torch.ones((), dtype=dtype), "e": torch.empty(0, 2)}
    mine = fingerprint(tensors)
    assert mine == fingerprint(dict(reversed(tensors.items())))
    assert mine == fingerprint({**tensors, "w": tensors["w"].T.contiguous().T})  # layout in memory does not count
    for change in (
        {"w": tensors["w"].reshape(3, 2)},
        {"w": tensors["w"].flip(1)},
        {"w": tensors["w"].to(torch.float64)},
        {"v": tensors["w"]},
    ):
        assert fingerprint(tensors | change)["weights"] != mine["weights"]
    assert fingerprint(tensors | {"w": tensors["w"].flip(1)})["shapes"] == mine["shapes"]
