"""The HTTP side of a whole agent: routes, limits, answers, and what its own metrics tell of them."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import snappy
from multidict import CIMultiDict
from yarl import URL

from bridge import __version__
from bridge.app import Agent
from bridge.config.file import load
from tests.journal.test_committer import DEADLINE_S, locked

AWAY = "http://127.0.0.1:1/write"
"""A target that is never there."""
GENERAL = {"Connection": "close"}
"""Takes a push off the short way through HTTP."""
NOT_FOUND = "404 page not found\n"
PUSH_ALLOW = "DELETE, OPTIONS, POST, PUT"


@dataclass(frozen=True)
class Answer:
    """One response, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Site:
    """A running agent and a client for it."""

    agent: Agent
    url: str
    http: aiohttp.ClientSession
    task: asyncio.Task[None]
    journal: Path

    async def ask(self, method: str, path: str, data: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request just as it is spelled, and follow no redirect."""
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.text())

    async def put(self, path: str, data: Any, headers: Mapping[str, str] | None = None) -> int:
        """Push and give the status."""
        return (await self.ask("PUT", f"/metrics/job/{path}", data, headers)).status

    async def shown(self, prefix: str = "") -> list[str]:
        """Lines of /metrics that begin so."""
        return [line for line in (await self.ask("GET", "/metrics")).text.splitlines() if line.startswith(prefix)]

    async def groups(self) -> list[dict[str, Any]]:
        """Data of /api/v1/metrics."""
        found: list[dict[str, Any]] = json.loads((await self.ask("GET", "/api/v1/metrics")).text)["data"]
        return found

    def count(self, method: str, outcome: str, reason: str = "") -> float | None:
        """How many pushes of a kind there were."""
        labels = {"method": method, "outcome": outcome, "reason": reason}
        return self.agent.telemetry.registry.get_sample_value("pushbridge_pushes_total", labels)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a bare connection, on which nothing is waited for for ever."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def running(
    directory: Path, *targets: str, config: str = "", **sections: dict[str, object]
) -> AsyncIterator[Site]:
    """Run an agent in this process, and end it in order; sections stand over the text of `config`."""
    sections["web"] = {"listen_address": "127.0.0.1:0", **sections.get("web", {})}
    sections["storage"] = {"path": str(directory), **sections.get("storage", {})}
    sections["remote_write"] = {"targets": [{"url": url, "name": f"t{at}"} for at, url in enumerate(targets)]}
    agent = Agent(load(config, "test", sections))
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(agent.run(url.set_result))
    try:
        async with aiohttp.ClientSession() as http:
            yield Site(agent, await url, http, task, directory / "journal.db")
    finally:
        agent.stopping.set()
        async with asyncio.timeout(DEADLINE_S):
            await task


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize(
    ("method", "path", "status", "words", "allow"),
    [
        ("GET", "/-/healthy", 200, "OK", None),
        ("GET", "/-/ready", 200, "OK", None),
        ("GET", "/api/v1/metrics", 200, '{"status": "success", "data": []}', None),
        ("GET", "/-/quit", 405, "Only POST or PUT requests allowed.\n", None),
        ("PUT", "/-/quit", 403, "Lifecycle API is not enabled.\n", None),
        ("POST", "/-/quit", 403, "Lifecycle API is not enabled.\n", None),
        ("PUT", "/api/v1/admin/wipe", 404, NOT_FOUND, None),
        ("GET", "/nowhere", 404, NOT_FOUND, None),
        ("PUT", "/metrics/jobs/j", 404, NOT_FOUND, None),
        ("GET", "/api/v1/nothing", 404, NOT_FOUND, None),
        ("POST", "/metrics", 405, "Method Not Allowed\n", "GET, OPTIONS"),
        ("HEAD", "/metrics", 405, "", "GET, OPTIONS"),
        ("DELETE", "/-/healthy", 405, "Method Not Allowed\n", "GET, OPTIONS"),
        ("POST", "/-/ready", 405, "Method Not Allowed\n", "GET, OPTIONS"),
        ("PUT", "/api/v1/status", 405, "Method Not Allowed\n", "GET, OPTIONS"),
        ("DELETE", "/-/quit", 405, "Method Not Allowed\n", "GET, OPTIONS, POST, PUT"),
        ("GET", "/metrics/job/j", 405, "Method Not Allowed\n", PUSH_ALLOW),
        ("PATCH", "/metrics/job/j", 405, "Method Not Allowed\n", PUSH_ALLOW),
        ("OPTIONS", "/metrics/job/j", 200, "", PUSH_ALLOW),
        ("OPTIONS", "/metrics", 200, "", "GET, OPTIONS"),
        ("PUT", "/metrics/job/", 400, "job name is required\n", None),
        ("PUT", "/metrics/job@base64/=", 400, "job name is required\n", None),
        ("PUT", "/metrics/job/j", 200, "", None),
        ("POST", "/metrics/job%40base64/ag/x@base64/=", 200, "", None),
        ("PUT", "/metrics/job/j?x=1", 200, "", None),
        ("DELETE", "/metrics/job/j", 202, "", None),
        ("DELETE", "/metrics/job/j/x", 400, 'odd number of components in label string "/x"\n', None),
        ("DELETE", "/metrics/job/j/__x/1", 400, 'improper label name "__x"\n', None),
    ],
    ids=lambda value: value if isinstance(value, str) and value[:1] == "/" else None,
)
async def test_routes_and_methods(
    site: Site, method: str, path: str, *, status: int, words: str, allow: str | None
) -> None:
    """Every path answers as Pushgateway's does, and a wrong method is told the right ones."""
    answer = await site.ask(method, path)
    assert (answer.status, answer.text, answer.headers.get("Allow")) == (status, words, allow)
    if status >= 400:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/metrics/", 301, "/metrics"),
        ("GET", "/-/healthy/", 301, "/-/healthy"),
        ("PUT", "/-/quit/", 307, "/-/quit"),
        ("GET", "//metrics", 301, "/metrics"),
        ("GET", "/x/../api//v1/./status", 301, "/api/v1/status"),
        ("PUT", "/metrics/job//j", 301, "/metrics/job/j"),
        ("PUT", "/metrics/job/j/../k", 301, "/metrics/job/k"),
        pytest.param("GET", "/metrics/?x=1", 301, "/metrics?x=1"),
        pytest.param("GET", "//metrics?x=1", 301, "/metrics?x=1"),
    ],
)
async def test_unclean_paths_are_redirected(site: Site, method: str, path: str, status: int, location: str) -> None:
    """Slashes too many and dot segments lead to the clean path, with the query."""
    answer = await site.ask(method, path, b"a 1\n" if method == "PUT" else None)
    assert (answer.status, answer.headers["Location"]) == (status, location)
    assert await site.groups() == []


