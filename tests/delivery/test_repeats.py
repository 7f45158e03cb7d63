"""Repeats between the requests of the journal: when they go out, and what becomes of those that fail."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bridge.delivery import repeats as repeats_module
from bridge.delivery.batch import Request
from bridge.delivery.repeats import Turn
from bridge.hold import HeldRequest
from tests.delivery.peers import Clock, Journal, Receiver, decode, entry, running, status
from tests.delivery.test_in_flight import WallClock
from tests.delivery.test_lanes import Wards, options, row


@dataclass
class Held:
    """Repeats that are due once a target has the journal up to a row."""

    names: list[str]
    """One request each."""
    after_seq: int = 0
    asked: list[Turn] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def request(self, turn: Callable[[str, int], Turn]) -> Request | None:
        """Give the first that is left."""
        self.asked.append(turn("", self.after_seq))
        if not self.names or self.asked[-1] == "later":
            return None
        return Request(entry(60_000, self.names[0]).body, 1)

    def sent(self) -> None:
        """Go on."""
        del self.names[0]
        if not self.names:
            self.done.set()


def order(receiver: Receiver) -> list[str]:
    """Names of the first sample of each request, in order of arrival."""
    return [decode(body)[0][0] for body in receiver.bodies]


async def test_what_is_older_comes_first() -> None:
    """Repeats follow the rows of the journal that come before them, and are not part of its account."""
    journal, held = Journal(entry(1, "a"), entry(2, "b")), Held(["r1", "r2"], after_seq=2)
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal, hold=held, max_samples=1) as bench:
        await held.done.wait()
    assert order(receiver) == ["a", "b", "r1", "r2"]
    assert journal.totals() == (2, {})
    assert bench.seen.repeats == [("", 1), ("", 1)]


async def test_repeats_wait_for_confirmations() -> None:
    """What is not confirmed may be sent again after a crash, so no repeat goes out before it."""
    journal, held = Journal(entry(1, "a")), Held(["r"], after_seq=1)
    journal.confirming.clear()
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal, hold=held):
        async with asyncio.timeout(10):
            while not held.asked[-1:] or not receiver.bodies:  # noqa: ASYNC110 - what shall not happen wakes nobody
                await asyncio.sleep(0)
        for _ in range(500):
            await asyncio.sleep(0)
        assert order(receiver) == ["a"]
        assert set(held.asked) == {"later"}
        journal.confirming.set()
        await held.done.wait()
    assert order(receiver) == ["a", "r"]


async def test_repeats_fill_the_pauses_of_a_slow_journal() -> None:
    """While a trickle of rows is gathered, repeats go out one after the other."""
    journal, held, clock = Journal(entry(1, "a")), Held(["r1", "r2", "r3", "r4"]), Clock()
    receiver = Receiver()

    async def another_row_comes(_request: web.Request) -> web.StreamResponse:
        await journal.append(entry(2, "b"))
        return web.Response(status=204)

    receiver.answers = [status(204), another_row_comes]
    async with receiver.serving() as url, running(url, journal, hold=held, clock=clock):
        await journal.confirmed_up_to(2)
    assert sorted(order(receiver)) == ["a", "b", "r1", "r2", "r3", "r4"]
    assert order(receiver)[-1] == "b"


async def test_a_failed_repeat_does_not_hold_up_the_journal() -> None:
    """While repeats fail, rows go out; the same repeat is tried again, ever more slowly, until it is taken."""
    journal, held, clock = Journal(entry(1, "a")), Held(["r"]), Clock()
    receiver = Receiver([status(500), status(204), status(500), status(500)])
    async with receiver.serving() as url, running(url, journal, hold=held, clock=clock) as bench:
        await held.done.wait()
    assert order(receiver) == ["r", "a", "r", "r", "r"]
    assert journal.totals() == (1, {})
    assert bench.seen.repeats == [("", 1)]
    assert bench.seen.resent == 0


async def test_refused_repeats_are_left_out() -> None:
    """A request of repeats that is refused for good is counted by reason and told in the receiver's words."""
    journal, held = Journal(entry(1, "a")), Held(["r1", "r2"], after_seq=1)
    receiver = Receiver([status(204), status(400, "out of order sample")])
    with capture_logs() as logs:
        async with receiver.serving() as url, running(url, journal, hold=held) as bench:
            await held.done.wait()
    assert order(receiver) == ["a", "r1", "r2"]
    assert bench.seen.repeats == [("http_400", 1), ("", 1)]
    assert journal.totals() == (1, {})
    assert [log["words"] for log in logs if log["event"] == "remote_write_rejected"] == ["out of order sample"]


async def test_retry_after_is_honoured_for_repeats_too() -> None:
    """A receiver that asks for a pause gets nothing at all for as long."""
    journal, held, clock = Journal(entry(1, "a")), Held(["r"]), Clock()
    receiver = Receiver([status(429, Retry_After="7")])
    async with receiver.serving() as url, running(url, journal, hold=held, clock=clock):
        await held.done.wait()
    assert order(receiver)[:2] == ["r", "r"]
    assert clock.slept[0] == 7.0


async def test_stop_between_repeats() -> None:
    """A sender that is stopped finishes the request under way and begins no other."""
    journal, held = Journal(), Held(["r1", "r2"])
    reached, go, receiver = asyncio.Event(), asyncio.Event(), Receiver()

    async def slow(_request: web.Request) -> web.StreamResponse:
        reached.set()
        await go.wait()
        return web.Response(status=204)

    receiver.answers = [slow]
    async with receiver.serving() as url, running(url, journal, hold=held) as bench:
        await reached.wait()
        bench.sender.stop()
        go.set()
        await asyncio.wait_for(bench.task, 10)
    assert order(receiver) == ["r1"]


