"""The load generator: keep-alive connections in a closed loop, each with one push in flight.

Raw sockets and epoll, in a process of its own, since it shares the machine with what it measures:
README.md has its cost beside that of wrk. It knows no contender; a push is a path and a body.
"""

import gc
import re
import select
import socket
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing import get_context
from random import Random

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LAST_ANSWERS_WITHIN_S = 120.0
_CHOICES = 1 << 16
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to push what."""

    port: int
    method: str
    paths: tuple[str, ...]
    """One for each group."""
    bodies: tuple[bytes, ...]
    """Taken in turn."""
    connections: int


@dataclass(frozen=True, slots=True)
class Load:
    """What came back."""

    seconds: float
    """From the first push to the last answer."""
    answers: int
    refused: int
    """Answers that are not 2xx."""
    refusal: str
    """The first of them."""
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def sum_up(seconds: float, latencies_s: Sequence[float], refusals: Sequence[str]) -> Load:
    """Make a result of the time of every answer and the words of those that are not 2xx."""
    ordered = sorted(latencies_s)
    p50_ms, p99_ms = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Load(seconds, len(ordered), len(refusals), refusals[0] if refusals else "", p50_ms, p99_ms)


def push_each(plan: Plan, seconds: float) -> Load:
    """Push once to every group, or to as many as `seconds` allow."""
    return _in_process(plan, None, seconds)


def push_at_random(plan: Plan, seconds: float) -> Load:
    """Push to groups at random for `seconds`."""
    return _in_process(plan, 1, seconds)


def _in_process(plan: Plan, seed: int | None, seconds: float) -> Load:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_run, plan, seed, seconds).result()


def _run(plan: Plan, seed: int | None, seconds: float) -> Load:
    groups = range(len(plan.paths))
    order: Iterable[int] = groups if seed is None else cycle(Random(seed).choices(groups, k=_CHOICES))
    gc.disable()
    return _Generator(plan, iter(order)).run(seconds)


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    started_s: float = 0.0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytes = b""


class _Generator:
    """The loop over all connections."""

    def __init__(self, plan: Plan, order: Iterator[int]) -> None:
        """Connect, and make everything that can be made before the clock starts."""
        self._order = order
        lead = f"\r\nHost: 127.0.0.1:{plan.port}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        self._heads = [f"{plan.method} {path} HTTP/1.1{lead}".encode() for path in plan.paths]
        self._rests = cycle([(b"Content-Length: %d\r\n\r\n" % len(body), body) for body in plan.bodies])
        self._latencies_s = array("d")
        self._refusals: list[str] = []
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        for _ in range(plan.connections):
            connection = socket.create_connection(("127.0.0.1", plan.port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self._connections[connection.fileno()] = _Connection(connection)
            self._poll.register(connection, select.EPOLLIN)

    def run(self, seconds: float) -> Load:
        """Push until the time or the order ends, then wait for the last answers."""
        start_s = time.perf_counter()
        until_s = start_s + seconds
        in_flight = sum(map(self._push, self._connections.values()))
        while in_flight:
            events = self._poll.poll(1.0)
            now_s = time.perf_counter()
            if now_s > until_s + _LAST_ANSWERS_WITHIN_S:
                raise TimeoutError(f"{in_flight} pushes have no answer after {_LAST_ANSWERS_WITHIN_S:g} s")
            for number, event in events:
                connection = self._connections[number]
                if event & select.EPOLLOUT:
                    self._send_rest(connection)
                elif self._answered(connection) and not (now_s < until_s and self._push(connection)):
                    in_flight -= 1
        return self._sum_up(time.perf_counter() - start_s)

    def _push(self, connection: _Connection) -> bool:
        """Send the next push; False when there is none."""
        group = next(self._order, None)
        if group is None:
            return False
        parts = (self._heads[group], *next(self._rests))
        connection.started_s = time.perf_counter()
        try:
            sent = connection.socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        if sent < sum(map(len, parts)):
            connection.unsent = memoryview(b"".join(parts))[sent:]
            self._poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _send_rest(self, connection: _Connection) -> None:
        connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        if not connection.unsent:
            self._poll.modify(connection.socket, select.EPOLLIN)

    def _answered(self, connection: _Connection) -> bool:
        """Read what came; whether the answer is whole."""
        data = connection.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection in the midst of a push")
        data = connection.received + data
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end - 2) if end >= 4 else None
        if end < 4 or (length and len(data) < end + int(length[1])):
            connection.received = data
            return False
        connection.received = b""
        self._latencies_s.append(time.perf_counter() - connection.started_s)
        if data[9:10] != b"2":
            self._refusals.append(data[9:200].decode(errors="replace"))
        return True

    def _sum_up(self, seconds: float) -> Load:
        for connection in self._connections.values():
            connection.socket.close()
        return sum_up(seconds, self._latencies_s, self._refusals)
