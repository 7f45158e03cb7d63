"""Real receivers on port 0 and a journal in memory, for the delivery tests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.delivery.batch import Request
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.courier import OnRejected
from bridge.delivery.options import Options
from bridge.delivery.repeats import Hold, Turn
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.sender import Sender
from bridge.errors import JournalUnavailableError
from bridge.journal.rows import Entry, Settled
from bridge.wire import snappy_block
from tests.made import encode_series

NOW_S = 1_445_412_480.0
"""2015-10-21 07:28:00 UTC."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(number: int, text: str = "", **headers: str) -> Answer:
    """Answer with a status."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=number, text=text or None, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return answer


@dataclass
class Receiver:
    """What arrived, and the answers to give; 204 once they are used up."""

    answers: list[Answer] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note the request and give the next answer."""
        body = await request.read()
        self.bodies.append(body)
        self.headers.append(request.headers)
        response = await self.answers.pop(0)(request) if self.answers else web.Response(status=204)
        if response.status < 300:
            self.stored.append(body)
        return response

    @asynccontextmanager
    async def serving(self, port: int | None = None) -> AsyncIterator[str]:
        """Serve until the block ends; give the URL to write to."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/write", self.handle)
        server = TestServer(app, port=port)
        await server.start_server()
        try:
            yield str(server.make_url("/write"))
        finally:
            await server.close()

    def points(self) -> list[tuple[str, float, int]]:
        """Name, value and time of every stored sample, in order of arrival."""
        return [point for body in self.stored for point in decode(body)]


def decode(block: bytes) -> list[tuple[str, float, int]]:
    """Read a request as a receiver does."""
    request = pb.WriteRequest.FromString(snappy_block.decompress(block, 64 << 20))
    return [
        (series.labels[0].value, sample.value, sample.timestamp)
        for series in request.timeseries
        for sample in series.samples
    ]


def entry(seq: int, *names: str) -> Entry:
    """Make a journal row with one sample per name; value and time are the sequence number."""
    body = b"".join(encode_series([("__name__", name)], float(seq), seq) for name in names)
    return Entry(seq, len(names), snappy_block.compress(body), seq)


def expected(*entries: Entry) -> list[tuple[str, float, int]]:
    """Return what a receiver should hold after these rows."""
    return [point for row in entries for point in decode(row.body)]


class Journal:
    """Rows in memory behind the interface that a sender reads and confirms through."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = list(entries)
        self.confirmed: list[tuple[int, int, dict[str, int]]] = []
        self.settled: list[Settled] = []
        self.asked_for: list[int] = []
        self.kept_back = 0
        self.fail_reads = 0
        self.fail_confirms = 0
        self.confirming = asyncio.Event()
        self.confirming.set()
        self.waiting = asyncio.Event()
        self._changed = asyncio.Condition()

    def read(self, after_seq: int, max_samples: int, max_bytes: int) -> list[Entry]:
        """Return rows behind a sequence number, up to the limits but at least one."""
        if self.fail_reads:
            self.fail_reads -= 1
            raise JournalUnavailableError("io_error", "disk read failed")
        found: list[Entry] = []
        for row in self.entries:
            if row.seq <= after_seq:
                continue
            taken = [*found, row]
            if found and (sum(e.samples for e in taken) > max_samples or sum(len(e.body) for e in taken) > max_bytes):
                break
            found = taken
        return found

    def hand_out(self, target: str, seq: int) -> bool:
        """Tell whether rows may be taken."""
        assert target == "t"
        self.asked_for.append(seq)
        return len(self.asked_for) > self.kept_back

    async def append(self, row: Entry) -> None:
        """Add a row and wake who waits for it."""
        async with self._changed:
            self.entries.append(row)
            self._changed.notify_all()

    async def wait_for_work(self, after_seq: int) -> None:
        """Return once there is a row behind a sequence number."""
        self.waiting.set()
        async with self._changed:
            await self._changed.wait_for(lambda: any(row.seq > after_seq for row in self.entries))

    async def confirm(self, target: str, settled: Sequence[Settled]) -> None:
        """Note a confirmation, once `confirming` is set; of several batches as one."""
        assert target == "t"
        await self.confirming.wait()
        if self.fail_confirms:
            self.fail_confirms -= 1
            raise JournalUnavailableError("io_error", "disk write failed")
        dropped: Counter[str] = Counter()
        for one in settled:
            dropped.update(one.dropped)
        self.confirmed.append((settled[-1].last_seq, sum(one.delivered for one in settled), dict(dropped)))
        self.settled += settled
        async with self._changed:
            self._changed.notify_all()

    async def confirmed_up_to(self, seq: int) -> None:
        """Wait for a confirmation."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: bool(self.confirmed) and self.confirmed[-1][0] >= seq)

    def totals(self) -> tuple[int, dict[str, int]]:
        """Sum what is confirmed: delivered, and dropped by reason."""
        dropped: dict[str, int] = {}
        for _, _, reasons in self.confirmed:
            for reason, samples in reasons.items():
                dropped[reason] = dropped.get(reason, 0) + samples
        return sum(delivered for _, delivered, _ in self.confirmed), dropped


@dataclass
class Seen:
    """An observer that keeps what it is told."""

    finished: list[int | None] = field(default_factory=list)
    resent: int = 0
    repeats: list[tuple[str, int]] = field(default_factory=list)

    def request_finished(self, target: str, status: int | None, latency_s: float) -> None:
        """Keep the status."""
        assert target == "t"
        assert latency_s >= 0
        self.finished.append(status)

    def retried(self, target: str, samples: int) -> None:
        """Add up."""
        assert target == "t"
        self.resent += samples

    def repeated(self, target: str, reason: str, samples: int) -> None:
        """Keep reason and samples."""
        assert target == "t"
        self.repeats.append((reason, samples))


class NothingHeld:
    """No group is repeated."""

    def request(self, _turn: Callable[[str, int], Turn]) -> None:
        """Give nothing."""

    def sent(self) -> None:
        """Never happens."""
        raise AssertionError


@dataclass
class Clock:
    """Time that only passes in `sleep`."""

    now_s: float = 0.0
    slept: list[float] = field(default_factory=list)
    on_sleep: Callable[[], Awaitable[None]] | None = None

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        """Let time pass at once."""
        self.slept.append(delay_s)
        self.now_s += delay_s
        if self.on_sleep is not None:
            await self.on_sleep()
        await asyncio.sleep(0)


@dataclass
class Bench:
    """A sender with everything around it."""

    sender: Sender
    task: asyncio.Task[None]
    clock: Clock
    seen: Seen


@asynccontextmanager
async def running(
    url: str,
    journal: Journal,
    *,
    cursor: int = 0,
    max_samples: int = 2000,
    max_bytes: int = 8 << 20,
    timeout_s: float = 30.0,
    clock: Clock | None = None,
    hold: Hold | None = None,
    on_rejected: OnRejected = "drop",
    rules: TargetRules | None = None,
    probe: Callable[[], Request] | None = None,
    oldest_ms: Callable[[], int] | None = None,
    options: Options | None = None,
) -> AsyncIterator[Bench]:
    """Run a sender for target "t" against `url`; cancel it at the end if it still runs."""
    clock = clock or Clock()
    seen = Seen()
    async with aiohttp.ClientSession() as session:
        sender = Sender(
            "t",
            url,
            reader=journal,
            confirm=journal.confirm,
            hand_out=journal.hand_out,
            wait_for_work=journal.wait_for_work,
            hold=hold or NothingHeld(),
            client=RemoteWriteClient(session, url, now_s=lambda: NOW_S, timeout_s=timeout_s),
            observer=seen,
            clock_s=clock,
            sleep=clock.sleep,
            random_01=lambda: 1.0,
            cursor=cursor,
            options=options
            or Options(
                max_samples, max_bytes, on_rejected=on_rejected, rules=rules or TargetRules(), oldest_ms=oldest_ms
            ),
            probe=probe,
        )
        task = asyncio.create_task(sender.run())
        try:
            yield Bench(sender, task, clock, seen)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
