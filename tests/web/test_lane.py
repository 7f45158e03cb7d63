"""The short way through HTTP: what it takes, what it leaves, and that both ways answer alike."""

import asyncio
import http.client
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.app import Agent
from bridge.config.file import load
from bridge.web.lane import Incomplete, PlainPush, read_push

PLAIN = (
    b"PUT /metrics/job/j?x=1 HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\na 1\n"
)


@asynccontextmanager
async def agent(directory: Path) -> AsyncIterator[int]:
    """Run an agent without a target; gives its port."""
    config = load("", "test", {"web": {"listen_address": "127.0.0.1:0"}, "storage": {"path": str(directory)}})
    running = Agent(config)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(running.run(url.set_result))
    try:
        yield int((await url).rpartition(":")[2])
    finally:
        running.stopping.set()
        await task


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one response: status, headers with lower-case names, body."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def request(body: bytes, method: str = "PUT", path: str = "/metrics/job/j", extra: str = "") -> bytes:
    """One request as bytes."""
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_reads_a_plain_push() -> None:
    """Method, path without query, the two headers that matter and the body; what follows is left alone."""
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    push = PlainPush("PUT", "/metrics/job/j", "x=1", headers, b"a 1\n", len(PLAIN))
    assert read_push(PLAIN) == push
    assert read_push(PLAIN + PLAIN) == push


def test_waits_for_the_rest_of_a_body() -> None:
    """A head whose body is still under way is kept."""
    assert read_push(PLAIN[:-1]) is Incomplete


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"PUT", b"GET"),
        (b"PUT", b"put"),
        (b"PUT /", b"PUT http://h/"),
        (b"PUT /", b"PUT  /"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: h\r\n", b""),
        (b"Host: h\r\n", b"Host: h\r\nHost: i\r\n"),
        (b"Host: h", b"Host : h"),
        (b"Host: h", b"Host: h\n"),
        (b"Host: h", b"Host: h\r\n folded"),
        (b"Host: h", b"Host: \xff"),
        (b"Host: h", b"Host: h\x00"),
        (b"Host: h", b"Host: h\r\nTransfer-Encoding: chunked"),
        (b"Host: h", b"Host: h\r\nExpect: 100-continue"),
        (b"Host: h", b"Host: h\r\nConnection: close"),
        (b"Host: h", b"Host: h\r\nConnection: Upgrade"),
        (b"Host: h", b"Host: h\r\nUpgrade: h2c"),
        (b"Length: 4", b"Length: 4\r\nContent-Length: 5"),
        (b"Length: 4", b"Length: +4"),
        (b"Length: 4", b"Length: 4, 4"),
        (b"Length: 4", b"Length: 0x4"),
        (b"Length: 4", b"Length:"),
        (b"Length: 4", b"Length: 99999999"),
        (b"Content-Length: 4\r\n", b""),
        (b"\r\n", b"\n"),
    ],
    ids=repr,
)
def test_leaves_the_rest_to_the_general_way(old: bytes, new: bytes) -> None:
    """Every doubt about HTTP is decided by aiohttp."""
    assert read_push(PLAIN.replace(old, new)) is None


async def test_both_ways_answer_alike(tmp_path: Path) -> None:
    """The same pushes, good and bad, get the same status, headers and words on either way."""
    cases = [
        ("PUT", "/metrics/job/j", b"a 1\n"),
        ("POST", "/metrics/job/j/x/y", b"a 1\nb 2\n"),
        ("PUT", "/metrics/job/j", b"a eins\n"),
        ("PUT", "/metrics/job/j/x", b"a 1\n"),
        ("PUT", "/metrics/job/", b"a 1\n"),
        ("POST", "/metrics/jobs/j", b"a 1\n"),
        ("PUT", "/metrics//job/j", b"a 1\n"),
        ("PUT", "/nowhere", b"a 1\n"),
        ("POST", "/-/quit", b""),
        ("PUT", "/metrics/job/caf%C3%A9/x@base64/YQ", b""),
    ]
    async with agent(tmp_path) as port:
        for method, path, body in cases:
            answers = []
            for extra in ("", "Expect: 100-continue\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(body, method, path, extra))
                found = await answer(reader)
                if found[0] == http.client.CONTINUE:
                    found = await answer(reader)
                headers = {name: value for name, value in found[1].items() if name not in ("date", "server")}
                headers["x-push-id"] = headers.get("x-push-id", "").partition("-")[0]
                headers.pop("content-type" if not found[2] else "", None)
                answers.append((found[0], headers, found[2]))
                writer.close()
            assert answers[0] == answers[1], path


async def test_requests_on_one_connection_are_answered_in_order(tmp_path: Path) -> None:
    """Pipelined pushes, cut anywhere, and a switch to the general way in the middle get one answer each."""
    pushes = [request(b"a %d\n" % at) for at in range(30)] + [b"GET /api/v1/metrics HTTP/1.1\r\nHost: h\r\n\r\n"]
    data = b"".join(pushes)
    cuts = sorted(random.Random(7).sample(range(len(data)), 40))
    async with agent(tmp_path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
            writer.write(data[start:stop])
            await writer.drain()
            await asyncio.sleep(0)
        answers = [await answer(reader) for _ in pushes]
        writer.close()
    assert [status for status, _, _ in answers] == [200] * 31
    (group,) = json.loads(answers[-1][2])["data"]
    assert group["a"]["metrics"][0]["value"] == "29"


async def test_a_client_that_leaves_in_mid_body_changes_nothing(tmp_path: Path) -> None:
    """A push of which only a part came is not applied, and the agent ends in time with such a connection open."""
    async with agent(tmp_path) as port:
        _, left = await asyncio.open_connection("127.0.0.1", port)
        left.write(request(b"a 1\n")[:-2])
        await left.drain()
        left.close()
        _, stays = await asyncio.open_connection("127.0.0.1", port)
        stays.write(request(b"a 1\n")[:-2])
        await stays.drain()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/v1/metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert json.loads((await answer(reader))[2])["data"] == []
        writer.close()
    stays.close()
