"""Repeats between the requests of the journal: when they go out, and what becomes of those that fail."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from structlog.testing import capture_logs

from bridge.delivery.batch import Request
from bridge.delivery.repeats import Turn
from tests.delivery.peers import Clock, Journal, Receiver, decode, entry, running, status


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
