"""Timeseries fields of anything that a series may have at a time: a double or a native histogram, and exemplars.

Owns how a field is put together and taken apart again. Its length tells what a value is (`bridge.wire.histogram`).
Pure.

    0A <len> labels  12 <len> sample | 22 <len> histogram  [1A <len> exemplar]...
                     ----------- point ------------------
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bridge.model import Exemplar
from bridge.wire.head import cut_field, encode_sample, encode_samples, label_fields_of
from bridge.wire.histogram import all_plain, histogram_field
from bridge.wire.remote_write import DOUBLE_BYTES, exemplar_field, label_bytes, timeseries_field, value_bytes
from bridge.wire.varint import read_uvarint

_SAMPLE_TAG, _HISTOGRAM_TAG, _EXEMPLAR_TAG = 0x12, 0x22, 0x1A


class Field(NamedTuple):
    """The parts of a timeseries field with one point."""

    labels: bytes
    point: bytes
    """The sample or histogram field."""
    message: bytes | None
    """Of a histogram, with its time; None for a sample."""
    exemplars: bytes

    def without_exemplars(self) -> bytes:
        """Return the timeseries field again, less these."""
        return timeseries_field(self.labels + self.point)


def encode_field(head: bytes, value: bytes, timestamp_ms: int, exemplars: Iterable[Exemplar] = ()) -> bytes:
    """Return one timeseries field; exemplars without a time get that of the value."""
    if len(value) == DOUBLE_BYTES:
        field = encode_sample(head, value, timestamp_ms)
    else:
        field = histogram_field(label_fields_of(head), value, timestamp_ms)
    more = b"".join([_encode_exemplar(exemplar, timestamp_ms) for exemplar in exemplars])
    return timeseries_field(b"".join(cut_field(field)) + more) if more else field


def encode_fields(heads: Sequence[bytes], values: Sequence[bytes], timestamp_ms: int) -> bytes:
    """Return the fields of series that share a timestamp, one after the other."""
    if all_plain(values):
        return encode_samples(heads, values, timestamp_ms)
    return b"".join([encode_field(head, value, timestamp_ms) for head, value in zip(heads, values, strict=True)])


def _encode_exemplar(exemplar: Exemplar, default_ms: int) -> bytes:
    stamp_ms = default_ms if exemplar.timestamp_ms is None else exemplar.timestamp_ms
    return exemplar_field(label_bytes(exemplar.labels), value_bytes(exemplar.value), stamp_ms)


def split_field(field: bytes) -> Field:
    """Take apart what `encode_field` made, in whatever order; raises ValueError or IndexError for anything else."""
    labels, behind = cut_field(field)
    point, exemplars, message = b"", b"", None
    position = 0
    while position < len(behind):
        size, start = read_uvarint(behind, position + 1)
        tag, end = behind[position], start + size
        piece = behind[position:end]
        if end > len(behind) or tag not in (_SAMPLE_TAG, _HISTOGRAM_TAG, _EXEMPLAR_TAG):
            raise ValueError(f"series byte {len(labels) + position}: got tag 0x{tag:02x} of {size} bytes")
        if tag == _EXEMPLAR_TAG:
            exemplars += piece
        else:
            point, message = piece, behind[start:end] if tag == _HISTOGRAM_TAG else None
        position = end
    return Field(labels, point, message, exemplars)
