"""Families to text 0.0.4 and to Pushgateway's JSON. Pure; what the groups hold is given in.

Nothing that was accepted may break the page for the others: what does not fit together is shown as untyped.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.exposition.floats import format_go_float
from bridge.exposition.lexing import LABEL_NAME, METRIC_NAME, parse_go_float
from bridge.exposition.native_view import json_fields, text_rows
from bridge.model import Labels

_TEXT_TYPES = {
    "counter": "counter",
    "gauge": "gauge",
    "info": "gauge",
    "stateset": "gauge",
    "summary": "summary",
    "histogram": "histogram",
    "gaugehistogram": "histogram",
}
"""As Go's encoder names them to readers of text 0.0.4; every other type is untyped."""
_MEMBERS = {"summary": ("", "_sum", "_count"), "histogram": ("_bucket", "_sum", "_count")}
"""Suffixes of the samples that a TYPE line speaks for, besides those of its very name."""
_LONE_GAUGES = ("_created", "_gsum", "_gcount")
"""Suffixes of OpenMetrics that text 0.0.4 has as gauge families of their own."""
_BOUND_LABELS = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}
_JSON_TYPES = {"gaugehistogram": "GAUGE_HISTOGRAM", "info": "GAUGE", "stateset": "GAUGE"}
_JSON_FIELDS = {"_count": "count", "_gcount": "count", "_sum": "sum", "_gsum": "sum"}

_Block = tuple[str, str]
"""Name and type of a TYPE line."""
_Row = tuple[str, Labels, float]


@dataclass(frozen=True, slots=True)
class ExposedFamily:
    """One family of one source, to be shown."""

    name: str
    type: str
    help: str
    samples: tuple[_Row, ...]
    """(sample name, labels, value)."""
    histograms: tuple[tuple[Labels, bytes], ...] = ()
    """Labels and message of native histograms."""


def escape_help(text: str) -> str:
    """Escape a HELP text."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def escape_value(text: str) -> str:
    """Escape a label value."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def write_text(families: Iterable[ExposedFamily]) -> str:
    """Merge the families of all sources into blocks of one HELP, one TYPE and their samples, in name order.

    TYPE lines that would claim the same sample name are given up: its samples and theirs become untyped,
    each name a block of its own (design.md section 4). So a sample name is in one block whatever was
    pushed. The first HELP wins, and so does the first of samples that are one series to Prometheus.
    """
    placed = [(_block_of(family, *sample), family.help, sample) for family in families for sample in _rows(family)]
    contested = _contested({block for block, _, _ in placed})
    helps: dict[_Block, str] = {}
    lines: defaultdict[_Block, dict[tuple[str, frozenset[tuple[str, str]]], str]] = defaultdict(dict)
    for wanted, text, (name, labels, value) in placed:
        block = (name, "untyped") if wanted in contested else wanted
        if text:
            helps.setdefault(block, text)
        series = name, frozenset([pair for pair in labels if pair[1]])
        if series not in lines[block]:
            lines[block][series] = _line(name, labels, value)
    page: list[str] = []
    for block in sorted(lines):
        shown = _name(block[0], METRIC_NAME)
        if block in helps:
            page.append(f"# HELP {shown} {escape_help(helps[block])}\n")
        page.append(f"# TYPE {shown} {block[1]}\n")
        page.extend(lines[block].values())
    return "".join(page)


def _rows(family: ExposedFamily) -> Iterable[_Row]:
    """Give the samples, and those that text makes of native histograms without classic buckets beside them."""
    if not family.histograms:
        return family.samples
    classic = {frozenset(labels) for name, labels, _ in family.samples if name == f"{family.name}_count"}
    lone = [(labels, message) for labels, message in family.histograms if frozenset(labels) not in classic]
    return *family.samples, *(row for labels, message in lone for row in text_rows(family.name, labels, message))


