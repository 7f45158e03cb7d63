import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isnan

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.content import Content, FamilyShape, make_shape
from bridge.encode import ROW_SAMPLES, decode_group, encode_change, encode_group
from bridge.groups import Group, delete, group_id, key_of, refuse, store
from bridge.journal.rows import CUSTOM_BUCKETS, EXEMPLARS, NATIVE_HISTOGRAMS, NEVER_MS, GroupRow, PartRow, Record
from bridge.model import Exemplar, Labels
from bridge.wire import snappy_block
from bridge.wire.head import labels_of, make_head
from bridge.wire.histogram import CUSTOM_SCHEMA, STALE_HISTOGRAM
from bridge.wire.remote_write import NORMAL_NAN, STALE_NAN, label_bytes, value_bytes
from tests.made import make_content
from tests.strategies import ARRIVALS_MS, contents, mutations

NOW_MS = 1_700_000_000_000
NAN = float("nan")
ID = group_id(key_of((("job", "a"),)), {})
UNKNOWN = Group(ID)
PUSH_TIME: Labels = (("__name__", "push_time_seconds"), ("job", "a"))
PUSH_FAILURE_TIME: Labels = (("__name__", "push_failure_time_seconds"), ("job", "a"))


@dataclass(frozen=True)
class Sent:
    """One sample as a receiver reads it."""

    labels: Labels
    double: bytes
    """Of a histogram the message, less its time."""
    timestamp_ms: int
    exemplars: tuple[Exemplar, ...] = ()


def sent(records: Iterable[Record]) -> list[Sent]:
    """Read rows with the protobuf runtime, as a receiver does."""
    samples: list[Sent] = []
    for record in records:
        request = pb.WriteRequest.FromString(snappy_block.decompress(record.body, 1 << 30))
        assert record.samples == len(request.timeseries)
        for series in request.timeseries:
            exemplars = tuple(
                Exemplar(pairs(one.labels), unpacked(value_bytes(one.value)), one.timestamp) for one in series.exemplars
            )
            if series.histograms:
                (histogram,) = series.histograms
                stamp_ms = histogram.timestamp
                histogram.timestamp = 0
                samples.append(Sent(pairs(series.labels), histogram.SerializeToString(), stamp_ms, exemplars))
            else:
                (sample,) = series.samples
                samples.append(Sent(pairs(series.labels), struct.pack("<d", sample.value), sample.timestamp, exemplars))
    return samples


def pairs(labels: Iterable[pb.Label]) -> Labels:
    return tuple((label.name, label.value) for label in labels)


def unpacked(double: bytes) -> float:
    """A float that is equal to itself, so that NaNs can be compared."""
    value: float = struct.unpack("<d", double)[0]
    return NAN if isnan(value) else value


def canonical(point: bytes) -> bytes:
    """A double, or a message as the runtime writes it: in the order of its fields."""
    return point if len(point) == 8 else pb.Histogram.FromString(point).SerializeToString()


def gauges(group: Group) -> list[Sent]:
    return [
        Sent(PUSH_TIME, struct.pack("<d", group.push_ms / 1000), group.last_ms),
        Sent(PUSH_FAILURE_TIME, struct.pack("<d", group.failure_ms / 1000), group.last_ms),
    ]


def plain(count: int, name: str = "x", value: float = 1.5) -> Content:
    heads = [make_head(label_bytes([("__name__", name), ("n", str(at))])) for at in range(count)]
    return make_content(make_shape([FamilyShape(name, "gauge", "", 0, count)], heads), tuple(value for _ in heads))


def reloaded(group: Group) -> Group:
    return decode_group(encode_group(group, None), group.id)


def same_content(one: Content, other: Content) -> bool:
    """Compare by value, NaN equal to NaN and -0.0 not to 0.0."""
    return (
        one.shape.families == other.shape.families
        and one.shape.heads == other.shape.heads
        and one.shape.header == other.shape.header
        and one.shape.names == other.shape.names
        and list(map(value_bytes, one.values)) == list(map(value_bytes, other.values))
        and one.timestamps == other.timestamps
        and one.histograms == other.histograms
    )


