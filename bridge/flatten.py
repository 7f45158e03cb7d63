"""Families to content: grouping labels put on, names checked, series laid out with encoded heads.

The rules are Pushgateway's consistency check for one push (protocol.md section 5.6) and the label
rules of remote_write 1.0. Pure; what other groups hold is `bridge.groups`' business.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bridge.content import Content, FamilyShape, make_content, make_shape
from bridge.errors import BadPushError, TooLargeError
from bridge.exposition.floats import canonical_bucket_label
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME, spell_series
from bridge.model import Family, Labels, Sample
from bridge.wire.head import make_head
from bridge.wire.remote_write import label_bytes

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


@dataclass(frozen=True, slots=True)
class FlattenOptions:
    """The settings of `push:` that decide what a push may contain."""

    external_labels: Mapping[str, str]
    canonical_bucket_labels: bool = True
    accept_timestamps: bool = True
    utf8_names: bool = False
    max_series: int = 100_000


def flatten(families: Sequence[Family], grouping: Labels, options: FlattenOptions, now_ms: int) -> Content:
    """Lay out the series of one push; raises BadPushError or TooLargeError and never a part of it.

    The samples keep the body's order within their family; the two push-time gauges, which the agent
    sets itself, are left out when they are pushed.
    """
    families = [family for family in families if family.name not in _OWN_GAUGES]
    check_suffixes({family.name: family.type for family in families})
    count = sum(len(family.samples) for family in families)
    if count > options.max_series:
        raise TooLargeError(
            "too_many_series", f"push has {count} series, more than push.max_series_per_push={options.max_series}"
        )
    heads: list[bytes] = []
    shapes: list[FamilyShape] = []
    seen: dict[bytes, Sample] = {}
    base = dict(grouping)
    for family in families:
        if family.histograms:
            raise BadPushError(
                "native_histogram",
                f"native histogram {family.name!r}: native histograms are not delivered yet; push a histogram with "
                "classic buckets",
            )
        start = len(heads)
        spell = _bucket_speller(family, canonical=options.canonical_bucket_labels)
        for sample in family.samples:
            _check_sample(sample, options, now_ms)
            head = make_head(label_bytes(_labels(sample, base, options, spell)))
            if head in seen:
                raise _twice(head, seen[head], sample)
            seen[head] = sample
            heads.append(head)
        shapes.append(FamilyShape(family.name, family.type, family.help, start, len(heads), family.unit))
    samples = [sample for family in families for sample in family.samples]
    shape = make_shape(shapes, heads)
    stamps = tuple(sample.timestamp_ms for sample in samples)
    values = tuple(sample.value for sample in samples)
    return make_content(shape, values, stamps if any(stamp is not None for stamp in stamps) else None)


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
    if sample.timestamp_ms is None:
        return
    if not options.accept_timestamps:
        raise BadPushError(
            "timestamps",
            "pushed metrics are invalid or inconsistent with existing metrics: pushed metrics must not have "
            f"timestamps (push.timestamps is reject){_at(sample)}",
        )
    if sample.timestamp_ms > now_ms + FUTURE_LIMIT_MS:
        raise BadPushError(
            "future",
            f"{sample.name}: timestamp {sample.timestamp_ms} ms is more than 10 minutes ahead of now "
            f"({now_ms} ms){_at(sample)}; timestamps are milliseconds since 1970",
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