@pytest.mark.parametrize(
    ("web", "prefix"),
    [
        ({"external_url": "https://example.org/push/"}, "/push"),
        ({"route_prefix": "a/b"}, "/a/b"),
        ({"external_url": "https://example.org/push", "route_prefix": "/other/"}, "/other"),
        ({"external_url": "https://example.org/push", "route_prefix": "/"}, ""),
    ],
)
async def test_every_path_lies_under_the_prefix(tmp_path: Path, web: dict[str, object], prefix: str) -> None:
    """The route prefix stands before all paths, also in redirects, and nothing answers without it."""
    async with running(tmp_path, web=web) as site:
        for path in ("/-/ready", "/metrics", "/api/v1/status", "/api/v1/metrics"):
            assert (await site.ask("GET", prefix + path)).status == 200
            assert (await site.ask("GET", path)).status == (404 if prefix else 200)
            for other in (f"{prefix or '/none'}x", "/".ljust(len(prefix), "x")):
                assert (await site.ask("GET", other + path)).status == (404 if other != "/" else 301)
        for headers in ({}, GENERAL):
            assert (await site.ask("PUT", f"{prefix}/metrics/job/j", b"a 1\n", headers)).status == 200
            assert (await site.ask("PUT", "/metrics/job/j", b"a 1\n", headers)).status == (404 if prefix else 200)
        assert (await site.ask("GET", f"{prefix}/metrics/")).headers["Location"] == f"{prefix}/metrics"


async def test_quit_ends_the_agent(tmp_path: Path) -> None:
    """With the lifecycle flag a PUT or POST to /-/quit is answered, and the agent ends in order."""
    for method in ("PUT", "POST"):
        async with running(tmp_path, web={"enable_lifecycle": True}) as site:
            await site.put("j", b"a 1\n")
            answer = await site.ask(method, "/-/quit")
            assert (answer.status, answer.text) == (200, "Requesting termination... Goodbye!")
            async with asyncio.timeout(DEADLINE_S):
                await site.task
            with pytest.raises(aiohttp.ClientConnectionError):
                await site.ask("GET", "/-/healthy")


async def test_wipe_ends_all_groups(tmp_path: Path) -> None:
    """With the admin flag a wipe is accepted and every group is gone; other methods are not allowed."""
    async with running(tmp_path, web={"enable_admin_api": True}) as site:
        await site.put("one", b"a 1\n")
        await site.put("two", b"a eins\n")
        assert (await site.ask("GET", "/api/v1/admin/wipe")).headers["Allow"] == "OPTIONS, PUT"
        assert len(await site.groups()) == 2
        answer = await site.ask("PUT", "/api/v1/admin/wipe")
        assert (answer.status, answer.text, await site.groups()) == (202, "", [])


