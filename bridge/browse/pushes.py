"""`journal list`: the newest pushes, what became of each at every target, and their samples.

Owns which pushes are listed and how; what a row holds is `series`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bridge.browse.reading import read_points
from bridge.browse.series import Choice, Point, document, series_text
from bridge.groups import labels_of_key
from bridge.journal.archive import Archive, Span
from bridge.journal.fates import Fate, fate_of
from bridge.journal.history import PushRows
from bridge.model import Labels
from bridge.moments import time_text


@dataclass(frozen=True, slots=True)
class Listed:
    """One push."""

    id: str
    push: PushRows
    fates: dict[str, Fate]
    points: tuple[Point, ...] = ()
    """Empty when they were not asked for."""

    def document(self, *, samples: bool) -> dict[str, Any]:
        """Give the push as JSON has it, in the words of GET /api/v1/pushes."""
        told: dict[str, Any] = {
            "id": self.id,
            "time": time_text(self.push.arrival_ms),
            "method": self.push.operation,
            "labels": dict(_labels(self.push.group)),
            "samples": self.push.samples,
            "targets": self.fates,
        }
        if samples:
            told["series"] = [document(point) for point in self.points]
        return told

    def text(self) -> str:
        """Give the push for people: a line, and one more for each sample."""
        group = series_text(_labels(self.push.group))
        fates = "  ".join(f"{target}: {_fate(fate)}" for target, fate in self.fates.items()) or "no target"
        count = f"{self.push.samples} sample{'s' * (self.push.samples != 1)}"
        head = f"{time_text(self.push.arrival_ms)}  {self.id}  {self.push.operation:<6}  {group}  {count}  {fates}"
        lines = (
            f"    {series_text(point.labels)} {point.histogram or point.value_text} @ {time_text(point.at_ms)}"
            for point in self.points
        )
        return "\n".join([head, *lines])


@dataclass(slots=True)
class Pushes:
    """The pushes of a span."""

    archive: Archive
    span: Span
    choice: Choice
    samples: bool
    """Whether their samples are asked for."""
    damaged: int = field(default=0, init=False)

    def newest(self) -> Iterator[Listed]:
        """Give them, newest first."""
        history = self.archive.history()
        try:
            cursors = self.archive.cursors()
            for push in history.pushes_before(self.span.last_seq + 1):
                if push is None or not self.span.since_ms <= push.arrival_ms < self.span.until_ms:
                    continue
                if push.last_seq < self.span.first_seq:
                    return
                points: tuple[Point, ...] = ()
                if self.samples or self.choice.selector is not None:
                    points = self._points(push)
                    if self.choice.selector is not None and not points:
                        continue
                rows = push.first_seq, push.last_seq
                fates = {
                    cursor.target: fate_of(cursor, history.deliveries(cursor.target, *rows), rows, push.arrival_ms)
                    for cursor in cursors
                }
                yield Listed(self._id(push), push, fates, points if self.samples else ())
        finally:
            history.close()

    def _id(self, push: PushRows) -> str:
        return f"{self.archive.id}-{push.first_seq}"

    def _points(self, push: PushRows) -> tuple[Point, ...]:
        found: list[Point] = []
        for row in self.archive.rows_of(push.first_seq, push.last_seq):
            points = read_points(row, self.choice)
            if points is None:
                self.damaged += 1
            found += points or ()
        return tuple(found)


def _labels(key: bytes) -> Labels:
    try:
        return labels_of_key(key)
    except ValueError:
        # No checksum covers a row's key; what is left of a damaged one still tells most.
        return (("damaged", key.decode(errors="replace")),)


def _fate(fate: Fate) -> str:
    if fate["state"] == "refused":
        return f"refused ({fate['reason']}) {json.dumps(fate['words'], ensure_ascii=False)}"
    return fate["state"]
