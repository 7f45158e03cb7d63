"""One transaction being put together: what is on disk, with this batch's changes over it.

Owns what an operation may see and add. When it is written, and what comes of it, is `committer`'s business.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.encode import encode_change, encode_group
from bridge.groups import Change, Group
from bridge.journal.ledger import Ledger, confirm, note_delivery
from bridge.journal.rows import (
    Batch,
    CursorRow,
    DeadLetter,
    DeliveryRow,
    GroupRow,
    KeyRow,
    Record,
    RunNote,
    RunRow,
    Settled,
)
from bridge.journal.store import Journal
from bridge.registry import Groups
from bridge.runs import newer
from bridge.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a transaction had come."""

    records: int
    runs: int
    groups: dict[bytes, Group]
    due: set[bytes]
    newest_runs: dict[bytes, RunRow | None]


@dataclass(slots=True)
class Staging:
    """One transaction being put together: what is on disk, with this batch's changes over it."""

    now_ms: int
    committed: Groups
    ledger: Ledger
    journal: Journal
    tick_ms: int
    """Newest point of the grid: groups that exist may have been repeated with it as their time."""
    schedule: Schedule = field(default_factory=Schedule)
    groups: dict[bytes, Group] = field(default_factory=dict)
    cursors: dict[str, CursorRow] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    due: set[bytes] = field(default_factory=set)
    """Groups whose state is written although their form is the same."""
    state_seq: int = 0
    keys: dict[tuple[bytes, str], KeyRow] = field(default_factory=dict)
    deliveries: dict[tuple[str, int], DeliveryRow] = field(default_factory=dict)
    ticked: bool = False
    runs: list[RunNote] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    newest_runs: dict[bytes, RunRow | None] = field(default_factory=dict)
    """Where this transaction changes them."""

    def group(self, key: bytes) -> Group:
        """The group as this transaction will leave it."""
        return self.groups.get(key) or self.committed.get(key)

    def now_for(self, group: Group, at_ms: int | None = None) -> int:
        """The time for a change of this group, before the group's own rule (`bridge.groups.next_ms`).

        `at_ms` is when it took place, if that is known.
        """
        now_ms = self.now_ms if at_ms is None else at_ms
        return max(now_ms, self.tick_ms + 1) if group.live else now_ms

    @property
    def next_seq(self) -> int:
        """Sequence number of the next row."""
        return self.journal.end_seq + len(self.records) + 1

    def find_key(self, group: bytes, key: str) -> KeyRow | None:
        """The push that came with an idempotency key."""
        return self.keys.get((group, key)) or self.journal.find_key(group, key)

    def add_key(self, row: KeyRow) -> None:
        """Remember an idempotency key."""
        self.keys[row.group, row.key] = row

    def add(self, change: Change) -> None:
        """Add what a push does: rows for delivery, the group's new state, and the run that it tells of."""
        change = self._follow_run(change)
        key, records = change.group.id.key, encode_change(change)
        self.records.extend(records)
        self.groups[key] = change.group
        if not records:
            self.due.add(key)

    def _follow_run(self, change: Change) -> Change:
        key = change.group.id.key
        known = self.newest_runs[key] if key in self.newest_runs else self.schedule.newest(key)
        note = self.schedule.note(change, known)
        if note is not None:
            self.runs.append(note)
            self.newest_runs[key] = newer(known, note)
        elif change.group.live:
            return change
        ended = self.schedule.ended(self.group(key), known, change.group, self.newest_runs.get(key))
        return replace(change, ended=(*change.ended, *ended)) if ended else change

    def mark(self) -> "Mark":
        """Remember what `add` did so far, for `undo`."""
        return Mark(len(self.records), len(self.runs), dict(self.groups), set(self.due), dict(self.newest_runs))

    def undo(self, mark: "Mark") -> None:
        """Take back what was added since the mark."""
        del self.records[mark.records :]
        del self.runs[mark.runs :]
        self.groups, self.due, self.newest_runs = mark.groups, mark.due, mark.newest_runs

    def confirm(self, target: str, settled: Iterable[Settled]) -> None:
        """Move a target's cursor."""
        newest = self.ledger.deliveries.get(target)
        for one in settled:
            cursor = self.cursors.get(target) or self.ledger.cursors[target]
            if one.last_seq > cursor.seq:
                newest = note_delivery(newest, target, one, self.now_ms)
                self.deliveries[target, newest.first_seq] = newest
            self.cursors[target] = confirm(cursor, one)
            self.letters += [replace(letter, target=target, at_ms=self.now_ms) for letter in one.letters]

    def tick(self, at_ms: int) -> None:
        """Begin a point of the grid: whatever changes from here on is newer."""
        self.tick_ms = max(self.tick_ms, at_ms)
        self.ticked = True

    def write_states(self, keys: Iterable[bytes], state_seq: int) -> None:
        """Store what these groups hold; with them the stored groups know every row up to `state_seq`."""
        self.due.update(keys)
        self.state_seq = max(self.state_seq, state_seq)

    def batch(self) -> tuple[Batch, list[bytes]]:
        """What the journal is to write, and the groups whose state it is not: their rows tell it."""
        rows: list[GroupRow] = []
        untold: list[bytes] = []
        for key, group in self.groups.items():
            stored = self.committed.find(key)
            if stored is not None and key not in self.due and group.has_form_of(stored):
                untold.append(key)
            else:
                rows.append(encode_group(group, stored))
        rows.extend(
            encode_group(self.committed.get(key), self.committed.find(key)) for key in self.due - self.groups.keys()
        )
        batch = Batch(
            tuple(self.records),
            tuple(rows),
            tuple(self.cursors.values()),
            self.state_seq,
            self.tick_ms if self.ticked else 0,
            tuple(self.keys.values()),
            tuple(self.deliveries.values()),
            tuple(self.runs),
            tuple(self.letters),
        )
        return batch, untold


Operation = Callable[[Staging], Any]
