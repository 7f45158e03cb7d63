import math
import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.wire import remote_write as rw
from tests.made import encode_series

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
LABELS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=6).map(lambda labels: list(labels.items()))
TIMESTAMPS = st.integers(-(2**63), 2**63 - 1)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(LABELS, st.floats(allow_nan=False), TIMESTAMPS)
def test_encode_then_decode(labels: list[tuple[str, str]], value: float, timestamp_ms: int) -> None:
    """Protobuf reads back the same labels, sorted and without empty values, the same value and time."""
    request = pb.WriteRequest.FromString(encode_series(labels, value, timestamp_ms))
    (series,) = request.timeseries
    expected = sorted(((name, text) for name, text in labels if text), key=lambda pair: pair[0].encode())
    assert [(label.name, label.value) for label in series.labels] == expected
    (sample,) = series.samples
    assert bits(sample.value) == bits(value)
    assert sample.timestamp == timestamp_ms


@given(st.lists(st.tuples(LABELS, st.floats(), st.integers(0, 2**43)), max_size=5))
def test_split_and_join(rows: list[tuple[list[tuple[str, str]], float, int]]) -> None:
    """A body is cut into exactly the series that it was joined from."""
    series = [encode_series(*row) for row in rows]
    assert rw.split_series(b"".join(series)) == series


@given(LABELS, st.floats(), st.integers(2**35, 2**42 - 1))
def test_prefix_is_reusable(labels: list[tuple[str, str]], value: float, timestamp_ms: int) -> None:
    """A cached prefix with a value and a present-day time behind it is the series."""
    prefix = rw.series_prefix(rw.label_bytes(labels))
    assert prefix + rw.value_bytes(value) + rw.timestamp_field(timestamp_ms) == encode_series(
        labels, value, timestamp_ms
    )


def test_labels_sort_by_bytes() -> None:
    """Order is that of bytes: capitals, underscore, small letters, then the rest of Unicode."""
    labels = [("é", "1"), ("a", "1"), ("_b", "1"), ("B", "1"), ("\U0001f600", "1"), ("\uffff", "1")]
    (series,) = pb.WriteRequest.FromString(encode_series(labels, 0, 0)).timeseries
    assert [label.name for label in series.labels] == ["B", "_b", "a", "é", "\uffff", "\U0001f600"]


def test_pushed_nan_has_the_ordinary_bits() -> None:
    """Any NaN that is pushed, even one with the stale marker's bits, is written as 0x7ff8000000000001."""
    stale: float = struct.unpack("<d", rw.STALE_NAN)[0]
    for value in (math.nan, -math.nan, stale):
        assert rw.value_bytes(value) == rw.NORMAL_NAN
        (series,) = pb.WriteRequest.FromString(encode_series([("a", "b")], value, 1)).timeseries
        assert bits(series.samples[0].value) == bytes.fromhex("010000000000f87f")


def test_stale_marker_keeps_its_bits() -> None:
    """A staleness marker arrives with bits 0x7ff0000000000002."""
    body = rw.encode_point(rw.label_bytes([("a", "b")]), rw.STALE_NAN, 1_700_000_000_000)
    (series,) = pb.WriteRequest.FromString(body).timeseries
    assert bits(series.samples[0].value) == bytes.fromhex("020000000000f07f")


def test_zero_is_written() -> None:
    """Value 0 at time 0 is still a sample with both fields, so sizes never depend on the value."""
    assert encode_series([], 0.0, 0).endswith(b"\x12\x0b\x09" + bytes(8) + b"\x10\x00")


def test_split_refuses_every_cut() -> None:
    """A body cut inside its series is a ValueError, and so is one with another field."""
    body = encode_series([("a", "b")], 1.5, 1_700_000_000_000)
    for end in range(1, len(body)):
        with pytest.raises(ValueError, match="byte"):
            rw.split_series(body[:end])
    with pytest.raises(ValueError, match=f"body byte {len(body)}: got tag 0x1a"):
        rw.split_series(body + b"\x1a\x00")


@given(st.binary(max_size=100))
def test_split_of_any_bytes(data: bytes) -> None:
    """Any bytes are split without loss or refused with ValueError."""
    try:
        series = rw.split_series(data)
    except ValueError:
        return
    assert b"".join(series) == data


MANY = st.lists(st.floats() | st.sampled_from([0.0, -0.0, math.inf, -math.inf, 1.7e308, 5e-324]), max_size=20)


@given(MANY)
@example([1.7e308, 1.7e308])
@example([math.inf, -math.inf])
@example([math.nan, 1.0])
@example([struct.unpack("<d", rw.STALE_NAN)[0]])
@example([1.0] * 300)
def test_many_values_are_packed_as_each_one(values: list[float]) -> None:
    """Packing together gives the bytes of each value, the ordinary NaN's for any NaN, though their sum overflows."""
    doubles = rw.pack_doubles(values)
    assert doubles == b"".join(map(rw.value_bytes, values))
    assert rw.cut_doubles(doubles) == tuple(map(rw.value_bytes, values))
    assert list(map(rw.value_bytes, rw.unpack_doubles(doubles))) == list(map(rw.value_bytes, values))
    assert rw.pack_doubles(rw.unpack_doubles(doubles)) == doubles


@pytest.mark.parametrize("unread", [rw.cut_doubles, rw.unpack_doubles])
@pytest.mark.parametrize("size", [1, 7, 9, 15])
def test_bytes_that_are_no_doubles_are_refused(unread: Callable[[bytes], object], size: int) -> None:
    """Bytes that are not a number of whole values are an error, never a value less."""
    with pytest.raises(struct.error):
        unread(bytes(size))