def expected_exemplars(exemplars: Iterable[Exemplar], default_ms: int) -> tuple[Exemplar, ...]:
    """What a receiver reads: labels sorted and not empty, and a time in any case."""
    return tuple(
        Exemplar(
            labels_of(make_head(label_bytes(one.labels))),
            unpacked(value_bytes(one.value)),
            default_ms if one.timestamp_ms is None else one.timestamp_ms,
        )
        for one in exemplars
    )


def stale_sum(point: bytes) -> bytes:
    """The double that says whether a point is a marker."""
    return point if len(point) == 8 else struct.pack("<d", pb.Histogram.FromString(point).sum)


TIMED = make_content(plain(4).shape, (-0.0, float("nan"), float("inf"), -float("inf")), (None, -(2**63), 2**63 - 1, 0))


@settings(deadline=None)
@given(contents(), ARRIVALS_MS, ARRIVALS_MS | st.sampled_from([0, NEVER_MS]), st.booleans())
@example(TIMED, NOW_MS, NEVER_MS, True)
@example(TIMED, 5, 0, False)
def test_a_group_comes_back_as_it_was_stored(content: Content, now_ms: int, expires_ms: int, hold: bool) -> None:
    """Values, explicit timestamps, families, times and end of a group survive storing, whatever they are."""
    group = replace(store(UNKNOWN, content, now_ms, replace_all=True).group, expires_ms=expires_ms, hold=hold)
    back = reloaded(group)
    assert (back.id, back.last_ms, back.push_ms, back.failure_ms, back.live) == (
        ID,
        group.last_ms,
        group.push_ms,
        group.failure_ms,
        True,
    )
    assert (back.expires_ms, back.hold) == (expires_ms, hold)
    assert len(back.parts) == len(group.parts) == bool(content.shape.families)
    assert all(map(same_content, back.parts, group.parts))
    assert encode_group(back, None) == encode_group(group, None)


@settings(deadline=None)
@given(contents(), contents(), ARRIVALS_MS)
def test_parts_of_several_pushes_come_back(first: Content, second: Content, now_ms: int) -> None:
    """What POST left of an older push is stored beside the newer one, one row for each."""
    group = store(UNKNOWN, first, now_ms, replace_all=True).group
    group = store(group, second, now_ms, replace_all=False).group
    back = reloaded(group)
    assert len(back.parts) == len(group.parts)
    assert all(map(same_content, back.parts, group.parts))


@settings(deadline=None)
@given(contents(), ARRIVALS_MS)
@example(TIMED, NOW_MS)
@example(TIMED, 5)
def test_a_receiver_reads_what_was_pushed(content: Content, now_ms: int) -> None:
    """Protobuf reads the same labels in sorted order, values and times, in the push's order, then the gauges."""
    change = store(UNKNOWN, content, now_ms, replace_all=True)
    records, group = encode_change(change), change.group
    times = [group.last_ms if stamp is None else stamp for stamp in content.timestamps or (None,) * len(content)]
    expected = [
        Sent(labels_of(head), canonical(point), stamp, expected_exemplars((content.exemplars or {}).get(at, ()), stamp))
        for at, (head, point, stamp) in enumerate(zip(content.shape.heads, content.points(), times, strict=True))
    ]
    samples = sent(records)
    assert samples == expected + gauges(group)
    names = [[name.encode() for name, _ in sample.labels] for sample in samples]
    assert names == [sorted(name) for name in names]


@settings(deadline=None)
@given(contents(), contents(), ARRIVALS_MS)
def test_markers_come_first(first: Content, second: Content, now_ms: int) -> None:
    """Series that ended are sent before what came instead, with the stale marker's bits and the arrival's time."""
    group = store(UNKNOWN, first, now_ms, replace_all=True).group
    change = store(group, second, now_ms, replace_all=True)
    records = encode_change(change)
    samples = sent(records)
    count = len(change.ended)
    kinds = {head: point for part in group.parts for head, point in zip(part.shape.heads, part.points(), strict=True)}
    for sample, head in zip(samples[:count], change.ended, strict=True):
        assert (sample.labels, sample.timestamp_ms) == (labels_of(head), change.group.last_ms)
        assert len(sample.double) == 8 or len(kinds[head]) > 8
        stale = sample.double if len(kinds[head]) == 8 else stale_sum(sample.double)
        assert stale == STALE_NAN
    assert STALE_NAN not in [stale_sum(sample.double) for sample in samples[count:]]