async def test_a_disk_that_fails_is_told_and_comes_back(site: Site) -> None:
    """Pushes get 503 and Retry-After, readiness says why, health does not care; then all is as before."""
    assert await site.put("j", b"a 1\n") == 200
    with locked(site.journal):
        for method in ("PUT", "DELETE"):
            refused = await site.ask(method, "/metrics/job/j", b"a 2\n")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
            assert str(site.journal) in refused.text
        ready = await site.ask("GET", "/-/ready")
        assert (ready.status, ready.text) == (503, refused.text)
        assert (await site.ask("GET", "/-/healthy")).status == 200
        assert (await site.groups())[0]["a"]["metrics"][0]["value"] == "1"
    assert await site.put("j", b"a 3\n") == 200
    assert (await site.ask("GET", "/-/ready")).status == 200
    assert (site.count("put", "refused", "io_error"), site.count("delete", "refused", "io_error")) == (1, 1)


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    """Send a body in pieces, without a length."""
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


LIMIT = 1024
WAYS: list[tuple[str, Callable[[bytes], Any], dict[str, str]]] = [
    ("plain", bytes, {}),
    ("declared", bytes, GENERAL),
    ("chunked", chunked, {}),
    ("gzip", gzip.compress, {"Content-Encoding": "gzip"}),
    ("snappy stream", lambda body: bytes(snappy.StreamCompressor().compress(body)), {"Content-Encoding": "snappy"}),
    ("snappy block", lambda body: bytes(snappy.compress(body)), {"Content-Encoding": "snappy"}),
]


@pytest.mark.parametrize(("send", "headers"), [way[1:] for way in WAYS], ids=[way[0] for way in WAYS])
async def test_a_body_may_be_as_long_as_the_limit(
    tmp_path: Path, send: Callable[[bytes], Any], headers: dict[str, str]
) -> None:
    """A body of just the limit is taken; one byte more is 413 and changes nothing, on the wire and decompressed."""
    body = b"a 1\n".ljust(LIMIT, b"\n")
    async with running(tmp_path, push={"max_body_bytes": LIMIT}) as site:
        assert await site.put("j", send(body), headers) == 200
        answer = await site.ask("PUT", "/metrics/job/j", send(b"b 1\n" + body), headers)
        assert (answer.status, str(LIMIT) in answer.text) == (413, True)
        (group,) = await site.groups()
        assert "a" in group
        assert "b" not in group
        assert await site.put("j", send(body), headers) == 200


async def test_a_body_over_the_limit_is_refused_alike_on_both_ways(tmp_path: Path) -> None:
    """Words, reason and what becomes of the group do not depend on how the request came in."""
    body = b"\n" * (LIMIT + 1)
    async with running(tmp_path, push={"max_body_bytes": LIMIT}) as site:
        plain = await site.ask("PUT", "/metrics/job/plain", body)
        general = await site.ask("PUT", "/metrics/job/general", body, GENERAL)
        assert len(await site.groups()) in {0, 2}
        assert plain.text == general.text


async def test_status_tells_settings_start_and_version(tmp_path: Path) -> None:
    """Every setting has its flag's name and a text, the start is a time, the version is ours."""
    async with running(tmp_path, web={"route_prefix": "/p"}) as site:
        answer = await site.ask("GET", "/p/api/v1/status")
        assert answer.headers["Content-Type"].startswith("application/json")
        shown = json.loads(answer.text)
        assert (shown["status"], shown["data"]["build_information"]["version"]) == ("success", __version__)
        flags = shown["data"]["flags"]
        assert (flags["web.route-prefix"], flags["storage.path"]) == ("/p", str(tmp_path))
        assert {type(value) for value in flags.values()} == {str}
        assert flags.keys() >= {"web.listen-address", "push.max-body-bytes", "storage.when-full", "log.level"}
        times = {name: flags[f"push.{name}"] for name in ("default-ttl", "hold-interval", "forget-after")}
        assert times == {"default-ttl": "25h", "hold-interval": "1m", "forget-after": "30d"}
        assert (flags["storage.retention"], flags["storage.max-bytes"]) == ("1d", "1GiB")
        assert (flags["push.max-body-bytes"], flags["push.max-series-per-push"]) == ("64MiB", "100000")
        age = datetime.now(UTC) - datetime.fromisoformat(shown["data"]["start_time"])
        assert 0 <= age.total_seconds() < DEADLINE_S


