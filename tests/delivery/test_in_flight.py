"""A sender with several requests in flight: what one that fails costs the others, how many there are, and when."""

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from bridge.delivery import sender as sender_module
from bridge.delivery.batch import Request
from bridge.delivery.options import Options
from bridge.journal.rows import Entry
from tests.delivery.peers import Clock, Journal, Receiver, decode, entry, expected, running

MANY = 400


def probe() -> Request:
    """What a receiver in order takes."""
    return Request(entry(1, "probe").body, 1)


def in_group(seq: int, group: str) -> Entry:
    """A row with one sample, named after its group."""
    return replace(entry(seq, group), group=group.encode())


class Gate(Receiver):
    """A receiver that is away for one name, and takes its time for all."""

    def __init__(self, closed_to: str = "", turns: int = 0) -> None:
        super().__init__()
        self.closed_to = closed_to
        self.turns = turns
        self.in_flight = self.most_in_flight = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Refuse for now, or take."""
        body = await request.read()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for _ in range(self.turns):
            await asyncio.sleep(0.001)
        self.in_flight -= 1
        if any(name == self.closed_to for name, *_ in decode(body)):
            return web.Response(status=503)
        self.stored.append(body)
        return web.Response(status=204)


async def test_one_that_fails_does_not_stop_the_others() -> None:
    """While a request is tried again and again the other shards go on, and the cursor waits."""
    journal = Journal(*(in_group(seq, "closed" if seq == 1 else f"g{seq % 20}") for seq in range(1, MANY + 1)))
    gate, clock = Gate("closed"), WallClock()
    options = Options(10, min_shards=8, capacity=1000, batch_send_deadline_s=1e9)
    async with gate.serving() as url, running(url, journal, clock=clock, options=options, probe=probe):
        async with asyncio.timeout(10):
            while len(gate.points()) < MANY * 3 // 4:  # noqa: ASYNC110 - a poll is enough
                await asyncio.sleep(0.001)
        assert journal.confirmed == []
        gate.closed_to = ""
        await journal.confirmed_up_to(MANY)
    points = [point for point in gate.points() if point[0] != "probe"]
    assert sorted(points) == sorted(expected(*journal.entries))
    for group in {name for name, *_ in points}:
        times = [at for name, _, at in points if name == group]
        assert times == sorted(times)
    assert journal.totals() == (MANY, {})


async def test_the_others_go_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent again after a crash is bounded, and so is what a sender keeps in mind."""
    monkeypatch.setattr(sender_module, "MAX_ROWS", 50)
    monkeypatch.setattr(sender_module, "PIECE_SAMPLES", 10)
    journal = Journal(*(in_group(seq, "closed" if seq == 1 else f"g{seq % 20}") for seq in range(1, MANY + 1)))
    gate, options = Gate("closed"), Options(10, min_shards=8, capacity=1000)
    async with gate.serving() as url, running(url, journal, options=options, probe=probe):
        async with asyncio.timeout(10):
            while len(gate.points()) < 30:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert len(gate.points()) <= 60
        gate.closed_to = ""
        await journal.confirmed_up_to(MANY)
    assert journal.totals() == (MANY, {})


async def test_shards_come_with_a_backlog_and_go_with_it() -> None:
    """Long round trips get more requests in flight; when all is calm for a while one is enough again."""
    journal = Journal(*(in_group(seq, f"g{seq % 50}") for seq in range(1, 3001)))
    gate, clock = Gate(turns=20), WallClock()
    options = Options(20, capacity=100, max_shards=12)
    async with gate.serving() as url, running(url, journal, clock=clock, options=options) as bench:
        await journal.confirmed_up_to(3000)
        assert 4 <= gate.most_in_flight <= 12
        assert bench.sender._lanes.number == 12
        # A request holds many rows although there are so many shards.
        assert len(gate.stored) < 3000 / 10
        clock.offset_s = 60.0
        await journal.append(in_group(3001, "g1"))
        await journal.confirmed_up_to(3001)
        await journal.append(in_group(3002, "g1"))
        await journal.confirmed_up_to(3002)
        assert bench.sender._lanes.number == 1
    assert journal.totals() == (3002, {})


class WallClock(Clock):
    """Real time, which may step."""

    offset_s = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return asyncio.get_running_loop().time() + self.offset_s

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)
