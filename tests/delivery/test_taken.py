from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.config.relabel import RelabelConfig
from bridge.delivery.batch import Packer
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import Row, TargetRules, prepare
from bridge.delivery.taken import EVERYTHING, kinds_taken, take_fields, take_points
from bridge.journal.rows import (
    CUSTOM_BUCKETS,
    EXEMPLARS,
    NATIVE_HISTOGRAMS,
    Entry,
)
from bridge.model import Exemplar
from bridge.reasons import CUSTOM_IN_RW1, NATIVE_DISABLED, RELABEL
from bridge.wire import snappy_block
from bridge.wire.head import make_head
from bridge.wire.histogram import STALE_CUSTOM, STALE_HISTOGRAM
from bridge.wire.points import encode_field
from bridge.wire.remote_write import label_bytes, value_bytes

NOW_MS = 1_700_000_000_000
TRACED = [Exemplar((("trace_id", "t"),), 0.5, 7)]
POINTS = {
    "plain": value_bytes(1.0),
    "traced": value_bytes(2.0),
    "native": STALE_HISTOGRAM,
    "native_traced": STALE_HISTOGRAM,
    "custom": STALE_CUSTOM,
}
HEADS = {name: make_head(label_bytes([("__name__", name)])) for name in POINTS}
FIELDS = [encode_field(HEADS[n], POINTS[n], NOW_MS, TRACED if n.endswith("traced") else []) for n in POINTS]
ROW = Entry(
    1,
    len(FIELDS),
    snappy_block.compress(b"".join(FIELDS)),
    NOW_MS,
    kinds=NATIVE_HISTOGRAMS | CUSTOM_BUCKETS | EXEMPLARS,
)


def names(data: bytes) -> list[str]:
    """Names of the series, with a star behind those that have exemplars."""
    series = pb.WriteRequest.FromString(data).timeseries
    return [one.labels[0].value + "*" * len(one.exemplars) for one in series]


def sent(row: Row) -> bytes:
    """Content of the request that a row makes."""
    packer = Packer(100, 1 << 20)
    packer.add(1, row)
    (request,) = packer.flush()
    assert request.samples == row.samples
    return snappy_block.decompress(request.block, 1 << 20)


TAKEN: dict[tuple[bool, bool, bool], tuple[str, dict[str, int]]] = {
    (False, False, False): ("plain traced", {NATIVE_DISABLED: 3}),
    (False, False, True): ("plain traced", {NATIVE_DISABLED: 3}),
    (False, True, False): ("plain traced*", {NATIVE_DISABLED: 3}),
    (True, False, False): ("plain traced native native_traced", {CUSTOM_IN_RW1: 1}),
    (True, False, True): ("plain traced native native_traced custom", {}),
    (True, True, False): ("plain traced* native native_traced*", {CUSTOM_IN_RW1: 1}),
    (True, True, True): ("plain traced* native native_traced* custom", {}),
}


@pytest.mark.parametrize("settings", TAKEN)
def test_a_target_gets_what_its_settings_say(settings: tuple[bool, bool, bool]) -> None:
    """Histograms that are not taken are counted, exemplars go without a word, plain samples always stay."""
    native, exemplars, version_2 = settings
    wanted, dropped = TAKEN[settings]
    takes = kinds_taken(native_histograms=native, exemplars=exemplars, version_2=version_2)
    fields, missing = take_fields(FIELDS, takes)
    assert (" ".join(names(b"".join(fields))), missing) == (wanted, dropped)
    told: list[str] = []
    row = prepare(ROW, TargetRules(takes=lambda: takes, note_missing=told.append))
    assert row is not None
    assert (row.dropped, told) == (dropped, list(dropped))
    assert row.samples + sum(dropped.values()) == ROW.samples
    assert " ".join(names(sent(row))) == wanted
    heads, points = take_points(list(HEADS.values()), list(POINTS.values()), takes)
    assert [name for name, head in HEADS.items() if head in heads] == wanted.replace("*", "").split()
    assert list(points) == [POINTS[name] for name in wanted.replace("*", "").split()]


def test_a_target_that_takes_everything_gets_the_bytes_as_they_are() -> None:
    """Nothing is unpacked for it."""
    row = prepare(ROW, TargetRules(takes=lambda: EVERYTHING))
    assert row is not None
    assert row.body is ROW.body


def test_a_row_of_plain_samples_is_not_looked_into() -> None:
    """Its kinds say that nobody need; the body is not even readable here."""
    entry = Entry(1, 1, b"\x05broken", NOW_MS)
    row = prepare(entry, TargetRules(takes=lambda: 0))
    assert row is not None
    assert row.body is entry.body


def test_rules_see_only_what_is_taken() -> None:
    """A histogram that is not taken is not relabeled; what rules drop is counted beside it."""
    drop = Relabeler([RelabelConfig(source_labels=("__name__",), regex="traced|native", action="drop")]).relabel
    row = prepare(ROW, TargetRules(drop, takes=lambda: 0))
    assert row is not None
    assert (row.dropped, row.samples) == ({NATIVE_DISABLED: 3, RELABEL: 1}, 1)
    assert names(sent(row)) == ["plain"]


def test_a_row_of_which_nothing_is_taken_has_no_samples() -> None:
    """All of it is counted."""
    entry = Entry(1, 1, snappy_block.compress(FIELDS[2]), NOW_MS, kinds=NATIVE_HISTOGRAMS)
    row = prepare(entry, TargetRules(takes=lambda: 0))
    assert row is not None
    assert (row.samples, row.content_bytes, row.dropped) == (0, 0, {NATIVE_DISABLED: 1})


@given(st.binary(max_size=20))
def test_a_damaged_row_is_passed_over(body: bytes) -> None:
    """Whatever stands in a row that has to be looked into, it is taken or damaged, never an error."""
    entry = replace(ROW, body=snappy_block.compress(body))
    row = prepare(entry, TargetRules(takes=lambda: 0))
    assert row is None or row.samples <= ROW.samples


def test_an_unreadable_row_is_damaged() -> None:
    """So is one that cannot be unpacked, and one that is known to be damaged."""
    assert prepare(replace(ROW, body=b"\xff"), TargetRules(takes=lambda: 0)) is None
    assert prepare(replace(ROW, body=b"", damaged=True), TargetRules(takes=lambda: 0)) is None
