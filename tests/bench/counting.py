"""The counting receiver: takes every remote_write request a while to answer, and knows how many samples it got.

Arguments: its port and the delay in seconds. A GET is answered with the counts. Samples are told apart by the first
word of their metric's name, because the agent's own series and its repeats of push times arrive beside them.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import cast

import snappy
import uvloop

BACKLOG_WORDS, FRESH_WORDS = (b"batch_", b"warehouse_"), (b"fresh_",)
"""Names of what is pushed while the receiver is down begin so, and of what is pushed while it catches up."""
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_TIMESERIES = b"\x0a"


@dataclass(slots=True)
class Counts:
    """What came."""

    backlog: int = 0
    fresh: int = 0
    requests: int = 0
    again: int = 0
    """Requests that came before, byte for byte; their samples are not counted a second time."""
    first_s: float = 0.0
    """Monotonic time of the first request with samples of the backlog."""
    newest_s: float = 0.0
    """Monotonic time of the newest of them."""


@dataclass(slots=True)
class _Books:
    counts: Counts = field(default_factory=Counts)
    seen: set[bytes] = field(default_factory=set)

    def enter(self, body: bytes) -> None:
        counts, now_s = self.counts, time.monotonic()
        counts.requests += 1
        digest = blake2b(body, digest_size=16).digest()
        if digest in self.seen:
            counts.again += 1
            return
        self.seen.add(digest)
        data = bytes(snappy.decompress(body))
        # Otherwise it is metadata, which has the names as well.
        if data.startswith(_TIMESERIES):
            if backlog := sum(map(data.count, BACKLOG_WORDS)):
                counts.backlog += backlog
                counts.first_s = counts.first_s or now_s
                counts.newest_s = now_s
            counts.fresh += sum(map(data.count, FRESH_WORDS))


class _Connection(asyncio.Protocol):
    def __init__(self, books: _Books, delay_s: float) -> None:
        self._books = books
        self._delay_s = delay_s
        self._held = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._held, 0, end)
        whole = end + (int(length[1]) if length else 0)
        if len(self._held) < whole:
            return
        request, self._held = bytes(self._held[:whole]), self._held[whole:]
        if request.startswith(b"GET "):
            self._answer(200, json.dumps(asdict(self._books.counts)).encode())
            return
        self._books.enter(request[end:])
        asyncio.get_running_loop().call_later(self._delay_s, self._answer, 204)

    def _answer(self, status: int, body: bytes = b"") -> None:
        length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(body)
        self._transport.write(b"HTTP/1.1 %d -\r\n%b\r\n%b" % (status, length, body))


async def _serve(port: int, delay_s: float) -> None:
    books = _Books()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(books, delay_s), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
