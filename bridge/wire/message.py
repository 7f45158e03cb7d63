"""Protobuf messages cut into fields, as far as remote_write needs it, and the messages of a series of 1.0.

For what is not of the everyday form, which `bridge.wire.head` describes. Pure, and without generated code, so that
what is not looked at stays as it came.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from bridge.wire.varint import read_uvarint, uvarint

SERIES: Final = 0x0A
LABEL, SAMPLE, EXEMPLAR, HISTOGRAM = 0x0A, 0x12, 0x1A, 0x22
"""Tags of a series' fields in 1.0."""
VALUE, SAMPLE_TIMESTAMP, HISTOGRAM_TIMESTAMP = 0x09, 0x10, 0x78
_NUMBERS: Final = tuple(map(uvarint, range(4096)))


class Field(NamedTuple):
    """Where a field is in its message."""

    tag: int
    start: int
    """Where its content begins."""
    stop: int
    tag_at: int


class Series(NamedTuple):
    """A series of 1.0, cut up; each item is a message without tag and length."""

    labels: list[bytes]
    samples: list[bytes]
    exemplars: list[bytes]
    histograms: list[bytes]


def fields(message: bytes) -> Iterator[Field]:
    """Walk over a message; ValueError for what is none."""
    position, end = 0, len(message)
    while position < end:
        tag_at = position
        tag, position = read_uvarint(message, position)
        start = position
        match tag & 7:
            case 0:
                _, position = read_uvarint(message, position)
            case 1:
                position += 8
            case 2:
                size, start = read_uvarint(message, position)
                position = start + size
            case 5:
                position += 4
            case kind:
                raise ValueError(f"message byte {tag_at}: got wire type {kind}, want 0, 1, 2 or 5")
        if position > end:
            raise ValueError(f"message byte {tag_at}: a field ends {position - end} bytes behind its message")
        yield Field(tag, start, position, tag_at)


def cut_series(message: bytes) -> Series:
    """Cut up a TimeSeries of 1.0; ValueError for what is none."""
    series = Series([], [], [], [])
    lists = {LABEL: series.labels, SAMPLE: series.samples, EXEMPLAR: series.exemplars, HISTOGRAM: series.histograms}
    for part in fields(message):
        if part.tag not in lists:
            raise ValueError(
                f"series byte {part.tag_at}: got tag 0x{part.tag:x}, want one of {sorted(map(hex, lists))}"
            )
        lists[part.tag].append(message[part.start : part.stop])
    return series


def cut_label(label: bytes) -> tuple[bytes, bytes]:
    """Name and value of a Label of 1.0."""
    parts = {part.tag: label[part.start : part.stop] for part in fields(label)}
    return parts.get(0x0A, b""), parts.get(0x12, b"")


def timestamp_ms(message: bytes, tag: int) -> int:
    """The timestamp of a sample or histogram, whose tag it is."""
    for part in fields(message):
        if part.tag == tag:
            stamp, _ = read_uvarint(message, part.start)
            return stamp - (1 << 64) if stamp >> 63 else stamp
    return 0


def sample_value(sample: bytes) -> float:
    """The value of a Sample."""
    for part in fields(sample):
        if part.tag == VALUE:
            value: float = struct.unpack("<d", sample[part.start : part.stop])[0]
            return value
    return 0.0


def number(value: int) -> bytes:
    """`uvarint`, at once for small numbers."""
    return _NUMBERS[value] if value < len(_NUMBERS) else uvarint(value)


def field(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field."""
    return tag + number(len(content)) + content
