import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.model import NativeHistogram
from bridge.wire.histogram import (
    CUSTOM_SCHEMA,
    STALE_CUSTOM,
    STALE_HISTOGRAM,
    all_plain,
    cut_messages,
    encode_histogram,
    histogram_field,
    is_custom,
    join_messages,
    stale_like,
)
from bridge.wire.remote_write import DOUBLE_BYTES, STALE_NAN, label_bytes, value_bytes
from tests.strategies import INT64, native_histograms

STALE = struct.pack("<d", struct.unpack("<d", STALE_NAN)[0])


@given(native_histograms(), INT64)
def test_a_receiver_reads_the_histogram(histogram: NativeHistogram, at_ms: int) -> None:
    """Protobuf reads every field of any histogram, what is 0 as set, and the time."""
    field = histogram_field(label_bytes([("__name__", "x")]), encode_histogram(histogram), at_ms)
    (series,) = pb.WriteRequest.FromString(field).timeseries
    (read,) = series.histograms
    assert (series.labels[0].value, len(series.samples)) == ("x", 0)
    assert (read.WhichOneof("count"), read.WhichOneof("zero_count")) == (
        ("count_float", "zero_count_float") if histogram.is_float else ("count_int", "zero_count_int")
    )
    count = read.count_float if histogram.is_float else read.count_int
    zero_count = read.zero_count_float if histogram.is_float else read.zero_count_int
    assert (count, zero_count, read.schema) == (histogram.count, histogram.zero_count, histogram.schema)
    assert struct.pack("<d", read.sum) == value_bytes(histogram.sum)
    assert (read.zero_threshold, tuple(read.custom_values)) == (histogram.zero_threshold, histogram.custom_values)
    for spans, wanted in (
        (read.negative_spans, histogram.negative_spans),
        (read.positive_spans, histogram.positive_spans),
    ):
        assert [(span.offset, span.length) for span in spans] == [(span.offset, span.length) for span in wanted]
    assert (tuple(read.negative_deltas), tuple(read.negative_counts)) == (
        histogram.negative_deltas,
        histogram.negative_counts,
    )
    assert (tuple(read.positive_deltas), tuple(read.positive_counts)) == (
        histogram.positive_deltas,
        histogram.positive_counts,
    )
    assert read.reset_hint == (pb.Histogram.GAUGE if histogram.is_gauge else pb.Histogram.UNKNOWN)
    assert read.timestamp == at_ms


@given(native_histograms())
def test_a_message_is_told_from_a_double(histogram: NativeHistogram) -> None:
    """No message is as short as a double, so the length says what a value is."""
    message = encode_histogram(histogram)
    assert len(message) > DOUBLE_BYTES
    assert not all_plain([STALE_NAN, message])
    assert all_plain([STALE_NAN, STALE_NAN])


@given(native_histograms())
def test_what_ends_a_series_goes_where_the_series_went(histogram: NativeHistogram) -> None:
    """The marker has the stale NaN in its sum and custom buckets if and only if the series had."""
    marker = stale_like(encode_histogram(histogram))
    assert struct.pack("<d", pb.Histogram.FromString(marker).sum) == STALE
    assert is_custom(marker) == (histogram.schema == CUSTOM_SCHEMA)
    assert marker in (STALE_HISTOGRAM, STALE_CUSTOM)


@given(st.lists(st.none() | native_histograms().map(encode_histogram)))
def test_messages_come_back_from_one_piece(messages: list[bytes | None]) -> None:
    """Joined messages are cut at the same places, gaps included."""
    assert cut_messages(join_messages(messages)) == messages


@pytest.mark.parametrize("data", [b"\x05abc", b"\xff"])
def test_a_damaged_piece_is_refused(data: bytes) -> None:
    """What breaks off is no list of messages."""
    with pytest.raises(ValueError, match=r"message of|varint"):
        cut_messages(data)
