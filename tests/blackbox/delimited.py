"""Hand-made delimited protobuf bodies (io.prometheus.client.MetricFamily), also ones no library would write.

Only the encoding lives here, apart from the product's generated code on purpose; which bodies are sent where is
the business of the request table.
"""

import struct

COUNTER, GAUGE, SUMMARY, UNTYPED, HISTOGRAM = range(5)
_VARINT, _FIXED64, _BYTES = 0, 1, 2


def varint(number: int) -> bytes:
    """Encode a non-negative integer, base 128, low group first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def integer(field: int, number: int) -> bytes:
    """Encode a varint field."""
    return varint(field << 3 | _VARINT) + varint(number)


def double(field: int, number: float) -> bytes:
    """Encode a double field."""
    return varint(field << 3 | _FIXED64) + struct.pack("<d", number)


def block(field: int, content: bytes | str) -> bytes:
    """Encode a string, bytes or message field."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | _BYTES) + varint(len(raw)) + raw


def metric(value: bytes, timestamp_ms: int | None = None, **labels: str) -> bytes:
    """Encode a Metric whose value field is already encoded in `value`."""
    pairs = b"".join(block(1, block(1, name) + block(2, text)) for name, text in labels.items())
    return pairs + value + (b"" if timestamp_ms is None else integer(6, timestamp_ms))


def family(name: str, kind: int, *metrics: bytes, help_text: str | None = None) -> bytes:
    """Encode one MetricFamily with its length in front."""
    head = block(1, name) + (b"" if help_text is None else block(2, help_text))
    body = head + integer(3, kind) + b"".join(block(4, one) for one in metrics)
    return varint(len(body)) + body


def counter(number: float) -> bytes:
    """Encode the value field of a counter."""
    return block(3, double(1, number))


def gauge(number: float) -> bytes:
    """Encode the value field of a gauge."""
    return block(2, double(1, number))


def untyped(number: float) -> bytes:
    """Encode the value field of an untyped metric."""
    return block(5, double(1, number))


def summary(count: int, total: float, *quantiles: tuple[float, float]) -> bytes:
    """Encode the value field of a summary."""
    points = b"".join(block(3, double(1, at) + double(2, number)) for at, number in quantiles)
    return block(4, integer(1, count) + double(2, total) + points)


def signed(field: int, *numbers: int) -> bytes:
    """Encode sint fields."""
    return b"".join(integer(field, number << 1 if number >= 0 else ~(number << 1)) for number in numbers)


def native(count: int, total: float, offset: int, *deltas: int, schema: int = 3) -> bytes:
    """Encode the fields of a native histogram that has one span of positive buckets."""
    span = block(12, signed(1, offset) + integer(2, len(deltas)))
    return integer(1, count) + double(2, total) + signed(5, schema) + span + signed(13, *deltas)


def native_float(count: float, total: float, offset: int, *counts: float, schema: int = 0) -> bytes:
    """Encode the fields of a native histogram with float counts."""
    span = block(12, signed(1, offset) + integer(2, len(counts)))
    return double(4, count) + double(2, total) + signed(5, schema) + span + b"".join(double(14, one) for one in counts)


def classic(*buckets: tuple[float, int]) -> bytes:
    """Encode classic buckets, to stand beside native ones: upper bound and cumulative count."""
    return b"".join(block(3, integer(1, number) + double(2, bound)) for bound, number in buckets)


def exemplar(field: int, value: float, seconds: int | None = None, **labels: str) -> bytes:
    """Encode an exemplar, in whole seconds when it has a time."""
    pairs = b"".join(block(1, block(1, name) + block(2, text)) for name, text in labels.items())
    return block(field, pairs + double(2, value) + (b"" if seconds is None else block(3, integer(1, seconds))))


def histogram(count: int, total: float, *buckets: tuple[float, int]) -> bytes:
    """Encode the value field of a classic histogram; buckets are upper bound and cumulative count."""
    points = b"".join(block(3, integer(1, number) + double(2, bound)) for bound, number in buckets)
    return block(7, integer(1, count) + double(2, total) + points)