@dataclass
class HeldByTenant:
    """A repeat for each tenant, behind a row of the journal."""

    names: list[str]
    seq: int = 1
    passed_over: list[str] = field(default_factory=list)

    def request(self, turn: Callable[[str, int], Turn]) -> HeldRequest | None:
        """Give the first whose turn it is."""
        while self.names:
            answer = turn(self.names[0], self.seq)
            if answer == "now":
                return HeldRequest(entry(60_000, f"{self.names[0]}-repeat").body, 1, self.names[0])
            if answer == "later":
                return None
            self.passed_over.append(self.names.pop(0))
        return None

    def sent(self) -> None:
        """Go on."""
        del self.names[0]


async def test_repeats_of_the_others_go_on() -> None:
    """While a tenant's rows wait its repeats are left out; those of the others go, though nothing can be confirmed."""
    journal, wards = Journal(row(1, "noisy-1"), row(2, "quiet-1")), Wards(trouble={"noisy": 503})
    held = HeldByTenant([])
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options(), hold=held):
        await wards.has(1)
        held.names += ["noisy", "quiet", "idle"]
        await journal.append(row(3, "quiet-1"))
        await wards.has(4)
        assert journal.confirmed == []
    assert held.passed_over == ["noisy"]
    assert sorted(name for name, *_ in wards.points()) == ["idle-repeat", "quiet-1", "quiet-1", "quiet-repeat"]


async def test_a_tenant_whose_repeats_are_refused_for_now() -> None:
    """Nobody waits for a repeat that failed, and its tenant gets none until its pause is over."""
    journal, wards = Journal(row(1, "quiet-1")), Wards(trouble={"noisy": 429})
    held = HeldByTenant(["noisy", "quiet", "noisy"])
    slow = replace(options(), min_backoff_s=60.0, max_backoff_s=60.0)
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=slow, hold=held):
        await wards.has(2)
    assert held.passed_over[:1] == ["noisy"]
    assert {name for name, *_ in wards.points()} == {"quiet-1", "quiet-repeat"}


@dataclass
class Slow(Wards):
    """A receiver that does not answer repeats of one tenant until it is told to, the first times, or is away then."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    blips: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Wait with the answer."""
        if decode(await request.read())[0][0] == "noisy-repeat":
            if self.blips:
                self.blips -= 1
                return web.Response(status=503)
            await self.go.wait()
        return await super().handle(request)


async def test_a_repeat_without_an_answer_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one tenant's repeat gets no answer the others get their rows and repeats; its own rows follow it."""
    monkeypatch.setattr(repeats_module, "_LONG_PATIENCE_S", 0.5)
    journal, slow, held = Journal(row(1, "quiet-1")), Slow(), HeldByTenant(["noisy", "noisy", "quiet"])
    async with slow.serving() as url, running(url, journal, clock=WallClock(), options=options(), hold=held):
        await slow.has(1)
        await journal.append(row(2, "noisy-1"))
        await journal.append(row(3, "quiet-1"))
        await slow.has(3)
        await asyncio.sleep(0.1)
        assert sorted(name for name, *_ in slow.points()) == ["quiet-1", "quiet-1", "quiet-repeat"]
        assert held.passed_over == ["noisy"], "what is left of its repeats is not waited for"
        slow.go.set()
        await journal.confirmed_up_to(3)
    assert [name for name, *_ in slow.points() if name.startswith("noisy")] == ["noisy-repeat", "noisy-1"]


async def test_a_repeat_that_fails_once() -> None:
    """It is tried again soon, and its tenant gets the rest of its repeats, too."""
    journal, slow, held = Journal(), Slow(blips=2), HeldByTenant(["noisy", "noisy", "quiet"])
    slow.go.set()
    async with slow.serving() as url, running(url, journal, clock=WallClock(), options=options(), hold=held):
        await slow.has(3)
    assert [name for name, *_ in slow.points()] == ["noisy-repeat", "noisy-repeat", "quiet-repeat"]


async def test_repeats_of_a_tenant_whose_first_request_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows yet that it is in trouble: the others' repeats wait for a while, not for the timeout."""
    monkeypatch.setattr(repeats_module, "_LONG_PATIENCE_S", 0.5)

    answer = asyncio.Event()

    class Silent(Wards):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            """Give no answer to one tenant."""
            if request.headers.get("X-Scope-OrgID") == "noisy":
                await answer.wait()
            return await super().handle(request)

    journal, wards, held = Journal(row(1, "noisy-1")), Silent(), HeldByTenant(["noisy", "quiet"])
    async with wards.serving() as url, running(url, journal, clock=WallClock(), options=options(), hold=held):
        await wards.has(1)
        answer.set()
    assert held.passed_over == ["noisy"]


async def test_repeats_behind_rows_that_are_gone() -> None:
    """A tenant whose last rows were dropped while they were left has passed them, whatever another one waits for."""
    journal = Journal(row(1, "stuck-1"), *(row(seq, "noisy-1") for seq in range(2, 101)), row(101, "quiet-1"))
    wards, held = Wards(trouble={"noisy": 503, "stuck": 503}), HeldByTenant([], seq=101)
    async with (
        wards.serving() as url,
        running(url, journal, clock=WallClock(), options=options(capacity=5), hold=held) as bench,
    ):
        await wards.has(1)
        journal.entries = [one for one in journal.entries if one.seq == 101]
        del wards.trouble["noisy"]
        async with asyncio.timeout(5):
            while bench.sender._lanes.lags("noisy"):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        held.names.append("noisy")
        await journal.append(row(102, "quiet-1"))
        async with asyncio.timeout(3):
            while "noisy-repeat" not in [name for name, *_ in wards.points()]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert journal.confirmed == []
