"""Families to content: grouping labels put on, names checked, series laid out with encoded heads.

The rules are Pushgateway's consistency check for one push (protocol.md section 5.6) and the label
rules of remote_write 1.0. Pure; what other groups hold is `bridge.groups`' business.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.content import Content, FamilyShape, make_shape
from bridge.errors import BadPushError, TooLargeError
from bridge.exposition.floats import canonical_bucket_label
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME, spell_series
from bridge.limits import LabelLimits
from bridge.model import Family, Labels, NativeHistogram, Sample
from bridge.wire.head import make_head
from bridge.wire.histogram import CUSTOM_SCHEMA, encode_histogram
from bridge.wire.remote_write import label_bytes, pack_doubles

_LEGACY_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_OWN_GAUGES = frozenset({PUSH_TIME, PUSH_FAILURE_TIME})
_MEMBER_SUFFIXES = {
    "summary": ("_sum", "_count"),
    "histogram": ("_sum", "_count", "_bucket"),
    "gaugehistogram": ("_sum", "_count", "_bucket"),
}
_FLOAT_LABEL = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}
FUTURE_LIMIT_MS = 10 * 60 * 1000
"""Receivers refuse samples further ahead, and one older Prometheus is poisoned by them (protocol.md section 0)."""
_LEAST_SECONDS = 1_000_000_000
_NEAR_NOW_S = 5 * 365 * 24 * 3600
"""A timestamp that is no further from now, read as seconds, was meant so: receivers take none of January 1970."""


@dataclass(frozen=True, slots=True)
class FlattenOptions:
    """The settings of `push:` that decide what a push may contain."""

    external_labels: Mapping[str, str]
    canonical_bucket_labels: bool = True
    accept_timestamps: bool = True
    utf8_names: bool = False
    max_series: int = 100_000
    limits: LabelLimits = LabelLimits()  # noqa: RUF009 - frozen
    custom_buckets: bool = True
    """Whether anybody takes native histograms with custom buckets."""


def flatten(families: Sequence[Family], grouping: Labels, options: FlattenOptions, now_ms: int) -> Content:
    """Lay out the series of one push; raises BadPushError or TooLargeError and never a part of it.

    The samples keep the body's order within their family; the two push-time gauges, which the agent
    sets itself, are left out when they are pushed.
    """
    families = [family for family in families if family.name not in _OWN_GAUGES]
    check_suffixes({family.name: family.type for family in families})
    count = sum(len(family.samples) + len(family.histograms) for family in families)
    if count > options.max_series:
        raise TooLargeError(
            "too_many_series", f"push has {count} series, more than push.max_series_per_push={options.max_series}"
        )
    heads: list[bytes] = []
    shapes: list[FamilyShape] = []
    seen: dict[bytes, Sample] = {}
    base = dict(grouping)
    for family in families:
        start = len(heads)
        spell = _bucket_speller(family, canonical=options.canonical_bucket_labels)
        for sample in _samples(family, options):
            _check_sample(sample, options, now_ms)
            labels = _labels(sample, base, options, spell)
            head = make_head(label_bytes(labels))
            options.limits.check(head, len(labels), sample.line)
            if head in seen:
                raise _twice(head, seen[head], sample)
            seen[head] = sample
            heads.append(head)
        shapes.append(FamilyShape(family.name, family.type, family.help, start, len(heads), family.unit))
    samples = tuple(seen.values())
    stamps = tuple(sample.timestamp_ms for sample in samples)
    exemplars = {at: sample.exemplars for at, sample in enumerate(samples) if sample.exemplars}
    return Content(
        make_shape(shapes, heads),
        pack_doubles(tuple(sample.value for sample in samples)),
        stamps if any(stamp is not None for stamp in stamps) else None,
        _messages(families) if any(family.histograms for family in families) else None,
        exemplars or None,
    )


def _samples(family: Family, options: FlattenOptions) -> Iterable[Sample]:
    """The family's samples; a native histogram comes behind them as one more, whose value stands for nothing."""
    yield from family.samples
    for histogram in family.histograms:
        _check_histogram(histogram, options)
        yield Sample(histogram.name, histogram.labels, 0.0, histogram.timestamp_ms, exemplars=histogram.exemplars)


