"""Native histograms of client_model: reading one, and the checks that Prometheus makes when it takes one.

A push that every receiver would refuse is refused here, so that it cannot spoil a batch of others, and so is what newer
Prometheus take and older ones answer with 500 for ever: float buckets that hold more than the count. Framing, labels
and classic buckets are `protobuf`'s. Pure.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from bridge._pb import client_model_pb2 as pb
from bridge.exposition.floats import format_go_float
from bridge.model import Exemplar, Labels, NativeHistogram, Span
from bridge.wire.histogram import CUSTOM_SCHEMA

_EXPONENTIAL: Final = range(-4, 9)
_ROUNDING: Final = 1e-9
"""Sums of many floats are off by less than this part."""


class Fault(Exception):  # noqa: N818 - never leaves the protobuf parser
    """What is wrong with a message, before it is known which one."""


def is_native(histogram: pb.Histogram) -> bool:
    """Tell native from classic as Prometheus does: an empty native histogram has a span or a threshold."""
    return bool(
        histogram.positive_span
        or histogram.negative_span
        or histogram.zero_threshold != 0
        or histogram.zero_count
        or histogram.zero_count_float
    )


def read_native(
    name: str,
    labels: Labels,
    timestamp_ms: int | None,
    histogram: pb.Histogram,
    *,
    is_gauge: bool = False,
    exemplars: tuple[Exemplar, ...] = (),
) -> NativeHistogram:
    """Read one histogram of which `is_native` is true; raises Fault.

    Custom buckets have their bounds from the classic buckets beside them: client_model has no other place for them.
    """
    is_float = bool(
        histogram.sample_count_float > 0
        or histogram.zero_count_float > 0
        or histogram.positive_count
        or histogram.negative_count
    )
    found = NativeHistogram(
        name=name,
        labels=labels,
        timestamp_ms=timestamp_ms,
        count=read_count(histogram.sample_count_float, histogram.sample_count, "count"),
        sum=histogram.sample_sum,
        schema=histogram.schema,
        zero_threshold=histogram.zero_threshold,
        zero_count=read_count(histogram.zero_count_float, histogram.zero_count, "zero bucket population"),
        negative_spans=_read_spans(histogram.negative_span),
        negative_deltas=() if is_float else tuple(histogram.negative_delta),
        negative_counts=tuple(histogram.negative_count) if is_float else (),
        positive_spans=_read_spans(histogram.positive_span),
        positive_deltas=() if is_float else tuple(histogram.positive_delta),
        positive_counts=tuple(histogram.positive_count) if is_float else (),
        is_float=is_float,
        is_gauge=is_gauge,
        custom_values=_read_bounds(histogram) if histogram.schema == CUSTOM_SCHEMA else (),
        exemplars=exemplars,
    )
    _check_schema(found)
    populations = [
        _check_buckets("positive", found.positive_spans, found.positive_counts or [*accumulate(found.positive_deltas)]),
        _check_buckets("negative", found.negative_spans, found.negative_counts or [*accumulate(found.negative_deltas)]),
    ]
    _check_count(found, sum(map(sum, populations)) + found.zero_count)
    return found


def read_count(as_float: float, as_integer: int, what: str) -> float:
    """Take the float form when it is set to something, as Prometheus does; raises Fault for a negative one."""
    if as_float == 0:
        return as_integer
    if not as_float > 0:
        raise Fault(f"negative {what} for histogram, got {format_go_float(as_float)}")
    return as_float


def _read_spans(spans: Iterable[pb.BucketSpan]) -> tuple[Span, ...]:
    return tuple(Span(span.offset, span.length) for span in spans)


def _read_bounds(histogram: pb.Histogram) -> tuple[float, ...]:
    if not histogram.bucket:
        raise Fault(
            f"custom buckets (schema {CUSTOM_SCHEMA}) without bounds; want the classic buckets that have them in the "
            "same histogram"
        )
    bounds = tuple(bucket.upper_bound for bucket in histogram.bucket)
    if bounds[-1] == math.inf:
        bounds = bounds[:-1]
    if not all(map(math.isfinite, bounds)) or any(one >= other for one, other in pairwise(bounds)):
        raise Fault(f"bounds of custom buckets are {', '.join(map(format_go_float, bounds))}; want rising, finite ones")
    return bounds


def _check_schema(histogram: NativeHistogram) -> None:
    if histogram.schema == CUSTOM_SCHEMA:
        if histogram.zero_count or histogram.zero_threshold or histogram.negative_spans:
            raise Fault("custom buckets with a zero bucket or negative buckets; want positive ones only")
        last = sum(span.offset + span.length for span in histogram.positive_spans)
        first = histogram.positive_spans[0].offset if histogram.positive_spans else 0
        most = len(histogram.custom_values) + 1
        if first < 0 or last > most:
            raise Fault(f"custom buckets {first} to {last - 1}, but the bounds make {most}, numbered from 0")
    elif histogram.schema not in _EXPONENTIAL:
        want = f"{_EXPONENTIAL.start} to {_EXPONENTIAL.stop - 1}, or {CUSTOM_SCHEMA}"
        raise Fault(f"native histogram schema {histogram.schema} is unknown, want {want}")
    elif not 0 <= histogram.zero_threshold < math.inf:
        raise Fault(f"zero threshold is {format_go_float(histogram.zero_threshold)}, want a finite one of 0 or more")


def _check_buckets(sign: str, spans: Sequence[Span], populations: Sequence[float]) -> Sequence[float]:
    for number, span in enumerate(spans):
        if number and span.offset < 0:
            raise Fault(f"{sign} span {number + 1} has the negative offset {span.offset}")
    wanted = sum(span.length for span in spans)
    if len(populations) != wanted:
        raise Fault(f"{sign} spans need {wanted} buckets, got {len(populations)}")
    if any(not value >= 0 for value in populations):
        raise Fault(f"negative bucket population for histogram among the {sign} buckets")
    return populations


def _check_count(histogram: NativeHistogram, total: float) -> None:
    """Observations of NaN are counted and are in no bucket; they make the sum NaN."""
    if histogram.is_float:
        fits = total <= histogram.count * (1 + _ROUNDING)
    elif math.isnan(histogram.sum):
        fits = total <= histogram.count
    else:
        fits = total == histogram.count
    if not fits:
        got = f"{format_go_float(histogram.count)} observations, its buckets hold {format_go_float(total)}"
        raise Fault(f"the histogram's count says {got}; want the same number")
