"""The account of every target, through any order of reading, confirming and dropping, and in a full journal."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.errors import JournalFullError
from bridge.groups import key_of
from bridge.journal.committer import WhenFull
from bridge.journal.history import History
from bridge.journal.ledger import Ledger, add_dropped, confirm, note_delivery, pending
from bridge.journal.rows import CursorRow, DeliveryRow, Settled
from tests.journal.test_committer import MIB, NOW_MS, Bench, bulky, committing, end, put

START = CursorRow("t", 0, 0, 0, ())
REASONS = st.sampled_from(["rejected", "lost", "journal_full"])
TARGETS = st.sampled_from(["a", "b", "c"])


def test_the_holders_are_those_behind_the_oldest_row() -> None:
    """A target that has confirmed the oldest row holds nothing up, and an empty journal is held by nobody."""
    ledger = ledger_of(far=1, near=4, at=5, done=9)
    assert ledger.holders(5) == ["far", "near"]
    assert (ledger.holders(1), ledger.holders(None)) == ([], [])


def ledger_of(**seqs: int) -> Ledger:
    return Ledger({target: CursorRow(target, seq, 0, 0, ()) for target, seq in seqs.items()})


@dataclass
class Model:
    """One target as a sender lives it: what it has read and not yet confirmed, and what became of the rest."""

    start_total: int
    read_seq: int
    in_hand: list[tuple[int, int]] = field(default_factory=list)
    delivered: int = 0
    dropped: int = 0


class LedgerMachine(RuleBasedStateMachine):
    """Targets that read a journal at their own pace while its oldest rows may be dropped."""

    @initialize()
    def start(self) -> None:
        """Begin with an empty journal and no target."""
        self.ledger = Ledger()
        self.rows: dict[int, int] = {}
        self.end_seq = self.accepted = 0
        self.models: dict[str, Model] = {}

    @rule(name=TARGETS)
    def join(self, name: str) -> None:
        """Add a target, whose business begins now."""
        if name not in self.models:
            self.models[name] = Model(self.accepted, self.end_seq)
            self.ledger.publish({name: CursorRow(name, self.end_seq, self.accepted, 0, ())})

    @rule(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6))
    def accept(self, sizes: list[int]) -> None:
        """Append rows."""
        for samples in sizes:
            self.end_seq += 1
            self.accepted += samples
            self.rows[self.end_seq] = samples

    @precondition(lambda self: self.models)
    @rule(name=TARGETS, most=st.integers(0, 4))
    def read(self, name: str, most: int) -> None:
        """Let a target take some of the next rows into its hand, perhaps none."""
        if model := self.models.get(name):
            found = [seq for seq in sorted(self.rows) if seq > model.read_seq][:most]
            if found:
                self.ledger.hand_out(name, found[-1])
                model.in_hand += [(seq, self.rows[seq]) for seq in found]
                model.read_seq = found[-1]

    @precondition(lambda self: any(model.in_hand for model in self.models.values()))
    @rule(name=TARGETS, rows=st.integers(1, 4), reason=REASONS, share=st.integers(0, 20))
    def confirm(self, name: str, rows: int, reason: str, share: int) -> None:
        """Let a target say what became of the rows that it read first."""
        model = self.models.get(name)
        if model and model.in_hand:
            settled, model.in_hand = model.in_hand[:rows], model.in_hand[rows:]
            samples = sum(count for _, count in settled)
            lost = min(share, samples)
            cursor = self.ledger.cursors[name]
            moved = confirm(cursor, Settled(1, settled[-1][0], samples - lost, {reason: lost} if lost else {}))
            self.ledger.publish({name: moved})
            model.delivered += samples - lost
            model.dropped += lost

    @rule(limit=st.integers(1, 6))
    def drop_oldest(self, limit: int) -> None:
        """Remove the first rows, whoever still lacks them."""
        gone = [(seq, self.rows.pop(seq)) for seq in sorted(self.rows)[:limit]]
        for model in self.models.values():
            model.dropped += sum(samples for seq, samples in gone if seq > model.read_seq)
        self.ledger.publish(self.ledger.drop(gone, "journal_full"))

    @invariant()
    def the_account_balances(self) -> None:
        """Accepted is delivered, dropped, and what the target has in hand or can still read: no more, no less."""
        for name, model in self.models.items():
            cursor = self.ledger.cursors[name]
            waiting = sum(samples for seq, samples in self.rows.items() if seq > model.read_seq)
            waiting += sum(samples for _, samples in model.in_hand)
            assert pending(cursor, self.accepted) == waiting
            assert (cursor.delivered, sum(samples for _, samples in cursor.dropped)) == (model.delivered, model.dropped)
            assert self.accepted - model.start_total == model.delivered + model.dropped + waiting

    @invariant()
    def nothing_unconfirmed_is_below_the_floor(self) -> None:
        """No row at or below the floor is missing at any target."""
        floor = self.ledger.floor(self.end_seq)
        for model in self.models.values():
            assert all(seq > floor for seq, _ in model.in_hand)
            assert floor <= model.read_seq


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 9), st.dictionaries(REASONS, st.integers(1, 9), max_size=2)),
        max_size=8,
    ),
    st.integers(0, 100),
)
def test_totals_only_grow(moves: list[tuple[int, int, dict[str, int]]], accepted: int) -> None:
    """Whatever is confirmed or dropped is added, by reason and in a fixed order, and takes just that from pending."""
    cursor, delivered, dropped = START, 0, 0
    for seq, samples, reasons in moves:
        before = cursor
        cursor = confirm(cursor, Settled(1, seq, samples, reasons))
        delivered += samples
        dropped += sum(reasons.values())
        assert cursor.seq == max(seq, before.seq)
        assert dict(cursor.dropped).items() >= {name: n for name, n in before.dropped if name not in reasons}.items()
        assert [name for name, _ in cursor.dropped] == sorted({name for name, _ in cursor.dropped})
        assert (cursor.delivered, sum(count for _, count in cursor.dropped)) == (delivered, dropped)
        assert pending(cursor, accepted) == accepted - delivered - dropped


def test_dropped_samples_are_summed_by_reason() -> None:
    """More of a known reason is added to it, a new reason gets a total of its own, nothing else moves."""
    cursor = add_dropped(add_dropped(START, {"rejected": 2}), {"lost": 1, "rejected": 3})
    assert cursor == CursorRow("t", 0, 0, 0, (("lost", 1), ("rejected", 5)))
    assert add_dropped(cursor, {}) == cursor


def test_a_target_that_came_later_is_not_told_of_what_was_before() -> None:
    """Samples accepted before a target was known are never pending for it."""
    assert pending(CursorRow("t", 7, 100, 0, ()), 100) == 0
    assert pending(CursorRow("t", 7, 100, 3, (("lost", 2),)), 110) == 5


@pytest.mark.parametrize(
    ("seqs", "floor"), [({}, 9), ({"a": 4}, 4), ({"a": 4, "b": 2}, 2), ({"a": 0, "b": 9}, 0)], ids=str
)
def test_the_floor_is_the_slowest_target(seqs: dict[str, int], floor: int) -> None:
    """Rows up to the slowest cursor are confirmed by all; without a target every row is."""
    assert ledger_of(**seqs).floor(9) == floor


def test_rows_that_were_read_are_not_dropped() -> None:
    """A row counts as dropped for the targets that had neither confirmed nor read it."""
    ledger = ledger_of(confirmed=3, reading=1, behind=0)
    ledger.hand_out("reading", 3)
    changed = ledger.drop([(1, 10), (2, 20), (3, 30), (4, 40)], "journal_full")
    assert {target: dict(cursor.dropped) for target, cursor in changed.items()} == {
        "confirmed": {"journal_full": 40},
        "reading": {"journal_full": 40},
        "behind": {"journal_full": 100},
    }


def test_dropping_changes_nothing_before_it_is_published() -> None:
    """The new cursors are given, for the journal to write first; targets that lost nothing are not among them."""
    ledger = ledger_of(ahead=5, behind=0)
    changed = ledger.drop([(1, 3)], "journal_full")
    assert list(changed) == ["behind"]
    before = ledger.cursors["behind"]
    ledger.publish(changed)
    assert (before.dropped, ledger.cursors["behind"].dropped) == ((), (("journal_full", 3),))


async def test_a_full_journal_refuses_every_push(tmp_path: Path) -> None:
    """Known group, new group or deletion: all are refused with the state as before, and told to come later."""
    async with committing(tmp_path, "t", max_bytes=MIB) as bench:
        await bench.fill()
        before = bench.state()
        answers = await bench.together(put("small"), put("fresh"), end("small"))
        assert [type(answer) for answer in answers] == [JournalFullError] * 3
        assert "storage.max_bytes" in str(answers[0])
        assert bench.state() == before
        assert set(bench.seen.failures) == {"journal_full"}
        assert bench.committer.failure == str(answers[0])


@pytest.mark.parametrize("when_full", ["reject", "drop_oldest"])
async def test_a_giant_push_costs_its_neighbours_nothing(tmp_path: Path, when_full: WhenFull) -> None:
    """A push larger than the whole journal is refused alone; what waits for delivery stays."""
    async with committing(tmp_path, "t", max_bytes=MIB, when_full=when_full) as bench:
        await bench.committer.submit(put("old"))
        answers = await bench.together(put("one"), bulky("giant", 1500), put("other"))
        assert [answers[0], type(answers[1]), answers[2]] == ["one", JournalFullError, "other"]
        assert bench.live() == ["old", "one", "other"]
        assert bench.committer.ledger.cursors["t"] == CursorRow("t", 0, 0, 0, ())
        assert [row.seq for row in bench.rows()] == [1, 2, 3]


async def test_a_full_journal_still_notes_deliveries(tmp_path: Path) -> None:
    """Confirmations go on in a full journal, and what they free as history makes room for pushes."""
    async with committing(tmp_path, "t", max_bytes=MIB) as bench:
        samples = await bench.fill()
        for seq in range(1, 41):
            await bench.committer.confirm("t", [Settled(1, seq, samples, {})])
        assert bench.committer.ledger.cursors["t"] == CursorRow("t", 40, 0, 40 * samples, ())
        assert await bench.committer.submit(bulky("filler", 3)) == "filler"
        assert bench.committer.failure is None
        left = bench.rows()
        assert left[0].seq == 41
        cursor = bench.committer.ledger.cursors["t"]
        assert pending(cursor, bench.journal.accepted_total) == sum(row.samples for row in left)


async def fill_over(bench: Bench, target: str) -> int:
    """Push until rows are dropped for a target; gives the samples of one push."""
    for _ in range(2000):
        await bench.committer.submit(bulky("filler", 3))
        if bench.committer.ledger.cursors[target].dropped:
            return bench.rows()[-1].samples
    raise AssertionError("nothing was dropped")


async def test_the_oldest_undelivered_rows_go_when_so_chosen(tmp_path: Path) -> None:
    """With drop_oldest no push is refused: the oldest rows make room, counted for each target that lacked them."""
    async with committing(tmp_path, "ahead", "behind", max_bytes=MIB, when_full="drop_oldest") as bench:
        for _ in range(150):
            await bench.committer.submit(bulky("filler", 3))
        samples = bench.rows()[0].samples
        await bench.committer.confirm("ahead", [Settled(1, 150, 150 * samples, {})])
        await fill_over(bench, "behind")
        left = bench.rows()
        assert [row.seq for row in left] == list(range(left[0].seq, bench.journal.end_seq + 1))
        behind, ahead = bench.committer.ledger.cursors["behind"], bench.committer.ledger.cursors["ahead"]
        assert 1 < left[0].seq <= 151
        assert (behind.dropped, ahead.dropped) == ((("journal_full", (left[0].seq - 1) * samples),), ())
        assert pending(behind, bench.journal.accepted_total) == len(left) * samples
        assert (bench.committer.failure, bench.seen.failures) == (None, [])


async def test_history_goes_before_anything_undelivered(tmp_path: Path) -> None:
    """With drop_oldest too, rows that every target has make room first."""
    async with committing(tmp_path, "t", max_bytes=MIB, when_full="drop_oldest") as bench:
        for number in range(400):
            await bench.committer.submit(bulky("filler", 3))
            if number % 2:
                row = bench.rows(bench.committer.ledger.cursors["t"].seq)[0]
                await bench.committer.confirm("t", [Settled(1, row.seq, row.samples, {})])
        cursor = bench.committer.ledger.cursors["t"]
        assert bench.rows()[0].seq > 1
        assert cursor.dropped == ()
        assert [row.seq for row in bench.rows(cursor.seq)] == list(range(201, 401))


async def test_rows_in_hand_are_not_counted_as_dropped(tmp_path: Path) -> None:
    """A row that a sender has read counts once, as what the sender says became of it."""
    async with committing(tmp_path, "t", max_bytes=MIB, when_full="drop_oldest") as bench:
        for _ in range(20):
            await bench.committer.submit(bulky("filler", 3))
        in_hand = bench.rows()[:10]
        bench.committer.ledger.hand_out("t", in_hand[-1].seq)
        samples = await fill_over(bench, "t")
        left = bench.rows()
        assert left[0].seq > 10
        await bench.committer.confirm("t", [Settled(1, 10, 9 * samples, {"rejected": samples})])
        cursor = bench.committer.ledger.cursors["t"]
        lost = (left[0].seq - 11) * samples
        assert cursor == CursorRow("t", 10, 0, 9 * samples, (("journal_full", lost), ("rejected", samples)))
        assert pending(cursor, bench.journal.accepted_total) == len(left) * samples


async def test_rows_on_their_way_out_are_handed_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows that are counted as dropped can still be read no sender may take them: they would count twice."""
    async with committing(tmp_path, "t", max_bytes=MIB, when_full="drop_oldest") as bench:
        answers: list[bool] = []
        commit = bench.journal.commit

        def asked() -> bool:
            answers.append(bench.committer.ledger.hand_out("t", 1))
            return commit()

        number = 0
        while not dict(bench.committer.ledger.cursors["t"].dropped):
            number += 1
            answers.clear()
            with monkeypatch.context() as patch:
                patch.setattr(bench.journal, "commit", asked)
                bench.committer.ledger._in_hand.clear()
                await bench.together(bulky(f"g{number}", 20))
        assert answers[-1] is False
        assert bench.committer.ledger.hand_out("t", 1)


