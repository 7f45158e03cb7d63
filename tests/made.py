"""Series and contents made of numbers: what tests need to have, and no push brings in this form."""

from collections.abc import Callable, Sequence

from bridge.content import Content, Shape
from bridge.delivery.repeats import Turn
from bridge.wire.remote_write import encode_point, label_bytes, pack_doubles, value_bytes


def encode_series(labels: Sequence[tuple[str, str]], value: float, timestamp_ms: int) -> bytes:
    """One WriteRequest.timeseries field with one sample, milliseconds since the epoch."""
    return encode_point(label_bytes(labels), value_bytes(value), timestamp_ms)


def make_content(shape: Shape, values: Sequence[float], timestamps: tuple[int | None, ...] | None = None) -> Content:
    """A content whose values are these."""
    return Content(shape, pack_doubles(values), timestamps)


def turn(cursor: int, *, drained: bool) -> Callable[[str, int], Turn]:
    """What a target says of its repeats that has the journal up to a row, or all of it."""
    return lambda _tenant, seq: "now" if drained or cursor >= seq else "later"
