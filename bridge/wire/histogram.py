"""Native histograms of remote_write 1.0 as bytes: messages without a time, and the timeseries fields made of them.

A message stands where the eight bytes of a double stand for a plain sample, and is always longer. It ends with its sum;
the time comes behind it when it is sent. Pure.

    0A <len> labels  22 <len> | count, schema, buckets  19 <8 bytes sum> | 78 <varint timestamp>
                              | ---------- message --------------------- |
"""

from collections.abc import Iterable, Sequence

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.model import NativeHistogram, Span
from bridge.wire.remote_write import DOUBLE_BYTES, STALE_NAN, timeseries_field, value_bytes
from bridge.wire.varint import read_uvarint, uvarint

CUSTOM_SCHEMA = -53
"""Buckets whose bounds are given one by one; receivers of remote_write 1.0 do not know them."""
_SUM_TAG, _HISTOGRAM_TAG, _TIMESTAMP_TAG = b"\x19", b"\x22", b"\x78"
_UINT64 = 2**64 - 1


def encode_histogram(histogram: NativeHistogram) -> bytes:
    """Return the message of a histogram that was checked, without its time."""
    message = pb.Histogram(
        schema=histogram.schema,
        zero_threshold=histogram.zero_threshold,
        negative_spans=_spans(histogram.negative_spans),
        positive_spans=_spans(histogram.positive_spans),
        custom_values=histogram.custom_values,
    )
    # Named, for what is 0 has to be told from what is not set.
    if histogram.is_float:
        message.count_float, message.zero_count_float = histogram.count, histogram.zero_count
        message.negative_counts.extend(histogram.negative_counts)
        message.positive_counts.extend(histogram.positive_counts)
    else:
        message.count_int, message.zero_count_int = int(histogram.count), int(histogram.zero_count)
        message.negative_deltas.extend(histogram.negative_deltas)
        message.positive_deltas.extend(histogram.positive_deltas)
    if histogram.is_gauge:
        message.reset_hint = pb.Histogram.GAUGE
    return _with_sum(message, value_bytes(histogram.sum))


def _spans(spans: Iterable[Span]) -> list[pb.BucketSpan]:
    return [pb.BucketSpan(offset=span.offset, length=span.length) for span in spans]


def _with_sum(message: pb.Histogram, double: bytes) -> bytes:
    # By hand: the runtime leaves out a sum of 0, and a marker's bits must not go through a float.
    return message.SerializeToString() + _SUM_TAG + double


STALE_HISTOGRAM = _with_sum(pb.Histogram(count_int=0), STALE_NAN)
"""Ends a series of native histograms (remote_write 1.0, "Stale Markers")."""
STALE_CUSTOM = _with_sum(pb.Histogram(count_int=0, schema=CUSTOM_SCHEMA), STALE_NAN)
"""Ends one with custom buckets; it goes where those go."""


def stale_like(message: bytes) -> bytes:
    """Return the marker that ends a series with this message."""
    return STALE_CUSTOM if is_custom(message) else STALE_HISTOGRAM


def is_custom(message: bytes) -> bool:
    """Tell whether a message has custom buckets."""
    return decode_histogram(message).schema == CUSTOM_SCHEMA


def decode_histogram(message: bytes) -> pb.Histogram:
    """Read a message, with or without its time; raises google.protobuf.message.DecodeError."""
    return pb.Histogram.FromString(message)


def histogram_field(label_fields: bytes, message: bytes, timestamp_ms: int) -> bytes:
    """Return one timeseries field with a histogram; labels come as `label_bytes` gives them."""
    timed = message + _TIMESTAMP_TAG + uvarint(timestamp_ms & _UINT64)
    return timeseries_field(label_fields + _HISTOGRAM_TAG + uvarint(len(timed)) + timed)


def all_plain(values: Sequence[bytes]) -> bool:
    """Tell whether all of these are doubles; messages are longer."""
    return sum(map(len, values)) == DOUBLE_BYTES * len(values)


def join_messages(messages: Iterable[bytes | None]) -> bytes:
    """Put messages into one piece, None among them."""
    return b"".join([uvarint(len(message or b"")) + (message or b"") for message in messages])


def cut_messages(data: bytes) -> list[bytes | None]:
    """Undo `join_messages`; raises ValueError for what it did not make."""
    messages: list[bytes | None] = []
    position = 0
    while position < len(data):
        size, start = read_uvarint(data, position)
        position = start + size
        if position > len(data):
            raise ValueError(f"message of {size} bytes, but only {len(data) - start} are left")
        messages.append(data[start:position] or None)
    return messages
