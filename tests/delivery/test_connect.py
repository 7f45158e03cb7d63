"""From the settings of a target to requests at real servers: headers, sign-in, redirects, proxies, TLS."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.connect import connect
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from tests.blackbox.servers import needs
from tests.certificates import Authority
from tests.delivery.connect_proxy import ConnectProxy
from tests.delivery.peers import NOW_S, Answer, Receiver, status

KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "marker", "AWS_REGION": "eu-west-1"}


async def send(url: str, environ: Mapping[str, str] | None = None, **settings: object) -> Outcome:
    """Send one block to a target with these settings."""
    target = RemoteWrite.model_validate({"url": url, **settings})
    async with connect(target, now_s=lambda: NOW_S, environ=environ or {}) as client:
        return await client.send(b"block", 0)


async def test_headers_of_the_user(tmp_path: Path) -> None:
    """Both kinds of headers go out, with values from files as they are now."""
    file = tmp_path / "key"
    receiver = Receiver()
    async with receiver.serving() as url:
        for content in ("one", "two"):
            file.write_text(f"{content}\n", encoding="utf-8")
            more = {"X-Key": {"values": ["a"], "secrets": ["b"], "files": [str(file)]}}
            assert await send(url, headers={"X-Scope-OrgID": "007"}, http_headers=more) == Delivered(204)
    assert [head["X-Key"] for head in receiver.headers] == ["a, b, one", "a, b, two"]
    assert receiver.headers[0]["X-Scope-OrgID"] == "007"


async def test_a_tenant_stands_over_the_users_header() -> None:
    """A request for a tenant carries that tenant alone, whichever way the user's own header of that name is given."""
    receiver = Receiver()
    async with receiver.serving() as url:
        for given in ({"headers": {"x-scope-orgid": "o"}}, {"http_headers": {"x-scope-orgid": {"values": ["o"]}}}):
            target = RemoteWrite.model_validate({"url": url, **given})
            async with connect(target, now_s=lambda: NOW_S, environ={}) as client:
                assert await client.send(b"block", 0, "mine") == Delivered(204)
                assert await client.send(b"block", 0) == Delivered(204)
    seen = [CIMultiDict(head).getall("X-Scope-OrgID") for head in receiver.headers]
    assert seen == [["mine"], ["o"], ["mine"], ["o"]]


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"basic_auth": {"username": "ü", "password": "p:ä"}}, "Basic " + base64.b64encode("ü:p:ä".encode()).decode()),
        ({"authorization": {"credentials": "t"}}, "Bearer t"),
        ({"authorization": {"type": "Token", "credentials": "t"}}, "Token t"),
        ({"bearer_token": "t"}, "Bearer t"),
    ],
)
async def test_sign_in(settings: dict[str, Any], header: str) -> None:
    """Each block makes the header that Prometheus would send."""
    receiver = Receiver()
    async with receiver.serving() as url:
        assert await send(url, **settings) == Delivered(204)
        # A block stands over the user in the URL, as in Prometheus.
        assert await send(url.replace("://", "://u:p@"), **settings) == Delivered(204)
    assert [head["Authorization"] for head in receiver.headers] == [header, header]


@pytest.mark.parametrize("content", [None, b"\xff", b"to\nken"])
async def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    """A file that is missing, not text or no header's value: nothing is sent, samples wait, the words name the key."""
    file = tmp_path / "marker"
    if content is not None:
        file.write_bytes(content)
    receiver = Receiver()
    async with receiver.serving() as url:
        outcome = await send(url, bearer_token_file=str(file))
    assert isinstance(outcome, RetryLater)
    assert outcome.words.startswith("authorization")
    assert "nothing was sent" in outcome.words
    assert "to\n" not in outcome.words
    assert receiver.bodies == []