async def test_two_idempotency_keys_contradict_each_other(site: Site) -> None:
    """A push with two different keys, or TTLs, is refused in words that name both; the same one twice is one."""
    for name, first, second in (("Idempotency-Key", "one", "two"), ("X-Push-TTL", "1h", "2h")):
        two, same = CIMultiDict([(name, first), (name, second)]), CIMultiDict([(name, first), (name, first)])
        answer = await site.ask("PUT", "/metrics/job/j", b"a 1\n", two)
        assert (answer.status, answer.text.strip()) == (400, f"{name}: got '{first}' and '{second}', want one of them")
        assert (await site.ask("DELETE", "/metrics/job/j", b"", two)).status == 400
        assert (await site.ask("PUT", "/metrics/job/j", b"a 1\n", same)).status == 200


async def test_pushes_are_counted_with_their_reason(site: Site) -> None:
    """Each push counts once, by method, outcome and reason, and takes a time."""
    for path, body, method in (
        ("j", b"# TYPE a gauge\na 1\n", "PUT"),
        ("j", b"b 1\n", "POST"),
        ("j", b"a eins\n", "POST"),
        ("j/x", b"a 1\n", "PUT"),
        ("j/i/x", b"# TYPE a counter\na 1\n", "PUT"),
        ("j", b"", "DELETE"),
    ):
        await site.ask(method, f"/metrics/job/{path}", body)
    await site.ask("GET", "/metrics/job/j")
    assert [site.count("put", "accepted"), site.count("post", "accepted"), site.count("delete", "accepted")] == [
        2,
        1,
        1,
    ]
    assert [site.count("post", "refused", "parse"), site.count("put", "refused", "path")] == [1, 1]
    assert "pushbridge_push_duration_seconds_count 6" in await site.shown("pushbridge_push_duration_seconds_count")
    assert "pushbridge_type_conflicts_total 1" in await site.shown("pushbridge_type_conflicts_total")


HALF = b"PUT /metrics/job/half HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n"


async def test_a_client_that_leaves_in_mid_body_harms_nobody(tmp_path: Path) -> None:
    """A body that stops half-way keeps no other push waiting, and is not applied."""
    async with running(tmp_path) as site:
        async with site.connection() as (_, leaver):
            leaver.write(HALF)
            await leaver.drain()
            pushes = [site.put(f"j{n}", f"a {n}\n".encode(), GENERAL if n % 2 else None) for n in range(20)]
            assert await asyncio.gather(*pushes) == [200] * 20
        assert await site.put("j0", b"a 1\n") == 200
        assert len(await site.groups()) == 20


async def test_a_client_that_leaves_in_mid_body_is_not_counted_as_accepted(tmp_path: Path) -> None:
    """A push that never came in full is no success."""
    async with running(tmp_path) as site, site.connection() as (_, leaver):
        leaver.write(HALF)
        await leaver.drain()
        assert await site.put("j", b"a 1\n") == 200
    assert site.count("put", "accepted") == 1


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        pytest.param("PUT /metrics/job/j HTTP/1.1\r\nHost: h\r\n", 200, id="no length"),
        pytest.param("PUT /metrics/job/j HTTP/1.0\r\nContent-Length: 0\r\n", 200, id="HTTP 1.0"),
        pytest.param("PUT /metrics/job/j HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n", 400, id="no number"),
        pytest.param(
            "GET http://h/-/healthy HTTP/1.1\r\nHost: h\r\n",
            200,
            id="absolute form",
        ),
    ],
)
async def test_unusual_requests(site: Site, request_head: str, status: int) -> None:
    """What HTTP allows is answered as HTTP says, without waiting for more bytes."""
    async with site.connection() as (reader, writer):
        writer.write(f"{request_head}\r\n".encode())
        assert (await reader.readline()).split()[1] == str(status).encode()


async def test_a_client_that_asks_before_it_sends_is_told_to(site: Site) -> None:
    """A client that announces its body with Expect gets 100 Continue before it has sent any of it."""
    async with site.connection() as (reader, writer):
        writer.write(b"PUT /metrics/job/j HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        await writer.drain()
        assert await site.put("k", b"a 1\n") == 200
        writer.write(b"a 1\n")
        assert (await reader.readline()).split()[1] == b"100"


async def test_a_body_of_a_deletion_is_ignored(site: Site) -> None:
    """DELETE reads over a body, so that the connection's next request is understood."""
    async with site.connection() as (reader, writer):
        writer.write(b"DELETE /metrics/job/j HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\na 1\n")
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n")
        for status in (b"202", b"200"):
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
