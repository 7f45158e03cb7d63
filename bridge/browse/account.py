"""What `journal stats` says: one document for machines, the same as a table for people. Pure."""

from collections.abc import Iterable
from typing import Any

from bridge.journal.archive import Overview, TargetRow
from bridge.journal.ledger import pending
from bridge.moments import time_text

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_SECOND_MS = 1000


def document(path: str, journal_id: str, seen: Overview, max_bytes: int, now_ms: int) -> dict[str, Any]:
    """Everything, as JSON has it; times are RFC 3339."""
    return {
        "path": path,
        "id": journal_id,
        "bytes": seen.used_bytes,
        "max_bytes": max_bytes,
        "rows": seen.rows,
        "samples": seen.samples,
        "accepted_total": seen.accepted_total,
        "oldest": _time(seen.oldest_ms),
        "newest": _time(seen.newest_ms),
        "groups": seen.groups,
        "targets": {row.cursor.target: _target(row, seen.accepted_total, now_ms) for row in seen.targets},
    }


def table(told: dict[str, Any]) -> str:
    """Spell the document for people."""
    facts = [
        ("journal", f"{told['path']} (id {told['id']})"),
        ("size", f"{_size(told['bytes'])} of {_size(told['max_bytes'])} ({told['bytes'] / told['max_bytes']:.0%})"),
        ("rows", f"{told['rows']:,} with {told['samples']:,} samples ({told['accepted_total']:,} since it began)"),
        ("oldest", told["oldest"] or "-"),
        ("newest", told["newest"] or "-"),
        ("groups", f"{told['groups']:,}"),
    ]
    lines = [f"{name:<8} {text}" for name, text in facts]
    if told["targets"]:
        heads = ("target", "cursor", "delivered", "pending", "dead-lettered", "dropped", "oldest pending")
        lines += ["", *_aligned([heads, *(_line(name, target) for name, target in told["targets"].items())])]
    return "\n".join(lines)


def _target(row: TargetRow, accepted_total: int, now_ms: int) -> dict[str, Any]:
    oldest_ms = row.oldest_pending_ms
    return {
        "cursor": row.cursor.seq,
        "delivered": row.cursor.delivered,
        "pending": pending(row.cursor, accepted_total),
        "dead_lettered": dict(row.cursor.dead_lettered),
        "dropped": dict(row.cursor.dropped),
        "oldest_pending": _time(oldest_ms),
        "oldest_pending_age_seconds": 0 if oldest_ms is None else max(0, now_ms - oldest_ms) / _SECOND_MS,
    }


def _line(name: str, target: dict[str, Any]) -> tuple[str, ...]:
    dead, dropped = (
        ", ".join(f"{samples:,} {reason}" for reason, samples in target[key].items()) or "0"
        for key in ("dead_lettered", "dropped")
    )
    age = f"{target['oldest_pending']} ({_age(target['oldest_pending_age_seconds'])})"
    numbers = (f"{target[key]:,}" for key in ("cursor", "delivered", "pending"))
    return (name, *numbers, dead, dropped, age if target["oldest_pending"] else "-")


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else time_text(at_ms)


def _size(size_bytes: int) -> str:
    for factor, unit in _UNITS:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def _age(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (left, "s")) if count]
    return "".join(parts[:2]) or "0s"
