"""`pushbridge import` between a real Pushgateway, filled by the official client, and a real agent."""

import http.client
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, push_to_gateway
from prometheus_client.core import Metric

from tests.blackbox import delimited as pb
from tests.blackbox.exposition_diff import pushed_series
from tests.blackbox.load import Client, Push, request, wait_for
from tests.blackbox.ports import free_port
from tests.blackbox.servers import Server, agent, needs, pushgateway
from tests.blackbox.test_commands import COMMAND, REPOSITORY, bridge
from tests.blackbox.test_official_client import GROUPINGS, Collected, every_type

pytestmark = [pytest.mark.real, needs("prometheus-pushgateway")]

Group = dict[str, Any]
NONE_LEFT = "left alone: 0, refused: 0, incomplete: 0"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
LINE = re.compile(r"\{job=.*\}: would be pushed, \d+ series, (pushed \d+[ms]\S* ago|never pushed with success)")
TIMES = ("push_time_seconds", "push_failure_time_seconds")


def odd_families() -> list[Metric]:
    """Families that no metric class of the client would give."""
    summary = Metric("odd_seconds", "With quantiles.", "summary")
    for quantile, value in (("0.5", 1e-9), ("0.99", float("nan"))):
        summary.add_sample("odd_seconds", {"quantile": quantile, "path": "/a b"}, value)
    summary.add_sample("odd_seconds_sum", {"path": "/a b"}, float("inf"))
    summary.add_sample("odd_seconds_count", {"path": "/a b"}, 3)
    untyped = Metric("odd", 'Help with \\ and\nlines and "quotes".', "untyped")
    untyped.add_sample("odd", {"instance": "its own", "town": "Zürich 北京"}, float("-inf"))
    untyped.add_sample("odd", {"text": 'q"\\\n'}, 0.1 + 0.2)
    return [summary, untyped, *(named(name) for name in ("labels", "last_push_successful", "metrics"))]


def named(name: str) -> Metric:
    """Give a gauge whose name is a word of the API's shape."""
    family = Metric(name, "", "gauge")
    family.add_sample(name, {}, 5)
    return family


def fill(source: Server) -> None:
    """Push everything that a Pushgateway can hold."""
    push_to_gateway(source.url, "every type", every_type())
    odd = CollectorRegistry()
    odd.register(Collected(*odd_families()))
    push_to_gateway(source.url, "odd/families", odd, {"instance": "i"})
    for name, grouping in GROUPINGS.items():
        registry = CollectorRegistry()
        Gauge("grouped", "One per group.", registry=registry).set(len(name))
        push_to_gateway(source.url, name, registry, grouping)
    # Clients of other languages send no +Inf bucket in protobuf.
    histogram = pb.family("took", pb.HISTOGRAM, pb.metric(pb.histogram(5, 2.5, (0.5, 3), (1, 4)), a="b"))
    send(source, "PUT", "/metrics/job/protobuf", histogram, PROTOBUF)
    for path, body, status in (
        ("/metrics/job/no_series", b"", 200),
        ("/metrics/job/never", b"x 1 1\n", 400),
        ("/metrics/job/failed_later", b"y 1\n", 200),
        ("/metrics/job/failed_later", b"y 1 1\n", 400),
    ):
        assert request(source.port, "PUT", path, body).status == status