@pytest.mark.parametrize("bits", ["7ff0000000000002", "fff0000000000002", "7ff8000000000001", "ffffffffffffffff"])
@pytest.mark.parametrize("now_ms", [NOW_MS, 5], ids=["today", "1970"])
@pytest.mark.parametrize("stamps", [None, (7, None, 2**40)], ids=["untimed", "timed"])
def test_a_pushed_nan_never_ends_a_series(bits: str, now_ms: int, stamps: tuple[int | None, ...] | None) -> None:
    """Any pushed NaN, even with the stale marker's bits, is sent and stored as the ordinary NaN."""
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    content = make_content(plain(3).shape, (1.0, value, 2.0), stamps)
    change = store(UNKNOWN, content, now_ms, replace_all=True)
    assert [sample.double for sample in sent(encode_change(change))][:3] == [
        value_bytes(1.0),
        NORMAL_NAN,
        value_bytes(2.0),
    ]
    (part,) = reloaded(change.group).parts
    assert part.doubles == change.group.parts[0].doubles == b"".join(map(value_bytes, content.values))
    again = encode_change(store(reloaded(change.group), part, now_ms, replace_all=False))
    assert STALE_NAN not in [sample.double for sample in sent(again)]


@settings(deadline=None)
@given(contents(), ARRIVALS_MS)
def test_a_row_says_what_it_holds(content: Content, now_ms: int) -> None:
    """The bits of a row name native histograms, custom buckets and exemplars, each if and only if it has some."""
    messages = [pb.Histogram.FromString(message) for message in content.histograms or () if message]
    want = 0
    want |= NATIVE_HISTOGRAMS if any(message.schema != CUSTOM_SCHEMA for message in messages) else 0
    want |= CUSTOM_BUCKETS if any(message.schema == CUSTOM_SCHEMA for message in messages) else 0
    want |= EXEMPLARS if content.exemplars else 0
    (record,) = encode_change(store(UNKNOWN, content, now_ms, replace_all=True))
    assert record.kinds == want


def test_a_group_keeps_no_exemplars() -> None:
    """Exemplars are sent with their push and are not in the group afterwards."""
    content = replace(plain(1), exemplars={0: (Exemplar((), 1.0),)})
    change = store(UNKNOWN, content, NOW_MS, replace_all=True)
    assert (change.content.exemplars, change.group.parts[0].exemplars) == ({0: (Exemplar((), 1.0),)}, None)


def test_histograms_and_exemplars_keep_their_place_in_large_pushes() -> None:
    """Behind markers and in a second row a histogram and an exemplar are still those of their series."""
    count = ROW_SAMPLES + 5
    messages = tuple(STALE_HISTOGRAM if at == count - 2 else None for at in range(count))
    content = replace(plain(count), histograms=messages, exemplars={count - 1: (Exemplar((("t", "1"),), 2.0),)})
    change = replace(store(UNKNOWN, content, NOW_MS, replace_all=True), ended=plain(3, "old").shape.heads)
    first, second = encode_change(change)
    assert (first.kinds, second.kinds) == (0, NATIVE_HISTOGRAMS | EXEMPLARS)
    samples = sent([first, second])
    at = [number for number, sample in enumerate(samples) if len(sample.double) > 8]
    assert [dict(samples[number].labels)["n"] for number in at] == [str(count - 2)]
    assert [dict(sample.labels)["n"] for sample in samples if sample.exemplars] == [str(count - 1)]
    assert reloaded(change.group).parts[0].histograms == messages


SIZES = [0, 1, 2, ROW_SAMPLES - 2, ROW_SAMPLES - 1, ROW_SAMPLES, ROW_SAMPLES + 1, 2 * ROW_SAMPLES, 2 * ROW_SAMPLES + 1]


