"""A remote_write receiver that misbehaves as told: each request is met with the next step of a script.

Speaks HTTP by hand over plain sockets, because a library would not break off, be silent or talk nonsense. It decodes
with the generated protobuf code and python-snappy, not with the agent's own. Expectations do not belong here.
"""

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Self

import snappy

from bridge._pb import remote_write_v1_pb2 as pb
from bridge._pb import remote_write_v2_pb2 as pb2
from tests.blackbox.checker import Series, Stored, without_repeats
from tests.blackbox.ports import free_port

_STALE = struct.pack("<Q", 0x7FF0000000000002)
_READ_BYTES = 1 << 16
_V2_TYPE = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
Message = pb.WriteRequest | pb2.Request


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one request."""

    status: int = 204
    words: bytes = b""
    headers: tuple[str, ...] = ()
    delay_s: float = 0.0
    """Time between reading the request and answering it."""
    held: bool = False
    """Give no answer before the receiver stops."""
    raw: bytes | None = None
    """Send this instead of an HTTP answer, and close."""
    resets_at: float | None = None
    """Reset the connection when this share of the body is read, from 0 to 1, without an answer."""
    keeps: bool | None = None
    """Whether the samples are stored; by default when the answer is a 2xx."""
    version_2: Literal["takes", "ignores", "refuses"] = "takes"
    """What a request of 2.0 meets: Written headers, an old receiver that reads nothing in it, or 415."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    head: str
    body: bytes
    """As far as it was read."""
    samples: tuple[Stored, ...]
    """Empty when the body was not read to its end, or is no remote_write."""
    step: Step
    at_s: float
    """Monotonic time at which it was read."""
    message: Message | None = None
    """None when it was not read to its end, or is no remote_write."""

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name."""
        lines = (line.partition(":") for line in self.head.split("\r\n")[1:])
        return {name.lower(): value.strip() for name, _, value in lines}

    @property
    def version(self) -> str:
        """Of remote_write, by the Content-Type."""
        return "2.0" if self.headers.get("content-type") == _V2_TYPE else "1.0"

    good: tuple[Stored, ...] = ()
    """What is stored although the request was refused."""

    @property
    def kept(self) -> bool:
        """Whether its samples are stored."""
        step = self.step
        if step.keeps is not None:
            return step.keeps
        if self.version == "2.0" and step.version_2 != "takes":
            return False
        return step.status in range(200, 300) and step.raw is None and step.resets_at is None and not step.held

    @property
    def stored(self) -> tuple[Stored, ...]:
        """Those of its samples that are stored."""
        return self.samples if self.kept else self.good


def refused_with(sample: Stored) -> int:
    """Status for a sample that asks to be refused by its label `refuse`, 0 for others."""
    return int(dict(sample.series).get("refuse", 0))


class ScriptedReceiver:
    """Listens on one port while it is up; may go down and come up again there.

    Once the script is used up the answer is 204 unless something is bad: a sample whose label `refuse` says with which
    status, and, if it is `ordered`, one that is not newer than its series (the same once more is not bad). Then it
    stores nothing of the request, as Prometheus does, or, if it is `partial`, all else, as Mimir and Thanos do.
    """

    def __init__(
        self,
        *script: Step,
        up: bool = True,
        then: Step | None = None,
        partial: bool = False,
        ordered: bool = True,
        delay_s: float = 0.0,
    ) -> None:
        """Take a port; listen at once if `up`. The other settings are for what comes behind the script.

        Then every request is answered like `then` if it is given, whatever is in it.
        """
        self._then = then
        self.judge: Callable[[Sequence[Stored]], Step | None] = lambda _: None
        """Stands over the rules for what is bad: gives what happens to a request, by its samples."""
        self.by_tenant: dict[str, Step] = {}
        """Stands over all but the script: what happens to requests with this X-Scope-OrgID."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api/v1/write"
        self._partial = partial
        self._ordered = ordered
        self._newest: dict[Series, Stored] = {}
        self._delay_s = delay_s
        self._in_flight = 0
        self.most_in_flight = 0
        """How many requests were being answered at the same time, at the most."""
        self._script = deque(script)
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if up:
            self.start()

    @property
    def config(self) -> str:
        """An agent's configuration with this receiver as its only target, called "target"."""
        return f"remote_write: [{{url: '{self.url}', name: target}}]\n"

    def start(self) -> None:
        """Come up."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """Go down: refuse connections, and break off those that there are."""
        with self._changed:
            listener, self._listener = self._listener, None
            connections = list(self._connections)
            self._changed.notify_all()
        if listener is not None:
            for sock in (listener, *connections):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def add(self, *steps: Step) -> None:
        """Put steps at the end of the script."""
        with self._changed:
            self._script.extend(steps)

    def requests(self) -> list[Request]:
        """Return all requests so far, in order of arrival."""
        with self._changed:
            return list(self._requests)

    def stored(self, *, repeats: bool = False) -> list[Stored]:
        """Return the stored samples, in order of arrival; repeats of the default hold only if they are asked for."""
        stored = [sample for request in self.requests() for sample in request.stored]
        return stored if repeats else without_repeats(stored)

    def wait_for(self, good: Callable[[list[Request]], bool], within_s: float = 30.0) -> list[Request]:
        """Return the requests once they are good; AssertionError after `within_s`."""
        with self._changed:
            assert self._changed.wait_for(lambda: good(self._requests), within_s), f"got {len(self._requests)} requests"
            return list(self._requests)

    def _spawn(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,), name=f"receiver-{self.port}")
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                if self._listener is None:
                    connection.close()
                    return
                self._connections.add(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # A peer that leaves, or a stop, ends the connection wherever it stands.
        with suppress(OSError), connection:
            while self._answer(connection):
                pass
        with self._changed:
            self._connections.discard(connection)

    def _answer(self, connection: socket.socket) -> bool:
        """Read one request and do the script's next step; False when the connection is over."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += _read(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        with self._changed:
            scripted = self._script.popleft() if self._script else self._then
        step = scripted or Step()
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        wanted = length if step.resets_at is None else int(length * step.resets_at)
        while len(body) < wanted:
            body += _read(connection)
        body = body[:wanted]
        readable = len(body) == length and b"remote-write-version" in head.lower()
        request = Request(head.decode(), body, (), step, time.monotonic())
        if readable:
            message = _decode(body, request.version)
            request = replace(request, message=message, samples=tuple(_samples(message)))
        with self._changed:
            if scripted is None:
                judged = self.by_tenant.get(request.headers.get("x-scope-orgid", "")) or self.judge(request.samples)
                step, good = self._by_samples(request.samples) if judged is None else (judged, ())
                request = replace(request, step=step, good=good)
            self._requests.append(request)
            self._changed.notify_all()
        if step.resets_at is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        with self._changed:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            down = self._changed.wait_for(lambda: self._listener is None, None if step.held else step.delay_s)
            self._in_flight -= 1
            if down:
                return False
        connection.sendall(_answer_bytes(step, request) if step.raw is None else step.raw)
        return step.raw is None

    def _by_samples(self, samples: Sequence[Stored]) -> tuple[Step, tuple[Stored, ...]]:
        newest = dict(self._newest)
        good: list[Stored] = []
        faults: list[tuple[int, bytes]] = []
        for sample in samples:
            last = newest.get(sample.series)
            if status := refused_with(sample):
                faults.append((status, f"refused with {status}".encode()))
            elif self._ordered and last is not None and sample.timestamp_ms <= last.timestamp_ms and sample != last:
                faults.append((400, b"out of order sample"))
            else:
                newest[sample.series] = sample
                good.append(sample)
        if faults and not self._partial:
            return Step(*faults[0], delay_s=self._delay_s), ()
        self._newest = newest
        return Step(*(faults[0] if faults else (204, b"")), delay_s=self._delay_s), tuple(good)

    def __enter__(self) -> Self:
        """Hand over the receiver."""
        return self

    def __exit__(self, *_: object) -> None:
        """Go down."""
        self.stop()


