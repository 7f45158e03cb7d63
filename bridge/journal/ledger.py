"""The account of every target: accepted = delivered + pending + dead-lettered + dropped (design.md section 3.2).

Owns the cursors in memory. A pending figure is never stored: it is what the totals leave, so the
sum holds by construction; what a recovery lost is booked as dropped when the agent starts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bridge.journal.rows import CursorRow, DeliveryRow, Settled
from bridge.reasons import BY_RULES

_MOMENT_MS = 1000


@dataclass(slots=True)
class Ledger:
    """Cursors by target, as last made durable, and what each sender has in hand."""

    cursors: dict[str, CursorRow] = field(default_factory=dict)
    deliveries: dict[str, DeliveryRow] = field(default_factory=dict)
    """The newest note of each target."""
    held_by: tuple[str, ...] = ()
    """Targets for whose sake the journal has been full, until they have confirmed its oldest row."""
    dropping: bool = False
    """Whether rows are counted as dropped that can still be read: their transaction is on its way."""
    _in_hand: dict[str, int] = field(default_factory=dict)

    def hand_out(self, target: str, seq: int) -> bool:
        """Note up to where a sender has taken rows: they will be confirmed even if they are dropped meanwhile.

        False when it must not take them: they may be among those that are being dropped, and are counted already.
        """
        if self.dropping:
            return False
        self._in_hand[target] = seq
        return True

    def take_back(self, target: str) -> bool:
        """Know that no sender has rows of this target in hand any more, and tell whether one had any."""
        return self._in_hand.pop(target, None) is not None

    def publish(self, cursors: Mapping[str, CursorRow], deliveries: Iterable[DeliveryRow] = ()) -> None:
        """Take over cursors and notes that are on disk."""
        self.cursors.update(cursors)
        self.deliveries.update({row.target: row for row in deliveries})

    def forget(self, target: str) -> None:
        """Know nothing of a target any more."""
        for known in (self.cursors, self.deliveries, self._in_hand):
            known.pop(target, None)

    def floor(self, end_seq: int) -> int:
        """Newest row that every target has confirmed; with no target nothing is waited for."""
        return min((cursor.seq for cursor in self.cursors.values()), default=end_seq)

    def holders(self, oldest_seq: int | None) -> list[str]:
        """Targets that have not confirmed the journal's oldest row, and so keep it from being forgotten."""
        if oldest_seq is None:
            return []
        return [target for target, cursor in self.cursors.items() if cursor.seq < oldest_seq]

    def drop(self, rows: Iterable[tuple[int, int]], reason: str) -> dict[str, CursorRow]:
        """Cursors after these (seq, samples) rows are gone for the targets that had not read them."""
        rows = list(rows)
        changed: dict[str, CursorRow] = {}
        for target, cursor in self.cursors.items():
            known = max(cursor.seq, self._in_hand.get(target, 0))
            lost = sum(samples for seq, samples in rows if seq > known)
            if lost:
                changed[target] = add_dropped(cursor, {reason: lost})
        return changed


def add_dropped(cursor: CursorRow, dropped: Mapping[str, int]) -> CursorRow:
    """The cursor with more samples dropped, by reason."""
    return replace(cursor, dropped=_add(cursor.dropped, dropped)) if dropped else cursor


def _add(totals: tuple[tuple[str, int], ...], more: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((Counter(dict(totals)) + Counter(more)).items()))


def confirm(cursor: CursorRow, settled: Settled) -> CursorRow:
    """The cursor moved on; confirmations arrive in order."""
    moved = add_dropped(cursor, settled.dropped)
    if settled.letters:
        refused: Counter[str] = Counter()
        for letter in settled.letters:
            refused[letter.reason] += letter.samples
        moved = replace(moved, dead_lettered=_add(cursor.dead_lettered, refused))
    return replace(moved, seq=max(settled.last_seq, cursor.seq), delivered=cursor.delivered + settled.delivered)


def note_delivery(newest: DeliveryRow | None, target: str, settled: Settled, now_ms: int) -> DeliveryRow:
    """What to remember of rows that are settled: more of the newest note if it is of the same kind and moment.

    The time of a note is that of its first rows and stays: a receipt that was given must not change.
    """
    refused = {letter.reason for letter in settled.letters}
    reason = " ".join(sorted(refused | (settled.dropped.keys() - BY_RULES)))
    if (
        newest is not None
        and newest.last_seq + 1 == settled.first_seq
        and (newest.reason, newest.words) == (reason, settled.words)
        and 0 <= now_ms - newest.at_ms < _MOMENT_MS
    ):
        return replace(newest, last_seq=settled.last_seq)
    return DeliveryRow(target, settled.first_seq, settled.last_seq, now_ms, reason, settled.words)


def accepted_by(cursor: CursorRow, accepted_total: int) -> int:
    """Samples that were journaled since the target was added."""
    return accepted_total - cursor.start_total


def pending(cursor: CursorRow, accepted_total: int) -> int:
    """Samples that the target can still get."""
    known = sum(count for _, count in (*cursor.dropped, *cursor.dead_lettered))
    return accepted_by(cursor, accepted_total) - cursor.delivered - known
