"""Heads: everything of an encoded one-sample TimeSeries that its series repeats in each push.

    0A <len> | 0A <len> label ... | 12 10 09 | <8 bytes value> | 10 <6 bytes timestamp>
    ------------- head ---------------------   ---------- changes with each push ---------

A head is `series_prefix` for the seven-byte timestamp field that every time from 1971 to 2109 has;
so it is also a series' identity. Pure; no knowledge of groups or families.
"""

import struct
from collections.abc import Sequence

from bridge.model import Labels
from bridge.wire.remote_write import DOUBLE_BYTES, encode_point, series_prefix, timestamp_field
from bridge.wire.varint import read_uvarint

HEAD_TIMES_MS = range(1 << 35, 1 << 42)
"""Timestamps in ms that fit behind a head."""
_HEAD_END_BYTES = 3
_LABEL_TAG, _SAMPLE_TAG = 0x0A, 0x12
_BEHIND_HEAD_BYTES = DOUBLE_BYTES + 7


def make_head(label_fields: bytes) -> bytes:
    """Head of the series with these encoded Label fields (`label_bytes`)."""
    return series_prefix(label_fields)


def label_fields_of(head: bytes) -> bytes:
    """Encoded Label fields inside a head."""
    _, start = read_uvarint(head, 1)
    return head[start:-_HEAD_END_BYTES]


def labels_of(head: bytes) -> Labels:
    """Label pairs of a head, `__name__` among them, in wire order."""
    return tuple((name.decode(), value.decode()) for name, value in encoded_labels_of(head))


def encoded_labels_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Label pairs of a head as they are on the wire; raises ValueError when there is more than labels."""
    data = label_fields_of(head)
    labels: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data):
        size, start = read_uvarint(data, position + 1)
        end = start + size
        size, start_name = read_uvarint(data, start + 1)
        end_name = start_name + size
        size, start_value = read_uvarint(data, end_name + 1)
        if data[position] != _LABEL_TAG or start_value + size != end or end > len(data):
            raise ValueError(f"head byte {position}: got no label")
        labels.append((data[start_name:end_name], data[start_value:end]))
        position = end
    return labels


def encode_sample(head: bytes, value: bytes, timestamp_ms: int) -> bytes:
    """One timeseries field for any timestamp; `value` is the eight bytes of the double."""
    if timestamp_ms in HEAD_TIMES_MS:
        return head + value + timestamp_field(timestamp_ms)
    return encode_point(label_fields_of(head), value, timestamp_ms)


def encode_samples(heads: Sequence[bytes], doubles: Sequence[bytes], timestamp_ms: int) -> bytes:
    """Timeseries fields of series that share a timestamp, one after the other."""
    if timestamp_ms not in HEAD_TIMES_MS:
        return b"".join(
            [encode_sample(head, double, timestamp_ms) for head, double in zip(heads, doubles, strict=True)]
        )
    fields = [timestamp_field(timestamp_ms)] * (3 * len(heads))
    fields[::3], fields[1::3] = heads, doubles
    return b"".join(fields)


def split_heads(data: bytes) -> list[bytes]:
    """Cut joined heads; raises ValueError or IndexError for what are none."""
    heads: list[bytes] = []
    position = 0
    while position < len(data):
        size, start = read_uvarint(data, position + 1)
        end = start + size - _BEHIND_HEAD_BYTES
        if data[position] != _LABEL_TAG or not start + _HEAD_END_BYTES <= end <= len(data):
            raise ValueError(f"heads byte {position}: got no series of {size} bytes, {len(data) - start} are left")
        heads.append(data[position:end])
        position = end
    return heads


def cut_field(field: bytes) -> tuple[bytes, bytes]:
    """Label fields of any timeseries field, and what comes behind them; ValueError or IndexError for what is none."""
    _, start = read_uvarint(field, 1)
    position = start
    while field[position] == _LABEL_TAG:
        size, after = read_uvarint(field, position + 1)
        position = after + size
    return field[start:position], field[position:]


def is_sample(field: bytes) -> bool:
    """Tell whether a timeseries field holds a sample; IndexError for what is no field."""
    return cut_field(field)[1][0] == _SAMPLE_TAG


def decode_sample(field: bytes) -> tuple[bytes, float, int]:
    """Head, value and timestamp in ms of a field that `encode_sample` made."""
    labels, sample = cut_field(field)
    _, after = read_uvarint(sample, 1)
    (value,) = struct.unpack_from("<d", sample, after + 1)
    stamp, _ = read_uvarint(sample, after + 2 + DOUBLE_BYTES)
    return make_head(labels), value, stamp - (1 << 64) if stamp >> 63 else stamp
