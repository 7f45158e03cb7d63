"""Delimited protobuf: a run of length-prefixed io.prometheus.client.MetricFamily messages to families.

Owns the wire framing, the flattening of summaries and histograms to samples, and the checks that Go's
decoder makes. Grouping labels, bucket label spelling options and storing do not belong here.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from google.protobuf.message import DecodeError

from bridge._pb import client_model_pb2 as pb
from bridge.errors import BadPushError
from bridge.exposition.floats import format_go_float
from bridge.model import Family, Labels, MetricType, NativeHistogram, Sample, Span

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MAX_VARINT_BYTES: Final = 10
_NATIVE_SCHEMAS: Final = frozenset(range(-4, 9))
_VALUE_FIELDS: Final = ("gauge", "counter", "summary", "untyped", "histogram")


class _Fault(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with a message, before it is known which one."""


def parse_delimited(body: bytes, *, utf8_names: bool) -> tuple[Family, ...]:
    """Parse varint length-delimited MetricFamily messages; of a repeated family name the later one wins.

    Summaries and classic histograms become samples as in Go's text encoder: `le` and `quantile` in Go's
    shortest float form, a `+Inf` bucket added when missing. Histograms with native buckets become
    `NativeHistogram`, and samples too if they carry classic buckets as well. Names follow the legacy
    rules unless `utf8_names`. Exemplars and created timestamps are not kept. Raises `BadPushError`
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
        except _Fault as fault:
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
        raise _Fault(f"invalid metric name {_quote(name)}")
    metric_type, field, flatten = _TYPES[message.type]
    samples: list[Sample] = []
    histograms: list[NativeHistogram] = []
    for number, metric in enumerate(message.metric, start=1):
        try:
            present = [each for each in _VALUE_FIELDS if metric.HasField(each)]
            if present != [field]:
                got = " and ".join(present) or "no value"
                raise _Fault(f"the family's type is {metric_type}, got {got}, want {field}")  # noqa: TRY301
            labels = _read_labels(metric, metric_type, utf8_names=utf8_names)
            timestamp_ms = metric.timestamp_ms if metric.HasField("timestamp_ms") else None
            native = field == "histogram" and _is_native(metric.histogram)
            if native:
                histograms.append(_read_native(name, labels, timestamp_ms, metric.histogram))
            if not native or metric.histogram.bucket:
                samples.extend(
                    Sample(name + suffix, labels + extra, value, timestamp_ms)
                    for suffix, extra, value in flatten(metric)
                )
        except _Fault as fault:
            raise _Fault(f"metric {number}: {fault}") from fault
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
            raise _Fault(f"invalid label name {_quote(name)}")
        if name in reserved:
            raise _Fault(f"label name {_quote(name)} is reserved in a {metric_type}")
        if name in labels:
            raise _Fault(f"duplicate label name {_quote(name)}")
        labels[name] = _text(pair.value, f"value of label {_quote(name)}")
    return tuple(labels.items())


_Row = tuple[str, Labels, float]
"""Name suffix, extra label, value."""


def _flatten_counter(metric: pb.Metric) -> Iterable[_Row]:
    return [("", (), metric.counter.value)]


def _flatten_gauge(metric: pb.Metric) -> Iterable[_Row]:
    return [("", (), metric.gauge.value)]


def _flatten_untyped(metric: pb.Metric) -> Iterable[_Row]:
    return [("", (), metric.untyped.value)]


def _flatten_summary(metric: pb.Metric) -> Iterable[_Row]:
    summary = metric.summary
    for each in summary.quantile:
        yield "", (("quantile", format_go_float(each.quantile)),), each.value
    yield "_sum", (), summary.sample_sum
    yield "_count", (), float(summary.sample_count)


def _flatten_histogram(metric: pb.Metric) -> Iterable[_Row]:
    histogram = metric.histogram
    count = _count(histogram.sample_count_float, histogram.sample_count, "count")
    seen_infinity = False
    for bucket in histogram.bucket:
        seen_infinity = seen_infinity or bucket.upper_bound == math.inf
        value = _count(bucket.cumulative_count_float, bucket.cumulative_count, "bucket population")
        yield "_bucket", (("le", format_go_float(bucket.upper_bound)),), value
    if not seen_infinity:
        yield "_bucket", (("le", "+Inf"),), count
    yield "_sum", (), histogram.sample_sum
    yield "_count", (), count


def _is_native(histogram: pb.Histogram) -> bool:
    """Tell native from classic as Prometheus does: an empty native histogram has a span or a threshold."""
    return bool(
        histogram.positive_span or histogram.negative_span or histogram.zero_threshold > 0 or _zero_count(histogram) > 0
    )


def _read_native(name: str, labels: Labels, timestamp_ms: int | None, histogram: pb.Histogram) -> NativeHistogram:
    if histogram.schema not in _NATIVE_SCHEMAS:
        raise _Fault(f"native histogram schema {histogram.schema} is unknown, want -4 to 8")
    is_float = (
        histogram.sample_count_float > 0
        or histogram.zero_count_float > 0
        or bool(histogram.positive_count)
        or bool(histogram.negative_count)
    )
    for sign, spans, deltas, counts in (
        ("positive", histogram.positive_span, histogram.positive_delta, histogram.positive_count),
        ("negative", histogram.negative_span, histogram.negative_delta, histogram.negative_count),
    ):
        _check_buckets(sign, spans, counts if is_float else list(accumulate(deltas)))
    return NativeHistogram(
        name=name,
        labels=labels,
        timestamp_ms=timestamp_ms,
        count=_count(histogram.sample_count_float, histogram.sample_count, "count"),
        sum=histogram.sample_sum,
        schema=histogram.schema,
        zero_threshold=histogram.zero_threshold,
        zero_count=_zero_count(histogram),
        negative_spans=_read_spans(histogram.negative_span),
        negative_deltas=() if is_float else tuple(histogram.negative_delta),
        negative_counts=tuple(histogram.negative_count) if is_float else (),
        positive_spans=_read_spans(histogram.positive_span),
        positive_deltas=() if is_float else tuple(histogram.positive_delta),
        positive_counts=tuple(histogram.positive_count) if is_float else (),
        is_float=is_float,
    )


def _check_buckets(sign: str, spans: Iterable[pb.BucketSpan], populations: Iterable[float]) -> None:
    """Refuse what every receiver refuses with 400, so that one push cannot spoil a batch of others."""
    wanted = 0
    for number, span in enumerate(spans):
        wanted += span.length
        if number and span.offset < 0:
            raise _Fault(f"{sign} span {number + 1} has the negative offset {span.offset}")
    values = list(populations)
    if len(values) != wanted:
        raise _Fault(f"{sign} spans need {wanted} buckets, got {len(values)}")
    if any(not value >= 0 for value in values):
        raise _Fault(f"negative bucket population for histogram among the {sign} buckets")


def _read_spans(spans: Iterable[pb.BucketSpan]) -> tuple[Span, ...]:
    return tuple(Span(span.offset, span.length) for span in spans)


def _zero_count(histogram: pb.Histogram) -> float:
    return _count(histogram.zero_count_float, histogram.zero_count, "zero bucket population")


def _count(as_float: float, as_integer: int, what: str) -> float:
    """Take the float form when it is set to something, as Prometheus does."""
    if as_float == 0:
        return float(as_integer)
    if not as_float > 0:
        raise _Fault(f"negative {what} for histogram, got {format_go_float(as_float)}")
    return as_float


def _text(value: str | bytes, what: str) -> str:
    """Give a string field; protobuf hands over bytes where a proto2 string is not valid UTF-8."""
    if isinstance(value, bytes):
        raise _Fault(f"invalid {what}: {value!r} is not valid UTF-8")
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
