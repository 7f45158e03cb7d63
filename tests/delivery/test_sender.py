import asyncio
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bridge.delivery.confirmations import MAX_UNCONFIRMED
from bridge.delivery.options import Options
from bridge.delivery.sender import GATHER_S
from bridge.journal.rows import Entry
from tests.delivery.peers import Clock, Journal, Receiver, decode, entry, expected, running, status


async def test_backlog_and_news() -> None:
    """What is in the journal is joined into one request; what comes later follows."""
    journal = Journal(entry(1, "a", "b"), entry(2, "a"), entry(3, "c"))
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal) as bench:
        await journal.confirmed_up_to(3)
        assert len(receiver.bodies) == 1
        await journal.waiting.wait()
        await journal.append(entry(4, "a"))
        await journal.confirmed_up_to(4)
    assert receiver.points() == expected(*journal.entries)
    assert journal.confirmed == [(3, 4, {}), (4, 1, {})]
    assert [len(decode(body)) for body in receiver.bodies] == [4, 1]
    assert bench.seen.finished == [204, 204]


async def test_restart_from_cursor() -> None:
    """A sender starts behind its cursor and sends nothing before it."""
    journal = Journal(entry(1, "a"), entry(2, "a"), entry(3, "a"))
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal, cursor=2):
        await journal.confirmed_up_to(3)
    assert receiver.points() == expected(entry(3, "a"))


async def test_down_then_up() -> None:
    """A receiver that is down loses nothing: the sender keeps trying, ever slower, until it is back."""
    receiver = Receiver()
    async with receiver.serving() as url:
        port = urlsplit(url).port
    journal = Journal(entry(1, "a"), entry(2, "a"))
    clock, tried = Clock(), asyncio.Event()

    async def note() -> None:
        if len(clock.slept) == 12:
            tried.set()
            await up.wait()

    clock.on_sleep = note
    up = asyncio.Event()
    async with running(url, journal, clock=clock) as bench:
        await tried.wait()
        assert journal.confirmed == []
        async with receiver.serving(port):
            up.set()
            await journal.confirmed_up_to(2)
    assert receiver.points() == expected(*journal.entries)
    backoffs = [wait_s for wait_s in clock.slept if wait_s != GATHER_S]
    assert backoffs[:3] == pytest.approx([0.03, 0.06, 0.12])
    assert backoffs[-1] == 5.0
    assert bench.seen.resent == 2 * len(backoffs)


async def test_retry_sends_the_same_bytes_in_order() -> None:
    """A failing batch is repeated byte for byte, numbered, and nothing newer overtakes it."""
    journal = Journal(*(entry(seq, "a", "b") for seq in range(1, 5)))
    receiver = Receiver([status(500), status(503), status(204), status(500)])
    async with receiver.serving() as url, running(url, journal, max_samples=4):
        await journal.confirmed_up_to(4)
    first, second = receiver.bodies[0], receiver.bodies[3]
    assert receiver.bodies == [first, first, first, second, second]
    assert [headers.get("Retry-Attempt") for headers in receiver.headers] == [None, "1", "2", None, "1"]
    assert receiver.points() == expected(*journal.entries)
    assert journal.totals() == (8, {})


@pytest.mark.parametrize(("header", "wait_s"), [("17", 17.0), ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0)])
async def test_retry_after_is_honoured(header: str, wait_s: float) -> None:
    """A 429 with Retry-After is repeated after exactly that time, given in seconds or as a date."""
    journal = Journal(entry(1, "a"))
    receiver = Receiver([status(429, "slow down", Retry_After=header)])
    async with receiver.serving() as url, running(url, journal) as bench:
        await journal.confirmed_up_to(1)
    assert bench.clock.slept == [GATHER_S, wait_s]
    assert receiver.points() == expected(entry(1, "a"))


async def test_slow_receiver_is_tried_again() -> None:
    """A request that times out is repeated and then counts once."""
    over = asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response(status=500)

    journal = Journal(entry(1, "a"))
    receiver = Receiver([slow])
    async with receiver.serving() as url, running(url, journal, timeout_s=0.2):
        await journal.confirmed_up_to(1)
        over.set()
    assert receiver.bodies[0] == receiver.bodies[1]
    assert journal.totals() == (1, {})


