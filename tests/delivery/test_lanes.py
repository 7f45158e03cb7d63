"""Tenants of one target, some of them in trouble: what that costs the others, and what becomes of their own rows."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bridge.delivery import sender as sender_module
from bridge.delivery.batch import Request
from bridge.delivery.lanes import Lanes
from bridge.delivery.options import Options
from bridge.delivery.rewrite import TargetRules, prepare
from bridge.journal.rows import Entry
from tests.delivery.peers import Journal, Receiver, decode, entry, expected, running
from tests.delivery.test_in_flight import WallClock

OF_TENANTS = TargetRules(tenant_of=lambda group: group.decode().partition("-")[0])


def row(seq: int, group: str) -> Entry:
    """A row with one sample, named after its group, which is named after its tenant."""
    return replace(entry(seq, group), group=group.encode())


def options(capacity: int = 20, rules: TargetRules = OF_TENANTS) -> Options:
    """Small requests, and quick tries."""
    return Options(5, capacity=capacity, min_backoff_s=0.001, max_backoff_s=0.01, on_rejected="split", rules=rules)


@dataclass
class Wards(Receiver):
    """A receiver that has something against some tenants."""

    trouble: dict[str, int] = field(default_factory=dict)
    """Status by tenant."""
    flaky: random.Random | None = None
    """With it everybody is in trouble now and then."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer by tenant."""
        body = await request.read()
        tenant = request.headers.get("X-Scope-OrgID", "")
        if status := self.trouble.get(tenant) or (503 if self.flaky and self.flaky.random() < 0.3 else 0):
            return web.Response(status=status)
        self.bodies.append(body)
        self.headers.append(request.headers)
        self.stored.append(body)
        return web.Response(status=204)

    async def has(self, number: int) -> None:
        """Wait for so many samples."""
        async with asyncio.timeout(10):
            while len(self.points()) < number:  # noqa: ASYNC110 - a poll is enough
                await asyncio.sleep(0.001)


def in_order(points: Sequence[tuple[str, float, int]]) -> bool:
    """Whether the points of each series are in order."""
    return all(
        (times := [at for name, _, at in points if name == one]) == sorted(times)
        for one in {name for name, *_ in points}
    )


async def test_a_tenant_in_trouble_holds_up_no_other() -> None:
    """Rows of one tenant that is answered 429, ten times what fits in hand, do not keep back those behind them."""
    rows = [row(seq, f"noisy-{seq % 7}") for seq in range(1, 201)]
    quiet = [row(200 + seq, f"quiet-{seq % 3}") for seq in range(1, 21)]
    journal, wards = Journal(*rows, *quiet), Wards(trouble={"noisy": 429})
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options()):
        await wards.has(len(quiet))
        assert sorted(wards.points()) == sorted(expected(*quiet))
        assert journal.confirmed == []
        await journal.append(row(221, "quiet-1"))
        await wards.has(len(quiet) + 1)
        wards.trouble.clear()
        await journal.confirmed_up_to(221)
    assert sorted(wards.points()) == sorted(expected(*journal.entries))
    assert in_order(wards.points())
    assert journal.totals() == (221, {})


async def test_what_is_in_hand_is_bounded() -> None:
    """Of a tenant in trouble no more than the capacity is kept in memory."""
    journal = Journal(*(row(seq, f"noisy-{seq % 7}") for seq in range(1, 501)), row(501, "quiet-1"))
    wards = Wards(trouble={"noisy": 503})
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options()) as bench:
        await wards.has(1)
        lane = bench.sender._lanes._lanes["noisy"]
        assert 20 <= lane.shards.taken <= 25
        assert len(lane.left) == 500 - lane.shards.taken
        wards.trouble.clear()
        await journal.confirmed_up_to(501)
        await journal.append(row(502, "other-1"))
        await journal.confirmed_up_to(502)
        assert set(bench.sender._lanes._lanes) == {"other"}, "who has nothing under way is forgotten"


