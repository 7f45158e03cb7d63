"""The samples inside a journal row, as people read them, and which of them a selector chooses. Pure.

Rows are stretches of remote_write fields. Those that matter are looked into, all others are cut out as they are.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import isinf, isnan
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from bridge._pb.remote_write_v1_pb2 import TimeSeries
from bridge.model import Labels
from bridge.moments import time_text
from bridge.selector import NAME, Selector
from bridge.wire import snappy_block
from bridge.wire.head import labels_of, make_head
from bridge.wire.remote_write import STALE_NAN, split_series
from bridge.wire.varint import read_uvarint

STALE = "stale"
"""What stands for the value of a staleness marker."""
INFINITE = float("inf")
_MOST_BYTES = 1 << 30
_MOST_KNOWN = 1 << 16
_BEHIND_HEAD_BYTES = 15
_HEAD_END = b"\x12\x10\x09"
_TIME_TAG = b"\x10"
_LABEL_TAG = 0x0A
_pack = struct.Struct("<d").pack
_unpack = struct.Struct("<d").unpack


class Point(NamedTuple):
    """One sample."""

    labels: Labels
    """`__name__` among them."""
    at_ms: int
    value: float
    """A NaN for a marker and for a native histogram."""
    stale: bool = False
    histogram: str = ""
    """A native histogram, as JSON."""

    @property
    def value_text(self) -> str:
        """The value as text formats spell it."""
        return STALE if self.stale else float_text(self.value)


@dataclass(slots=True)
class Choice:
    """The series that a selector chooses, all without one; each series is decided once."""

    selector: Selector | None = None
    _known: dict[bytes, bool] = field(default_factory=dict)

    def takes(self, label_fields: bytes) -> bool:
        """Tell whether the series with these encoded labels is chosen."""
        if self.selector is None:
            return True
        known = self._known.get(label_fields)
        if known is None:
            labels = dict(_labels(label_fields))
            known = all(matcher.accepts(labels.get(matcher.label, "")) for matcher in self.selector.matchers)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[label_fields] = known
        return known


def document(point: Point) -> dict[str, Any]:
    """Give a sample as JSON has it: what JSON has no number for is text, as is the value of a marker."""
    told: dict[str, Any] = {"time": time_text(point.at_ms), "labels": dict(point.labels)}
    if point.histogram:
        return told | {"histogram": json.loads(point.histogram), "stale": point.stale}
    number = point.value if abs(point.value) < INFINITE else point.value_text
    return told | {"value": number}


def points(body: bytes, choice: Choice) -> Iterator[Point]:
    """Give the chosen samples of a row in order; ValueError when the row is damaged."""
    for series in split_series(snappy_block.decompress(body, _MOST_BYTES)):
        label_fields = _fields_of_head(series[:-_BEHIND_HEAD_BYTES]) if series[-7:-6] == _TIME_TAG else None
        if label_fields is None:
            yield from _any_points(series, choice)
        elif choice.takes(label_fields):
            value = series[-_BEHIND_HEAD_BYTES:-7]
            yield Point(_labels(label_fields), _time(series[-6:]), _unpack(value)[0], value == STALE_NAN)


def _any_points(series: bytes, choice: Choice) -> Iterator[Point]:
    label_fields, rest = _cut(series)
    if not choice.takes(label_fields):
        return
    content = _parse(rest)
    labels = _labels(label_fields)
    for sample in content.samples:
        yield Point(labels, sample.timestamp, sample.value, _pack(sample.value) == STALE_NAN)
    for histogram in content.histograms:
        text = json.dumps(MessageToDict(histogram, preserving_proto_field_name=True), separators=(",", ":"))
        yield Point(labels, histogram.timestamp, float("nan"), _pack(histogram.sum) == STALE_NAN, text)


@lru_cache(_MOST_KNOWN)
def _fields_of_head(head: bytes) -> bytes | None:
    """Label fields of an everyday head (`bridge.wire.head`), None for anything else.

    It holds the length of the whole series, so what it says of one it says of all.
    """
    try:
        label_fields, rest = _cut(head)
        size, start = read_uvarint(head, 1)
    except ValueError:
        return None
    return label_fields if rest == _HEAD_END and start + size == len(head) + _BEHIND_HEAD_BYTES else None


@lru_cache(1 << 10)
def _time(varint: bytes) -> int:
    return read_uvarint(varint, 0)[0]


def only(body: bytes, choice: Choice) -> tuple[bytes, int]:
    """Leave the chosen series in a row, and count them; ValueError when the row is damaged."""
    chosen = [
        series for series in split_series(snappy_block.decompress(body, _MOST_BYTES)) if choice.takes(_cut(series)[0])
    ]
    return snappy_block.compress(b"".join(chosen)), len(chosen)


def float_text(value: float) -> str:
    """Spell a value as the text formats do."""
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def series_text(labels: Labels) -> str:
    """Spell a series: `name{label="value"}`."""
    pairs = dict(labels)
    name = pairs.pop(NAME, "")
    inside = ",".join(f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in pairs.items())
    return f"{name}{{{inside}}}" if inside or not name else name


def _cut(series: bytes) -> tuple[bytes, bytes]:
    """Part the label fields of a series, which stand first, from all others."""
    try:
        _, start = read_uvarint(series, 1)
        end = start
        while end < len(series) and series[end] == _LABEL_TAG:
            size, after = read_uvarint(series, end + 1)
            end = after + size
    except IndexError as error:
        raise ValueError(f"a series breaks off: {error}") from error
    return series[start:end], series[end:]


def _parse(fields: bytes) -> TimeSeries:
    try:
        return TimeSeries.FromString(fields)
    except Exception as error:
        raise ValueError(f"a series cannot be read: {error}") from error


@lru_cache(_MOST_KNOWN)
def _labels(label_fields: bytes) -> Labels:
    try:
        return labels_of(make_head(label_fields))
    except IndexError as error:
        raise ValueError(f"a label breaks off: {error}") from error