def _block_of(family: ExposedFamily, name: str, labels: Labels, value: float) -> _Block:
    """Give the TYPE line under which a sample stands if no other family is in the way."""
    kind = _TEXT_TYPES.get(family.type, "untyped")
    suffix = name.removeprefix(family.name)
    if suffix in _LONE_GAUGES:
        return name, "gauge"
    if kind not in _MEMBERS:
        return name, kind
    if suffix in _MEMBERS[kind] and _is_readable(kind, suffix, labels, value):
        return family.name, kind
    return name, "untyped"


def _is_readable(kind: str, suffix: str, labels: Labels, value: float) -> bool:
    """Tell whether Go's parser keeps such a member as it is; grouping labels put `le` and `quantile` on any of them."""
    text = dict(labels).get(_BOUND_LABELS[kind])
    if kind == "histogram" and suffix != "_sum" and value < 0:
        return False
    if suffix in ("_sum", "_count"):
        return text is None
    bound = None if text is None else _bound(text)
    return bound is not None and not math.isnan(bound)


def _bound(text: str) -> float | None:
    try:
        return parse_go_float(text)
    except ValueError:
        return None


def _contested(blocks: Iterable[_Block]) -> set[_Block]:
    """Find the TYPE lines that speak for a sample name for which another one speaks too."""
    claims: defaultdict[str, set[_Block]] = defaultdict(set)
    for name, kind in blocks:
        for suffix in ("", *_MEMBERS.get(kind, ())):
            claims[name + suffix].add((name, kind))
    return {block for rivals in claims.values() if len(rivals) > 1 for block in rivals}


def _line(name: str, labels: Labels, value: float) -> str:
    pairs = [f'{_name(label, LABEL_NAME)}="{escape_value(text)}"' for label, text in labels]
    shown = _name(name, METRIC_NAME)
    if shown != name:
        pairs.insert(0, shown)
        shown = ""
    inner = f"{{{','.join(pairs)}}}" if pairs else ""
    return f"{shown}{inner} {format_go_float(value)}\n"


def _name(name: str, legacy: re.Pattern[str]) -> str:
    """Quote a name that readers before Prometheus 3 do not know; a metric's then goes inside the braces."""
    return name if legacy.fullmatch(name) else f'"{escape_value(name)}"'


def family_json(family: ExposedFamily, at_ms: int) -> dict[str, Any]:
    """One family as `/api/v1/metrics` shows it (protocol.md section 5.7).

    Start times (`_created`) are left out: the shape has no place for them.
    """
    shown: dict[str, Any] = {
        "time_stamp": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "type": _JSON_TYPES.get(family.type, family.type.upper()),
    }
    if family.help:
        shown["help"] = family.help
    samples = [sample for sample in family.samples if sample[0] != f"{family.name}_created"]
    if family.type in _BOUND_LABELS:
        shown["metrics"] = _compound(family, samples)
    else:
        shown["metrics"] = [{"labels": dict(labels), "value": format_go_float(value)} for _, labels, value in samples]
    return shown


def _compound(family: ExposedFamily, samples: Iterable[_Row]) -> list[dict[str, Any]]:
    bound_label = _BOUND_LABELS[family.type]
    points = "quantiles" if bound_label == "quantile" else "buckets"
    metrics: dict[Labels, dict[str, Any]] = {}
    for name, labels, value in samples:
        rest = tuple(pair for pair in labels if pair[0] != bound_label)
        metric = metrics.setdefault(rest, {"labels": dict(rest), points: {}, "count": "0", "sum": "0"})
        number = _JSON_FIELDS.get(name.removeprefix(family.name))
        if number:
            metric[number] = format_go_float(value)
        else:
            text = dict(labels).get(bound_label, "")
            bound = _bound(text)
            metric[points][text if bound is None else format_go_float(bound)] = format_go_float(value)
    for labels, message in family.histograms:
        metric = metrics.setdefault(labels, {"labels": dict(labels), points: {}})
        metric.update(json_fields(message))
    return list(metrics.values())
