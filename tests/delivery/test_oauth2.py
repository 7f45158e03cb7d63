"""Tokens by client credentials, from a real token endpoint, on requests to a real receiver."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bridge.config.http_client import OAuth2
from bridge.config.remote_write import RemoteWrite
from bridge.delivery.auth import Outgoing
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.connect import connect
from bridge.delivery.oauth2 import ClientCredentials
from bridge.delivery.outcome import Delivered, Rejected, RetryLater
from bridge.delivery.secret_file import SignInError
from bridge.delivery.session import Route
from tests.delivery.peers import NOW_S, Clock, Receiver
from tests.delivery.token_endpoint import TokenEndpoint

ANY = Outgoing("POST", "http://x/", {}, b"")


@asynccontextmanager
async def signing_in(
    endpoint: TokenEndpoint, clock: Callable[[], float] = lambda: 0.0, **more: object
) -> AsyncIterator[ClientCredentials]:
    """A client of a token endpoint."""
    secret = {} if "client_secret_file" in more else {"client_secret": endpoint.client_secret}
    async with endpoint.serving() as url, aiohttp.ClientSession() as session:
        settings = OAuth2.model_validate({"client_id": "id", "token_url": url, **secret, **more})
        yield ClientCredentials(settings, session, Route(settings, {}), clock_s=clock, timeout_s=5)


@asynccontextmanager
async def client(endpoint: TokenEndpoint, *answers: bool) -> AsyncIterator[tuple[RemoteWriteClient, Receiver]]:
    """A target that wants a token, `answers` of its first requests are 401 whatever they bring."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, text="expired")

    receiver = Receiver([refuse if answer else endpoint.guard for answer in answers])
    async with endpoint.serving() as token_url, receiver.serving() as url:
        block = {"client_id": "id", "client_secret": endpoint.client_secret, "token_url": token_url}
        target = RemoteWrite.model_validate({"url": url, "oauth2": block})
        async with connect(target, now_s=lambda: NOW_S) as connected:
            yield connected, receiver


def auth(receiver: Receiver) -> list[str]:
    """What the requests signed in with."""
    return [headers["Authorization"] for headers in receiver.headers]


async def test_one_token_for_many_requests() -> None:
    """A token is asked for once, also by requests at the same time, and put on each of them."""
    endpoint = TokenEndpoint()
    async with client(endpoint, False, False, False) as (sender, receiver):
        outcomes = await asyncio.gather(*(sender.send(b"\x00", 0) for _ in range(3)))
    assert outcomes == [Delivered(204)] * 3
    assert auth(receiver) == ["Bearer token-1"] * 3
    assert endpoint.given == 1


async def test_what_is_asked() -> None:
    """Grant, scopes and further parameters are in the form, the secret in neither form nor URL."""
    endpoint = TokenEndpoint()
    async with signing_in(endpoint, scopes=["a", "b"], endpoint_params={"audience": "x"}) as sign_in:
        assert await sign_in.headers(ANY) == {"Authorization": "Bearer token-1"}
    assert endpoint.forms == [{"grant_type": "client_credentials", "scope": "a b", "audience": "x"}]


async def test_an_endpoint_that_looks_in_the_body() -> None:
    """Where the header does not count the form does, and that is remembered."""
    endpoint = TokenEndpoint(looks_in_body=True)
    async with signing_in(endpoint) as sign_in:
        for number in (1, 2):
            headers = await sign_in.headers(ANY)
            assert headers == {"Authorization": f"Bearer token-{number}"}
            sign_in.refused(headers)
    assert ["client_secret" in form for form in endpoint.forms] == [False, True, True]


@pytest.mark.parametrize(("life_s", "kept_s", "renewed_s"), [(3600, 3569, 3571), ("100", 89, 91), (2, 1.7, 1.9)])
async def test_renewed_before_it_expires(life_s: object, kept_s: float, renewed_s: float) -> None:
    """A token is replaced half a minute before its end, a short-lived one when a tenth of its life is left."""
    clock = Clock()
    async with signing_in(TokenEndpoint(life_s=life_s), clock) as sign_in:
        for now_s, number in ((0, 1), (kept_s, 1), (renewed_s, 2)):
            clock.now_s = now_s
            assert await sign_in.headers(ANY) == {"Authorization": f"Bearer token-{number}"}


async def test_a_token_without_an_end() -> None:
    """A token whose life is not told is used until it is refused."""
    clock = Clock()
    async with signing_in(TokenEndpoint(life_s=None), clock) as sign_in:
        headers = await sign_in.headers(ANY)
        clock.now_s = 1e9
        assert await sign_in.headers(ANY) == headers
        assert sign_in.refused(headers)
        assert await sign_in.headers(ANY) == {"Authorization": "Bearer token-2"}


