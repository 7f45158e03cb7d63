"""Receivers that are away, slow, hostile or full, and clocks that step back: what is acknowledged arrives."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from bridge.app import Agent
from bridge.config.file import load as load_config
from bridge.journal.rows import Batch, CursorRow, Record
from bridge.journal.store import Journal
from bridge.wire import snappy_block
from tests.blackbox.checker import Pushed, Stored, judge, missing
from tests.blackbox.load import (
    Client,
    Load,
    Push,
    account,
    metrics,
    numbers,
    numbers_of,
    one_value,
    padded,
    push_next,
    ready,
    series,
    settled_account,
    wait_for,
)
from tests.blackbox.scripted_receiver import Request, ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent
from tests.made import encode_series

PAGE = 4096
MIB = 1 << 20
PUSHES = 700
SAMPLES_PER_PUSH = 5  # the number, its padding, the end of the padding before, the two push times


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a receiver does to its first requests, and how often it stores one that it is sent again."""

    name: str
    script: tuple[Step, ...]
    stored_again: int = 0


TROUBLES = [
    Trouble("200", (Step(200, b"ok"),) * 10),
    Trouble("202", (Step(202),) * 10),
    Trouble("slow", (Step(delay_s=0.3),) * 6),
    Trouble("500", (Step(500, b"later"),) * 3),
    Trouble("503 and 500 in turn", (Step(503), Step(500), Step(), Step(500), Step(503))),
    Trouble("500 though it is stored", (Step(500, keeps=True), Step(), Step(500, keeps=True)), 2),
    Trouble("429 without a time", (Step(429),) * 3),
    Trouble("reset in the middle of the body", (Step(resets_at=0.5), Step(), Step(resets_at=0.5))),
    Trouble("reset instead of an answer", (Step(resets_at=1.0),) * 2),
    Trouble("reset though it is stored", (Step(resets_at=1.0, keeps=True),) * 2, 2),
    Trouble("garbage", (Step(raw=b"\x00\xff no HTTP\r\n\r\n"), Step(raw=b"HTTP/1.1 two hundred OK\r\n\r\n"))),
    Trouble("answer cut short", (Step(raw=b"HTTP/1.1 20"), Step(raw=b""))),
    Trouble("another protocol", (Step(raw=b"\x15\x03\x01\x00\x02\x02\x46"), Step(raw=b"SSH-2.0-x\r\n"))),
]


def taken(request: Request) -> bool:
    """Tell whether the sender was told that the receiver has this."""
    step = request.step
    return step.status in range(200, 300) and step.raw is None and step.resets_at is None and not step.held


@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.name for trouble in TROUBLES])
def test_trouble_costs_nothing(trouble: Trouble, tmp_path: Path) -> None:
    """Pushes are accepted meanwhile; all of them arrive, in order; what is sent again is the same to the byte."""
    with ScriptedReceiver(*trouble.script) as receiver, agent(tmp_path, config=receiver.config) as server:
        with Load(server.port, writers=3) as load:
            receiver.wait_for(lambda requests: len(requests) > len(trouble.script))
        final = settled_account(server.port)
        assert {entry.fate for entry in load.log()} == {"acknowledged"}
        assert judge(load.log(), receiver.stored(), max_rewinds=trouble.stored_again) == []
        assert final.balanced
        assert (final.pending, final.dropped) == (0, {})
        for first, second in pairwise(receiver.requests()):
            assert taken(first) or second.body.startswith(first.body)


def test_receiver_away_and_back(tmp_path: Path) -> None:
    """What is pushed while nobody listens arrives when somebody does, each time."""
    with (
        ScriptedReceiver(up=False) as receiver,
        agent(tmp_path, config=receiver.config) as server,
        Client(server.port) as client,
    ):
        for _ in range(2):
            for _ in range(50):
                assert push_next(client).status == 200
            assert account(server.port).pending > 0
            receiver.start()
            assert settled_account(server.port).pending == 0
            assert judge(client.log, numbers(receiver.stored())) == []
            receiver.stop()