async def test_the_others_go_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sender keeps in mind is bounded, and the log says for whose sake the others wait."""
    monkeypatch.setattr(sender_module, "MAX_ROWS", 50)
    monkeypatch.setattr(sender_module, "_TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(sender_module, "PIECE_SAMPLES", 10)
    journal = Journal(row(1, "noisy-1"), *(row(seq, f"quiet-{seq % 7}") for seq in range(2, 101)))
    wards = Wards(trouble={"noisy": 503})
    with capture_logs() as logs:
        async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options()):
            await wards.has(40)
            await asyncio.sleep(0.5)
            assert len(wards.points()) <= 60
            wards.trouble.clear()
            await journal.confirmed_up_to(100)
    (waits,) = [line for line in logs if line["event"] == "remote_write_waits"]
    assert (waits["rows"], waits["tenant"]) == (50, "noisy")
    assert journal.totals() == (100, {})


async def test_rows_that_were_dropped_meanwhile() -> None:
    """Rows that a full journal dropped while they were left in it are counted as that, each once."""
    journal = Journal(*(row(seq, "noisy-1") for seq in range(1, 101)), row(101, "quiet-1"))
    wards = Wards(trouble={"noisy": 503})
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options()):
        await wards.has(1)
        journal.entries = [one for one in journal.entries if one.seq > 60]
        wards.trouble.clear()
        await journal.confirmed_up_to(101)
    delivered, dropped = journal.totals()
    assert dropped == {"journal_full": 101 - delivered}
    assert 41 + 20 <= delivered <= 41 + 25
    assert in_order(wards.points())


async def test_rules_for_rows_that_were_left() -> None:
    """What has grown too old while it was left in the journal is dropped as too old."""
    journal, oldest = Journal(*(row(seq, "noisy-1") for seq in range(1, 101)), row(101, "quiet-1")), [0]
    wards = Wards(trouble={"noisy": 503})
    with_age = replace(options(), oldest_ms=lambda: oldest[0])
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=with_age):
        await wards.has(1)
        oldest[0] = 91
        wards.trouble.clear()
        await journal.confirmed_up_to(101)
    delivered, dropped = journal.totals()
    assert dropped == {"too_old": 101 - delivered}
    assert 11 + 20 <= delivered <= 11 + 25


async def test_a_damaged_row_that_was_left() -> None:
    """It is counted when it is read again, and does not stop those behind it."""
    journal = Journal(*(row(seq, "noisy-1") for seq in range(1, 101)), row(101, "quiet-1"))
    journal.entries[89] = replace(journal.entries[89], body=b"", damaged=True)
    wards = Wards(trouble={"noisy": 503})
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options()):
        await wards.has(1)
        wards.trouble.clear()
        await journal.confirmed_up_to(101)
    assert journal.totals() == (100, {"damaged": 1})


async def test_a_disk_that_cannot_be_read_for_a_while() -> None:
    """Rows that were left stay so until the journal can be read again."""
    journal = Journal(*(row(seq, "noisy-1") for seq in range(1, 101)), row(101, "quiet-1"))
    wards = Wards(trouble={"noisy": 503})
    clock = WallClock()
    async with wards.serving() as url, running(url, journal, clock=clock, options=options()):
        await wards.has(1)
        journal.fail_reads = 2
        wards.trouble.clear()
        await journal.confirmed_up_to(101)
    assert journal.fail_reads == 0
    assert journal.totals() == (101, {})


@pytest.mark.parametrize("seed", range(6))
async def test_trouble_for_everybody_now_and_then(seed: int) -> None:
    """Whoever is in trouble when, everything arrives, the rows of each group in order."""
    dice = random.Random(seed)
    groups = [f"{tenant}-{number}" for tenant in ("red", "green", "blue", "") for number in range(3)]
    rows = [row(seq, dice.choice(groups)) for seq in range(1, 401)]
    journal, wards = Journal(*rows[:200]), Wards(flaky=dice)
    settings = replace(options(capacity=10), min_shards=dice.choice((1, 3)))
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=settings):
        for one in rows[200:]:
            await journal.append(one)
            await asyncio.sleep(0)
        await journal.confirmed_up_to(400)
    assert sorted(wards.points()) == sorted(expected(*rows))
    assert in_order(wards.points())
    assert journal.totals() == (400, {})


async def test_an_end_leaves_what_was_left() -> None:
    """A sender that stops while a tenant is in trouble ends at once and confirms nothing of it."""
    journal = Journal(*(row(seq, "noisy-1") for seq in range(1, 101)), row(101, "quiet-1"))
    wards = Wards(trouble={"noisy": 503})
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options()) as bench:
        await wards.has(1)
        bench.sender.stop()
        async with asyncio.timeout(5):
            await bench.task
    assert journal.confirmed == []


async def test_a_tenant_with_nothing_to_send_is_no_reason_to_wait() -> None:
    """What is ready in a shard beside a busy one is sent, though another tenant has nothing in flight."""
    sent: list[str] = []

    async def settle(request: Request) -> tuple[()]:
        sent.extend(share.group.decode() for share in request.shares)
        if request.tenant == "busy":
            await asyncio.sleep(60)
        return ()

    lanes = Lanes(
        settle,
        lambda _request, _refusals: None,
        number=2,
        max_samples=5,
        max_body_bytes=1000,
        capacity=100,
        progress=asyncio.Event(),
        has_tenants=True,
        is_settled=lambda _seq: True,
    )
    async with asyncio.TaskGroup() as tasks:
        stop = tasks.create_task(asyncio.sleep(60))
        lanes.start(tasks)
        for seq, group in enumerate(("idle-1", "busy-1", "busy-2"), start=1):
            one = prepare(row(seq, group), OF_TENANTS)
            assert one is not None
            lanes.put(group.encode(), seq, one)
            if group != "busy-2":
                lanes.flush()
        async with asyncio.timeout(5):
            while len(sent) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert not lanes.flush_resting()
        lanes.flush_idle()
        async with asyncio.timeout(5):
            while len(sent) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        for task in (*lanes._running, stop):
            task.cancel()
    assert sent[2] == "busy-2"


async def test_a_search_for_refused_samples_holds_up_no_other() -> None:
    """While a tenant's request is split, which may take many round trips, the others go on."""

    class Strict(Wards):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            """Refuse everything of one tenant, slowly."""
            if request.headers.get("X-Scope-OrgID") == "bad" and decode(await request.read())[0][0] != "probe":
                await asyncio.sleep(0.05)
                return web.Response(status=400, text="no")
            return await super().handle(request)

    journal = Journal(*(row(seq, "bad-1") for seq in range(1, 51)), *(row(seq, "good-1") for seq in range(51, 61)))
    wards = Strict()

    def probe() -> Request:
        return Request(entry(1, "probe").body, 1)

    async with (
        wards.serving() as url,
        running(url, journal, clock=WallClock(), options=options(), probe=probe) as bench,
    ):
        await wards.has(10)
        assert bench.sender._lanes.lags("bad")
        assert journal.confirmed == []
        await journal.confirmed_up_to(60)
    assert sum(len(one.letters) for one in journal.settled) == 50
