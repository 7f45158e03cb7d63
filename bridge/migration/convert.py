"""A group of a Pushgateway's `/api/v1/metrics`, turned into a push that gives the same group. Pure.

The JSON comes from another program, so every part of it is looked at; what has no place in a push is told in
words and does not stop the rest (protocol.md section 5.7 has the shapes).
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from bridge.exposition.lexing import parse_go_float, quote
from bridge.exposition.write import ExposedFamily, write_text
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME
from bridge.ingress.path import write_grouping_path
from bridge.model import Labels

_TYPES: Final = {
    "COUNTER": "counter",
    "GAUGE": "gauge",
    "SUMMARY": "summary",
    "HISTOGRAM": "histogram",
    "GAUGE_HISTOGRAM": "gaugehistogram",
    "UNTYPED": "untyped",
}
_SAME_WITHIN_S: Final = 0.001 + 1e-6
_Row = tuple[str, Labels, float]
_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PushTimes:
    """When a group was pushed last, in seconds since the epoch; 0 for never."""

    success_s: float
    failure_s: float


@dataclass(frozen=True, slots=True)
class SourceGroup:
    """One group as it is to be pushed."""

    labels: Labels
    """Grouping labels, `job` first."""
    path: str
    """The labels in a push's URL, behind `/metrics/`."""
    times: PushTimes
    body: bytes
    """Text 0.0.4, the two push times among the families."""
    series: int
    """Without the push times."""
    left_out: tuple[str, ...]
    """What could not be carried over, each in a few words."""


def convert_group(group: _Json) -> SourceGroup:
    """Turn a group into a push; ValueError when there is no way to say which group it is."""
    labels = grouping_labels(group)
    grouping = dict(labels)
    families: list[ExposedFamily] = []
    left_out: list[str] = []
    for name, family in sorted(_families(group)):
        if name in (PUSH_TIME, PUSH_FAILURE_TIME):
            continue
        kind = _TYPES.get(str(family.get("type")))
        if kind is None:
            left_out.append(f"type {family.get('type')} of {name}, pushed as untyped")
        rows: list[_Row] = []
        for metric in family["metrics"]:
            try:
                rows += _rows(name, kind or "untyped", metric, grouping)
                left_out += _extras(name, kind or "untyped", metric)
            except ValueError as error:
                left_out.append(f"{name}: {error}")
        families.append(ExposedFamily(name, kind or "untyped", str(family.get("help") or ""), tuple(rows)))
    times = push_times(group)
    gauges = [
        ExposedFamily(name, "gauge", "", ((name, (), value),))
        for name, value in ((PUSH_TIME, times.success_s), (PUSH_FAILURE_TIME, times.failure_s))
    ]
    body = _with_gauge_histograms(write_text([*families, *gauges]), families)
    series = sum(len(family.samples) for family in families)
    return SourceGroup(labels, write_grouping_path(labels), times, body.encode(), series, tuple(left_out))


def grouping_labels(group: _Json) -> Labels:
    """Grouping labels, `job` first; ValueError when there are none.

    A family called `labels` hides them; then the push time tells, which has them and an `instance` at least.
    """
    labels = group.get("labels")
    if _is_family(labels):
        shown = next((metric.get("labels") for metric in _metrics(group, PUSH_TIME)), None)
        labels = {name: value for name, value in _checked_labels(shown) if (name, value) != ("instance", "")}
    pairs = _checked_labels(labels)
    if not dict(pairs).get("job"):
        raise ValueError(f"no job among its labels: got {labels}")
    return tuple(sorted(pairs, key=lambda pair: (pair[0] != "job", pair)))


def push_times(group: _Json) -> PushTimes:
    """Both push times; 0 for one that is missing or no number."""
    return PushTimes(_time_s(group, PUSH_TIME), _time_s(group, PUSH_FAILURE_TIME))


def reason_to_leave(source: PushTimes, held: PushTimes | None) -> str | None:
    """Why the agent's group is better than the source's, None when it is not or is not there.

    The agent keeps milliseconds, so a difference of one is none.
    """
    if held is None:
        return None
    ahead_s = held.success_s - source.success_s
    if abs(ahead_s) <= _SAME_WITHIN_S:
        behind = source.failure_s > held.failure_s + _SAME_WITHIN_S
        return None if behind else "the agent has it with the same push time"
    return "the agent has a newer push of it" if ahead_s > 0 else None


def _families(group: _Json) -> Iterator[tuple[str, _Json]]:
    return ((name, part) for name, part in group.items() if _is_family(part))


def _metrics(group: _Json, name: str) -> list[_Json]:
    """Metrics of one family, none when it is not there."""
    family = group.get(name)
    return [metric for metric in family["metrics"] if isinstance(metric, Mapping)] if _is_family(family) else []


