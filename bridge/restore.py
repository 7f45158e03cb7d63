"""What the agent knew before it started: groups, runs and cursors, as the journal has them.

Owns what becomes of what is damaged or gone. The journal is open for writing already.
"""

from collections.abc import Mapping
from dataclasses import replace

import structlog

from bridge.encode import decode_group, encode_group, replay, samples_of
from bridge.groups import group_id, spell_group
from bridge.journal.history import History
from bridge.journal.ledger import Ledger, add_dropped, pending
from bridge.journal.reader import JournalReader
from bridge.journal.rows import Batch, CursorRow, GroupRow
from bridge.journal.store import Journal
from bridge.moments import time_text
from bridge.reasons import JOURNAL_FULL, LOST
from bridge.registry import Groups
from bridge.rules import Rules
from bridge.schedule import Schedule

_log = structlog.get_logger(__name__)
RESCUE = "pushbridge journal replay sends to any target what the journal still has"
"""For a target that goes with samples that it has not got: a corrected URL without a name is another target."""
_REPLAY_SAMPLES = 100_000
_REPLAY_BYTES = 1 << 24


def load_groups(journal: Journal, external: Mapping[str, str]) -> tuple[Groups, set[bytes]]:
    """Bring the groups back as they were, and tell which of them know more than what is stored of them.

    One that cannot be read is logged and keeps nothing but its times; one of which nobody can say whose it was goes.
    """
    groups = Groups(external)
    stored_seqs: dict[bytes, int] = {}
    emptied: list[bytes] = []
    nobodys: list[GroupRow] = []
    for row in journal.load_groups():
        try:
            identity = group_id(row.key, external)
        except ValueError as error:
            _log.error("group_damaged", group=row.key.decode(errors="replace"), error=f"its key: {error}")
            nobodys.append(replace(row, last_ms=0, live=False, doubles=b"", parts=()))
            continue
        try:
            group = decode_group(row, identity)
        except ValueError as error:
            _log.error("group_damaged", group=spell_group(row.key), error=str(error))
            emptied.append(row.key)
            group = decode_group(replace(row, doubles=b"", parts=(), damaged=False), identity)
        groups.publish([group])
        stored_seqs[row.key] = row.seq
    replayed = _replay(journal, groups, stored_seqs)
    if emptied or nobodys:
        rows = (replace(encode_group(groups.get(key), None), parts=()) for key in emptied)
        journal.write(Batch(groups=(*rows, *nobodys)))
        journal.commit()
    return groups, replayed.difference(emptied)


def _replay(journal: Journal, groups: Groups, stored_seqs: Mapping[bytes, int]) -> set[bytes]:
    """Let the rows behind the stored states tell what became of their groups."""
    replayed: set[bytes] = set()
    after_seq = journal.state_seq
    with JournalReader(journal.path) as reader:
        while entries := reader.read(after_seq, _REPLAY_SAMPLES, _REPLAY_BYTES):
            after_seq = entries[-1].seq
            samples: dict[bytes, dict[bytes, float]] = {}
            arrivals_ms: dict[bytes, int] = {}
            for entry in entries:
                if entry.damaged or entry.seq <= stored_seqs.get(entry.group, entry.seq):
                    continue
                try:
                    samples.setdefault(entry.group, {}).update(samples_of(entry.body))
                except ValueError as error:
                    _log.error("row_damaged", seq=entry.seq, error=str(error))
                else:
                    arrivals_ms[entry.group] = entry.arrival_ms
            groups.publish([replay(groups.get(key), at_ms, samples[key]) for key, at_ms in arrivals_ms.items()])
            replayed.update(arrivals_ms)
    return replayed


def load_schedule(journal: Journal, rules: Rules, external: Mapping[str, str]) -> Schedule:
    """Bring the newest run of each group back."""
    history = History(journal.path)
    try:
        return Schedule(rules, external, history.newest_runs())
    finally:
        history.close()


def load_ledger(journal: Journal, targets: list[str], since_ms: int | None = None) -> Ledger:
    """Bring the cursors back; samples that are gone are booked as dropped.

    New targets start with the rows that arrived at `since_ms` or later, None for those that come from now on.
    """
    known = {cursor.target: cursor for cursor in journal.load_cursors()}
    ledger = Ledger()
    for target in targets:
        cursor = known.pop(target, None)
        cursor = new_cursor(journal, target, since_ms) if cursor is None else book_gone(journal, cursor)
        ledger.publish({target: cursor})
    for target, cursor in known.items():
        unsent = max(0, pending(cursor, journal.accepted_total))
        _log.warning(
            "target_forgotten", target=target, unsent_samples=unsent, why="it is not configured any more", rescue=RESCUE
        )
        journal.delete_cursor(target)
    journal.write(Batch(cursors=tuple(ledger.cursors.values())))
    journal.commit()
    return ledger


def book_gone(journal: Journal, cursor: CursorRow) -> CursorRow:
    """The cursor with what its target can never get counted as dropped, whoever may have sent it without a word of it.

    A full journal drops rows that a sender has in hand uncounted, because it will tell what became of them. One that
    ends before that leaves them to be counted here. All else that is gone is damage.
    """
    gone = pending(cursor, journal.accepted_total) - journal.samples_after(cursor.seq)
    if gone <= 0:
        return cursor
    if journal.recovery is None and lacks_next(journal, cursor):
        _log.error("samples_dropped", reason=JOURNAL_FULL, target=cursor.target, samples=gone, why="left in hand")
        return add_dropped(cursor, {JOURNAL_FULL: gone})
    _log.error("samples_lost", target=cursor.target, samples=gone)
    return add_dropped(cursor, {LOST: gone})


def lacks_next(journal: Journal, cursor: CursorRow) -> bool:
    """Whether the row that the target is to get next has left the journal, which happens only when that is full."""
    oldest_seq = journal.oldest_seq()
    return cursor.seq < (journal.end_seq if oldest_seq is None else oldest_seq - 1)


def new_cursor(journal: Journal, target: str, since_ms: int | None) -> CursorRow:
    """Where a new target starts: with the rows that arrived at `since_ms` or later, None for now."""
    seq, oldest_ms = journal.end_seq, None
    if since_ms is not None:
        with JournalReader(journal.path) as reader:
            first_seq = reader.first_seq(since_ms)
            if first_seq is not None:
                seq = first_seq - 1
                oldest_ms = reader.oldest_ms(seq)
    # From the rows, not from their totals: some of those in between may be gone already.
    samples = journal.samples_after(seq)
    since = "now" if oldest_ms is None else time_text(oldest_ms)
    _log.info("target_added", target=target, samples=samples, since=since)
    return CursorRow(target, seq, journal.accepted_total - samples, 0, ())