def test_pushes_do_not_wait_for_a_silent_receiver(tmp_path: Path) -> None:
    """While a receiver takes a request and says nothing, pushes are accepted; all arrive once it is back."""
    with (
        ScriptedReceiver(Step(held=True)) as receiver,
        agent(tmp_path, config=receiver.config) as server,
        Client(server.port) as client,
    ):
        assert push_next(client).status == 200
        receiver.wait_for(lambda requests: len(requests) == 1)
        for _ in range(50):
            assert push_next(client).status == 200
        assert len(receiver.requests()) == 1
        receiver.stop()
        receiver.start()
        assert settled_account(server.port).pending == 0
        assert judge(client.log, numbers(receiver.stored())) == []


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    """A receiver that asks for a second gets it, then the same request again."""
    script = (Step(429, b"slow down", ("Retry-After: 1",)), Step(503, b"slow down", ("Retry-After: 1",)))
    with (
        ScriptedReceiver(*script) as receiver,
        agent(tmp_path, config=receiver.config) as server,
        Client(server.port) as client,
    ):
        assert push_next(client).status == 200
        requests = receiver.wait_for(lambda requests: len(requests) == 3)
        assert [second.at_s - first.at_s >= 1.0 for first, second in pairwise(requests)] == [True, True]
        assert len({request.body for request in requests}) == 1
        assert settled_account(server.port).pending == 0
        assert judge(client.log, numbers(receiver.stored())) == []


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_a_refused_batch_is_dropped_alone(status: int, tmp_path: Path) -> None:
    """With `on_rejected: drop` a request refused for good is counted, its receiver quoted; the others arrive."""
    words = b'out of order sample: got "2", want > 3\nsecond line'
    with (
        ScriptedReceiver(Step(), Step(status, words)) as receiver,
        agent(tmp_path, config=receiver.config.replace("}", ", on_rejected: drop}")) as server,
        Client(server.port) as client,
    ):
        for number in (1, 2, 3):
            client.must_accept(one_value("refused", number))
            assert settled_account(server.port).pending == 0
        final = account(server.port)
        assert final.balanced
        assert final.dropped == {f"http_{status}": len(receiver.requests()[1].samples)}
        assert numbers_of(missing(client.log, receiver.stored())) == [2]
        assert {fault.kind for fault in judge(client.log, receiver.stored())} == {"missing"}
        (line,) = (line for line in server.log_tail().splitlines() if "event=remote_write_rejected" in line)
        assert f"status={status}" in line
        assert r'words="out of order sample: got \"2\", want > 3\nsecond line"' in line


class SteppingClock:
    """A clock that runs, stands still and steps as told."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        """Tell the time."""
        return self.now_ms


async def test_a_clock_that_steps_back(tmp_path: Path) -> None:
    """With a clock that steps back an hour, also over a restart, every push is taken and series go strictly forward."""
    clock = SteppingClock()
    hour_ms = 3_600_000
    numbered = series("numbered", job="clock")
    with ScriptedReceiver() as receiver:
        flags = {"web": {"listen_address": "127.0.0.1:0"}, "storage": {"path": str(tmp_path)}}
        log: list[Pushed] = []
        for steps in ((10, 10, -hour_ms, 10, 0, 0), (-hour_ms, 5, 3 * hour_ms, 10, -hour_ms)):
            running = Agent(load_config(receiver.config, "test", flags), now_ms=clock)
            started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(running.run(started.set_result))
            with Client(int((await started).rpartition(":")[2]), log) as client:
                for step_ms in steps:
                    clock.now_ms += step_ms
                    number = len(log) + 1
                    await asyncio.to_thread(client.must_accept, one_value("clock", number))
                    end = Push("DELETE", "/metrics/job/clock", b"", ((numbered, None),))
                    await asyncio.to_thread(client.send, end)
            await asyncio.to_thread(receiver.wait_for, lambda _: len(numbers_kept(receiver)) == len(log))
            running.stopping.set()
            await task
    assert judge(log, numbers_kept(receiver)) == []
    stamps = [sample.timestamp_ms for sample in numbers_kept(receiver)]
    assert stamps == sorted(set(stamps))
    assert stamps[:2] == [1_800_000_000_010, 1_800_000_000_011]
    assert stamps[-1] > 1_800_000_000_000 + hour_ms


def numbers_kept(receiver: ScriptedReceiver) -> list[Stored]:
    """Return the numbers that the receiver stored, without the agent's own series."""
    return [sample for sample in receiver.stored() if ("__name__", "numbered") in sample.series]


