"""Groups deleted by selector, as a receiver sees it: markers once for what ended, nothing for the others."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.blackbox.checker import Series
from tests.blackbox.load import Answer, Client, Load, Push, request, series, settled_account
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent

GAUGES = ("push_time_seconds", "push_failure_time_seconds")


@pytest.fixture
def receiver() -> Iterator[ScriptedReceiver]:
    with ScriptedReceiver() as started:
        yield started


@pytest.fixture
def server(tmp_path: Path, receiver: ScriptedReceiver) -> Iterator[Server]:
    with agent(tmp_path, config=receiver.config) as started:
        yield started


def delete(server: Server, match: str, **others: str) -> Any:
    """Delete by selector and return what is answered."""
    answer = request(server.port, "DELETE", f"/api/v1/groups?{urlencode({'match[]': match, **others})}")
    assert answer.status == 200, answer
    return json.loads(answer.text)["data"]


def push(server: Server, *paths: str) -> None:
    """Push two series into each group."""
    with Client(server.port) as client:
        for path in paths:
            client.must_accept(Push("PUT", f"/metrics/{path}", b'rows 1\nrows{table="x"} 2\n', ()))


def all_of(**labels: str) -> set[Series]:
    """Every series of a group, its push times included."""
    return {
        series("rows", **labels),
        series("rows", table="x", **labels),
        *(series(name, **labels) for name in GAUGES),
    }


def markers(receiver: ScriptedReceiver) -> Counter[Series]:
    """How many staleness markers each series got."""
    return Counter(sample.series for sample in receiver.stored() if sample.value is None)


def test_markers_arrive_once_for_what_was_deleted(server: Server, receiver: ScriptedReceiver) -> None:
    """Each series of a deleted group gets one marker after its last sample; other groups get none and stay."""
    push(server, "job/backup/instance/db1", "job/backup/instance/db2", "job/backup", "job/other/instance/db1")
    assert delete(server, 'rows{instance=~"db.*",job="backup"}')["dry_run"]
    assert settled_account(server.port).pending == 0
    assert not markers(receiver)

    answer = delete(server, 'rows{instance=~"db.*",job="backup"}', confirm="true")
    assert r'event=groups_deleted match="rows{instance=~\"db.*\",job=\"backup\"}" groups=2' in server.log_tail()
    assert [group["instance"] for group in answer["groups"]] == ["db1", "db2"]
    assert settled_account(server.port).balanced
    gone = all_of(job="backup", instance="db1") | all_of(job="backup", instance="db2")
    assert markers(receiver) == Counter(gone)
    last = {sample.series: sample for sample in receiver.stored()}
    assert {of for of, sample in last.items() if sample.value is None} == gone

    delete(server, '{job="backup",instance!=""}', confirm="true")
    push(server, "job/backup")
    assert settled_account(server.port).pending == 0
    assert markers(receiver) == Counter(gone)


def test_a_thousand_groups_end_at_once(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """A thousand groups are deleted in one go, durably: after a kill they are gone, and their markers arrive."""
    with agent(tmp_path, config=receiver.config) as server:
        push(server, "job/stays", *(f"job/batch/shard/{number}" for number in range(1000)))
        receiver.stop()
        started_s = time.monotonic()
        answer = delete(server, '{job="batch"}', confirm="true")
        took_s = time.monotonic() - started_s
        server.kill()
    assert (answer["deleted"], len(answer["groups"])) == (1000, 1000)
    assert took_s < 5
    receiver.start()
    with agent(tmp_path, config=receiver.config) as server:
        shown = json.loads(request(server.port, "GET", "/api/v1/groups").text)["data"]
        assert [group["labels"] for group in shown] == [{"job": "stays"}]
        assert settled_account(server.port).pending == 0
    ended = markers(receiver)
    assert set(ended.values()) == {1}
    assert set(ended) == set().union(*(all_of(job="batch", shard=str(number)) for number in range(1000)))


def test_deletes_among_pushes_leave_nothing_behind(server: Server, receiver: ScriptedReceiver) -> None:
    """While others push, a delete takes each group as it then is: every series ends with its last marker."""

    def plan(writer: int, number: int) -> Push:
        return Push("PUT", f"/metrics/job/busy/writer/{writer}", f"rows_{number % 7} {number}\n".encode(), ())

    with Load(server.port, writers=3, plan=plan):
        counts = [delete(server, '{job="busy"}', confirm="true")["deleted"] for _ in range(100)]
    assert max(counts) > 0
    delete(server, '{job="busy"}', confirm="true")
    assert settled_account(server.port).balanced
    last = {sample.series: sample.value for sample in receiver.stored()}
    assert last
    assert set(last.values()) == {None}
    answer: Answer = request(server.port, "GET", "/api/v1/groups")
    assert json.loads(answer.text)["data"] == []
