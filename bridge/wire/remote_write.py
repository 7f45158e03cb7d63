"""Remote write 1.0 as bytes: one `WriteRequest.timeseries` field per sample, written by hand.

A WriteRequest is nothing but such fields one after the other, so encoded series can be stored, joined
and split without decoding them. Everything here is pure. No compression and no HTTP here, and no
generated code: a series costs a few byte joins, which is what keeps pushes cheap.

    0a <len> [0a <len> 0a <len> name 12 <len> value]... 12 <len> 09 <8 bytes> 10 <varint>
    field    label, repeated                            sample  value        timestamp
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isfinite

from bridge.wire.varint import read_uvarint, uvarint

STALE_NAN = struct.pack("<Q", 0x7FF0000000000002)
"""The value that ends a series (remote_write 1.0, "Stale Markers"). Bytes, so no float operation can alter it."""

NORMAL_NAN = struct.pack("<Q", 0x7FF8000000000001)
"""The value of any NaN that somebody pushed."""

DOUBLE_BYTES = 8
_FIELD_1 = b"\x0a"
_FIELD_2 = b"\x12"
_VALUE_TAG = b"\x09"
_EXEMPLAR_TAGS = b"\x1a", b"\x11", b"\x18"
_TIMESTAMP_TAG = b"\x10"
_VALUE_BYTES = 9
_UINT64 = 2**64 - 1
_pack_double = struct.Struct("<d").pack


def value_bytes(value: float) -> bytes:
    """Return the 8 bytes of a pushed value; every NaN gets the ordinary NaN's bits, never the stale marker's."""
    if value != value:  # noqa: PLR0124 - the NaN test that costs no call
        return NORMAL_NAN
    return _pack_double(value)


def pack_doubles(values: Sequence[float]) -> bytes:
    """Return `value_bytes` of all values, joined."""
    if not isfinite(sum(values)):
        return b"".join(map(value_bytes, values))
    return _doubles(len(values)).pack(*values)


def unpack_doubles(doubles: bytes) -> tuple[float, ...]:
    """Return the values of `pack_doubles`."""
    return _doubles(len(doubles) // DOUBLE_BYTES).unpack(doubles)


def cut_doubles(doubles: bytes) -> tuple[bytes, ...]:
    """Return the bytes of each value of `pack_doubles`."""
    return _pieces(len(doubles) // DOUBLE_BYTES).unpack(doubles)


@lru_cache(256)
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")


@lru_cache(256)
def _pieces(count: int) -> struct.Struct:
    return struct.Struct("8s" * count)


@lru_cache(256)
def timestamp_field(timestamp_ms: int) -> bytes:
    """Return the Sample's timestamp field, tag included: 7 bytes for times from 1971 to 2109."""
    return _TIMESTAMP_TAG + uvarint(timestamp_ms & _UINT64)


def label_bytes(labels: Sequence[tuple[str, str]]) -> bytes:
    """Encode labels as TimeSeries.labels fields, sorted bytewise by name, without those of empty value.

    The metric name comes as `__name__` like any other; names must not repeat, which the caller checks.
    Raises UnicodeEncodeError (a ValueError) for text that is not Unicode scalar values.
    """
    return encode_labels((name.encode(), value.encode()) for name, value in labels if value)


def encode_labels(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode labels whose names and values are UTF-8 already, sorted bytewise by name; no value may be empty."""
    return b"".join(
        [_field(_FIELD_1, _field(_FIELD_1, name) + _field(_FIELD_2, value)) for name, value in sorted(pairs)]
    )


def series_prefix(label_fields: bytes, timestamp_field_bytes: int = 7) -> bytes:
    """Return everything that comes before the 8 value bytes of a series.

    The series is then `series_prefix(l) + value_bytes(v) + timestamp_field(t)`. The prefix holds the
    lengths, so it is good for every timestamp whose field has `timestamp_field_bytes` bytes.
    """
    sample_size = _VALUE_BYTES + timestamp_field_bytes
    sample_head = _FIELD_2 + uvarint(sample_size) + _VALUE_TAG
    # The value's tag is in the head already, so it must not count twice.
    size = len(label_fields) + len(sample_head) - len(_VALUE_TAG) + sample_size
    return _FIELD_1 + uvarint(size) + label_fields + sample_head


def encode_point(label_fields: bytes, value: bytes, timestamp_ms: int) -> bytes:
    """Encode one series from `label_bytes` output and 8 value bytes (`value_bytes` or `STALE_NAN`)."""
    timestamp = timestamp_field(timestamp_ms)
    return series_prefix(label_fields, len(timestamp)) + value + timestamp


def timeseries_field(content: bytes) -> bytes:
    """Encode a WriteRequest.timeseries field with this content."""
    return _field(_FIELD_1, content)


def exemplar_field(label_fields: bytes, value: bytes, timestamp_ms: int) -> bytes:
    """Encode one TimeSeries.exemplars field; labels and value come as for `encode_point`."""
    tag, value_tag, timestamp_tag = _EXEMPLAR_TAGS
    return _field(tag, label_fields + value_tag + value + timestamp_tag + uvarint(timestamp_ms & _UINT64))


def split_series(data: bytes) -> list[bytes]:
    """Cut an uncompressed body into its timeseries fields, in order; joined they are `data` again.

    Raises ValueError, naming the offset, for any other field and for a field that is cut short.
    """
    fields: list[bytes] = []
    position = 0
    while position < len(data):
        if data[position] != _FIELD_1[0]:
            tag = data[position : position + 1].hex()
            raise ValueError(f"body byte {position}: got tag 0x{tag}, want 0x{_FIELD_1.hex()} (timeseries)")
        size, start = read_uvarint(data, position + 1)
        end = start + size
        if end > len(data):
            raise ValueError(f"body byte {position}: series of {size} bytes, but only {len(data) - start} are left")
        fields.append(data[position:end])
        position = end
    return fields


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + uvarint(len(content)) + content