@contextmanager
def dropping(tmp: Path, max_bytes: str) -> Iterator[tuple[Server, ScriptedReceiver, Client]]:
    """Run an agent that drops the oldest when its journal is full, and whose receiver is away."""
    with ScriptedReceiver(up=False) as receiver:
        flags = (f"--storage.max-bytes={max_bytes}", "--storage.when-full=drop_oldest")
        with agent(tmp, *flags, config=receiver.config) as server, Client(server.port) as client:
            yield server, receiver, client


def test_drop_oldest_takes_every_push_and_counts_what_it_drops(tmp_path: Path) -> None:
    """With drop_oldest pushes go on; what is lost is one stretch of old pushes, counted to the sample."""
    with dropping(tmp_path, "1MiB") as (server, receiver, client):
        for number in range(1, PUSHES + 1):
            client.must_accept(padded(number, 2000))
        assert ready(server.port) == 200
        receiver.start()
        final = settled_account(server.port)
        lost = numbers_of(missing(client.log, receiver.stored()))
        assert final.balanced
        assert final.pending == 0
        assert final.dropped == {"journal_full": SAMPLES_PER_PUSH * len(lost)}
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert lost[-1] < PUSHES - 100
        assert {fault.kind for fault in judge(client.log, numbers(receiver.stored()))} == {"missing"}


def test_a_push_that_can_never_fit_drops_nothing(tmp_path: Path) -> None:
    """A push larger than the whole journal is refused and costs no other push anything."""
    with dropping(tmp_path, "1MiB") as (server, _, client):
        for number in range(1, 31):
            client.must_accept(one_value("small", number))
        answer = client.send(padded(1, 2 * MIB))
        assert answer is not None
        assert answer.status >= 400
        assert account(server.port).dropped == {}


def test_drop_oldest_drops_no_more_than_it_must(tmp_path: Path) -> None:
    """Making room for one push does not cost the push right before it."""
    with dropping(tmp_path, "1MiB") as (server, receiver, client):
        while not account(server.port).dropped:
            assert push_next(client).status == 200
        receiver.start()
        assert settled_account(server.port).pending == 0
        newest = max(numbers_of(client.log))
        assert newest - 1 not in numbers_of(missing(client.log, receiver.stored()))


def test_rows_dropped_behind_a_sender_are_counted(tmp_path: Path) -> None:
    """Rows that were dropped before their sender took them are counted, so that pending reaches 0."""
    compressible = "x" * 100_000  # one read brings more than the 8 MiB that fit one request
    with dropping(tmp_path, "2MiB") as (server, _, client):
        for number in range(1, 250):
            client.must_accept(one_value("bulk", number, padding=compressible))
    with dropping(tmp_path, "2MiB") as (server, receiver, client):
        tried = 'pushbridge_remote_write_requests_total{target="target",code="none"}'
        assert tried in wait_for(lambda: metrics(server.port), lambda now: tried in now)
        while not account(server.port).dropped:
            for _ in range(20):
                number += 1
                client.must_accept(one_value("bulk", number, padding=compressible))
        receiver.start()
        assert settled_account(server.port).pending == 0


def test_a_push_that_needs_the_room_of_many_rows_is_taken(tmp_path: Path) -> None:
    """A large push finds room among very many small rows, and all that it costs is counted."""
    journal = Journal.open(tmp_path / "storage", max_bytes=64 * MIB, now_ms=1)
    body = snappy_block.compress(encode_series([("__name__", "x")], 1.0, 1))
    rows = (Record(1, b"job\xffold", "put", 1, body),) * 40_000
    journal.write(Batch(rows, (), (CursorRow("target", 0, 0, 0, ()),)))
    journal.commit()
    max_bytes = journal.used_bytes() + 50 * PAGE
    journal.close()
    with dropping(tmp_path, str(max_bytes)) as (server, receiver, client):
        client.must_accept(padded(1, 600_000))
        receiver.start()
        final = settled_account(server.port)
        assert final.balanced
        assert final.pending == 0
        assert final.dropped["journal_full"] < len(rows)
        assert missing(client.log, receiver.stored()) == []
