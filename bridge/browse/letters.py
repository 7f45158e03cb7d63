"""A dead letter as people and programs read it, the same for the API and the commands. Pure.

What is kept is what was sent: with external labels and relabeled. Where it came from is told by its row, as long as
the journal has that.
"""

import json
from typing import Any

from bridge.browse.series import Choice, Point, document, points, series_text
from bridge.groups import labels_of_key
from bridge.journal.history import Origin
from bridge.journal.rows import DeadLetter
from bridge.model import Labels
from bridge.moments import time_text

FEW_SAMPLES = 10
"""So many are shown without being asked for."""
_LEFT_OF_GROUP = ("job", "instance")
_ALL = Choice()


def letter_document(letter: DeadLetter, origin: Origin | None, journal_id: str) -> dict[str, Any]:
    """Give a letter as JSON has it; `series` is null where the body was not read, or cannot be."""
    found = _points(letter)
    return {
        "id": letter.id,
        "target": letter.target,
        "time": time_text(letter.at_ms),
        "push": _push_id(origin, journal_id),
        "labels": dict(_labels(origin, found)),
        "samples": letter.samples,
        "status": letter.status,
        "reason": letter.reason,
        "words": letter.words,
        "maybe_stored": letter.maybe_stored,
        "tenant": letter.tenant,
        "series": None if found is None else [document(point) for point in found],
    }


def letter_text(letter: DeadLetter, origin: Origin | None, journal_id: str) -> str:
    """Give a letter for people: a line, and one more for each sample that was read."""
    found = _points(letter)
    push = _push_id(origin, journal_id) or "-"
    labels = _labels(origin, found)
    parts = [
        f"{letter.id}",
        time_text(letter.at_ms),
        letter.target,
        push,
        series_text(labels) if labels else "-",
        f"{letter.samples} sample{'s' * (letter.samples != 1)}",
        f"{letter.status} {json.dumps(letter.words, ensure_ascii=False)}",
    ]
    if letter.maybe_stored:
        parts.append("(the target may have it)")
    if letter.tenant:
        parts.append(f"tenant {letter.tenant}")
    lines = (
        f"    {series_text(point.labels)} {point.histogram or point.value_text} @ {time_text(point.at_ms)}"
        for point in found or ()
    )
    return "\n".join(["  ".join(parts), *lines])


def _points(letter: DeadLetter) -> list[Point] | None:
    try:
        return list(points(letter.body, _ALL)) if letter.body else None
    except ValueError:
        # No checksum covers a letter; all else of it is worth reading.
        return None


def _push_id(origin: Origin | None, journal_id: str) -> str | None:
    return f"{journal_id}-{origin.push_seq}" if origin is not None and origin.push_seq is not None else None


def _labels(origin: Origin | None, found: list[Point] | None) -> Labels:
    """Those of the group; of one that the journal has forgotten, what every group has in its samples."""
    if origin is not None:
        try:
            return labels_of_key(origin.group)
        except ValueError:
            pass
    first = dict(found[0].labels) if found else {}
    return tuple((name, first[name]) for name in _LEFT_OF_GROUP if name in first)