async def test_a_push_that_is_refused_in_the_end_drops_nothing(tmp_path: Path) -> None:
    """When the groups' state leaves no room even without the undelivered rows, these are not given up in vain."""
    async with committing(tmp_path, "t", max_bytes=MIB, when_full="drop_oldest") as bench:
        for number in range(100):
            before = bench.state()
            (answer,) = await bench.together(bulky(f"g{number}", 20))
            if isinstance(answer, JournalFullError):
                break
        assert isinstance(answer, JournalFullError)
        assert bench.state() == before


@pytest.mark.parametrize(("targets", "left"), [([], []), (["t", "u"], [3, 4])], ids=["no target", "two targets"])
async def test_trim_takes_old_rows_that_all_targets_have(tmp_path: Path, targets: list[str], left: list[int]) -> None:
    """Rows past retention go once every target has confirmed them; without a target nothing is waited for."""
    now = [NOW_MS]
    async with committing(tmp_path, *targets, now_ms=lambda: now[0]) as bench:
        for job in ("one", "two", "three", "four"):
            await bench.committer.submit(put(job))
        for target, seq in zip(targets, (2, 4), strict=False):
            await bench.committer.confirm(target, [Settled(1, seq, 3 * seq, {})])
        await bench.committer.write_states()
        assert await bench.committer.trim(1000) == 0
        now[0] += 1001
        assert await bench.committer.trim(1000) == 4 - len(left)
        assert [row.seq for row in bench.rows()] == left
        assert await bench.committer.trim(1000) == 0


