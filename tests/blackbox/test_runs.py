"""Did the job run? What arrives in a real Prometheus of each kind of run, and what PromQL alone can tell.

The queries are README's; only their ranges are shorter here.
"""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.blackbox.network import Network
from tests.blackbox.ports import free_port
from tests.blackbox.queries import Point, PrometheusStore, fetch, now_ms, poll, readme_queries
from tests.blackbox.servers import Server, agent, needs, prometheus
from tests.blackbox.test_exec import REPOSITORY, RUN, Caller

pytestmark = [pytest.mark.real, needs("prometheus")]

ENDED = {
    f"{RUN}{name}"
    for name in "start_time_seconds end_time_seconds duration_seconds exit_code success max_rss_bytes".split()
}


@dataclass(frozen=True, slots=True)
class Place:
    """A receiver, an agent that delivers to it, and whoever calls exec beside the agent."""

    receiver: Server
    agent: Server
    caller: Caller

    def arrived(self, job: str) -> dict[str, Point]:
        """The first sample of each series of a job: what was sent at the time of its push."""
        raw = PrometheusStore(self.receiver).raw(job)
        return {dict(labels)["__name__"]: points[0] for labels, points in raw.items()}

    def runs(self, job: str) -> list[dict[str, Any]]:
        """What the agent lists."""
        listed: list[dict[str, Any]] = json.loads(fetch(self.agent, f"/api/v1/runs?{urlencode({'job': job})}"))["data"]
        return listed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    tmp = tmp_path_factory.mktemp("runs")
    with (
        prometheus(tmp / "prometheus") as receiver,
        agent(tmp / "agent", f"--remote-write.url={receiver.url}/api/v1/write") as started,
    ):
        yield Place(receiver, started, Caller(started.port, tmp / "spool"))


# flags, command, exit code; what arrives is the same six metrics for each
COMMANDS = {
    "success": ((), ("true",), 0),
    "failure": ((), ("sh", "-c", "exit 3"), 3),
    "killed": ((), ("sh", "-c", "kill -KILL $$"), 137),
    "terminated": ((), ("sh", "-c", "kill -TERM $$"), 143),
    "timeout": (("--timeout=200ms",), ("sleep", "60"), 124),
    "not found": ((), ("no-such-command",), 127),
    "not executable": ((), ("/etc/passwd",), 126),
}


@pytest.mark.parametrize(("flags", "command", "code"), COMMANDS.values(), ids=COMMANDS)
def test_what_arrives_of_a_command(place: Place, flags: tuple[str, ...], command: tuple[str, ...], code: int) -> None:
    """Prometheus has start and end of the run with the times of the pushes, and the agent lists it."""
    job = f"command-{code}"
    before_ms = now_ms()
    assert place.caller.run(*command, flags=("--job", job, *flags)).returncode == code
    after_ms = now_ms() + 10
    names = ENDED | {"push_time_seconds", "push_failure_time_seconds"}
    assert poll(lambda: set(place.arrived(job)), names) == names
    arrived = place.arrived(job)
    started_ms, ended_ms = arrived[f"{RUN}start_time_seconds"][0], arrived[f"{RUN}end_time_seconds"][0]
    assert before_ms <= started_ms < ended_ms <= after_ms
    assert {at_ms for name, (at_ms, _) in arrived.items() if name in ENDED} == {started_ms, ended_ms}
    said = {name.removeprefix(RUN): float(value) for name, (_, value) in arrived.items()}
    assert (said["exit_code"], said["success"]) == (code, float(code == 0))
    assert before_ms / 1000 <= said["start_time_seconds"] <= said["end_time_seconds"] <= after_ms / 1000
    (run,) = place.runs(job)
    assert (run["state"], run["exit_code"]) == ("failed" if code else "succeeded", code)
    assert run["duration_seconds"] == pytest.approx(said["duration_seconds"], abs=0.001)


