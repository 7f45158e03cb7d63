"""How a native histogram is shown to readers that do not know the format: as samples of text 0.0.4, and as JSON.

Both as Pushgateway does it. The input is the message that is sent. Pure.
"""

import math
from collections.abc import Iterable, Iterator

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.exposition.floats import format_go_float
from bridge.model import Labels
from bridge.wire.histogram import CUSTOM_SCHEMA, decode_histogram

Row = tuple[str, Labels, float]
"""Sample name, labels, value."""
_UPPER_INCLUSIVE, _LOWER_INCLUSIVE, _BOTH_INCLUSIVE = 0, 1, 3
"""The first number of a bucket in JSON."""
_LARGEST_EXPONENT = 1024


def text_rows(name: str, labels: Labels, message: bytes) -> Iterator[Row]:
    """Give the samples that text has of a histogram: its buckets are lost."""
    histogram = decode_histogram(message)
    count = float(_count(histogram))
    yield f"{name}_bucket", (*labels, ("le", "+Inf")), count
    yield f"{name}_sum", labels, histogram.sum
    yield f"{name}_count", labels, count


def json_fields(message: bytes) -> dict[str, object]:
    """Give what `/api/v1/metrics` shows of a histogram; no `buckets` when it has no native ones."""
    histogram = decode_histogram(message)
    fields: dict[str, object] = {"count": _number(_count(histogram)), "sum": format_go_float(histogram.sum)}
    if histogram.negative_spans or histogram.positive_spans:
        fields["buckets"] = [[rule, *map(_number, numbers)] for rule, *numbers in _buckets(histogram)]
    return fields


def _count(histogram: pb.Histogram) -> float:
    return histogram.count_float if histogram.HasField("count_float") else histogram.count_int


def _number(value: float) -> str:
    return str(value) if type(value) is int else format_go_float(value)


def _buckets(histogram: pb.Histogram) -> Iterator[tuple[int, float, float, float]]:
    """Give rule, lower and upper bound and population of each bucket that is not empty, from below."""
    populations = _populations(histogram.negative_spans, histogram.negative_deltas, histogram.negative_counts)
    for index, count in reversed(list(populations)):
        yield _LOWER_INCLUSIVE, -_bound(histogram, index), -_bound(histogram, index - 1), count
    float_form = histogram.HasField("zero_count_float")
    zero_count = histogram.zero_count_float if float_form else histogram.zero_count_int
    if zero_count:
        yield _BOTH_INCLUSIVE, -histogram.zero_threshold, histogram.zero_threshold, zero_count
    populations = _populations(histogram.positive_spans, histogram.positive_deltas, histogram.positive_counts)
    for index, count in populations:
        yield _UPPER_INCLUSIVE, _bound(histogram, index - 1), _bound(histogram, index), count


def _populations(
    spans: Iterable[pb.BucketSpan], deltas: Iterable[int], counts: Iterable[float]
) -> Iterator[tuple[int, float]]:
    """Give the index and population of each bucket that is not empty."""
    left, whole, population = iter(counts), iter(deltas), 0
    index = 0
    for span in spans:
        index += span.offset
        for _ in range(span.length):
            count: float | None = next(left, None)
            if count is None:
                population += next(whole)
                count = population
            if count:
                yield index, count
            index += 1


def _bound(histogram: pb.Histogram, index: int) -> float:
    """Upper bound of a bucket."""
    if histogram.schema == CUSTOM_SCHEMA:
        values = histogram.custom_values
        if index < 0:
            return -math.inf
        return values[index] if index < len(values) else math.inf
    exponent, part = divmod(index, 1 << histogram.schema) if histogram.schema > 0 else (index << -histogram.schema, 0)
    if exponent >= _LARGEST_EXPONENT:
        return math.inf
    return math.ldexp(2.0 ** (part / (1 << max(histogram.schema, 0))), exponent)