@pytest.mark.parametrize("pushed", SIZES, ids=str)
@pytest.mark.parametrize("ended", [0, 1, ROW_SAMPLES, ROW_SAMPLES + 1], ids=str)
def test_rows_are_never_larger_than_a_request(pushed: int, ended: int) -> None:
    """A large push is cut into rows of at most ROW_SAMPLES in its order, and small pieces share a row."""
    content = make_content(plain(pushed).shape, tuple(float(at) for at in range(pushed)))
    change = replace(store(UNKNOWN, content, NOW_MS, replace_all=True), ended=plain(ended, "old").shape.heads)
    records, group = encode_change(change), change.group
    assert all(0 < record.samples <= ROW_SAMPLES for record in records)
    assert {(record.arrival_ms, record.group, record.operation) for record in records} == {(NOW_MS, ID.key, "put")}
    samples = sent(records)
    assert [sample.double for sample in samples] == [
        *[STALE_NAN] * ended,
        *map(value_bytes, content.values),
        *[sample.double for sample in gauges(group)],
    ]
    assert [dict(sample.labels).get("n") for sample in samples[:-2]] == [
        *map(str, range(ended)),
        *map(str, range(pushed)),
    ]
    if len(samples) <= ROW_SAMPLES:
        assert len(records) == 1
    back = reloaded(group)
    assert [part.values for part in back.parts] == [content.values]


def test_parts_that_are_stored_are_not_written_again() -> None:
    """A push of the same form, a refused one and a reload write a group's values and times, not its series."""
    group = store(UNKNOWN, plain(1, "a"), NOW_MS, replace_all=False).group
    again = make_content(group.parts[0].shape, [7.5])
    for change in (
        store(group, again, NOW_MS, replace_all=False),
        store(group, again, NOW_MS, replace_all=True),
        refuse(group, NOW_MS),
    ):
        row, whole = encode_group(change.group, group), encode_group(change.group, None)
        assert (row.parts, replace(row, parts=whole.parts)) == (None, whole)
    back = reloaded(group)
    assert encode_group(refuse(back, NOW_MS).group, back).parts is None


@pytest.mark.parametrize("timed", [False, True], ids=["untimed", "timed"])
def test_parts_that_differ_from_what_is_stored_are_written(timed: bool) -> None:
    """Other series, more or fewer parts and timestamps of their own make all parts written."""
    one, two = plain(1, "a"), plain(1, "b")
    if timed:
        one = make_content(one.shape, one.values, (7,))
    group = store(UNKNOWN, one, NOW_MS, replace_all=True).group
    both = store(group, two, NOW_MS, replace_all=False).group
    stamped = replace(group, parts=(make_content(one.shape, one.values, (8,)),))
    for before, after in (
        (None, group),
        (group, both),
        (both, group),
        (group, stamped),
        (group, delete(group, 0).group),
    ):
        row = encode_group(after, before)
        assert row.parts is not None
        assert list(map(same_content, decode_group(row, ID).parts, after.parts)) == [True] * len(after.parts)


def test_a_part_that_lost_a_family_is_stored_anew() -> None:
    """A part of which POST replaced a family gets a row of what stayed."""
    a, b = plain(1, "a"), plain(1, "b")
    shapes = [FamilyShape("a", "gauge", "", 0, 1), FamilyShape("b", "gauge", "", 1, 2)]
    both = make_content(make_shape(shapes, [*a.shape.heads, *b.shape.heads]), (1.0, 2.0), (None, 7))
    group = store(UNKNOWN, both, NOW_MS, replace_all=False).group
    group = store(group, plain(1, "a", 3.0), NOW_MS, replace_all=False).group
    first, second = reloaded(group).parts
    assert (first.shape.heads, first.values, first.timestamps) == (b.shape.heads, (2.0,), (7,))
    assert (second.shape.heads, second.values, second.timestamps) == (a.shape.heads, (3.0,), None)


def test_a_refused_push_sends_the_gauges_alone() -> None:
    """The failure's time goes out at once, beside the last success."""
    group = refuse(store(UNKNOWN, plain(1), 5000, replace_all=True).group, 7000).group
    records = encode_change(refuse(group, 9000))
    assert sent(records) == [
        Sent(PUSH_TIME, struct.pack("<d", 5.0), 9000),
        Sent(PUSH_FAILURE_TIME, struct.pack("<d", 9.0), 9000),
    ]


def test_a_deleted_group_is_stored_without_parts() -> None:
    """DELETE sends nothing but markers, the gauges' among them, and leaves only the newest time."""
    group = store(UNKNOWN, plain(2), NOW_MS, replace_all=True).group
    change = delete(group, NOW_MS)
    assert [(sample.labels, sample.double) for sample in sent(encode_change(change))] == [
        *((labels_of(head), STALE_NAN) for head in group.parts[0].shape.heads),
        (PUSH_TIME, STALE_NAN),
        (PUSH_FAILURE_TIME, STALE_NAN),
    ]
    row = encode_group(change.group, group)
    assert (row.last_ms, row.push_ms, row.failure_ms, row.live) == (NOW_MS + 1, 0, 0, False)
    assert (row.parts, row.doubles) == ((), b"")


