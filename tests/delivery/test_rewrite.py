"""Rows as a target gets them: relabeled, counted, and with their tenant."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.config.relabel import RelabelConfig
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules, first_of_each, prepare
from bridge.journal.rows import Entry
from bridge.wire import snappy_block
from bridge.wire.head import label_fields_of, make_head
from bridge.wire.remote_write import STALE_NAN, encode_point, label_bytes, timeseries_field, value_bytes
from tests.made import encode_series

NOW_MS = 1_700_000_000_000
Point = tuple[dict[str, str], float, int]
DROP_X = RelabelConfig(source_labels=("__name__",), regex="x.*", action="drop")
NO_POD = RelabelConfig(regex="pod", action="labeldrop")
CLUSTER = RelabelConfig(target_label="cluster", replacement="eu1")


def sample(name: str, value: float = 1.0, at_ms: int = NOW_MS, **labels: str) -> bytes:
    return encode_series([("__name__", name), *labels.items()], value, at_ms)


def marker(name: str, at_ms: int = NOW_MS, **labels: str) -> bytes:
    return encode_point(label_bytes([("__name__", name), *labels.items()]), STALE_NAN, at_ms)


def row(*fields: bytes) -> Entry:
    return Entry(1, len(fields), snappy_block.compress(b"".join(fields)), NOW_MS, group=b"job\xffj")


def rules(*configs: RelabelConfig) -> TargetRules:
    return TargetRules(Relabeler(configs).relabel)


def left(entry: Entry, target_rules: TargetRules) -> tuple[list[Point], dict[str, int]]:
    """What is left of a row, and what was dropped; the counts always add up."""
    made = prepare(entry, target_rules)
    assert made is not None
    data = snappy_block.decompress(made.body, 1 << 20) if made.content is None else made.content
    assert made.content_bytes == len(data)
    assert made.samples + sum(made.dropped.values()) == entry.samples
    series = pb.WriteRequest.FromString(data).timeseries
    assert len(series) == made.samples
    return [
        ({label.name: label.value for label in one.labels}, one.samples[0].value, one.samples[0].timestamp)
        for one in series
    ], dict(made.dropped)


def test_rules_work_on_every_sample() -> None:
    """Labels change, values and times do not, order stays, and what is dropped is counted."""
    entry = row(sample("a", 1.5, pod="p"), sample("x1"), sample("b", -2.0, 7), sample("x2", at_ms=-5))
    assert left(entry, rules(DROP_X, NO_POD, CLUSTER)) == (
        [({"__name__": "a", "cluster": "eu1"}, 1.5, NOW_MS), ({"__name__": "b", "cluster": "eu1"}, -2.0, 7)],
        {"relabel": 2},
    )


def test_a_row_that_no_rule_changes_keeps_its_bytes() -> None:
    """The body is the very one of the journal."""
    entry = row(sample("a"), sample("b", at_ms=3))
    for target_rules in (TargetRules(), rules(DROP_X, NO_POD)):
        made = prepare(entry, target_rules)
        assert made is not None
        assert made.body is entry.body
        assert made.content is None
        assert (made.samples, made.dropped) == (2, {})


def test_a_row_of_which_nothing_is_left() -> None:
    """It has no samples and no content."""
    made = prepare(row(sample("x1"), sample("x2")), rules(DROP_X))
    assert made is not None
    assert (made.samples, made.content_bytes, made.dropped) == (0, 0, {"relabel": 2})


DUPLICATES: dict[str, tuple[list[bytes], list[tuple[float, int]]]] = {
    "the first stays": ([sample("a", 1, pod="p"), sample("a", 2, pod="q")], [(1.0, NOW_MS)]),
    "also against one that was so before": ([sample("a", 1), sample("a", 2, pod="q")], [(1.0, NOW_MS)]),
    "at another time it is no duplicate": (
        [sample("a", 1, NOW_MS, pod="p"), sample("a", 2, NOW_MS + 1, pod="q")],
        [(1.0, NOW_MS), (2.0, NOW_MS + 1)],
    ),
    "times of other lengths": ([sample("a", 1, 5, pod="p"), sample("a", 2, 5, pod="q")], [(1.0, 5)]),
    "a marker gives way": ([marker("a", pod="p"), sample("a", 2, pod="q")], [(2.0, NOW_MS)]),
    "a value does not": ([sample("a", 1, pod="p"), marker("a", pod="q")], [(1.0, NOW_MS)]),
}


@pytest.mark.parametrize(("fields", "points"), DUPLICATES.values(), ids=DUPLICATES)
def test_series_that_become_the_same(fields: list[bytes], points: list[tuple[float, int]]) -> None:
    """One sample stays for each series and time, a value rather than a marker; the others are counted apart."""
    found, dropped = left(row(*fields, sample("z")), rules(NO_POD))
    assert [(value, at_ms) for labels, value, at_ms in found if labels == {"__name__": "a"}] == points
    assert len(found) == len(points) + 1
    assert dropped == ({"relabel_duplicate": 1} if len(points) == 1 else {})


@pytest.mark.parametrize(
    "behind",
    [
        b"\x22\x02\x08\x05",
        b"\x12\x10\x09" + value_bytes(1.0) + b"\x10\x80\x80\x80\x80\x80\x01\x1a\x02\x0a\x00",
        # Whatever stands where a head would end.
        b"\x22\x1e" + b"\x00" * 12 + b"\x12\x10\x09" + b"\x00" * 15,
        b"\x12\x10\x09" + b"\x00" * 15 + b"\x1a\x0f" + b"\x12\x10\x09" + b"\x00" * 12,
    ],
    ids=["histogram", "exemplar", "histogram like a head", "exemplar like a head"],
)
def test_what_stands_behind_the_labels_is_not_looked_into(behind: bytes) -> None:
    """A native histogram or an exemplar goes on as it is, under its new labels."""
    labels = label_bytes([("__name__", "a"), ("pod", "p")])
    made = prepare(row(timeseries_field(labels + behind)), rules(NO_POD, CLUSTER))
    assert made is not None
    expected = label_fields_of(make_head(label_bytes([("__name__", "a"), ("cluster", "eu1")])))
    assert made.content == timeseries_field(expected + behind)


@pytest.mark.parametrize("body", [b"", b"\xff", snappy_block.compress(b"\x12\x00"), snappy_block.compress(b"\x0a\x7f")])
def test_a_damaged_row(body: bytes) -> None:
    """What cannot be read back is nothing that rules can be asked about."""
    assert prepare(Entry(1, 3, body, NOW_MS), rules(NO_POD)) is None
    assert prepare(Entry(1, 3, b"", NOW_MS, damaged=True), TargetRules()) is None


def test_a_row_has_the_tenant_of_its_group() -> None:
    """The tenant follows from the group's key alone, rules or not."""
    tenant_of = {b"job\xffj": "storage"}.__getitem__
    for target_rules in (TargetRules(None, tenant_of), TargetRules(Relabeler([DROP_X]).relabel, tenant_of)):
        made = prepare(row(sample("a")), target_rules)
        assert made is not None
        assert made.tenant == "storage"


@given(st.lists(st.tuples(st.sampled_from("abx"), st.sampled_from("pqr"), st.integers(0, 2)), max_size=12))
def test_every_sample_is_sent_or_counted(series: list[tuple[str, str, int]]) -> None:
    """Whatever rules do, what is left and what was dropped are what there was, and nothing is left twice."""
    fields = [sample(name, at_ms=at_ms, pod=pod) for name, pod, at_ms in dict.fromkeys(series)]
    found, dropped = left(row(*fields), rules(DROP_X, NO_POD))
    assert max(Counter((labels["__name__"], at_ms) for labels, _, at_ms in found).values(), default=1) == 1
    assert dropped.get("relabel", 0) == sum(name == "x" for name, _, _ in dict.fromkeys(series))


def test_each_series_of_a_point_once() -> None:
    """Of repeats that become the same series the first one's value stays."""
    heads, doubles = first_of_each([b"a", b"b", b"a", b"c"], [b"1", b"2", b"3", b"4"])
    assert dict(zip(heads, doubles, strict=True)) == {b"a": b"1", b"b": b"2", b"c": b"4"}
    assert len(heads) == 3
