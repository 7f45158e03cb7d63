import asyncio
import os
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from bridge import __version__
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from tests.delivery.peers import NOW_S, Receiver, status


async def send(url: str, block: bytes = b"\x00", attempt: int = 0, timeout_s: float = 30.0) -> Outcome:
    async with aiohttp.ClientSession() as session:
        return await RemoteWriteClient(session, url, now_s=lambda: NOW_S, timeout_s=timeout_s).send(block, attempt)


async def test_headers_and_body() -> None:
    """A request carries the protocol's headers and exactly the bytes given."""
    receiver = Receiver()
    async with receiver.serving() as url:
        assert await send(url, b"some block") == Delivered(204)
    assert receiver.bodies == [b"some block"]
    headers = receiver.headers[0]
    assert headers["Content-Encoding"] == "snappy"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["User-Agent"] == f"pushbridge/{__version__}"
    assert headers["X-Prometheus-Remote-Write-Version"] == "0.1.0"
    assert headers["Content-Length"] == "10"
    assert "Retry-Attempt" not in headers


async def test_repeats_say_so() -> None:
    """A repeated request carries the number of the attempt."""
    receiver = Receiver()
    async with receiver.serving() as url:
        await send(url, attempt=3)
    assert receiver.headers[0]["Retry-Attempt"] == "3"


async def test_a_tenant_stands_over_the_configured_header() -> None:
    """A request of a tenant says so, once, however the configured header is spelled; others have the configured one."""
    receiver = Receiver()
    async with receiver.serving() as url, aiohttp.ClientSession() as session:
        client = RemoteWriteClient(
            session, url, now_s=lambda: NOW_S, headers={"x-scope-orgid": "shared"}, tenant_header="X-Scope-OrgID"
        )
        for tenant in ("a", "", "b"):
            assert await client.send(b"", 0, tenant) == Delivered(204)
    found = [
        [value for name, value in headers.items() if name.lower() == "x-scope-orgid"] for headers in receiver.headers
    ]
    assert found == [["a"], ["shared"], ["b"]]


async def test_large_body() -> None:
    """A body of several MiB arrives whole."""
    receiver = Receiver()
    block = os.urandom(5 << 20)
    async with receiver.serving() as url:
        assert await send(url, block) == Delivered(204)
    assert receiver.bodies == [block]


async def test_redirect_is_not_followed() -> None:
    """A redirect is final and its destination sees nothing."""
    elsewhere = Receiver()
    async with elsewhere.serving() as other_url:
        receiver = Receiver([status(307, Location=other_url)])
        async with receiver.serving() as url:
            outcome = await send(url)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "http_307"
    assert elsewhere.bodies == []


@pytest.mark.parametrize(("header", "after_s"), [("17", 17.0), ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0), ("x", None)])
async def test_retry_after(header: str, after_s: float | None) -> None:
    """Retry-After of a 429 reaches the outcome, in both forms."""
    async with Receiver([status(429, "slow down", Retry_After=header)]).serving() as url:
        assert await send(url) == RetryLater(after_s, 429, "slow down")


async def test_endless_error_body() -> None:
    """Of an error body that never ends only the first KiB is read."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=400)
        await response.prepare(request)
        while True:
            await response.write(b"no! " * 1000)

    async with Receiver([endless]).serving() as url:
        assert await send(url) == Rejected(400, ("no! " * 256).strip())


async def test_endless_success_body() -> None:
    """The body of a success is not waited for."""
    over = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=200)
        await response.prepare(request)
        await over.wait()
        return response

    async with Receiver([endless]).serving() as url:
        assert await send(url) == Delivered(200)
        over.set()


async def test_slow_receiver() -> None:
    """No answer within the timeout means try again."""
    over = asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response(status=204)

    async with Receiver([slow]).serving() as url:
        outcome = await send(url, timeout_s=0.05)
        over.set()
    assert isinstance(outcome, RetryLater)
    assert outcome.status is None
    assert "Timeout" in outcome.words


async def test_nobody_listens() -> None:
    """A refused connection means try again, with the reason in words."""
    async with Receiver().serving() as url:
        pass
    outcome = await send(url)
    assert isinstance(outcome, RetryLater)
    assert "Connect" in outcome.words


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def send_to_peer(peer: Peer, block: bytes) -> Outcome:
    """Send to a server that speaks raw TCP."""
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    async with server:
        return await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/write", block)


async def test_reset_in_the_middle_of_the_request_body() -> None:
    """A connection that is reset while the body goes out means try again."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        writer.transport.abort()

    outcome = await send_to_peer(reset, os.urandom(8 << 20))
    assert isinstance(outcome, RetryLater)
    assert outcome.status is None


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-hello\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 20"])
async def test_malformed_answer(answer: bytes) -> None:
    """An answer that is no HTTP, or none at all, means try again."""

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    outcome = await send_to_peer(garbage, b"\x00")
    assert isinstance(outcome, RetryLater)
    assert outcome.status is None


async def test_error_body_that_breaks_off() -> None:
    """A status counts even when the connection ends within its text."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nout of order")
        writer.close()

    outcome = await send_to_peer(cut, b"\x00")
    assert isinstance(outcome, Rejected)
    assert outcome.status == 400
