import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.model import Labels
from bridge.wire.head import (
    decode_sample,
    encode_sample,
    encode_samples,
    label_fields_of,
    labels_of,
    make_head,
    split_heads,
)
from bridge.wire.remote_write import STALE_NAN, label_bytes, value_bytes
from tests.made import encode_series
from tests.strategies import INT64, VALUES, WORDS, labels, mutations

NAMED = (("__name__", "x"), ("job", "a"))


def by_bytes(pair: tuple[str, str]) -> bytes:
    return pair[0].encode()


@given(labels())
def test_labels_come_back_from_a_head(pairs: Labels) -> None:
    """A head gives its labels back in wire order, without those of empty value."""
    head = make_head(label_bytes(pairs))
    assert labels_of(head) == tuple(sorted((pair for pair in pairs if pair[1]), key=by_bytes))


@pytest.mark.parametrize("size", [0, 1, 90, 100, 127, 128, 200, 16_000, 17_000], ids=str)
def test_labels_of_any_length_come_back(size: int) -> None:
    """Lengths that need more bytes, of the label, of the value or of the whole, do not shift what is read."""
    pairs = (("a", "v" * size), ("n" * max(size, 1), "b")) if size else ()
    head = make_head(label_bytes(pairs))
    assert sorted(labels_of(head)) == sorted(pairs)
    assert decode_sample(encode_sample(head, value_bytes(1.5), 7)) == (head, 1.5, 7)


@given(labels(), labels())
@example((("a", ""),), ())
@example((("a", "b"), ("c", "d")), (("c", "d"), ("a", "b")))
@example((("ab", "c"),), (("a", "bc"),))
def test_a_head_is_the_identity_of_a_series(one: Labels, other: Labels) -> None:
    """Two heads are equal exactly when their non-empty labels are, in whatever order these came."""
    same = {pair for pair in one if pair[1]} == {pair for pair in other if pair[1]}
    assert (make_head(label_bytes(one)) == make_head(label_bytes(other))) is same


@given(labels())
def test_label_fields_come_back_from_a_head(pairs: Labels) -> None:
    """The encoded labels inside a head are those that it was made of."""
    fields = label_bytes(pairs)
    assert label_fields_of(make_head(fields)) == fields


@given(labels(), VALUES, INT64)
@example(NAMED, 1.0, 2**35 - 1)
@example(NAMED, 1.0, 2**35)
@example(NAMED, 1.0, 2**42 - 1)
@example(NAMED, 1.0, 2**42)
@example(NAMED, 1.0, 0)
@example(NAMED, 1.0, -1)
@example(NAMED, 1.0, -(2**63))
@example(NAMED, 1.0, 2**63 - 1)
def test_a_sample_comes_back(pairs: Labels, value: float, timestamp_ms: int) -> None:
    """Head, value bits and timestamp survive for any time, also for those that do not fit behind a head."""
    head, double = make_head(label_bytes(pairs)), value_bytes(value)
    back, back_value, back_ms = decode_sample(encode_sample(head, double, timestamp_ms))
    assert (back, back_ms) == (head, timestamp_ms)
    assert value_bytes(back_value) == double


@given(labels(), VALUES, INT64)
@example(NAMED, 1.0, 2**35 - 1)
@example(NAMED, 1.0, 2**35)
@example(NAMED, 1.0, 2**42 - 1)
@example(NAMED, 1.0, 2**42)
def test_a_sample_behind_a_head_is_the_ordinary_encoding(pairs: Labels, value: float, timestamp_ms: int) -> None:
    """A head is an optimisation: the bytes are those of the series encoded from scratch."""
    head = make_head(label_bytes(pairs))
    assert encode_sample(head, value_bytes(value), timestamp_ms) == encode_series(pairs, value, timestamp_ms)


@given(labels(values=WORDS, min_size=1), INT64)
def test_a_marker_keeps_its_bits(pairs: Labels, timestamp_ms: int) -> None:
    """A staleness marker put behind a head reaches a protobuf reader with its own bits and time."""
    body = encode_sample(make_head(label_bytes(pairs)), STALE_NAN, timestamp_ms)
    (series,) = pb.WriteRequest.FromString(body).timeseries
    assert [(struct.pack("<d", s.value), s.timestamp) for s in series.samples] == [(STALE_NAN, timestamp_ms)]


SERIES = st.lists(st.tuples(labels(), VALUES), max_size=6)
HEADS = b"".join(make_head(label_bytes([("__name__", "x"), ("l", "v" * size)])) for size in (1, 100, 200, 20_000))


@given(SERIES, INT64)
@example([(NAMED, 1.0), (NAMED, 2.0)], 2**35 - 1)
@example([(NAMED, 1.0), (NAMED, 2.0)], 2**35)
@example([(NAMED, 1.0), (NAMED, 2.0)], 2**42 - 1)
@example([(NAMED, 1.0), (NAMED, 2.0)], 2**42)
def test_samples_that_share_a_time_are_encoded_one_by_one(
    series: list[tuple[Labels, float]], timestamp_ms: int
) -> None:
    """Encoding many at once gives the bytes of each, one after the other, whatever their time."""
    heads = [make_head(label_bytes(pairs)) for pairs, _ in series]
    doubles = [value_bytes(value) for _, value in series]
    together = encode_samples(heads, doubles, timestamp_ms)
    assert together == b"".join(map(encode_sample, heads, doubles, [timestamp_ms] * len(heads)))


@given(st.lists(labels(), max_size=6))
@example([(), NAMED, (("l", "v" * 200),), (("l", "v" * 20_000),)])
def test_joined_heads_are_cut_apart_again(series: list[Labels]) -> None:
    """Stored heads stand one behind the other, and come back in order, whatever their labels and lengths."""
    heads = [make_head(label_bytes(pairs)) for pairs in series]
    assert split_heads(b"".join(heads)) == heads


@given(st.binary(max_size=60) | mutations(HEADS[:400]))
def test_cutting_any_bytes_gives_heads_or_an_error(data: bytes) -> None:
    """Whatever the disk made of heads, they are cut without loss or refused."""
    try:
        heads = split_heads(data)
    except (ValueError, IndexError):
        return
    assert b"".join(heads) == data
    assert all(head[:1] == b"\x0a" for head in heads)


def test_heads_that_are_cut_short_are_refused() -> None:
    """Every length that does not end with a head is an error."""
    ends = {0}
    for head in split_heads(HEADS):
        ends.add(max(ends) + len(head))
    for end in range(len(HEADS)):
        if end not in ends:
            with pytest.raises((ValueError, IndexError)):
                split_heads(HEADS[:end])