async def test_a_password_that_changes_while_the_old_one_is_refused(tmp_path: Path) -> None:
    """A request whose password was replaced while it was under way is sent again with the new one."""
    file = tmp_path / "password"
    file.write_text("old", encoding="utf-8")

    async def refuse(_request: web.Request) -> web.StreamResponse:
        file.write_text("new", encoding="utf-8")
        return web.Response(status=401)

    receiver = Receiver([refuse])
    async with receiver.serving() as url:
        assert await send(url, bearer_token_file=str(file)) == Delivered(204)
    assert [head["Authorization"] for head in receiver.headers] == ["Bearer old", "Bearer new"]


async def test_sigv4_signs_what_is_sent() -> None:
    """A request for Managed Prometheus has a signature for the service aps over host, type and time."""
    receiver = Receiver()
    async with receiver.serving() as url:
        assert await send(url, KEYS, sigv4={}) == Delivered(204)
    (headers,) = receiver.headers
    assert headers["X-Amz-Date"] == "20151021T072800Z"
    assert headers["Authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKID/20151021/eu-west-1/aps/aws4_request,"
        " SignedHeaders=content-encoding;content-type;host;x-amz-date, Signature="
    )


@asynccontextmanager
async def several(**routes: Answer) -> AsyncIterator[tuple[str, list[tuple[str, str | None, bytes]]]]:
    """A server with several paths; what it was asked: path, Authorization and body."""
    seen: list[tuple[str, str | None, bytes]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("Authorization"), await request.read()))
        return await routes.get(request.path.strip("/"), status(204))(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("/")), seen
    finally:
        await server.close()


TOKEN = {"authorization": {"credentials": "marker"}}


@pytest.mark.parametrize("code", [307, 308])
async def test_redirects_on_the_same_server(code: int) -> None:
    """The same request, body and sign-in go where the redirect points."""
    async with several(a=status(code, Location="/b"), b=status(code, Location="c?x=1")) as (url, seen):
        assert await send(f"{url}a", **TOKEN) == Delivered(204)
    assert seen == [(path, "Bearer marker", b"block") for path in ("/a", "/b", "/c")]


async def test_redirects_to_another_server() -> None:
    """Another server sees neither sign-in nor headers: such a request ends; one without them is followed."""
    elsewhere = Receiver()
    async with elsewhere.serving() as other, several(a=status(307, Location=other)) as (url, _):
        for private in (TOKEN, {"headers": {"X-Key": "marker"}}):
            outcome = await send(f"{url}a", **private)
            assert isinstance(outcome, Rejected)
            assert (outcome.status, outcome.reason) == (307, "http_307")
            assert f"redirected to {other}" in outcome.words
            assert elsewhere.bodies == []
        assert await send(f"{url}a") == Delivered(204)
    assert elsewhere.bodies == [b"block"]


@pytest.mark.parametrize("code", [301, 302, 303])
async def test_redirects_that_would_be_another_request(code: int) -> None:
    """A moved receiver that would have a GET instead is told about, with the place that it names."""
    async with several(a=status(code, Location="/b")) as (url, seen):
        outcome = await send(f"{url}a")
    assert isinstance(outcome, Rejected)
    assert "set url" in outcome.words
    assert len(seen) == 1


async def test_redirects_when_they_are_not_wanted() -> None:
    """follow_redirects: false makes each of them final."""
    async with several(a=status(308, Location="/b")) as (url, seen):
        outcome = await send(f"{url}a", follow_redirects=False)
    assert isinstance(outcome, Rejected)
    assert "follow_redirects is false" in outcome.words
    assert len(seen) == 1


async def test_redirects_in_a_circle() -> None:
    """Somebody who sends us round and round is left after ten times."""
    async with several(a=status(307, Location="/a")) as (url, seen):
        outcome = await send(f"{url}a")
    assert isinstance(outcome, Rejected)
    assert "more than 10" in outcome.words
    assert len(seen) < 13