async def test_reset_in_mid_body() -> None:
    """A connection that breaks within the answer's head is tried again."""

    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response(status=500)

    journal = Journal(entry(1, "a"))
    receiver = Receiver([reset])
    async with receiver.serving() as url, running(url, journal) as bench:
        await journal.confirmed_up_to(1)
    assert bench.seen.finished[0] is None
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_rejected_batch_is_dropped_and_the_next_goes_on() -> None:
    """A 400 drops its batch, counted by reason and logged with the receiver's words, and is never repeated."""
    journal = Journal(entry(1, "a", "b"), entry(2, "a"))
    receiver = Receiver([status(400, "out of order sample")])
    with capture_logs() as logs:
        async with receiver.serving() as url, running(url, journal, max_samples=2):
            await journal.confirmed_up_to(2)
    assert len(receiver.bodies) == 2
    assert receiver.points() == expected(entry(2, "a"))
    assert journal.totals() == (1, {"http_400": 2})
    assert journal.totals()[1] == {"http_400": 2}
    (rejected,) = [log for log in logs if log["event"] == "remote_write_rejected"]
    assert (rejected["status"], rejected["words"], rejected["samples"]) == (400, "out of order sample", 2)


async def test_large_entry_is_split() -> None:
    """An entry over the limit goes out in several requests, in order, and is confirmed once."""
    journal = Journal(entry(1, *(f"m{i:02}" for i in range(7))), entry(2, "a"))
    receiver = Receiver([status(204), status(400)])
    async with receiver.serving() as url, running(url, journal, max_samples=3):
        await journal.confirmed_up_to(2)
    assert [len(decode(body)) for body in receiver.bodies] == [3, 3, 1, 1]
    assert [point for body in receiver.bodies for point in decode(body)] == expected(*journal.entries)
    assert journal.confirmed[0] in ((1, 4, {"http_400": 3}), (2, 5, {"http_400": 3}))
    assert journal.totals() == (5, {"http_400": 3})


async def test_damaged_entries_are_skipped_and_counted() -> None:
    """Rows that cannot be read back are counted as damaged; their neighbours are delivered."""
    journal = Journal(Entry(1, 5, b"", 1, damaged=True), entry(2, "a"), Entry(3, 2, b"\xff", 3), entry(4, "b"))
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal):
        await journal.confirmed_up_to(4)
    assert receiver.points() == expected(entry(2, "a"), entry(4, "b"))
    assert journal.totals() == (2, {"damaged": 7})
    assert journal.totals()[1] == {"damaged": 7}


async def test_damage_alone_is_confirmed_too() -> None:
    """A journal with nothing but damaged rows moves the cursor without a request."""
    journal = Journal(Entry(1, 5, b"", 1, damaged=True))
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal):
        await journal.confirmed_up_to(1)
    assert receiver.bodies == []
    assert journal.totals() == (0, {"damaged": 5})


async def test_confirmation_does_not_hold_up_sending_for_long() -> None:
    """Sending goes on while confirmations wait for the disk, but only a few batches far."""
    rows = MAX_UNCONFIRMED + 10
    journal = Journal(*(entry(seq, "a") for seq in range(1, rows + 1)))
    journal.confirming.clear()
    enough, receiver = asyncio.Event(), Receiver()

    async def count(_request: web.Request) -> web.StreamResponse:
        if len(receiver.bodies) == MAX_UNCONFIRMED:
            enough.set()
        return web.Response(status=204)

    receiver.answers = [count] * rows
    async with receiver.serving() as url, running(url, journal, options=Options(1, capacity=1)):
        await asyncio.wait_for(enough.wait(), 10)
        # Long enough for several more requests to go through if nothing held them.
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(receiver.bodies) == MAX_UNCONFIRMED
        journal.confirming.set()
        await journal.confirmed_up_to(rows)
    assert receiver.points() == expected(*journal.entries)
    assert journal.totals() == (rows, {})