def _check_histogram(histogram: NativeHistogram, options: FlattenOptions) -> None:
    if histogram.schema == CUSTOM_SCHEMA and not options.custom_buckets:
        raise BadPushError(
            "custom_buckets",
            f"native histogram {histogram.name!r} has custom buckets (schema {CUSTOM_SCHEMA}), which only remote_write "
            "2.0 can carry, and no target speaks it; set protobuf_message: io.prometheus.write.v2.Request for one, or "
            "push classic buckets alone",
        )


def _messages(families: Sequence[Family]) -> tuple[bytes | None, ...]:
    """The histogram of each series, in the order of `_samples`."""
    messages: list[bytes | None] = []
    for family in families:
        messages += [None] * len(family.samples)
        messages += map(encode_histogram, family.histograms)
    return tuple(messages)


def _labels(
    sample: Sample, grouping: Mapping[str, str], options: FlattenOptions, spell: Callable[[str, str], str]
) -> list[tuple[str, str]]:
    """Grouping labels overwrite the body's, the body's overwrite the external ones."""
    labels = {name: spell(name, value) for name, value in sample.labels}
    labels.update(grouping)
    for name, value in options.external_labels.items():
        if not labels.get(name):
            labels[name] = value
    labels["__name__"] = sample.name
    return list(labels.items())


def _bucket_speller(family: Family, *, canonical: bool) -> Callable[[str, str], str]:
    label = _FLOAT_LABEL.get(family.type) if canonical else None
    return lambda name, value: canonical_bucket_label(value) if name == label else value


def _check_sample(sample: Sample, options: FlattenOptions, now_ms: int) -> None:
    for name, _ in sample.labels:
        if name.startswith("__") or not (options.utf8_names or _LEGACY_LABEL.fullmatch(name)):
            raise _inconsistent(sample, f"{sample.name}: improper label name {name!r}")
    for exemplar in sample.exemplars:
        if exemplar.timestamp_ms is not None:
            _check_time(f"{sample.name}: timestamp of an exemplar", exemplar.timestamp_ms, sample, now_ms)
    if sample.timestamp_ms is None:
        return
    if not options.accept_timestamps:
        raise BadPushError(
            "timestamps",
            "pushed metrics are invalid or inconsistent with existing metrics: pushed metrics must not have "
            f"timestamps (push.timestamps is reject){_at(sample)}",
        )
    _check_time(f"{sample.name}: timestamp", sample.timestamp_ms, sample, now_ms)


def _check_time(what: str, stamp_ms: int, sample: Sample, now_ms: int) -> None:
    if stamp_ms > _LEAST_SECONDS and abs(stamp_ms - now_ms // 1000) < _NEAR_NOW_S:
        raise BadPushError(
            "seconds",
            f"{what} {stamp_ms} is a time near now in seconds{_at(sample)}; want milliseconds since 1970, such as "
            f"{stamp_ms * 1000}",
        )
    if stamp_ms > now_ms + FUTURE_LIMIT_MS:
        raise BadPushError(
            "future",
            f"{what} {stamp_ms} ms is more than 10 minutes ahead of now ({now_ms} ms){_at(sample)}; want at most "
            f"{now_ms + FUTURE_LIMIT_MS} (milliseconds since 1970, in OpenMetrics seconds)",
        )


def check_suffixes(types: Mapping[str, str]) -> None:
    """Refuse families of one group whose series would collide: `x_count` beside a summary or histogram `x`."""
    for name, kind in types.items():
        for suffix in _MEMBER_SUFFIXES.get(kind, ()):
            if name + suffix in types:
                raise BadPushError(
                    "inconsistent",
                    "pushed metrics are invalid or inconsistent with existing metrics: metric family "
                    f"{name + suffix!r} collides with the {kind} {name!r} of the same group",
                )


def _twice(head: bytes, first: Sample, second: Sample) -> BadPushError:
    lines = f", in line {first.line} and in line {second.line}" if second.line else ""
    return BadPushError(
        "inconsistent",
        "pushed metrics are invalid or inconsistent with existing metrics: "
        f"{spell_series(head)} is in this push twice{lines}",
    )


def _at(sample: Sample) -> str:
    return f" in line {sample.line}" if sample.line else ""


def _inconsistent(sample: Sample, what: str) -> BadPushError:
    return BadPushError(
        "inconsistent", f"pushed metrics are invalid or inconsistent with existing metrics: {what}{_at(sample)}"
    )
