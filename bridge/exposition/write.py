"""Families to text 0.0.4 and to Pushgateway's JSON. Pure; what the groups hold is given in."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from bridge.exposition.floats import format_go_float
from bridge.model import Labels

_TEXT_TYPES = {"gaugehistogram": "histogram", "info": "gauge", "stateset": "gauge"}
_JSON_TYPES = {"gaugehistogram": "GAUGE_HISTOGRAM", "info": "GAUGE", "stateset": "GAUGE"}
_BOUND_LABELS = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}


@dataclass(frozen=True, slots=True)
class ExposedFamily:
    """One family of one source, to be shown."""

    name: str
    type: str
    help: str
    samples: tuple[tuple[str, Labels, float], ...]
    """(sample name, labels, value)."""


def escape_help(text: str) -> str:
    """Escape a HELP text."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def escape_value(text: str) -> str:
    """Escape a label value."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def write_text(families: Iterable[ExposedFamily]) -> str:
    """Merge families of one name and write them in name order.

    The first HELP wins; families whose types differ are shown as untyped (design.md section 4).
    """
    lines: list[str] = []
    for name, same in groupby(sorted(families, key=lambda family: family.name), key=lambda family: family.name):
        members = list(same)
        types = {member.type for member in members}
        text = next((member.help for member in members if member.help), "")
        if text:
            lines.append(f"# HELP {name} {escape_help(text)}")
        kind = types.pop() if len(types) == 1 else "untyped"
        lines.append(f"# TYPE {name} {_TEXT_TYPES.get(kind, kind)}")
        for member in members:
            lines.extend(_line(*sample) for sample in member.samples)
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{escape_value(text)}"' for label, text in labels)
    return f"{name}{{{pairs}}} {format_go_float(value)}" if pairs else f"{name} {format_go_float(value)}"


def family_json(family: ExposedFamily, at_ms: int) -> dict[str, Any]:
    """One family as `/api/v1/metrics` shows it (protocol.md section 5.7)."""
    shown: dict[str, Any] = {
        "time_stamp": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "type": _JSON_TYPES.get(family.type, family.type.upper()),
    }
    if family.help:
        shown["help"] = family.help
    bound = _BOUND_LABELS.get(family.type)
    shown["metrics"] = (
        list(_compound(family, bound))
        if bound
        else [{"labels": dict(labels), "value": format_go_float(value)} for _, labels, value in family.samples]
    )
    return shown


def _compound(family: ExposedFamily, bound: str) -> Iterable[dict[str, Any]]:
    points = "quantiles" if bound == "quantile" else "buckets"
    metrics: dict[Labels, dict[str, Any]] = {}
    for name, labels, value in family.samples:
        rest = tuple(pair for pair in labels if pair[0] != bound)
        metric = metrics.setdefault(rest, {"labels": dict(rest), points: {}, "count": "0", "sum": "0"})
        if name in {f"{family.name}_count", f"{family.name}_sum"}:
            metric[name.removeprefix(f"{family.name}_")] = format_go_float(value)
        else:
            metric[points][format_go_float(float(dict(labels).get(bound, "NaN")))] = format_go_float(value)
    return metrics.values()
