"""Start times of counters, histograms and summaries, from the `_created` series that stand in the same request.

OpenMetrics has them in the family, the Python client's text beside it (a gauge `x_created` for the counter `x_total`).
Such a series is believed when its value is a time in the past of the very sample. Pure.
"""

from collections.abc import Iterable
from typing import Final

from bridge.model import MetricType
from bridge.wire.message import (
    HISTOGRAM_TIMESTAMP,
    SAMPLE_TIMESTAMP,
    Series,
    cut_label,
    cut_series,
    fields,
    sample_value,
    timestamp_ms,
)

CREATED: Final = b"_created"
HAVE_START: Final[dict[MetricType, tuple[bytes, ...]]] = {
    "counter": (b"_total",),
    "histogram": (b"_bucket", b"_sum", b"_count"),
    "summary": (b"_sum", b"_count"),
}
"""Types that have a start time, with the endings of their series' names."""

_NAME: Final = b"__name__"
_OF_MEMBERS: Final = frozenset({b"le", b"quantile"})
"""Labels that the `_created` series of a family does not have."""
_SECOND_MS: Final = 1000

_Key = tuple[int, bytes, tuple[tuple[bytes, bytes], ...]]
"""Time, family, labels but for the name."""


class StartTimes:
    """The start times that a request tells."""

    def __init__(self, body: bytes) -> None:
        """Look for them in an uncompressed request of 1.0."""
        self._start_ms = dict(_created(body))

    def of(self, series: Series, kind: MetricType) -> int | None:
        """When this series of a family of type `kind` started, in ms; None when nothing says it."""
        labels = [cut_label(label) for label in series.labels]
        name = dict(labels).get(_NAME, b"")
        family = next((name.removesuffix(ending) for ending in HAVE_START[kind] if name.endswith(ending)), name)
        others = tuple(pair for pair in labels if pair[0] != _NAME and pair[0] not in _OF_MEMBERS)
        times = [timestamp_ms(sample, SAMPLE_TIMESTAMP) for sample in series.samples]
        times += [timestamp_ms(histogram, HISTOGRAM_TIMESTAMP) for histogram in series.histograms]
        return self._start_ms.get((times[0], family, others)) if len(times) == 1 else None


def _created(body: bytes) -> Iterable[tuple[_Key, int]]:
    for part in fields(body):
        message = body[part.start : part.stop]
        if CREATED not in message:
            continue
        series = cut_series(message)
        labels = [cut_label(label) for label in series.labels]
        name = dict(labels).get(_NAME, b"")
        if not name.endswith(CREATED):
            continue
        others = tuple(pair for pair in labels if pair[0] != _NAME)
        for sample in series.samples:
            at_ms = timestamp_ms(sample, SAMPLE_TIMESTAMP)
            start_ms = sample_value(sample) * _SECOND_MS
            if 0 < start_ms <= at_ms:
                yield (at_ms, name.removesuffix(CREATED), others), round(start_ms)