async def test_trim_forgets_groups_that_ended(tmp_path: Path) -> None:
    """A deleted group keeps its newest time until retention has passed, and may come back at any time."""
    now = [NOW_MS]
    async with committing(tmp_path, now_ms=lambda: now[0]) as bench:
        await bench.together(put("gone"), put("stays"), end("gone"))
        key = key_of((("job", "gone"),))
        await bench.committer.trim(1000)
        assert bench.committer.groups.get(key).last_ms == NOW_MS + 1
        now[0] += 2000
        await bench.committer.trim(1000)
        assert bench.committer.groups.get(key).last_ms == 0
        assert [row.key for row in bench.journal.load_groups()] == [key_of((("job", "stays"),))]
        await bench.committer.submit(put("gone"))
        assert bench.live() == ["stays", "gone"]


NOTE = DeliveryRow("t", 1, 5, NOW_MS)


@pytest.mark.parametrize(
    ("newest", "settled", "now_ms", "note"),
    [
        (None, Settled(1, 5, 9, {}), NOW_MS, NOTE),
        (NOTE, Settled(6, 9, 9, {}), NOW_MS, DeliveryRow("t", 1, 9, NOW_MS)),
        (NOTE, Settled(6, 9, 9, {}), NOW_MS + 999, DeliveryRow("t", 1, 9, NOW_MS)),
        (NOTE, Settled(6, 9, 9, {}), NOW_MS + 1000, DeliveryRow("t", 6, 9, NOW_MS + 1000)),
        (NOTE, Settled(6, 9, 9, {}), NOW_MS - 1, DeliveryRow("t", 6, 9, NOW_MS - 1)),
        (NOTE, Settled(7, 9, 9, {}), NOW_MS, DeliveryRow("t", 7, 9, NOW_MS)),
        (NOTE, Settled(6, 9, 0, {"400": 9}, "no"), NOW_MS, DeliveryRow("t", 6, 9, NOW_MS, "400", "no")),
        (
            DeliveryRow("t", 1, 5, NOW_MS, "400", "no"),
            Settled(6, 9, 0, {"400": 9}, "never"),
            NOW_MS,
            DeliveryRow("t", 6, 9, NOW_MS, "400", "never"),
        ),
        (
            DeliveryRow("t", 1, 5, NOW_MS, "400", "no"),
            Settled(6, 9, 0, {"400": 9}, "no"),
            NOW_MS,
            DeliveryRow("t", 1, 9, NOW_MS, "400", "no"),
        ),
        (None, Settled(1, 1, 1, {"damaged": 2, "400": 1}), NOW_MS, DeliveryRow("t", 1, 1, NOW_MS, "400 damaged")),
    ],
    ids=["first", "same moment", "same second", "next second", "clock back", "gap", "refused", "words", "again", "two"],
)
def test_what_is_noted_of_a_delivery(
    newest: DeliveryRow | None, settled: Settled, now_ms: int, note: DeliveryRow
) -> None:
    """Rows of one second and one fate share a note, whose time stays; a gap between them is no delivery."""
    assert note_delivery(newest, "t", settled, now_ms) == note


async def test_deliveries_are_noted_with_the_cursor(tmp_path: Path) -> None:
    """What was confirmed is on disk afterwards; what is confirmed twice is noted once, and dropped rows never."""
    now = [NOW_MS]
    async with committing(tmp_path, "t", now_ms=lambda: now[0]) as bench:
        for job in "abcdef":
            await bench.committer.submit(put(job))
        await bench.committer.confirm("t", [Settled(1, 1, 3, {}), Settled(2, 2, 0, {"400": 3}, "no")])
        await bench.committer.confirm("t", [Settled(2, 2, 3, {})])
        await bench.committer.submit(lambda _: bench.journal.drop_oldest(4))
        now[0] += 5000
        await bench.committer.confirm("t", [Settled(5, 5, 3, {})])
        await bench.committer.confirm("t", [Settled(6, 6, 3, {})])
        history = History(bench.journal.path)
        assert history.deliveries("t", 1, 9) == [
            DeliveryRow("t", 5, 6, NOW_MS + 5000),
            DeliveryRow("t", 2, 2, NOW_MS, "400", "no"),
            DeliveryRow("t", 1, 1, NOW_MS),
        ]
        history.close()