def test_a_signal_to_exec_ends_the_job(place: Place) -> None:
    """While it runs only the start is there; ended from outside, the run arrives with the signal's code."""
    line = place.caller.line(("--job", "signalled"), ("sleep", "60"))
    with subprocess.Popen(line, cwd=REPOSITORY) as process:
        start = {f"{RUN}start_time_seconds"}
        assert poll(lambda: place.arrived("signalled").keys() & ENDED, start) == start
        assert [run["state"] for run in place.runs("signalled")] == ["running"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert poll(lambda: place.arrived("signalled").keys() & ENDED, ENDED) == ENDED
    assert place.arrived("signalled")[f"{RUN}exit_code"][1] == "143.0"
    assert [run["state"] for run in place.runs("signalled")] == ["failed"]


def test_a_receiver_that_was_down_gets_the_run_with_its_times(tmp_path: Path) -> None:
    """Neither the job nor exec notices; afterwards start and end are there as if nothing had been."""
    port = free_port()
    with agent(tmp_path / "agent", f"--remote-write.url=http://127.0.0.1:{port}/api/v1/write") as started:
        caller = Caller(started.port, tmp_path / "spool")
        before_ms = now_ms()
        done = caller.run("sh", "-c", "exit 3", flags=("--job", "j"))
        after_ms = now_ms() + 10
        assert (done.returncode, done.stderr, caller.files) == (3, b"", [])
        with prometheus(tmp_path / "prometheus", port=port) as receiver:
            place = Place(receiver, started, caller)
            assert poll(lambda: place.arrived("j").keys() & ENDED, ENDED) == ENDED
            arrived = place.arrived("j")
            assert arrived[f"{RUN}exit_code"][1] == "3.0"
            assert all(before_ms <= at_ms <= after_ms for name, (at_ms, _) in arrived.items() if name in ENDED)


def test_an_agent_that_was_down_takes_the_run_with_its_times(tmp_path: Path) -> None:
    """What exec spooled arrives once the agent is back as if it had never been away, behind the run before."""
    port, storage = free_port(), tmp_path / "agent" / "storage"
    caller = Caller(port, storage / "spool")
    with prometheus(tmp_path / "prometheus") as receiver:
        url = f"--remote-write.url={receiver.url}/api/v1/write"
        with agent(tmp_path / "agent", url, port=port):
            caller.run("true", flags=("--job", "j"))
        before_ms = now_ms()
        done = caller.run("sh", "-c", "exit 3", flags=("--job", "j"))
        after_ms = now_ms() + 10
        assert (done.returncode, len(caller.files)) == (3, 2)
        with agent(tmp_path / "agent", url, port=port) as started:
            store = PrometheusStore(receiver)

            def codes() -> list[tuple[str, bool]]:
                """Each exit code with whether it is of the time of the second run; repeats come later."""
                points = store.raw("j").get((("__name__", f"{RUN}exit_code"), ("job", "j")), ())
                return [(value, at_ms >= before_ms) for at_ms, value in points if at_ms <= after_ms]

            arrived = [("0.0", False), ("3.0", True)]
            assert poll(lambda: list(dict.fromkeys(codes())), arrived) == arrived
            assert [run["exit_code"] for run in Place(receiver, started, caller).runs("j")] == [3, 0]
            assert poll(lambda: any(path.suffix == ".prom" for path in caller.files), want=False) is False


def test_runs_survive_a_kill_of_the_agent(tmp_path: Path) -> None:
    """After SIGKILL the agent lists what it listed: a run that goes on may still end."""
    with agent(tmp_path) as started:
        caller = Caller(started.port, tmp_path / "spool")
        caller.run("true", flags=("--job", "j", "--every=1s"))
        caller.crash("j")
        listed = json.loads(fetch(started, "/api/v1/runs"))["data"]
        assert [run["state"] for run in listed] == ["running", "succeeded"]
        started.kill()
    with agent(tmp_path) as started:
        assert json.loads(fetch(started, "/api/v1/runs"))["data"] == listed


# README's ranges to those of this test: a point of the grid each second in place of each minute.
SHORTER: dict[str, dict[str, str]] = {
    "failed": {},
    "crashed": {"7200": "1"},
    "overdue": {},
    "away": {"[1d]": "[2m]"},
    "partition": {"[1h]": "[12s]", "< 50": "< 8", "3600": "12"},
}
LOOKBACK_S = 4
CONFIG = """
push: {{hold_interval: 1s}}
remote_write:
  - url: http://127.0.0.1:{port}/api/v1/write
    remote_timeout: 1s
    queue_config: {{max_backoff: 200ms}}
"""


def shortened() -> dict[str, str]:
    """README's queries with the ranges of this test."""
    queries = readme_queries()
    assert queries.keys() == SHORTER.keys()
    for name, changes in SHORTER.items():
        for old, new in changes.items():
            assert queries[name].count(old) == 1
            queries[name] = queries[name].replace(old, new)
    return queries


def series(receiver: Server, query: str, at_s: float | None = None) -> dict[str, float]:
    """Value of each series that an instant query finds, by job, or by instance for an agent's own."""
    at = {} if at_s is None else {"time": f"{at_s:.3f}"}
    answer = json.loads(fetch(receiver, f"/api/v1/query?{urlencode({'query': query, **at})}"))
    found = [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]
    return {labels["instance" if labels["job"] == "pushbridge" else "job"]: value for labels, value in found}


def test_promql_alone_tells_what_happened(tmp_path: Path) -> None:
    """A failed job, a crashed one, one that never came, a dead agent and a network that was away are five answers."""
    queries = shortened()
    with (
        prometheus(tmp_path / "prometheus", f"--query.lookback-delta={LOOKBACK_S}s") as receiver,
        Network(receiver.port) as network,
        agent(tmp_path / "far", config=CONFIG.format(port=network.port)) as far,
        agent(tmp_path / "dying", config=CONFIG.format(port=receiver.port)) as dying,
        agent(tmp_path / "home", config=CONFIG.format(port=receiver.port)) as home,
    ):

        def answers() -> dict[str, set[str]]:
            return {name: set(series(receiver, query)) for name, query in queries.items()}

        at_home, at_far = (Caller(server.port, tmp_path / "spool") for server in (home, far))
        at_home.run("true", flags=("--job=well", "--every=1h"))
        at_home.run("false", flags=("--job=failed", "--every=1h"))
        at_home.run("true", flags=("--job=never-came", "--every=1s", "--grace=1s"))
        at_home.run("true", flags=("--job=crashed", "--every=1h"))
        at_home.crash("crashed")
        at_far.run("false", flags=("--job=far", "--every=1h"))
        jobs = {"failed": {"failed", "far"}, "crashed": {"crashed"}, "overdue": {"never-came"}}
        wanted = {**jobs, "away": set(), "partition": set()}
        assert poll(answers, wanted) == wanted

        cut_s = time.time()
        network.cut()
        dying.kill()
        at_far.run("true", flags=("--job=far", "--every=1h"))
        ran_s = time.time()
        gone = f"last_over_time(pushbridge_up[1m]) unless count_over_time(pushbridge_up[{LOOKBACK_S + 2}s])"
        assert poll(lambda: set(series(receiver, gone)), both := {instance(far), instance(dying)}) == both
        assert answers()["away"] == both

        network.heal()
        healed_s = time.time()
        wanted = {**jobs, "failed": {"failed"}, "away": {instance(dying)}, "partition": {instance(far)}}
        assert poll(answers, wanted) == wanted
        # As the graph shows it now for the second after the run, when nothing could arrive.
        success = f'{RUN}success{{job="far"}}'
        assert series(receiver, success, ran_s + 1) == {"far": 1.0}
        assert cut_s < series(receiver, f"timestamp({success})", ran_s + 1)["far"] < ran_s + 1 < healed_s


def instance(server: Server) -> str:
    """How an agent calls itself."""
    return f"{socket.gethostname()}:{server.port}"