async def test_an_endpoint_that_is_away_for_a_while() -> None:
    """While the old token is good it is used, the endpoint asked again after some seconds; after its end none is."""
    clock, endpoint = Clock(), TokenEndpoint()
    async with signing_in(endpoint, clock) as sign_in:
        await sign_in.headers(ANY)
        clock.now_s, endpoint.down = 3580, True
        for _ in range(3):
            assert await sign_in.headers(ANY) == {"Authorization": "Bearer token-1"}
        assert len(endpoint.forms) == 2
        clock.now_s = 3600
        with pytest.raises(SignInError, match="status 503"):
            await sign_in.headers(ANY)
        endpoint.down = False
        assert await sign_in.headers(ANY) == {"Authorization": "Bearer token-2"}


async def test_a_token_that_expired_early() -> None:
    """A 401 drops the token, and the same samples are delivered with a fresh one in the same attempt."""
    endpoint = TokenEndpoint()
    async with client(endpoint, False, False, False) as (sender, receiver):
        assert await sender.send(b"one", 0) == Delivered(204)
        endpoint.valid.clear()
        assert await sender.send(b"two", 0) == Delivered(204)
    assert receiver.bodies == [b"one", b"two", b"two"]
    assert auth(receiver) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


async def test_a_receiver_that_refuses_fresh_tokens_too() -> None:
    """One more try is all: the second 401 is the receiver's last word."""
    async with client(TokenEndpoint(), True, True) as (sender, receiver):
        assert await sender.send(b"\x00", 0) == Rejected(401, "expired")
    assert len(receiver.bodies) == 2


async def test_late_refusals_do_not_drop_the_next_token() -> None:
    """Requests that come back with the old token after it was replaced leave the new one alone."""
    endpoint = TokenEndpoint()
    async with signing_in(endpoint) as sign_in:
        old = await sign_in.headers(ANY)
        assert sign_in.refused(old)
        new = await sign_in.headers(ANY)
        assert sign_in.refused(old)
        assert await sign_in.headers(ANY) == new
    assert endpoint.given == 2


async def test_a_wrong_secret_loses_nothing_and_shows_nothing() -> None:
    """Without a token nothing is sent and samples wait; the words have the endpoint's, and not the secret."""
    endpoint = TokenEndpoint()
    async with endpoint.serving() as token_url, Receiver().serving() as url:
        block = {"client_id": "id", "client_secret": "marker", "token_url": token_url.replace("://", "://u:marker2@")}
        async with connect(RemoteWrite.model_validate({"url": url, "oauth2": block}), now_s=lambda: NOW_S) as sender:
            outcome = await sender.send(b"\x00", 0)
    assert isinstance(outcome, RetryLater)
    assert f"no token from {token_url}: status 401: invalid_client" in outcome.words
    assert "marker" not in outcome.words


async def test_a_secret_in_a_file_that_changes(tmp_path: Path) -> None:
    """The secret is read when a token is asked for."""
    file = tmp_path / "secret"
    file.write_text("old\n", encoding="utf-8")
    async with signing_in(TokenEndpoint(), client_secret_file=str(file)) as sign_in:
        with pytest.raises(SignInError):
            await sign_in.headers(ANY)
        file.write_text("s3cret/+\n", encoding="utf-8")
        assert await sign_in.headers(ANY) == {"Authorization": "Bearer token-1"}
        file.unlink()
        sign_in.refused({"Authorization": "Bearer token-1"})
        with pytest.raises(SignInError, match=r"oauth2.client_secret_file: cannot read"):
            await sign_in.headers(ANY)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"access_token": 1}', b'{"access_token": "a\\nb"}', b"\xff"])
async def test_answers_that_are_no_token(answer: bytes) -> None:
    """An endpoint that answers 200 with anything else than a token gives none."""

    async def nonsense(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=answer)

    async with Receiver([nonsense]).serving() as url, aiohttp.ClientSession() as session:
        settings = OAuth2.model_validate({"client_id": "id", "client_secret": "s", "token_url": url})
        sign_in = ClientCredentials(settings, session, Route(settings, {}), clock_s=lambda: 0.0, timeout_s=5)
        with pytest.raises(SignInError):
            await sign_in.headers(ANY)


async def test_nobody_gives_tokens() -> None:
    """A token endpoint out of reach is told without its password, and the samples wait."""
    async with TokenEndpoint().serving() as token_url:
        pass
    block = {"client_id": "id", "client_secret": "s", "token_url": token_url.replace("://", "://u:marker@")}
    async with connect(
        RemoteWrite.model_validate({"url": "http://127.0.0.1:1/", "oauth2": block}), now_s=lambda: NOW_S
    ) as sender:
        outcome = await sender.send(b"\x00", 0)
    assert isinstance(outcome, RetryLater)
    assert f"no token from {token_url}: ClientConnectorError" in outcome.words
    assert "marker" not in outcome.words