async def test_failing_disk() -> None:
    """Failed reads and confirmations are repeated; no count is lost or doubled."""
    journal = Journal(*(entry(seq, "a") for seq in range(1, 11)))
    journal.fail_reads = 3
    journal.fail_confirms = 3
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal, max_samples=1):
        await journal.confirmed_up_to(10)
    assert receiver.points() == expected(*journal.entries)
    assert journal.totals() == (10, {})


async def test_rows_that_may_not_be_taken_now() -> None:
    """What was read while it may be on its way out of the journal is not sent, but read again a little later."""
    journal = Journal(entry(1, "a"), entry(2, "a"))
    journal.kept_back = 3
    receiver = Receiver()
    async with receiver.serving() as url, running(url, journal):
        await journal.confirmed_up_to(2)
    assert journal.asked_for == [2, 2, 2, 2]
    assert receiver.points() == expected(*journal.entries)
    assert journal.totals() == (2, {})


async def test_stop_finishes_the_batch_in_hand() -> None:
    """After stop the request under way is finished and confirmed, and nothing else is begun."""
    journal = Journal(entry(1, "a"), entry(2, "a"))
    reached, go = asyncio.Event(), asyncio.Event()

    async def held(_request: web.Request) -> web.StreamResponse:
        reached.set()
        await go.wait()
        return web.Response(status=204)

    receiver = Receiver([held])
    async with receiver.serving() as url, running(url, journal, max_samples=1) as bench:
        await reached.wait()
        bench.sender.stop()
        go.set()
        await asyncio.wait_for(bench.task, 10)
    assert journal.confirmed == [(1, 1, {})]
    assert len(receiver.bodies) == 1


async def test_stop_when_idle() -> None:
    """A sender that waits for data stops at once."""
    journal = Journal()
    async with Receiver().serving() as url, running(url, journal) as bench:
        await journal.waiting.wait()
        bench.sender.stop()
        await asyncio.wait_for(bench.task, 10)


async def test_stop_leaves_a_failing_batch_unconfirmed() -> None:
    """A batch that waits for its next attempt is left for the next start, without waiting."""
    journal = Journal(entry(1, "a"))
    clock, sleeping = Clock(), asyncio.Event()

    async def for_ever() -> None:
        sleeping.set()
        await asyncio.Event().wait()

    clock.on_sleep = for_ever
    receiver = Receiver([status(500)])
    async with receiver.serving() as url, running(url, journal, clock=clock) as bench:
        await sleeping.wait()
        bench.sender.stop()
        await asyncio.wait_for(bench.task, 10)
    assert journal.confirmed == []


async def test_cancelled_request_is_unconfirmed_and_sent_again() -> None:
    """Cancellation in mid-request ends run at once; the next start sends the same batch."""
    journal = Journal(entry(1, "a"))
    reached, go = asyncio.Event(), asyncio.Event()

    async def held(_request: web.Request) -> web.StreamResponse:
        reached.set()
        await go.wait()
        return web.Response(status=500)

    receiver = Receiver([held])
    async with receiver.serving() as url:
        async with running(url, journal) as bench:
            await reached.wait()
            bench.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await bench.task
        go.set()
        assert journal.confirmed == []
        async with running(url, journal):
            await journal.confirmed_up_to(1)
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_failures_are_logged_sparingly() -> None:
    """The first failure is logged, then at most one in 30 s, without the URL's password."""
    journal = Journal(entry(1, "a"))
    receiver = Receiver([status(500, "boom", Retry_After="10")] * 7)
    with capture_logs() as logs:
        async with receiver.serving() as url, running(url.replace("//", "//user:secret@"), journal):
            await journal.confirmed_up_to(1)
    failed = [log for log in logs if log["event"] == "remote_write_failed"]
    assert [(log["attempt"], log["left_out"]) for log in failed] == [(1, 0), (4, 2), (7, 2)]
    assert failed[0]["words"] == "boom"
    assert "secret" not in str(logs)