def test_ending_an_unknown_group_sends_nothing() -> None:
    """DELETE of a group that holds nothing gives no row."""
    assert encode_change(delete(UNKNOWN, NOW_MS)) == []


STORED = encode_group(store(UNKNOWN, TIMED, NOW_MS, replace_all=True).group, None)
(PART,) = STORED.parts or ()
SERIES = snappy_block.decompress(PART.heads, 1 << 20)


def with_part(families: bytes, heads: bytes, doubles: bytes = STORED.doubles) -> GroupRow:
    """The stored group with another part, whose checksum says nothing against it."""
    return replace(STORED, doubles=doubles, parts=(PartRow(families, heads),))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(with_part(b"", PART.heads), id="no families"),
        pytest.param(with_part(b"[", PART.heads), id="broken JSON"),
        pytest.param(with_part(b"[]", PART.heads), id="too few families"),
        pytest.param(with_part(b"\xff", PART.heads), id="broken UTF-8"),
        pytest.param(with_part(PART.families, b""), id="no series"),
        pytest.param(with_part(PART.families, PART.heads[:-1]), id="series cut short"),
        pytest.param(with_part(PART.families, snappy_block.compress(b"\x12\x00")), id="another field"),
        pytest.param(with_part(PART.families, snappy_block.compress(b"")), id="too few series"),
        pytest.param(with_part(PART.families, PART.heads, b""), id="no values"),
        pytest.param(with_part(PART.families, PART.heads, STORED.doubles[:-8]), id="too few values"),
        pytest.param(with_part(PART.families, PART.heads, STORED.doubles + bytes(8)), id="too many values"),
        pytest.param(with_part(PART.families, PART.heads, STORED.doubles[:-1]), id="value cut short"),
        pytest.param(replace(STORED, parts=()), id="values without a part"),
        pytest.param(replace(STORED, parts=(PART, PART)), id="a part too many"),
        pytest.param(replace(STORED, damaged=True), id="wrong checksum"),
    ],
)
def test_a_damaged_group_is_refused(row: GroupRow) -> None:
    """What cannot be a stored group gives ValueError, so that one group costs the others nothing."""
    with pytest.raises(ValueError, match=r".+"):
        decode_group(row, ID)


@pytest.mark.parametrize(
    ("families", "series"),
    [
        pytest.param(b'[["x","gauge","",1]]', b"\x0a\x00", id="series without a sample"),
        pytest.param(b'[["x","gauge","",1]]', b"\x0a\x02\x12\x00", id="sample without a value"),
        pytest.param(b'[["x","gauge","",1]]', SERIES[:9], id="series cut short"),
        pytest.param(b"1", b"", id="families are a number"),
        pytest.param(b"[1]", b"", id="a family is a number"),
        pytest.param(b"[]\n1", b"", id="explicit timestamps are a number"),
        pytest.param(b'[["x","gauge","",4]]\n[7]', SERIES, id="too few explicit timestamps"),
    ],
)
def test_damage_that_looks_like_a_part_is_refused(families: bytes, series: bytes) -> None:
    """Valid JSON and valid snappy of another content give ValueError as any other damage."""
    doubles = STORED.doubles[: 8 * (series == SERIES)]
    with pytest.raises(ValueError, match=r".+"):
        decode_group(with_part(families, snappy_block.compress(series), doubles), ID)


@settings(deadline=None)
@given(mutations(PART.families), mutations(SERIES), mutations(STORED.doubles))
@example(PART.families, b"\x0a\x00", STORED.doubles)
def test_any_damage_gives_content_or_value_error(families: bytes, series: bytes, doubles: bytes) -> None:
    """Whatever the disk made of a group, reading it gives contents of one value per series, or ValueError."""
    try:
        group = decode_group(with_part(families, snappy_block.compress(series), doubles), ID)
    except ValueError:
        return
    assert b"".join(part.doubles for part in group.parts) == doubles
    assert all(len(part.values) == len(part.shape.heads) for part in group.parts)
