"""/api/v1/runs of a whole agent: what it lists, in which order, and what it refuses to read."""

import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.journal.test_committer import locked
from tests.web.test_server import Answer, Site, running

RUNS = "/api/v1/runs"
CONFIG = "rules: [{match: {job: pushes}, runs: {success_metric: ok}}, {match: {job: late}, max_runtime: 1m}]"


def said(**values: float) -> bytes:
    return "".join(f"pushbridge_run_{name} {value:.3f}\n" for name, value in values.items()).encode()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path, config=CONFIG) as started:
        yield started


def data(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer
    document = json.loads(answer.text)
    assert document.keys() == {"status", "data"}
    assert document["status"] == "success"
    found: list[dict[str, Any]] = document["data"]
    assert len({tuple(entry) for entry in found}) <= 1, "entries have the same keys"
    return found


async def listed(site: Site, query: str = "") -> list[tuple[str, str]]:
    return [(run["job"], run["state"]) for run in data(await site.ask("GET", RUNS + query))]


async def push(site: Site, path: str, body: bytes) -> None:
    answer = await site.ask("POST", f"/metrics/job/{path}", body)
    assert answer.status == 200, answer


async def test_a_run_from_start_to_end(site: Site) -> None:
    """A run is listed from its start on with all that is known, and once it has ended with how."""
    start_s = round(time.time() - 90, 3)
    await push(site, "a/instance/db1", said(start_time_seconds=start_s))
    (begun,) = data(await site.ask("GET", RUNS))
    assert datetime.fromisoformat(begun.pop("start")).timestamp() == start_s
    nothing = dict.fromkeys(("end", "duration_seconds", "exit_code", "max_rss_bytes", "expected", "last"))
    assert begun == {"job": "a", "labels": {"instance": "db1", "job": "a"}, "state": "running", **nothing}
    end = said(start_time_seconds=start_s, end_time_seconds=start_s + 60, duration_seconds=59.5, exit_code=3, success=0)
    await push(site, "a/instance/db1", end + said(max_rss_bytes=4096))
    (ended,) = data(await site.ask("GET", RUNS))
    assert datetime.fromisoformat(ended["end"]).timestamp() == start_s + 60
    assert ended["end"].endswith("Z")
    assert (ended["state"], ended["duration_seconds"], ended["exit_code"], ended["max_rss_bytes"]) == (
        "failed", 59.5, 3, 4096
    )  # fmt: skip


async def test_states_and_order(site: Site) -> None:
    """Overdue groups come first, then all runs, newest first; a question narrows both."""
    now_s = time.time()
    await push(site, "well", said(start_time_seconds=now_s - 50, end_time_seconds=now_s, success=1))
    await push(site, "lost", said(start_time_seconds=now_s - 30))
    await push(site, "lost", said(start_time_seconds=now_s - 20))
    await push(site, "late", said(start_time_seconds=now_s - 61))
    await push(
        site, "due", said(start_time_seconds=now_s - 40, expected_interval_seconds=30, grace_seconds=5, success=1)
    )
    await push(site, "pushes", b"ok 0\n")
    await push(site, "nothing", b"ok 1\n")
    everything = [
        ("due", "overdue"),
        ("pushes", "failed"),
        ("lost", "running"),
        ("lost", "lost"),
        ("due", "succeeded"),
        ("well", "succeeded"),
        ("late", "lost"),
    ]
    assert await listed(site) == everything
    assert await listed(site, "?since=35s") == everything[:4]
    assert await listed(site, "?job=lost") == everything[2:4]
    assert await listed(site, "?job=due&since=10s") == everything[:1]
    assert await listed(site, "?limit=2") == everything[:2]
    assert await listed(site, "?job=los") == []
    (overdue, run) = data(await site.ask("GET", f"{RUNS}?job=due"))
    assert (overdue["start"], overdue["end"], overdue["last"]) == (None, None, run["start"])
    late_s = datetime.fromisoformat(overdue["expected"]) - datetime.fromisoformat(overdue["last"])
    assert late_s.total_seconds() == 30
    shown = await site.shown("pushbridge_job_overdue{")
    assert shown == ['pushbridge_job_overdue{job="due"} 1']


async def test_points_in_time(site: Site) -> None:
    """`since` is a duration, a Unix time or RFC 3339, with or without escapes."""
    await push(site, "a", said(start_time_seconds=1_700_000_000, success=1))
    for since, found in {
        "1700000000": 1,
        "1700000000.001": 0,
        "2023-11-14T22:13:20Z": 1,
        "2023-11-14T23:13:20.001+01:00": 0,
        quote("2023-11-14T23:13:20+01:00", safe=""): 1,
        "99y": 1,
        "1h": 0,
    }.items():
        assert len(await listed(site, f"?since={since}")) == found, since


REFUSED = {
    "unknown": ("?jobs=a", "parameter 'jobs' is unknown: want each of job, since, limit at most once"),
    "twice": ("?job=a&job=b", "parameter 'job' is twice"),
    "since": ("?since=soon", "since: got 'soon', want a duration back from now (7d), RFC 3339"),
    "no time zone": ("?since=2024-05-01T00:00:00", "since: got '2024-05-01T00:00:00'"),
    "empty": ("?since=", "since: got ''"),
    "limit": ("?limit=0", "limit: got '0', want a number from 1 to 1000"),
}


@pytest.mark.parametrize(("query", "words"), REFUSED.values(), ids=REFUSED)
async def test_questions_that_are_not_understood(site: Site, query: str, words: str) -> None:
    """A slip in a parameter is told with what is wanted, not passed over."""
    answer = await site.ask("GET", RUNS + query)
    assert (answer.status, json.loads(answer.text)["errorType"]) == (400, "bad_data")
    assert words in json.loads(answer.text)["error"]


async def test_only_get(site: Site) -> None:
    """Runs are read, not written."""
    answer = await site.ask("POST", RUNS)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, OPTIONS")


async def test_runs_are_read_beside_a_writer(site: Site) -> None:
    """A write lock of another program does not hold up reading."""
    with locked(site.journal):
        assert await listed(site) == []
