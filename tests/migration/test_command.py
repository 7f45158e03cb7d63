"""`pushbridge import` as its two servers see it: what is asked, what is pushed, and what is made of odd answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from bridge.cli import main
from tests.test_peer import serving

SECRET = "us%40er:p%2Fss"  # noqa: S105 - not a secret
AUTHORIZATION = "Basic dXNAZXI6cC9zcw=="


def group(job: str, value: str = "1", at_s: str = "1.7e+09") -> dict[str, Any]:
    """One group as a Pushgateway shows it."""
    times = {"type": "GAUGE", "metrics": [{"labels": {"instance": "", "job": job}, "value": at_s}]}
    metric = {"labels": {"instance": "", "job": job}, "value": value}
    return {"labels": {"job": job}, "push_time_seconds": times, "x": {"type": "GAUGE", "metrics": [metric]}}


def held(shown: Mapping[str, Any]) -> dict[str, Any]:
    """A group as an agent shows what it holds."""
    at_s = float(shown["push_time_seconds"]["metrics"][0]["value"])
    return {"labels": shown["labels"], "push_time_seconds": at_s, "push_failure_time_seconds": 0.0, "source": "push"}


@dataclass
class Fake:
    """A server that shows groups, takes pushes and remembers both."""

    groups: Any
    refuses: str = ""
    closes_at: str = ""
    seen: list[tuple[str, str, Mapping[str, str], str]] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.seen.append((request.method, request.raw_path, request.headers.copy(), await request.text()))
        if request.path.endswith("/api/v1/groups"):
            return web.json_response({"status": "success", "data": [held(shown) for shown in self.groups]})
        if request.method == "GET":
            text = (
                self.groups if isinstance(self.groups, str) else json.dumps({"status": "success", "data": self.groups})
            )
            return web.Response(text=text)
        if self.closes_at and request.raw_path.endswith(self.closes_at):
            assert request.transport is not None
            request.transport.close()
        if self.refuses and request.raw_path.endswith(self.refuses):
            return web.Response(status=503, text="the disk is full\n")
        return web.Response()

    @property
    def pushes(self) -> list[str]:
        """Paths of the pushes."""
        return [path for method, path, *_ in self.seen if method == "PUT"]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as started:
        yield started


async def run(stack: AsyncExitStack, source: Fake, agent: Fake, *flags: str) -> Result:
    """Import from one fake into the other."""
    urls = [f"http://{SECRET}@{await stack.enter_async_context(serving(fake.answer))}/p" for fake in (source, agent)]
    arguments = ["import", "--from", urls[0], "--url", urls[1], *flags]
    done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert "p/ss" not in done.output
    assert SECRET not in done.output
    return done


async def test_a_group_goes_over_in_one_push(stack: AsyncExitStack) -> None:
    """Both are asked for their groups, and a PUT with the header of imports and the times brings each new one."""
    source, agent = Fake([group("a/b", at_s="1.71e+09"), group("c", at_s="1.7e+09")]), Fake([])
    done = await run(stack, source, agent, "--ttl", "8d")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "imported 2 of 2 groups with 2 series; left alone: 0, refused: 0, incomplete: 0\n"
    assert [path for _, path, *_ in source.seen] == ["/p/api/v1/metrics"]
    assert agent.pushes == ["/p/metrics/job/c", "/p/metrics/job@base64/YS9i"]
    _, _, headers, body = agent.seen[-1]
    assert headers["X-Push-Import"] == "true"
    assert headers["X-Push-TTL"] == "8d"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert {"push_time_seconds 1.71e+09", "push_failure_time_seconds 0", "x 1"} <= set(body.splitlines())
    assert {seen[2]["Authorization"] for seen in (*source.seen, *agent.seen)} == {AUTHORIZATION}


async def test_without_a_ttl_the_agent_decides(stack: AsyncExitStack) -> None:
    """No --ttl, no header."""
    agent = Fake([])
    await run(stack, Fake([group("a")]), agent)
    assert "X-Push-TTL" not in agent.seen[-1][2]


async def test_groups_as_new_or_newer_are_left_alone(stack: AsyncExitStack) -> None:
    """What the agent has is compared by push time; each group that stays is named."""
    source = Fake([group("same"), group("newer"), group("older")])
    agent = Fake([group("same"), group("newer", at_s="1.71e+09"), group("older", at_s="1.69e+09")])
    done = await run(stack, source, agent)
    assert agent.pushes == ["/p/metrics/job/older"]
    assert done.stdout == "imported 1 of 3 groups with 1 series; left alone: 2, refused: 0, incomplete: 0\n"
    assert done.stderr.splitlines() == [
        '{job="same"}: left alone, the agent has it with the same push time',
        '{job="newer"}: left alone, the agent has a newer push of it',
    ]
    assert done.exit_code == 0


async def test_overwrite_pushes_all_without_asking(stack: AsyncExitStack) -> None:
    """With --overwrite every group is pushed."""
    agent = Fake([group("a", at_s="1.71e+09")])
    done = await run(stack, Fake([group("a")]), agent, "--overwrite")
    assert [method for method, *_ in agent.seen] == ["PUT"]
    assert done.exit_code == 0


async def test_a_dry_run_pushes_nothing(stack: AsyncExitStack) -> None:
    """With --dry-run there are only lines on stdout."""
    agent = Fake([group("same")])
    done = await run(stack, Fake([group("same"), group("new"), group("never", at_s="0")]), agent, "--dry-run")
    first, second, third, summary = done.stdout.splitlines()
    assert (done.exit_code, done.stderr, agent.pushes) == (0, "", [])
    assert first == '{job="never"}: would be pushed, 1 series, never pushed with success'
    assert second == '{job="same"}: left alone, the agent has it with the same push time'
    assert third.startswith('{job="new"}: would be pushed, 1 series, pushed ')
    assert third.endswith("h ago")
    assert summary == "would import 2 of 3 groups with 2 series; left alone: 1, refused: 0, incomplete: 0"


async def test_what_does_not_go_over_is_named(stack: AsyncExitStack) -> None:
    """A refused group, one without labels and a value that is none are told; the rest goes over; the exit code is 1."""
    source = Fake([group("a"), group("bad", value="1.#QNAN"), group("full"), {"labels": {}}, group("z")])
    agent = Fake([], refuses="/full")
    done = await run(stack, source, agent)
    assert agent.pushes == [f"/p/metrics/job/{job}" for job in ("a", "bad", "full", "z")]
    assert done.stdout == "imported 3 of 5 groups with 2 series; left alone: 0, refused: 2, incomplete: 1\n"
    assert done.stderr.splitlines() == [
        "pushbridge: refused: a group of the Pushgateway cannot be read: no job among its labels: got {}",
        'pushbridge: {job="bad"}: left out: x: {}: value: not a float: "1.#QNAN"',
        'pushbridge: {job="full"}: refused, the agent answered 503: the disk is full',
    ]
    assert done.exit_code == 1


async def test_an_agent_that_goes_away_ends_it(stack: AsyncExitStack) -> None:
    """When the agent is gone in the middle, one line says at which group, and the summary what was done."""
    agent = Fake([], closes_at="/b")
    done = await run(stack, Fake([group("a"), group("b"), group("c")]), agent)
    assert agent.pushes == ["/p/metrics/job/a", "/p/metrics/job/b"]
    (line,) = done.stderr.splitlines()
    assert line.startswith('pushbridge: cannot push {job="b"} to http://127.0.0.1:')
    assert done.stdout == "imported 1 of 3 groups with 1 series; left alone: 0, refused: 0, incomplete: 0\n"
    assert done.exit_code == 1


@pytest.mark.parametrize("shown", ["<html>", "[]", "5", '{"data": 5}', '{"data": [5]}', '{"status": "error"}'])
async def test_a_server_that_is_no_pushgateway_is_told(stack: AsyncExitStack, shown: str) -> None:
    """An answer of another kind is one line, and nothing is pushed."""
    agent = Fake([])
    done = await run(stack, Fake(shown), agent)
    (line,) = done.stderr.splitlines()
    assert line.startswith("pushbridge: cannot read the Pushgateway at http://127.0.0.1:")
    assert "its answer is no list of groups" in line
    assert (done.exit_code, done.stdout, agent.seen) == (1, "", [])


async def test_a_status_is_told(stack: AsyncExitStack) -> None:
    """A server that refuses to show its groups is told with its words."""

    async def locked(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=401, text="Unauthorized\n")

    host = await stack.enter_async_context(serving(locked))
    done = await asyncio.to_thread(CliRunner().invoke, main, ["import", "--from", f"http://{host}"])
    assert done.stderr == (
        f"pushbridge: cannot read the Pushgateway at http://{host}/api/v1/metrics: it answered 401: Unauthorized\n"
    )
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--from"),
        (["--from", "pushgateway:9091"], "want a URL such as http://pushgateway:9091"),
        (["--from", "http://u:p/ss@host"], "want user:password@ before the host"),
        (["--from", "http://h", "--url", "ftp://h"], "got 'ftp://h', want a URL"),
        (["--from", "http://h", "--ttl", "soon"], "not a duration: got 'soon'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], words: str) -> None:
    """A mistake in the arguments is told before anything is asked, with the exit code 2."""
    done = CliRunner().invoke(main, ["import", *arguments])
    assert (done.exit_code, words in " ".join(done.stderr.split())) == (2, True)
    assert "p/ss" not in done.output
