"""Tenants in random trouble, rows of any size, drops and restarts: each seed is a story, told in virtual time."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from bridge.delivery import sender as sender_module
from bridge.delivery.batch import Request
from bridge.delivery.options import Options
from bridge.delivery.outcome import Outcome, RetryLater, classify
from bridge.delivery.repeats import Turn
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.sender import Sender
from bridge.errors import JournalUnavailableError
from bridge.hold import HeldRequest
from bridge.journal.ledger import Ledger, add_dropped, confirm, pending
from bridge.journal.news import News
from bridge.journal.rows import CursorRow, Entry, Settled
from bridge.reasons import JOURNAL_FULL, RELABEL
from tests.delivery import virtual
from tests.delivery.peers import NOW_S, Seen, decode, entry

LIMIT = 5
"""Samples of a request."""
TROUBLED = ("amber", "red", "violet")
CALM = "calm"
TENANTS = (*TROUBLED, CALM, "")
TIMEOUT_S = 30.0
ROWS_LATE_S = 5.0
"""After that a calm tenant's rows are late: the others cost it a quarter of a second each, now and then."""
REPEATS_LATE_S = 20.0
"""The same of its repeats: five seconds each."""
Sample = tuple[str, int]
"""Name and sequence number."""


class Wards:
    """A receiver with moods by tenant: a client, for HTTP is tested elsewhere."""

    def __init__(self, dice: random.Random, clock_s: Callable[[], float], *, has_tenants: bool) -> None:
        self.dice, self.clock_s, self.has_tenants = dice, clock_s, has_tenants
        self.moods = dict.fromkeys(TENANTS, "ok")
        self.stored: dict[Sample, tuple[float, int]] = {}
        """When each arrived first, and in which life of the sender, in order of arrival."""
        self.life = 0

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Answer as the mood is; bad names are refused always, and for odd ones the answer is 500."""
        assert attempt >= 0
        await asyncio.sleep(self.dice.uniform(0.001, 0.05))
        samples = [(name, at) for name, _, at in decode(block)]
        assert not self.has_tenants or {name.partition("-")[0] for name, _ in samples} <= {tenant, "probe"}
        mood = self.moods[tenant]
        if mood == "hangs":
            if self.dice.random() < 0.3:
                self.store(samples)
            await asyncio.sleep(self.dice.choice((1.0, TIMEOUT_S)))
            return RetryLater(None, None, "reset")
        status = 204 if mood == "ok" else int(mood)
        if status == 204 and any("bad" in name for name, _ in samples):
            status = 400
        if status == 204 and any("odd" in name for name, _ in samples):
            status = 500
        if status == 204:
            self.store(samples)
        after = self.dice.choice((None, None, "1")) if status in (429, 503) else None
        return classify(status, b"words", after, NOW_S)

    def store(self, samples: Sequence[Sample]) -> None:
        """Have them, from now on."""
        for sample in samples:
            self.stored.setdefault(sample, (self.clock_s(), self.life))


@dataclass(frozen=True, eq=False)
class Tick:
    """A point of the grid."""

    seq: int = 0


@dataclass
class Held:
    """A repeat for each tenant at each tick, in the way of `bridge.hold`."""

    world: "World"
    tick: Tick
    left: list[str] = field(default_factory=list)

    def request(self, turn: Callable[[str, int], Turn]) -> HeldRequest | None:
        """Give the first whose turn it is."""
        if self.world.tick is not self.tick:
            self.tick, self.left = self.world.tick, sorted(self.world.tenants)
        while self.left:
            tenant, answer = self.left[0], turn(self.left[0], self.tick.seq)
            if answer == "not this time":
                del self.left[0]
                continue
            if answer == "later":
                return None
            return HeldRequest(entry(self.tick.seq, f"{tenant}-repeat").body, 1, tenant)
        return None

    def sent(self) -> None:
        """Go on."""
        del self.left[0]


class World:
    """A journal, a receiver, one sender after the other, and what happens to them."""

    def __init__(self, seed: int, *, may_be_quiet: bool) -> None:
        self.dice = dice = random.Random(seed)
        self.clock_s = asyncio.get_running_loop().time
        self.has_tenants = dice.random() < 0.8
        self.tenants = TENANTS if self.has_tenants else ("",)
        self.wards = Wards(dice, self.clock_s, has_tenants=self.has_tenants)
        self.entries: list[Entry] = []
        self.all: dict[int, Entry] = {}
        self.appended_s: dict[int, float] = {}
        self.ledger = Ledger({"t": CursorRow("t", 0, 0, 0, ())})
        self.letters: set[Sample] = set()
        self.disk = asyncio.Lock()
        self.news = News()
        self.tick = Tick()
        self.oldest_ms = 0
        self.gone: set[int] = set()
        self.lives = 0
        self.ticked: list[tuple[float, int]] = []
        """When, and behind which row."""
        self.quiet = may_be_quiet and self.has_tenants and dice.random() < 0.6
        """Whether nothing happens but tenants in trouble, so that the calm one has to be served in time."""
        self.may_end = False
        """Whether senders end and others begin."""
        self.failing_reads = 0
        self.options = Options(
            LIMIT,
            capacity=dice.choice((LIMIT, 20, 60)),
            min_shards=(shards := dice.choice((1, 1, 3))),
            max_shards=shards + dice.choice((0, 3, 10)),
            max_body_bytes=dice.choice((8 << 20, 8 << 20, 150)),
            on_rejected=dice.choice(("split", "split", "drop")),
            rules=TargetRules(
                relabel=dice.choice((None, lambda head: RELABEL if b"unwanted" in head else head)),
                tenant_of=(lambda group: group.decode().partition("-")[0]) if self.has_tenants else None,
            ),
            oldest_ms=lambda: self.oldest_ms,
        )

    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> list[Entry]:
        """As the journal's reader does."""
        if self.failing_reads:
            self.failing_reads -= 1
            raise JournalUnavailableError("io_error", "disk read failed")
        found: list[Entry] = []
        for row in self.entries:
            if row.seq > after_seq:
                max_samples -= row.samples
                max_bytes -= len(row.body)
                if found and (max_samples < 0 or max_bytes < 0):
                    break
                found.append(row)
        return found

    async def confirm(self, target: str, settled: Sequence[Settled]) -> None:
        """In one transaction."""
        async with self.disk:
            cursor = self.ledger.cursors[target]
            for one in settled:
                assert one.first_seq > cursor.seq
                cursor = confirm(cursor, one)
                for letter in one.letters:
                    self.letters |= {(name, at) for name, _, at in decode(letter.body)}
            await asyncio.sleep(self.dice.uniform(0, 0.002))
            self.ledger.publish({target: cursor})

    async def wait_for_work(self, after_seq: int, tick: Tick) -> None:
        """As the committer's."""
        while len(self.all) <= after_seq and self.tick is tick:
            await self.news.wait()

    def probe(self) -> Request:
        """What is always fine."""
        return Request(entry(1, "probe").body, 1)

    def append(self) -> None:
        """A push."""
        dice, seq = self.dice, len(self.all) + 1
        tenant = dice.choice(TENANTS)
        group = f"{tenant}-{dice.randrange(4)}"
        kinds = ["", "", "", "", "", "unwanted", *(["bad"] if tenant in TROUBLED else [])]
        if tenant in TROUBLED and self.options.on_rejected == "split":
            # With `drop` nobody finds out whether a 500 is for the data.
            kinds.append("odd")
        number = dice.choice((0, 1, 1, 2, 2, 3, LIMIT, LIMIT + 1, 2 * LIMIT, dice.randrange(3 * LIMIT + 1)))
        names = [f"{group}-{at}{dice.choice(kinds) if dice.random() < 0.3 else ''}" for at in range(number)]
        row = replace(entry(seq, *names), group=group.encode())
        if dice.random() < 0.02 and not self.quiet:
            row = replace(row, damaged=True, body=b"")
            self.gone.add(seq)
        self.all[seq] = row
        self.appended_s[seq] = self.clock_s()
        self.entries.append(row)
        self.news.tell()

    async def pushes(self) -> None:
        """Come at any speed, behind a backlog or not."""
        for _ in range(0 if self.quiet else self.dice.choice((0, 0, 300))):
            self.append()
        for _ in range(self.dice.randrange(1, 30)):
            for _ in range(self.dice.choice((1, 1, 3, 20))):
                self.append()
            await asyncio.sleep(self.dice.choice((0, 0.01, 0.1, 1, 3)))

    async def weather(self, tenant: str) -> None:
        """Changes."""
        while True:
            self.wards.moods[tenant] = self.dice.choice(("ok", "429", "503", "500", "401", "hangs"))
            await asyncio.sleep(self.dice.choice((0.01, 0.3, 2, 10, 60)))

    async def ticks(self) -> None:
        """Come at some interval."""
        while True:
            self.begin_tick()
            await asyncio.sleep(self.dice.choice((0.3, 2, 10, 30)))

    def begin_tick(self) -> None:
        """Have everything repeated."""
        self.tick = Tick(len(self.all))
        self.ticked.append((self.clock_s(), self.tick.seq))
        self.news.tell()

    async def drops(self) -> None:
        """Make room in a full journal, or fail to."""
        while True:
            await asyncio.sleep(self.dice.choice((0.3, 2, 10)))
            async with self.disk:
                self.ledger.dropping = True
                # There is always room for the newest push, for whose sake the others go.
                rows = self.entries[: self.dice.choice((1, 5, 30))][: len(self.entries) - 1]
                changed = self.ledger.drop(((row.seq, row.samples) for row in rows), JOURNAL_FULL)
                await asyncio.sleep(self.dice.uniform(0, 0.02))
                if self.dice.random() < 0.7:
                    self.ledger.publish(changed)
                    del self.entries[: len(rows)]
                    self.gone |= {row.seq for row in rows}
                self.ledger.dropping = False

    async def ageing(self) -> None:
        """Makes samples too old."""
        while True:
            await asyncio.sleep(self.dice.choice((5, 20)))
            self.oldest_ms = self.dice.randrange(self.oldest_ms, len(self.all) + 1)

    async def disk_trouble(self) -> None:
        """Keeps rows from being read for a while."""
        while True:
            await asyncio.sleep(self.dice.choice((5, 20)))
            self.failing_reads = self.dice.randrange(3)

    async def lives_of_senders(self) -> None:
        """One after the other; some end in order and some not."""
        while True:
            self.lives += 1
            self.wards.life = self.lives
            task, sender = self.start()
            try:
                wait_s = self.dice.choice((1, 10, 50)) if self.may_end else 1e9
                await asyncio.wait([task], timeout=wait_s)
                if task.done():
                    await task
                    raise AssertionError("ended by itself")
                if self.dice.random() < 0.5:
                    sender.stop()
                    async with asyncio.timeout(2 * TIMEOUT_S + 10):
                        await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await self.book_gone()

    def start(self) -> tuple[asyncio.Task[None], Sender]:
        """Begin behind the cursor."""
        held = Held(self, self.tick)
        sender = Sender(
            "t",
            "http://t",
            reader=self,
            hand_out=self.ledger.hand_out,
            confirm=self.confirm,
            wait_for_work=lambda seq: self.wait_for_work(seq, held.tick),
            hold=held,
            client=self.wards,
            observer=Seen(),
            clock_s=self.clock_s,
            sleep=asyncio.sleep,
            random_01=self.dice.random,
            cursor=self.ledger.cursors["t"].seq,
            sent_before=len(self.all),
            options=self.options,
            probe=self.probe,
        )
        return asyncio.create_task(sender.run()), sender

    async def book_gone(self) -> None:
        """As is done where a sender ended with rows in hand."""
        self.ledger.take_back("t")
        async with self.disk:
            cursor = self.ledger.cursors["t"]
            gone = self.pending - sum(row.samples for row in self.entries if row.seq > cursor.seq)
            assert gone >= 0
            self.ledger.publish({"t": add_dropped(cursor, {JOURNAL_FULL: gone} if gone else {})})

    @property
    def pending(self) -> int:
        """What the account says."""
        return pending(self.ledger.cursors["t"], sum(row.samples for row in self.all.values()))

    async def tell(self) -> None:
        """Live through it, and see it end."""
        events = [self.ticks(), *(self.weather(tenant) for tenant in (TROUBLED if self.has_tenants else ("",)))]
        if not self.quiet:
            self.may_end = self.dice.random() < 0.7
            events += [self.weather(CALM), self.ageing(), self.disk_trouble()]
            if self.dice.random() < 0.5:
                events += [self.drops()]
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(self.lives_of_senders())
            troubles = [tasks.create_task(event) for event in events]
            await self.pushes()
            await asyncio.sleep(self.dice.choice((0, 5, 40)))
            for trouble in troubles:
                trouble.cancel()
            self.ledger.dropping = False
            self.failing_reads = 0
            self.may_end = False
            self.wards.moods = dict.fromkeys(TENANTS, "ok")
            async with asyncio.timeout(3000):
                while self.ledger.cursors["t"].seq < len(self.all):  # noqa: ASYNC110 - no time is lost
                    await asyncio.sleep(0.1)
            async with asyncio.timeout(60):
                while any((f"{tenant}-repeat", len(self.all)) not in self.wards.stored for tenant in self.tenants):
                    self.begin_tick()
                    await asyncio.sleep(1)
            life.cancel()

    def check(self) -> None:
        """Nothing is lost, nothing counted twice, and all in order."""
        samples = {(name, seq) for seq, row in self.all.items() if row.body for name, *_ in decode(row.body)}
        stored = [sample for sample in self.wards.stored if "repeat" not in sample[0] and sample[0] != "probe"]
        self.check_account(samples, set(stored))
        self.check_order()
        if self.quiet:
            self.check_calm(stored)

    def check_account(self, samples: set[Sample], stored: set[Sample]) -> None:
        """What is counted as what."""
        cursor = self.ledger.cursors["t"]
        assert self.pending == 0
        assert stored <= samples
        assert cursor.delivered <= len(stored)
        assert sum(number for _, number in cursor.dead_lettered) == len(self.letters)
        dropped = dict(cursor.dropped)
        refused = dropped.keys() & {"http_400", "http_401"}
        missing = samples - stored - self.letters
        for name, seq in missing:
            assert seq in self.gone or "unwanted" in name or seq < self.oldest_ms or refused, f"{name} of {seq} is lost"
        if self.lives == 1:
            counted = sum(dropped.values()) - sum(row.samples for row in self.all.values() if not row.body)
            # What is refused as a whole may have been stored by a try without an answer.
            assert counted == len(missing) or (refused and counted > len(missing))

    def check_order(self) -> None:
        """Series by series, and no row behind a repeat that follows it."""
        newest: dict[tuple[int, str], int] = {}
        repeated: dict[tuple[int, str], int] = {}
        for (name, seq), (_, life) in self.wards.stored.items():
            tenant = name.partition("-")[0] if self.has_tenants else ""
            if "repeat" in name:
                repeated[life, tenant] = seq
            if "repeat" in name or name == "probe":
                continue
            # What one life got refused and did not come to confirm may be taken in the next.
            assert newest.get((life, name), 0) < seq, f"{name}: {newest[life, name]} came before {seq}"
            assert repeated.get((life, tenant), 0) < seq, f"{name}: {seq} came behind its repeat"
            newest[life, name] = seq

    def check_calm(self, stored: Sequence[Sample]) -> None:
        """The tenant without trouble is served in time."""
        for name, seq in stored:
            late_s = self.wards.stored[name, seq][0] - self.appended_s[seq]
            assert not name.startswith(CALM) or late_s < ROWS_LATE_S, f"{name} of {seq} came after {late_s:.1f} s"
        for (at_s, seq), (next_s, _) in pairwise(self.ticked):
            if next_s - at_s > REPEATS_LATE_S:
                when_s = self.wards.stored.get((f"{CALM}-repeat", seq), (math.inf, 0))[0]
                assert when_s - at_s < REPEATS_LATE_S, f"repeats behind {seq} came after {when_s - at_s:.1f} s"


async def story(seed: int, *, may_be_quiet: bool = True) -> None:
    """Tell one."""
    world = World(seed, may_be_quiet=may_be_quiet)
    await world.tell()
    world.check()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is read at once, so that more happens in between."""
    monkeypatch.setattr(sender_module, "PIECE_SAMPLES", 10)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens(seed: int) -> None:
    """Everything arrives in order or is counted, once, whatever happens in between; who is well is served in time."""
    virtual.run(story(seed))


@pytest.mark.parametrize("seed", range(10))
def test_with_few_rows_ahead(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the others soon have to wait for the first row that is not settled."""
    monkeypatch.setattr(sender_module, "MAX_ROWS", 30)
    virtual.run(story(seed, may_be_quiet=False))


def test_a_stop_while_rows_are_gathered() -> None:
    """It is the end at once: nothing turns until the time has passed after which more would be read."""

    async def stop_soon() -> None:
        world = World(1, may_be_quiet=True)
        while not 0 < world.pending < LIMIT:
            world = World(world.dice.randrange(100), may_be_quiet=True)
            world.append()
        task, sender = world.start()
        await asyncio.sleep(0.01)
        sender.stop()
        await task

    virtual.run(stop_soon())
