"""The values that travel down the pipeline: what a body says once it is parsed.

Frozen dataclasses only: no I/O, no parsing, no clock. Names are the protocols' own words.
"""

from dataclasses import dataclass
from typing import Literal

Labels = tuple[tuple[str, str], ...]
"""Label pairs; `sorted_labels` gives the order that remote_write wants."""

MetricType = Literal[
    "counter",
    "gauge",
    "summary",
    "histogram",
    "gaugehistogram",
    "untyped",
    "info",
    "stateset",
]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a family says of its series, apart from their values."""

    type: MetricType = "untyped"
    help: str = ""
    unit: str = ""


def sorted_labels(labels: Labels) -> Labels:
    """Order label pairs bytewise by name (remote_write 1.0, "Labels"). UTF-8 keeps code point order."""
    return tuple(sorted(labels))


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation behind a sample, with labels that lead to it."""

    labels: Labels
    value: float
    timestamp_ms: int | None = None
    """None when the sample's own time applies."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One float value of one series, as the body spells it."""

    name: str
    """Metric name with its suffix (`x_bucket`, `x_total`); it goes into `__name__`."""
    labels: Labels
    """Body labels in body order, `le` and `quantile` included, without `__name__` and grouping labels."""
    value: float
    timestamp_ms: int | None = None
    """Explicit timestamp in ms since the epoch, None when the push's own time applies."""
    line: int = 0
    """1-based line of the body, 0 when the format has no lines."""
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A run of consecutive native histogram buckets."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class NativeHistogram:
    """One native histogram; integer histograms use the deltas and whole counts, float ones the absolute counts."""

    name: str
    labels: Labels
    timestamp_ms: int | None
    count: float
    sum: float
    schema: int
    zero_threshold: float
    zero_count: float
    negative_spans: tuple[Span, ...]
    negative_deltas: tuple[int, ...]
    negative_counts: tuple[float, ...]
    positive_spans: tuple[Span, ...]
    positive_deltas: tuple[int, ...]
    positive_counts: tuple[float, ...]
    is_float: bool
    is_gauge: bool = False
    custom_values: tuple[float, ...] = ()
    """Upper bounds of custom buckets (schema -53), without the infinite one."""
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one metric family in one push."""

    name: str
    """Name from the TYPE line (or the sample's own): what POST replaces by."""
    type: MetricType
    help: str
    samples: tuple[Sample, ...]
    histograms: tuple[NativeHistogram, ...] = ()
    unit: str = ""