async def test_a_proxy_that_does_not_know_us() -> None:
    """407 is the proxy's and says nothing about the samples: they wait."""
    async with several(write=status(407, "who are you")) as (url, _):
        outcome = await send("http://far.test/write", proxy_url=url)
    assert outcome == RetryLater(None, 407, "who are you")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@asynccontextmanager
async def tls_receiver(authority: Authority) -> AsyncIterator[tuple[Receiver, int]]:
    """A receiver behind TLS that is called far.test."""
    pair = authority.sign("far", "DNS:far.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/write", receiver.handle)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        yield receiver, server.port or 0
    finally:
        await server.close()


@needs("openssl")
async def test_a_tunnel_through_a_proxy(authority: Authority) -> None:
    """For https the proxy is asked for a tunnel, with its password and headers, and sees nothing of the request."""
    tls = {"ca_file": str(authority.pem)}
    async with tls_receiver(authority) as (receiver, port):
        proxy = ConnectProxy(port)
        async with proxy.serving() as proxy_port:
            outcome = await send(
                "https://far.test/write",
                proxy_url=f"http://me:marker@127.0.0.1:{proxy_port}",
                proxy_connect_header={"X-Team": ["a", "b"]},
                tls_config=tls,
                **TOKEN,
            )
            assert outcome == Delivered(204)
            refused = await send(
                "https://far.test/write", proxy_url=f"http://me:marker2@127.0.0.1:{proxy_port}", tls_config=tls
            )
    assert receiver.headers[0]["Authorization"] == "Bearer marker"
    assert proxy.heads[0].startswith(b"CONNECT far.test:443 ")
    assert b"X-Team: a, b\r\n" in proxy.heads[0]
    assert b"Bearer" not in proxy.heads[0]
    assert isinstance(refused, RetryLater)
    assert "407" in refused.words
    assert "marker2" not in refused.words


@needs("openssl")
async def test_no_proxy_goes_direct(authority: Authority) -> None:
    """A host in no_proxy is reached without the proxy."""
    async with tls_receiver(authority) as (receiver, port):
        outcome = await send(
            f"https://127.0.0.1:{port}/write",
            proxy_url="http://127.0.0.1:1",
            no_proxy="127.0.0.0/8",
            tls_config={"ca_file": str(authority.pem), "server_name": "far.test"},
        )
    assert outcome == Delivered(204)
    assert len(receiver.bodies) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"ca_file": "{}/none"}, "tls_config.ca_file: cannot read"),
        ({"ca": "no PEM"}, "tls_config.ca: "),
        ({"cert_file": "{}/far.pem", "key_file": "{}/ca.key"}, "key values mismatch"),
        ({"cert": "no PEM", "key": "marker"}, "certificate and key: "),
    ],
)
@needs("openssl")
async def test_certificates_that_cannot_be_used(authority: Authority, lines: dict[str, str], words: str) -> None:
    """Whatever is wrong with the files, samples wait and the words say which setting it is."""
    authority.sign("far")
    given = {key: value.format(authority.directory) for key, value in lines.items()}
    outcome = await send("https://127.0.0.1:1/write", tls_config=given)
    assert isinstance(outcome, RetryLater)
    assert words in outcome.words
    assert "marker" not in outcome.words


@needs("openssl")
async def test_an_encrypted_key_does_not_ask_on_the_terminal(authority: Authority) -> None:
    """A key with a passphrase is refused; OpenSSL is not left waiting for somebody to type."""
    pair = authority.sign("far")
    done = await asyncio.create_subprocess_exec(
        *(
            "openssl",
            "pkey",
            "-aes256",
            "-passout",
            "pass:x",
            "-in",
            pair.key,
            "-out",
            authority.directory / "locked.key",
        )
    )
    assert await done.wait() == 0
    files = {"cert_file": str(pair.cert), "key_file": str(authority.directory / "locked.key")}
    async with asyncio.timeout(10):
        outcome = await send("https://127.0.0.1:1/write", tls_config=files)
    assert isinstance(outcome, RetryLater)
    assert "certificate and key" in outcome.words
