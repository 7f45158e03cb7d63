"""The short way of a plain push through HTTP.

Nearly every push is a PUT or POST with a Content-Length and a small body. Owns the recognition of just
those, byte by byte strict, and a connection for as long as it sends nothing else; at the first other byte
aiohttp takes the connection over for good. So no rule of HTTP that is hard stands here: what is not
recognised is not refused. What a push does is `Site`'s business on both ways. The general way costs half
of a small push's time (tests/bench/README.md), which is why this one exists.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

import structlog

from bridge.ingress import terms
from bridge.web.responses import Answer

_log = structlog.get_logger(__name__)
_HEAD: Final = re.compile(
    rb"(PUT|POST) (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[ \t]*[ -~]*\r\n)*)\r\n"
)
_FIELD: Final = re.compile(rb"([^:\r\n]+):[ \t]*([ -~]*?)[ \t]*\r\n")
_GENERAL_FIELDS: Final = frozenset(b"expect keep-alive te trailer transfer-encoding upgrade".split())
_PUSH_HEADERS: Final = ("Content-Type", "Content-Encoding", *terms.HEADERS)
_LARGEST_BODY_BYTES: Final = 1 << 17
_MOST_HELD_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PlainPush:
    """One whole request at the start of what a connection has sent."""

    method: str
    path: str
    """As sent, without the query."""
    query: str
    headers: Mapping[str, str]
    """Those of a push, by the names that the site asks for."""
    body: bytes
    size_bytes: int
    """Head and body together."""


class Incomplete:
    """A plain push whose body is still on its way."""


def read_push(data: bytes) -> PlainPush | type[Incomplete] | None:
    """Recognise a plain push at the start of `data`; None for everything that the general way must look at.

    That is any other method, half a head, a repeated header, a chunked, large or announced body, a wish
    to close the connection.
    """
    head = _HEAD.match(data)
    if head is None:
        return None
    fields = _read_fields(head[3])
    if fields is None:
        return None
    headers, length = fields
    start = head.end()
    end = start + length
    if len(data) < end:
        return Incomplete
    path, _, query = head[2].decode().partition("?")
    return PlainPush(head[1].decode(), path, query, headers, data[start:end], end)


@lru_cache(1024)
def _read_fields(lines: bytes) -> tuple[Mapping[str, str], int] | None:
    """The headers that a push can have and Content-Length in bytes, None when a header needs the general way."""
    pairs = _FIELD.findall(lines)
    fields = {name.lower(): value for name, value in pairs}
    length = fields.get(b"content-length", b"")
    if (
        len(fields) != len(pairs)
        or b"host" not in fields
        or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or not fields.keys().isdisjoint(_GENERAL_FIELDS)
        or not length.isdigit()
        or int(length) > _LARGEST_BODY_BYTES
    ):
        return None
    headers = {
        name: fields[name.lower().encode()].decode() for name in _PUSH_HEADERS if name.lower().encode() in fields
    }
    return headers, int(length)


def _to_bytes(answer: Answer, now_s: int) -> bytes:
    """An answer as it goes over the wire."""
    start = _first_lines(answer.status, len(answer.body), now_s)
    lines = "".join([f"{name}: {value}\r\n" for name, value in answer.headers])
    return b"%b%b\r\n%b" % (start, lines.encode(), answer.body)


@lru_cache(64)
def _first_lines(status: int, size_bytes: int, now_s: int) -> bytes:
    date = formatdate(now_s, usegmt=True)
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {size_bytes}\r\nDate: {date}\r\n".encode()


class Lane(asyncio.Protocol):
    """One connection, as long as it sends plain pushes one after the other."""

    def __init__(
        self,
        push: Callable[[PlainPush], Coroutine[None, None, Answer] | None],
        general: Callable[[], asyncio.Protocol],
        lanes: "set[Lane]",
    ) -> None:
        """`push` gives None for a path that is not its own; `general` makes the protocol that takes over."""
        self._push = push
        self._general = general
        self._lanes = lanes
        self._held = b""
        self._answering: asyncio.Task[None] | None = None
        self._stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        # A client whose host is gone must not hold the connection for ever.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._lanes.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; a push that is on its way to the disk goes on."""
        del exc
        self._lanes.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take the next request, or keep it until the one before is answered."""
        self._held = self._held + data if self._held else data
        if self._answering is None:
            self._next()
        elif len(self._held) > _MOST_HELD_BYTES:
            self._transport.pause_reading()

    async def stop(self) -> None:
        """Close the connection once the push in hand is answered."""
        self._stopping = True
        if self._answering is not None:
            await asyncio.wait([self._answering])
        self._transport.close()

    def _next(self) -> None:
        push = read_push(self._held)
        if isinstance(push, PlainPush):
            answer = self._push(push)
            if answer is not None:
                self._held = self._held[push.size_bytes :]
                self._answering = asyncio.get_running_loop().create_task(self._answer(answer))
                return
        elif push is Incomplete:
            return
        self._hand_over()

    async def _answer(self, answer: Coroutine[None, None, Answer]) -> None:
        try:
            data = _to_bytes(await answer, int(time.time()))
        except Exception:  # noqa: BLE001 - nobody awaits this task; the log is where a fault of ours is seen
            _log.exception("push_failed")
            self._transport.close()
            return
        self._answering = None
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._held and not self._stopping:
            self._transport.resume_reading()
            self._next()

    def _hand_over(self) -> None:
        self._lanes.discard(self)
        protocol, held = self._general(), self._held
        self._held = b""
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(held)