def send(server: Server, method: str, path: str, body: bytes, content_type: str) -> None:
    """Send a body of another format."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": content_type})
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def groups(server: Server) -> list[Group]:
    """Groups that GET /api/v1/metrics shows, in an order of their own."""
    found: list[Group] = json.loads(request(server.port, "GET", "/api/v1/metrics").text)["data"]
    return sorted(found, key=lambda group: json.dumps(group["push_time_seconds"]["metrics"][0]["labels"]))


def held(server: Server) -> list[Group]:
    """Groups that an agent knows, those too whose values have ended."""
    found: list[Group] = json.loads(request(server.port, "GET", "/api/v1/groups").text)["data"]
    return found


def comparable(group: Group) -> Group:
    """Leave out the push times, and what differs as README says: times of families, empty labels, made up buckets."""
    kept: Group = {"labels": group["labels"]}
    for name, part in group.items():
        if name in TIMES or not isinstance(part, dict) or "metrics" not in part:
            continue
        kept[name] = {key: value for key, value in part.items() if key != "time_stamp"}
        for metric in part["metrics"]:
            metric["labels"] = {label: value for label, value in metric["labels"].items() if value}
            if "buckets" in metric:
                metric["buckets"].setdefault("+Inf", metric["count"])
    return kept


def times_ms(group: Group) -> tuple[int, ...]:
    """Both push times of a group in ms."""
    return tuple(int(float(group[name]["metrics"][0]["value"]) * 1000) for name in TIMES)


def has_families(group: Group) -> bool:
    """Whether a group holds anything but its labels, its push times and what these say."""
    return not group.keys() <= {"labels", "last_push_successful", *TIMES}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pushgateway(tmp_path_factory.mktemp("source")) as started:
        fill(started)
        yield started


@pytest.fixture(scope="module")
def imported(source: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give an agent with everything imported."""
    with agent(tmp_path_factory.mktemp("imported")) as started:
        done = run(source, started)
        assert (done.returncode, done.stderr) == (0, b"")
        count = len(groups(source))
        said = done.stdout.decode()
        assert re.fullmatch(rf"imported {count} of {count} groups with \d+ series; {NONE_LEFT}\n", said)
        yield started


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Server]:
    with agent(tmp_path) as started:
        yield started


def run(source: Server, ours: Server, *flags: str) -> subprocess.CompletedProcess[bytes]:
    """Import to the end."""
    return bridge("import", "--from", source.url, "--url", ours.url, *flags)


def test_the_agent_holds_what_the_pushgateway_held(source: Server, imported: Server) -> None:
    """Groups, families, types, helps, labels and values of the two APIs are the same."""
    assert [comparable(group) for group in groups(imported)] == [comparable(group) for group in groups(source)]


def test_a_scrape_gives_the_same_series(source: Server, imported: Server) -> None:
    """GET /metrics shows each series of the Pushgateway with its value, and no others."""

    def without_times(server: Server) -> dict[Any, str]:
        return {key: value for key, value in pushed_series(server.url).items() if key[0] not in TIMES}

    assert without_times(imported) == without_times(source)


def test_push_times_are_carried_over(source: Server, imported: Server) -> None:
    """A group's push times are those of the Pushgateway, to the millisecond, and so is the last push's success."""
    theirs, here = groups(source), groups(imported)
    for ours_, theirs_ in zip(here, theirs, strict=True):
        assert times_ms(ours_) == pytest.approx(times_ms(theirs_), abs=1)
        if isinstance(theirs_["last_push_successful"], bool):
            assert ours_["last_push_successful"] == theirs_["last_push_successful"]


def test_imported_values_live_as_long_as_told(source: Server, ours: Server) -> None:
    """With --ttl values end so long after the import; push times stay, and a second import brings nothing back."""
    assert run(source, ours, "--ttl", "1s").returncode == 0
    assert any(map(has_families, groups(ours)))
    left = wait_for(lambda: held(ours), lambda found: not any(group["series"] for group in found))
    assert sum(group["series"] for group in left) == 0
    stayed = sorted(tuple(int(group[name] * 1000) for name in TIMES) for group in left)
    assert stayed == [pytest.approx(times, abs=1) for times in sorted(map(times_ms, groups(source)))]
    count = len(left)
    again = run(source, ours).stdout.decode()
    assert again == f"imported 0 of {count} groups with 0 series; left alone: {count}, refused: 0, incomplete: 0\n"


def test_times_survive_a_restart(source: Server, tmp_path: Path) -> None:
    """An agent that is killed after the import still has the Pushgateway's push times."""
    with agent(tmp_path) as first:
        assert run(source, first).returncode == 0
        before = groups(first)
        first.kill()
    with agent(tmp_path) as second:
        assert groups(second) == before


def test_a_second_import_changes_nothing(source: Server, imported: Server) -> None:
    """Every group is left alone, which is said, and stays as it is to the last digit."""
    before = groups(imported)
    again = run(source, imported)
    count = len(before)
    assert again.returncode == 0
    assert (
        again.stdout.decode()
        == f"imported 0 of {count} groups with 0 series; left alone: {count}, refused: 0, incomplete: 0\n"
    )
    said = again.stderr.decode().splitlines()
    assert len(said) == count
    assert all(re.fullmatch(r"\{job=.*\}: left alone, the agent has .*", line) for line in said)
    assert groups(imported) == before


