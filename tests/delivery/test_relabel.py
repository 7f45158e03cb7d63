"""What rules make of a series, as Prometheus HEAD has it; tests/blackbox/test_relabel_oracle.py compares many more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.config.relabel import RelabelConfig
from bridge.delivery.relabel import Relabeler
from bridge.wire.head import encode_sample, labels_of, make_head
from bridge.wire.remote_write import label_bytes, value_bytes
from tests.strategies import TEXTS, labels

Rule = dict[str, Any]
DROPPED = "relabel"
NAMELESS = "relabel_nameless"
A_B = {"__name__": "m", "a": "1", "b": "2"}
CASES: dict[str, tuple[list[Rule], dict[str, str], dict[str, str] | str]] = {
    "no rule": ([], A_B, A_B),
    "an empty value removes": ([{"target_label": "a", "replacement": ""}], A_B, {"__name__": "m", "b": "2"}),
    "an empty result removes the label that was meant": (
        [{"source_labels": ["a"], "regex": "(.)(x?)", "target_label": "b", "replacement": "$2"}],
        A_B,
        {"__name__": "m", "a": "1"},
    ),
    "an invalid name sets nothing and removes nothing": (
        [{"source_labels": ["a"], "target_label": "$1"}],
        A_B,
        A_B,
    ),
    "a dot matches a newline": (
        [{"source_labels": ["a"], "regex": "x.y", "action": "drop"}],
        {"__name__": "m", "a": "x\ny"},
        DROPPED,
    ),
    "what rules set comes last": (
        [
            {"target_label": "a", "replacement": "4"},
            {"regex": "a|b", "replacement": "x", "action": "labelmap"},
        ],
        A_B,
        {"__name__": "m", "a": "4", "b": "2", "x": "4"},
    ),
    "set twice keeps its place": (
        [
            {"target_label": "a", "replacement": "3"},
            {"target_label": "b", "replacement": "4"},
            {"target_label": "a", "replacement": "5"},
            {"regex": "a|b", "replacement": "x", "action": "labelmap"},
        ],
        A_B,
        {"__name__": "m", "a": "5", "b": "4", "x": "4"},
    ),
    "set again after it was removed comes last": (
        [
            {"target_label": "a", "replacement": "3"},
            {"target_label": "b", "replacement": "4"},
            {"regex": "a", "action": "labeldrop"},
            {"target_label": "a", "replacement": "5"},
            {"regex": "a|b", "replacement": "x", "action": "labelmap"},
        ],
        A_B,
        {"__name__": "m", "a": "5", "b": "4", "x": "5"},
    ),
    "labelmap to no name": ([{"regex": "(a)(x?)", "replacement": "$2", "action": "labelmap"}], A_B, A_B),
    "no name": ([{"regex": "__name__", "action": "labeldrop"}], A_B, NAMELESS),
    "nothing left": ([{"regex": "", "action": "labelkeep"}], A_B, NAMELESS),
    "temporary labels go at the end": (
        [
            {"source_labels": ["a", "b"], "target_label": "__tmp_x"},
            {"source_labels": ["__tmp_x"], "target_label": "c"},
        ],
        A_B,
        {**A_B, "c": "1;2"},
    ),
    "a temporary label that was there": ([], {"__name__": "m", "__x": "1"}, {"__name__": "m"}),
    "the other end of the order": (
        [{"target_label": "A", "replacement": "0"}],
        A_B,
        {"A": "0", **A_B},
    ),
    "a rule behind a drop is not asked": ([{"action": "drop"}, {"action": "keep"}], A_B, DROPPED),
}


def relabel(rules: list[Rule], pairs: dict[str, str], *, utf8_names: bool = False) -> dict[str, str] | str:
    """Labels that are left, or why there are none."""
    relabeler = Relabeler([RelabelConfig.model_validate(rule) for rule in rules], utf8_names=utf8_names)
    head = make_head(label_bytes(tuple(pairs.items())))
    made = relabeler.relabel(head)
    assert relabeler.relabel(head) is made, "the second time it is remembered"
    return made if isinstance(made, str) else dict(labels_of(made))


@pytest.mark.parametrize(("rules", "before", "after"), CASES.values(), ids=CASES)
def test_actions(rules: list[Rule], before: dict[str, str], after: dict[str, str] | str) -> None:
    """Each action does what Prometheus HEAD does, and what is no series any more is dropped for its own reason."""
    assert relabel(rules, before) == after


def test_names_that_replace_may_make() -> None:
    """With UTF-8 names any name will do but the empty one; without them an odd one sets nothing."""
    rules = [{"source_labels": ["a"], "target_label": "${1}", "replacement": "x"}]
    assert relabel(rules, {"__name__": "m", "a": "b.c"}) == {"__name__": "m", "a": "b.c"}
    assert relabel(rules, {"__name__": "m", "a": "b.c"}, utf8_names=True) == {"__name__": "m", "a": "b.c", "b.c": "x"}
    assert relabel(rules, {"__name__": "m"}, utf8_names=True) == {"__name__": "m"}


def test_a_series_that_no_rule_changes_keeps_its_bytes() -> None:
    """What comes out is then the very head that went in, so that a row can be left as it is."""
    head = make_head(label_bytes(tuple(A_B.items())))
    assert Relabeler([RelabelConfig(source_labels=("a",), regex="9", action="drop")]).relabel(head) is head


def test_what_is_remembered_is_bounded() -> None:
    """Series beyond the bound push out the oldest, and come out the same when they are asked for again."""
    relabeler = Relabeler([RelabelConfig(target_label="c", replacement="x")], remembered=10)
    heads = [make_head(label_bytes([("__name__", f"m{number}")])) for number in range(50)]
    made = [relabeler.relabel(head) for head in heads]
    assert relabeler.relabel.cache_info().currsize == 10  # type: ignore[attr-defined]
    assert [relabeler.relabel(head) for head in heads] == made
    assert len(set(made)) == 50


@pytest.mark.parametrize(
    "junk", [b"", b"\x0a", b"\x0a\x20\x0a\x05\x0a\x02ab\x12\x10\x09", b"\x0a\x12\x22\x00\x12\x10\x09"]
)
def test_what_is_no_head_is_refused(junk: bytes) -> None:
    """Bytes that only look like a head are a ValueError, each time."""
    relabeler = Relabeler([RelabelConfig(target_label="c", replacement="x")])
    for _ in range(2):
        with pytest.raises(ValueError, match="got"):
            relabeler.relabel(junk)


NAMES = st.sampled_from(["a", "b", "c", "__name__", "__tmp_x", "job"])
TEMPLATES = st.sampled_from(["$1", "${1}", "x$1", "$2", "a", "$0_b", "__$1", "__name__"])
RULES = st.fixed_dictionaries(
    {"action": st.sampled_from("replace labelmap labeldrop labelkeep lowercase uppercase hashmod keepequal".split())},
    optional={
        "source_labels": st.lists(NAMES, max_size=3),
        "separator": TEXTS,
        "regex": st.sampled_from(["(.*)", "(a|b)", "__(.*)__", "(.)(.*)", "", "[^a]*", "(?i)(x)?.*"]),
        "modulus": st.integers(0, 5),
        "target_label": NAMES | TEMPLATES,
        "replacement": TEMPLATES | TEXTS,
    },
)


@given(
    st.lists(RULES, max_size=5),
    labels(NAMES | TEXTS.filter(bool), TEXTS),
    st.integers(0, 1 << 42),
)
def test_no_rules_make_an_invalid_series(rules: list[Rule], pairs: tuple[tuple[str, str], ...], at_ms: int) -> None:
    """What comes out has a name, is sorted, names no label twice, and has no empty or hidden one; protobuf reads it."""
    configs = []
    for rule in rules:
        try:
            configs.append(RelabelConfig.model_validate(rule))
        except ValidationError:
            continue
    made = Relabeler(configs, utf8_names=True).relabel(make_head(label_bytes(pairs)))
    if isinstance(made, str):
        assert made in {DROPPED, NAMELESS}
        return
    (series,) = pb.WriteRequest.FromString(encode_sample(made, value_bytes(1.5), at_ms)).timeseries
    names = [label.name for label in series.labels]
    assert [name.encode() for name in names] == sorted({name.encode() for name in names})
    assert "__name__" in names
    assert all(label.value and label.name for label in series.labels)
    assert not [name for name in names if name.startswith("__") and name != "__name__"]
    assert [(sample.value, sample.timestamp) for sample in series.samples] == [(1.5, at_ms)]
