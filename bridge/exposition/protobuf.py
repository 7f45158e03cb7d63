"""Delimited protobuf: a run of length-prefixed io.prometheus.client.MetricFamily messages to families.

Owns the wire framing, the flattening of summaries and histograms to samples, and the checks that Go's
decoder makes. Grouping labels, bucket label spelling options and storing do not belong here.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from bridge._pb import client_model_pb2 as pb
from bridge.errors import BadPushError
from bridge.exposition.floats import format_go_float
from bridge.exposition.native import Fault, is_native, read_count, read_native
from bridge.model import Exemplar, Family, Labels, MetricType, NativeHistogram, Sample

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MAX_VARINT_BYTES: Final = 10
_LONGEST_EXEMPLAR: Final = 128
_VALUE_FIELDS: Final = ("gauge", "counter", "summary", "untyped", "histogram")


def parse_delimited(body: bytes, *, utf8_names: bool) -> tuple[Family, ...]:
    """Parse varint length-delimited MetricFamily messages; of a repeated family name the later one wins.

    Summaries and classic histograms become samples as in Go's text encoder: `le` and `quantile` in Go's
    shortest float form, a `+Inf` bucket added when missing. Histograms with native buckets become
    `NativeHistogram`, and samples too if they carry classic buckets as well. Names follow the legacy
    rules unless `utf8_names`. Created timestamps are not kept. Raises `BadPushError`
    (reason `parse`) naming the 1-based message. Source: protocol reference 5.3 and 5.10.
    """
    families: dict[str, Family] = {}
    for number, payload in enumerate(_split_messages(body), start=1):
        message = pb.MetricFamily()
        try:
            message.ParseFromString(payload)
        except DecodeError as error:
            raise _parse_error(number, None, f"not a valid MetricFamily: {error}") from error
        try:
            family = _read_family(message, utf8_names=utf8_names)
        except Fault as fault:
            raise _parse_error(number, message.name, str(fault)) from fault
        families.pop(family.name, None)
        families[family.name] = family
    return tuple(families.values())


def _split_messages(body: bytes) -> Iterator[bytes]:
    position = 0
    number = 0
    while position < len(body):
        number += 1
        length = 0
        for index in range(_MAX_VARINT_BYTES):
            if position == len(body):
                raise _parse_error(number, None, "the body ends inside the message's length")
            byte = body[position]
            position += 1
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004 - the varint continuation bit
                break
        else:
            raise _parse_error(number, None, f"the length takes more than {_MAX_VARINT_BYTES} bytes")
        left = len(body) - position
        if length > left:
            raise _parse_error(number, None, f"the length says {length} bytes, but {left} are left in the body")
        yield body[position : position + length]
        position += length


def _read_family(message: pb.MetricFamily, *, utf8_names: bool) -> Family:
    name = _text(message.name, "metric name")
    if not (name if utf8_names else _METRIC_NAME.fullmatch(name)):
        raise Fault(f"invalid metric name {_quote(name)}")
    metric_type, field, flatten = _TYPES[message.type]
    samples: list[Sample] = []
    histograms: list[NativeHistogram] = []
    for number, metric in enumerate(message.metric, start=1):
        try:
            present = [each for each in _VALUE_FIELDS if metric.HasField(each)]
            if present != [field]:
                got = " and ".join(present) or "no value"
                raise Fault(f"the family's type is {metric_type}, got {got}, want {field}")  # noqa: TRY301
            labels = _read_labels(metric, metric_type, utf8_names=utf8_names)
            timestamp_ms = metric.timestamp_ms if metric.HasField("timestamp_ms") else None
            native = field == "histogram" and is_native(metric.histogram)
            if native:
                exemplars = _in_time_order(map(_read_exemplar, filter(_has_time, metric.histogram.exemplars)))
                is_gauge = message.type == pb.GAUGE_HISTOGRAM
                histograms.append(
                    read_native(name, labels, timestamp_ms, metric.histogram, is_gauge=is_gauge, exemplars=exemplars)
                )
            if not native or metric.histogram.bucket:
                samples.extend(
                    Sample(
                        name + suffix, labels + extra, value, timestamp_ms, exemplars=tuple(map(_read_exemplar, some))
                    )
                    for suffix, extra, value, some in flatten(metric)
                )
        except Fault as fault:
            raise Fault(f"metric {number}: {fault}") from fault
    return Family(
        name=name,
        type=metric_type,
        help=_text(message.help, "help"),
        samples=tuple(samples),
        histograms=tuple(histograms),
        unit=_text(message.unit, "unit"),
    )


def _read_labels(metric: pb.Metric, metric_type: MetricType, *, utf8_names: bool) -> Labels:
    labels: dict[str, str] = {}
    reserved = {"__name__", _BUCKET_LABELS.get(metric_type)}
    for pair in metric.label:
        name = _text(pair.name, "label name")
        if not (name if utf8_names else _LABEL_NAME.fullmatch(name)):
            raise Fault(f"invalid label name {_quote(name)}")
        if name in reserved:
            raise Fault(f"label name {_quote(name)} is reserved in a {metric_type}")
        if name in labels:
            raise Fault(f"duplicate label name {_quote(name)}")
        labels[name] = _text(pair.value, f"value of label {_quote(name)}")
    return tuple(labels.items())


def _has_time(exemplar: pb.Exemplar) -> bool:
    """Exemplars of native histograms count only with a time of their own, for Prometheus as well."""
    return exemplar.HasField("timestamp")


def _in_time_order(exemplars: Iterable[Exemplar]) -> tuple[Exemplar, ...]:
    """Clients write them by value; receivers refuse one that is older than the one before."""
    return tuple(sorted(exemplars, key=lambda one: (one.timestamp_ms, one.value)))


def _read_exemplar(exemplar: pb.Exemplar) -> Exemplar:
    labels: dict[str, str] = {}
    for pair in exemplar.label:
        name = _text(pair.name, "label name of an exemplar")
        if not name or name in labels:
            raise Fault(f"exemplar has the label {_quote(name)}" + (" twice" if name else ""))
        labels[name] = _text(pair.value, f"value of label {_quote(name)} of an exemplar")
    length = sum(len(name) + len(value) for name, value in labels.items())
    if length > _LONGEST_EXEMPLAR:
        raise Fault(f"exemplar labels have {length} characters, want at most {_LONGEST_EXEMPLAR}")
    at = exemplar.timestamp
    stamp_ms = at.seconds * 1000 + at.nanos // 1_000_000 if _has_time(exemplar) else None
    return Exemplar(tuple(labels.items()), exemplar.value, stamp_ms)


_Row = tuple[str, Labels, float, Sequence[pb.Exemplar]]
"""Name suffix, extra label, value, exemplars."""


def _flatten_counter(metric: pb.Metric) -> Iterable[_Row]:
    counter = metric.counter
    return [("", (), counter.value, [counter.exemplar] if counter.HasField("exemplar") else [])]


def _flatten_gauge(metric: pb.Metric) -> Iterable[_Row]:
    return [("", (), metric.gauge.value, ())]


def _flatten_untyped(metric: pb.Metric) -> Iterable[_Row]:
    return [("", (), metric.untyped.value, ())]


def _flatten_summary(metric: pb.Metric) -> Iterable[_Row]:
    summary = metric.summary
    for each in summary.quantile:
        yield "", (("quantile", format_go_float(each.quantile)),), each.value, ()
    yield "_sum", (), summary.sample_sum, ()
    yield "_count", (), float(summary.sample_count), ()


def _flatten_histogram(metric: pb.Metric) -> Iterable[_Row]:
    histogram = metric.histogram
    count = float(read_count(histogram.sample_count_float, histogram.sample_count, "count"))
    seen_infinity = False
    for bucket in histogram.bucket:
        seen_infinity = seen_infinity or bucket.upper_bound == math.inf
        value = float(read_count(bucket.cumulative_count_float, bucket.cumulative_count, "bucket population"))
        exemplars = [bucket.exemplar] if bucket.HasField("exemplar") else []
        yield "_bucket", (("le", format_go_float(bucket.upper_bound)),), value, exemplars
    if not seen_infinity:
        yield "_bucket", (("le", "+Inf"),), count, ()
    yield "_sum", (), histogram.sample_sum, ()
    yield "_count", (), count, ()


def _text(value: str | bytes, what: str) -> str:
    """Give a string field; protobuf hands over bytes where a proto2 string is not valid UTF-8."""
    if isinstance(value, bytes):
        raise Fault(f"invalid {what}: {value!r} is not valid UTF-8")
    return value


def _quote(text: str) -> str:
    return f'"{text}"'


def _parse_error(number: int, family: str | bytes | None, fault: str) -> BadPushError:
    name = family.decode(errors="replace") if isinstance(family, bytes) else family
    where = f"message {number}" if name is None else f"message {number} (family {_quote(name)})"
    return BadPushError("parse", f"protobuf parsing error in {where}: {fault}")


_BUCKET_LABELS: Final[dict[MetricType, str]] = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}

_TYPES: Final[dict[pb.MetricType, tuple[MetricType, str, Callable[[pb.Metric], Iterable[_Row]]]]] = {
    pb.COUNTER: ("counter", "counter", _flatten_counter),
    pb.GAUGE: ("gauge", "gauge", _flatten_gauge),
    pb.SUMMARY: ("summary", "summary", _flatten_summary),
    pb.UNTYPED: ("untyped", "untyped", _flatten_untyped),
    pb.HISTOGRAM: ("histogram", "histogram", _flatten_histogram),
    pb.GAUGE_HISTOGRAM: ("gaugehistogram", "histogram", _flatten_histogram),
}