def _read(connection: socket.socket) -> bytes:
    data = connection.recv(_READ_BYTES)
    if not data:
        raise ConnectionResetError
    return data


def _answer_bytes(step: Step, request: Request) -> bytes:
    status, headers = step.status, list(step.headers)
    if isinstance(request.message, pb2.Request):
        if step.version_2 == "refuses":
            status = 415
        elif step.version_2 == "takes":
            headers += _written(request.message, stored=request.kept)
    lines = [f"HTTP/1.1 {status} Scripted", *headers, "", ""]
    if status != 204:
        lines.insert(1, f"Content-Length: {len(step.words)}")
    return "\r\n".join(lines).encode() + (step.words if status != 204 else b"")


def _written(message: pb2.Request, *, stored: bool) -> list[str]:
    series = message.timeseries
    counts = {
        "Samples": sum(len(one.samples) for one in series),
        "Histograms": sum(len(one.histograms) for one in series),
        "Exemplars": sum(len(one.exemplars) for one in series),
    }
    return [f"X-Prometheus-Remote-Write-{kind}-Written: {count if stored else 0}" for kind, count in counts.items()]


def _decode(body: bytes, version: str) -> Message:
    kind = pb2.Request if version == "2.0" else pb.WriteRequest
    return kind.FromString(bytes(snappy.decompress(body)))


def samples_in(block: bytes) -> list[Stored]:
    """Decode a message of 1.0, compressed as it is sent."""
    return list(_samples(_decode(block, "1.0")))


def labelled(message: Message) -> Iterator[tuple[Series, pb.TimeSeries | pb2.TimeSeries]]:
    """Every series of a request of either version, with its labels in the order of the wire."""
    if isinstance(message, pb.WriteRequest):
        for first in message.timeseries:
            yield tuple((label.name, label.value) for label in first.labels), first
    else:
        for second in message.timeseries:
            strings = [message.symbols[ref] for ref in second.labels_refs]
            yield tuple(zip(strings[::2], strings[1::2], strict=True)), second


def _samples(message: Message) -> Iterator[Stored]:
    for labels, series in labelled(message):
        for sample in series.samples:
            stale = struct.pack("<d", sample.value) == _STALE
            yield Stored(labels, sample.timestamp, None if stale else sample.value)
