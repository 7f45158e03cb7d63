"""The journal against a plain Python model, through any order of writes, commits, crashes and reads."""

import copy
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bridge.journal.reader import JournalReader
from bridge.journal.rows import NEVER_MS, Batch, CursorRow, GroupRow, PartRow, Record
from bridge.journal.store import Journal

small = st.integers(0, 20)
bodies = st.binary(max_size=20) | st.integers(1, 9000).map(lambda size: b"x" * size)
records = st.builds(Record, small, st.just(b"g"), st.sampled_from(["put", "post"]), small, bodies)
parts = st.lists(st.builds(PartRow, st.binary(max_size=3), bodies), max_size=3).map(tuple)
groups = st.builds(
    GroupRow,
    st.sampled_from([b"a", b"b", b"c"]),
    small,
    small,
    small,
    st.booleans(),
    small | st.just(NEVER_MS),
    st.booleans(),
    bodies,
    st.none() | parts,
)
dropped = st.lists(st.tuples(st.text(max_size=3), small), max_size=2).map(tuple)
cursors = st.builds(CursorRow, st.sampled_from(["x", "y"]), small, small, small, dropped)
batches = st.builds(
    Batch,
    st.lists(records, max_size=4).map(tuple),
    st.lists(groups, max_size=3, unique_by=lambda group: group.key).map(tuple),
    st.lists(cursors, max_size=2).map(tuple),
    small,
)


@dataclass
class Model:
    """What the journal holds, in plain containers."""

    rows: dict[int, Record] = field(default_factory=dict)
    groups: dict[bytes, GroupRow] = field(default_factory=dict)
    cursors: dict[str, CursorRow] = field(default_factory=dict)
    end_seq: int = 0
    accepted: int = 0
    state_seq: int = 0

    def put(self, group: GroupRow) -> None:
        """Store a group as of the newest row; one without parts keeps those that it had."""
        parts = group.parts
        if parts is None:
            parts = self.groups[group.key].parts if group.key in self.groups else ()
        self.groups[group.key] = replace(group, parts=parts, seq=self.end_seq)


class JournalMachine(RuleBasedStateMachine):
    """Runs both side by side; `committed` is what must survive, `pending` what the transaction adds."""

    @initialize()
    def start(self) -> None:
        """Begin with an empty directory."""
        self.base = Path(tempfile.mkdtemp())
        self.directory = self.base / "0"
        self.lives = 0
        self.committed = Model()
        self.pending = Model()
        self.open()

    def open(self) -> None:
        """Open what is in the directory; only what was committed is there."""
        self.journal = Journal.open(self.directory, max_bytes=1 << 26, now_ms=0)
        self.reader = JournalReader(self.journal.path)
        assert self.journal.recovery is None
        self.pending = copy.deepcopy(self.committed)

    @rule(batch=batches)
    def write(self, batch: Batch) -> None:
        """Add a batch to the transaction."""
        first = self.journal.write(batch)
        assert first == (self.pending.end_seq + 1 if batch.records else None)
        for record in batch.records:
            self.pending.end_seq += 1
            self.pending.accepted += record.samples
            self.pending.rows[self.pending.end_seq] = record
        for group in batch.groups:
            self.pending.put(group)
        self.pending.state_seq = batch.state_seq or self.pending.state_seq
        self.pending.cursors.update({cursor.target: cursor for cursor in batch.cursors})

    @rule()
    def commit(self) -> None:
        """Keep what is pending."""
        self.journal.commit()
        self.committed = copy.deepcopy(self.pending)

    @rule()
    def rollback(self) -> None:
        """Forget what is pending."""
        self.journal.rollback()
        self.pending = copy.deepcopy(self.committed)

    @rule(before_ms=small, through_seq=small, limit=st.integers(1, 5), ended_before_ms=small)
    def trim(self, before_ms: int, through_seq: int, limit: int, ended_before_ms: int) -> None:
        """Remove old rows through a number, and old groups that are not live."""
        rows = self.pending.rows
        old = [seq for seq in rows if seq <= through_seq and rows[seq].arrival_ms < before_ms]
        gone = sorted(old, key=lambda seq: (rows[seq].arrival_ms, seq))[:limit]
        assert self.journal.trim(before_ms, through_seq, limit, ended_before_ms=ended_before_ms) == len(gone)
        for seq in gone:
            del rows[seq]
        self.pending.groups = {
            key: group for key, group in self.pending.groups.items() if group.live or group.last_ms >= ended_before_ms
        }

    @rule(limit=st.integers(1, 5))
    def drop_oldest(self, limit: int) -> None:
        """Remove the first rows whatever their state."""
        gone = sorted(self.pending.rows)[:limit]
        assert self.journal.drop_oldest(limit) == [(seq, self.pending.rows.pop(seq).samples) for seq in gone]

    @rule(name=st.sampled_from(["x", "y"]))
    def delete_cursor(self, name: str) -> None:
        """Remove one cursor."""
        self.journal.delete_cursor(name)
        self.pending.cursors.pop(name, None)

    @rule()
    def reopen(self) -> None:
        """Close in good order, and open again."""
        self.reader.close()
        self.journal.close()
        self.open()

    @rule()
    def crash(self) -> None:
        """Go on with the files as a power loss would leave them."""
        self.lives += 1
        self.directory = self.base / str(self.lives)
        self.directory.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            source = self.journal.path.with_name(name)
            if source.exists():
                shutil.copyfile(source, self.directory / name)
        self.reader.close()
        self.journal.close()
        self.open()

    @rule(after_seq=small, max_samples=st.integers(1, 60), max_bytes=st.integers(1, 20_000))
    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> None:
        """Read committed rows within both limits."""
        expected: list[tuple[int, int, int, bytes]] = []
        samples = size = 0
        for seq, record in sorted(self.committed.rows.items()):
            if seq > after_seq:
                samples += record.samples
                size += len(record.body)
                if expected and (samples > max_samples or size > max_bytes):
                    break
                expected.append((seq, record.samples, record.arrival_ms, record.body))
        entries = self.reader.read(after_seq, max_samples, max_bytes)
        assert [(entry.seq, entry.samples, entry.arrival_ms, entry.body) for entry in entries] == expected

    @invariant()
    def same_committed(self) -> None:
        """Compare totals and committed rows."""
        model = self.committed
        journal = self.journal
        found = journal.end_seq, journal.accepted_total, journal.state_seq
        assert found == (model.end_seq, model.accepted, model.state_seq)
        entries = self.reader.read(0, 10**9, 10**9)
        assert [(entry.seq, entry.body) for entry in entries] == [(s, r.body) for s, r in sorted(model.rows.items())]

    @invariant()
    def same_pending(self) -> None:
        """Compare groups, cursors and samples as the transaction sees them."""
        model = self.pending
        assert list(self.journal.load_groups()) == [group for _, group in sorted(model.groups.items())]
        assert self.journal.load_cursors() == [cursor for _, cursor in sorted(model.cursors.items())]
        assert self.journal.samples_after(0) == sum(record.samples for record in model.rows.values())

    def teardown(self) -> None:
        """Remove the files."""
        if hasattr(self, "journal"):
            self.reader.close()
            self.journal.close()
            shutil.rmtree(self.base)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