def _time_s(group: _Json, name: str) -> float:
    for metric in _metrics(group, name):
        with suppress(ValueError):
            value = _number(metric, "value")
            return value if math.isfinite(value) else 0.0
    return 0.0


def _is_family(part: object) -> TypeGuard[_Json]:
    """Tell a family from the grouping labels, whose values are never lists, and from `last_push_successful`."""
    return isinstance(part, Mapping) and isinstance(part.get("metrics"), list)


def _checked_labels(labels: object) -> list[tuple[str, str]]:
    if not isinstance(labels, Mapping):
        raise ValueError(f"labels: got {labels!r}, want names and values")  # noqa: TRY004 - what is wrong is the JSON
    for value in labels.values():
        if not isinstance(value, str):
            raise ValueError(f"labels: got the value {value!r}, want a string")  # noqa: TRY004
    return list(labels.items())


def _rows(name: str, kind: str, metric: object, grouping: Mapping[str, str]) -> list[_Row]:
    """Give the samples of one metric, less the labels of its group; ValueError for what has no text form."""
    if not isinstance(metric, Mapping):
        raise ValueError(f"got {metric!r}, want a metric")  # noqa: TRY004 - what is wrong is the JSON
    pairs = _checked_labels(metric.get("labels") or {})
    labels = tuple(sorted(pair for pair in pairs if pair[1] and grouping.get(pair[0]) is None))
    read, _ = _READERS[kind]
    try:
        return read(name, labels, metric)
    except ValueError as error:
        raise ValueError(f"{_spell(labels)}: {error}") from error


def _extras(name: str, kind: str, metric: _Json) -> Iterator[str]:
    """Name what a metric has beside its values, which a push cannot say."""
    _, known = _READERS[kind]
    return (f"{name}: {extra}" for extra in sorted(set(metric) - known - {"labels"}))


def _simple(name: str, labels: Labels, metric: _Json) -> list[_Row]:
    return [(name, labels, _number(metric, "value"))]


def _summary(name: str, labels: Labels, metric: _Json) -> list[_Row]:
    points = [(name, (*labels, ("quantile", text)), value) for _, text, value in _points(metric, "quantiles")]
    return [*points, *_totals(name, labels, metric)]


def _histogram(name: str, labels: Labels, metric: _Json) -> list[_Row]:
    """Give a histogram's series as a scrape of the Pushgateway has them: `+Inf` is made up where it is missing."""
    if isinstance(metric.get("buckets"), list):
        raise ValueError("a native histogram cannot be pushed as text")  # noqa: TRY004 - another shape, not another type
    points = _points(metric, "buckets")
    if not any(bound == math.inf for bound, _, _ in points):
        points.append((math.inf, "+Inf", _number(metric, "count")))
    rows = [(f"{name}_bucket", (*labels, ("le", text)), value) for _, text, value in points]
    return [*rows, *_totals(name, labels, metric)]


_READERS: dict[str, tuple[Callable[[str, Labels, _Json], list[_Row]], set[str]]] = {
    "counter": (_simple, {"value"}),
    "gauge": (_simple, {"value"}),
    "untyped": (_simple, {"value"}),
    "summary": (_summary, {"quantiles", "count", "sum"}),
    "histogram": (_histogram, {"buckets", "count", "sum"}),
    "gaugehistogram": (_histogram, {"buckets", "count", "sum"}),
}
"""How the metrics of a type are read, and the keys that this takes care of."""


def _totals(name: str, labels: Labels, metric: _Json) -> list[_Row]:
    return [(f"{name}_{total}", labels, _number(metric, total)) for total in ("sum", "count")]


def _points(metric: _Json, key: str) -> list[tuple[float, str, float]]:
    """Give (bound, its spelling, value) in the order of the bounds."""
    points = metric.get(key) or {}
    if not isinstance(points, Mapping):
        raise ValueError(f"{key}: got {points!r}, want bounds and values")  # noqa: TRY004 - what is wrong is the JSON
    return sorted((parse_go_float(text), text, _number(points, text)) for text in points)


def _number(values: _Json, key: str) -> float:
    if key not in values:
        raise ValueError(f"no {key}")
    try:
        return parse_go_float(str(values[key]))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _spell(labels: Labels) -> str:
    return "{" + ", ".join(f"{name}={quote(value)}" for name, value in labels) + "}"


def _with_gauge_histograms(text: str, families: list[ExposedFamily]) -> str:
    """Name gauge histograms as such: a page for Go's readers calls them histograms, our own parser knows better."""
    for family in families:
        if family.type == "gaugehistogram":
            text = re.sub(
                rf"^(# TYPE {re.escape(family.name)}) histogram$", r"\1 gaugehistogram", text, flags=re.MULTILINE
            )
    return text
