"""Rows behind a target's cursor that it has already, so that its next sender does not send them again.

While a tenant or a group is in trouble the others get ahead of it, and the cursor waits. Owns the file that says so.
It is a help and no promise: what it does not say is sent again, and so is all where it does not fit the journal.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a journal and a target are; what was delivered stays so while these grow."""

    journal_id: str
    cursor_seq: int
    """Newest row that the target has confirmed."""
    end_seq: int
    """Newest row of the journal."""


def leave(directory: Path, target: str, standing: Standing, seqs: Sequence[int]) -> None:
    """Write down the rows, in order, that a target has beyond its cursor; nothing for none. Raise OSError."""
    if not seqs:
        return
    document = {
        "target": target,
        "journal": standing.journal_id,
        "cursor": standing.cursor_seq,
        "end": standing.end_seq,
        "first": seqs[0],
        "delivered": b64encode(_bits(seqs)).decode(),
    }
    path = _path(directory, target)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document), encoding="utf-8")
    new.replace(path)


def take(directory: Path, target: str, standing: Standing) -> frozenset[int]:
    """Give the rows that were left for a target, once; none where they may be others. Raise OSError."""
    path = _path(directory, target)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _NONE
    # Later it might fit by chance.
    path.unlink()
    try:
        found = json.loads(text)
        is_ours = (found["target"], found["journal"]) == (target, standing.journal_id)
        # An older copy of the journal gives the numbers of its newest rows to others.
        if not is_ours or found["cursor"] > standing.cursor_seq or found["end"] > standing.end_seq:
            return _NONE
        return _seqs(found["first"], b64decode(found["delivered"]))
    except (ValueError, KeyError, TypeError):
        return _NONE


def _path(directory: Path, target: str) -> Path:
    return directory / f"ahead-{hashlib.sha256(target.encode()).hexdigest()[:16]}.json"


def _bits(seqs: Sequence[int]) -> bytes:
    bits = bytearray((seqs[-1] - seqs[0]) // 8 + 1)
    for seq in seqs:
        place = seq - seqs[0]
        bits[place // 8] |= 1 << place % 8
    return bytes(bits)


def _seqs(first: int, bits: bytes) -> frozenset[int]:
    return frozenset(first + place for place in range(8 * len(bits)) if bits[place // 8] >> place % 8 & 1)
