"""A server under its URL: what is sent, what counts as an answer, and what no message ever shows."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from bridge.peer import AwayError, Peer, PeerAnswer

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Answer requests on a free port; gives host and port."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Say what was asked."""
    auth = request.headers.get("Authorization", "none")
    body = await request.text()
    return web.Response(status=202, text=f"{request.method} {request.raw_path} {auth} {request.headers['X']} {body}")


async def test_a_request_is_sent_as_it_is() -> None:
    """Method, path, headers and body arrive, and the status and body of the answer come back."""
    async with serving(echo) as host:
        peer = Peer(f"http://{host}/prefix/")
        answer = await asyncio.to_thread(peer.ask, "PUT", "/a%2Fb?c", b"body", {"X": "x"})
    assert (answer.status, answer.is_success, answer.words) == (202, True, "PUT /prefix/a%2Fb?c none x body")


async def test_user_and_password_go_into_the_header() -> None:
    """They are percent-decoded, sent as basic auth, and not part of what is shown."""
    async with serving(echo) as host:
        peer = Peer(f"http://us%40er:p%3Ass%2Fw%C3%B6rd@{host}")
        answer = await asyncio.to_thread(peer.ask, "GET", "/", None, {"X": "x"})
    assert peer.shown == f"http://{host}"
    assert answer.words.split()[3] == base64.b64encode("us@er:p:ss/wörd".encode()).decode()


async def test_a_redirect_is_an_answer() -> None:
    """It is not followed, and says where it leads."""

    async def redirect(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=301, headers={"Location": "https://elsewhere/"})

    async with serving(redirect) as host:
        answer = await asyncio.to_thread(Peer(f"http://{host}").ask, "GET", "/")
    assert answer == PeerAnswer(301, b"redirects to https://elsewhere/")
    assert not answer.is_success


@pytest.mark.parametrize(
    "url", ["http://secret:secret@127.0.0.1:1", "http://127.0.0.1:port", "127.0.0.1:1", "gopher://127.0.0.1", "http://"]
)
def test_a_server_that_is_away_is_told_in_one_way(url: str) -> None:
    """Whatever keeps an answer from coming is one error, whose text has no secret."""
    with pytest.raises(AwayError) as error:
        Peer(url).ask("GET", "/")
    assert str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://user:sec/ret@host", "http://user:sec#ret@host", "http://user:secret@[::1"])
def test_a_url_that_cannot_be_read_keeps_its_secret(url: str) -> None:
    """A password that breaks the URL is not shown in the complaint."""
    with pytest.raises(ValueError, match="cannot read the URL") as error:
        Peer(url)
    assert "sec" not in str(error.value)