def test_a_dry_run_changes_nothing(source: Server, ours: Server) -> None:
    """It prints a line for each group with labels, series and age, and the agent stays empty."""
    shown = run(source, ours, "--dry-run")
    *lines, summary = shown.stdout.decode().splitlines()
    count = len(groups(source))
    assert (shown.returncode, shown.stderr, len(lines)) == (0, b"", count)
    assert all(LINE.fullmatch(line) for line in lines)
    assert any(line.startswith('{job="protobuf"}: would be pushed, 5 series, pushed ') for line in lines)
    assert summary.startswith(f"would import {count} of {count} groups with ")
    assert groups(ours) == []


def test_newer_pushes_stay_unless_told_otherwise(source: Server, ours: Server) -> None:
    """A group with a newer push in the agent is left alone; --overwrite replaces it."""
    path = Push("PUT", "/metrics/job/protobuf", b"newer 1\n", ())
    with Client(ours.port) as client:
        client.must_accept(path)
    assert run(source, ours, "--dry-run").stdout.decode().count("left alone, the agent has a newer push of it\n") == 1
    assert run(source, ours).stderr == b'{job="protobuf"}: left alone, the agent has a newer push of it\n'
    assert "newer" in next(group for group in groups(ours) if group["labels"] == {"job": "protobuf"})
    replaced = run(source, ours, "--overwrite")
    assert (replaced.returncode, replaced.stderr) == (0, b"")
    (group,) = (group for group in groups(ours) if group["labels"] == {"job": "protobuf"})
    assert "took" in group
    assert "newer" not in group


def test_a_refusal_is_named_and_stops_nothing(source: Server, tmp_path: Path) -> None:
    """A group that the agent refuses is named with the agent's words, the others go over, and the exit code is 1."""
    with agent(tmp_path, "--push.max-series-per-push=4") as small:
        done = run(source, small)
        here = groups(small)
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()
    words = 'pushbridge: {job="protobuf"}: refused, the agent answered 413: push has 5 series, more than '
    assert any(line.startswith(words) for line in said)
    assert all("refused, the agent answered 413" in line for line in said)
    refused, there = len(said), groups(source)
    assert done.stdout.decode().startswith(f"imported {len(there) - refused} of {len(there)} groups with ")
    assert f"refused: {refused}," in done.stdout.decode()
    # A push that is refused leaves its group with a failure and nothing else.
    assert sum(map(has_families, here)) == sum(map(has_families, there)) - refused


@pytest.mark.parametrize("away", ["source", "agent"])
def test_a_server_that_is_away_is_one_line(away: str, source: Server, imported: Server) -> None:
    """Pushgateway or agent away: one line that says which, no password, exit code 1, nothing pushed."""
    nowhere = f"http://user:secret@127.0.0.1:{free_port()}"
    urls = ("--from", nowhere, "--url", imported.url) if away == "source" else ("--from", source.url, "--url", nowhere)
    before = groups(imported)
    done = bridge("import", *urls)
    (line,) = done.stderr.decode().splitlines()
    who = "the Pushgateway" if away == "source" else "the agent"
    shown = nowhere.replace("user:secret@", "")
    path = "/api/v1/metrics" if away == "source" else "/api/v1/groups"
    assert line.startswith(f"pushbridge: cannot read {who} at {shown}{path}: ")
    assert (done.returncode, done.stdout) == (1, b"")
    assert groups(imported) == before


def test_progress_shows_on_a_terminal_only(source: Server, ours: Server) -> None:
    """With a terminal for stdout there is a progress bar, and the summary after it."""
    terminal, slave = pty.openpty()
    paths = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    arguments = ("import", "--from", source.url, "--url", ours.url)
    with subprocess.Popen((*COMMAND, *arguments), stdout=slave, stderr=subprocess.PIPE, env=paths) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(terminal, 1 << 16):
                shown += piece
        except OSError:
            # Linux' way to say that nobody holds the other end any more.
            pass
        os.close(terminal)
        assert process.wait(30) == 0
    assert b"importing" in shown
    assert b"100%" in shown
    assert re.search(rb"imported \d+ of \d+ groups", shown)
