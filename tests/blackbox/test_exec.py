"""`pushbridge exec` as cron runs it: what the caller sees, what the agent has afterwards, what waits on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bridge.ingress.directive import find_directives
from tests.blackbox.ports import free_port
from tests.blackbox.queries import fetch, poll, readme_queries
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent, needs, prometheus

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "pushbridge_run_"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls exec: the agent's address and the spool directory."""

    port: int
    spool: Path

    def line(self, flags: tuple[str, ...], command: tuple[str, ...]) -> list[str]:
        """The command line."""
        own = ("--url", f"http://127.0.0.1:{self.port}", "--spool", str(self.spool))
        return [sys.executable, "-m", "bridge", "exec", *own, *flags, "--", *command]

    def run(self, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command through exec to its end."""
        return subprocess.run(
            self.line(flags, command), input=stdin, capture_output=True, check=False, timeout=30, cwd=REPOSITORY
        )

    def crash(self, job: str) -> None:
        """Run a job that does not end by itself, and kill it and exec as a power cut would."""
        line = self.line(("--job", job), ("sh", "-c", "echo $$; exec sleep 60"))
        with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
            assert process.stdout is not None
            group = int(process.stdout.readline())
            process.kill()
            os.killpg(group, signal.SIGKILL)

    @property
    def files(self) -> list[Path]:
        """What is in the spool, in order."""
        return sorted(self.spool.iterdir()) if self.spool.is_dir() else []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with agent(tmp_path_factory.mktemp("agent"), "--web.expose-groups=true") as started:
        yield started


@pytest.fixture
def caller(server: Server, tmp_path: Path) -> Caller:
    return Caller(server.port, tmp_path / "spool")


@pytest.fixture
def scripted() -> Iterator[ScriptedReceiver]:
    with ScriptedReceiver() as receiver:
        yield receiver


def group(server: Server, job: str) -> dict[str, Any]:
    """The one group of a job, as the agent shows it."""
    groups = json.loads(fetch(server, "/api/v1/metrics"))["data"]
    (found,) = [group for group in groups if group["labels"]["job"] == job]
    return dict(found)


def values(server: Server, job: str) -> dict[str, float]:
    """Value of each metric of the group, all of which have one series."""
    return {
        name: float(family["metrics"][0]["value"])
        for name, family in group(server, job).items()
        if isinstance(family, dict) and "metrics" in family
    }


ENDS = {
    "success": ((), ("true",), 0),
    "failure": ((), ("sh", "-c", "exit 3"), 3),
    "killed": ((), ("sh", "-c", "kill -KILL $$"), 137),
    "not-found": ((), ("no-such-command",), 127),
    "not-executable": ((), ("/etc/passwd",), 126),
    "timeout": (("--timeout=200ms",), ("sleep", "60"), 124),
}


@pytest.mark.parametrize(("flags", "command", "code"), ENDS.values(), ids=ENDS)
def test_every_end_is_reported(
    server: Server, caller: Caller, flags: tuple[str, ...], command: tuple[str, ...], code: int
) -> None:
    """Exit code and report agree; nothing is said but why a command did not start."""
    job = f"end-{code}"
    before_s = time.time()
    done = caller.run(*command, flags=("--job", job, *flags))
    after_s = time.time()
    assert (done.returncode, done.stdout, caller.files) == (code, b"", [])
    told = f"pushbridge: cannot run '{command[0]}': ".encode() if code in {126, 127} else b""
    assert done.stderr.startswith(told)
    assert done.stderr.count(b"\n") == (1 if told else 0)
    shown = values(server, job)
    assert (shown[f"{RUN}exit_code"], shown[f"{RUN}success"]) == (code, float(code == 0))
    start_s, end_s = shown[f"{RUN}start_time_seconds"], shown[f"{RUN}end_time_seconds"]
    assert before_s - 0.001 <= start_s <= end_s <= after_s
    assert 0 <= shown[f"{RUN}duration_seconds"] <= end_s - start_s + 0.002
    assert shown[f"{RUN}max_rss_bytes"] > 1e6 or code in {126, 127}


def test_while_it_runs_the_start_is_later_than_the_end(server: Server, caller: Caller) -> None:
    """A run that was killed with its wrapper looks like one that has not ended, also after earlier runs that did."""
    assert caller.run("true", flags=("--job", "crash")).returncode == 0
    caller.crash("crash")
    shown = values(server, "crash")
    assert shown[f"{RUN}start_time_seconds"] > shown[f"{RUN}end_time_seconds"]


@needs("prometheus")
def test_the_query_in_the_readme_tells_a_crash(tmp_path: Path) -> None:
    """Prometheus finds the jobs whose last run crashed, be it their first or not, and none that ended."""
    query = readme_queries()["crashed"]
    assert query.endswith("- 7200")
    with prometheus(tmp_path / "prometheus") as receiver:
        url = f"--remote-write.url={receiver.url}/api/v1/write"
        with agent(tmp_path / "agent", url) as started:
            caller = Caller(started.port, tmp_path / "spool")
            caller.run("true", flags=("--job", "well"))
            caller.run("false", flags=("--job", "failed"))
            caller.run("true", flags=("--job", "crashed-later"))
            caller.crash("crashed-later")
            caller.crash("crashed-first")
            wanted = {"crashed-later", "crashed-first"}
            assert poll(lambda: found(receiver, query.replace("7200", "0")), wanted) == wanted
            ended = {"well", "failed", "crashed-later"}
            assert poll(lambda: found(receiver, "pushbridge_run_end_time_seconds"), ended) == ended
            assert found(receiver, query.replace("7200", "0")) == wanted
            assert found(receiver, query) == set()


def found(receiver: Server, query: str) -> set[str]:
    """Jobs of the series that an instant query finds."""
    answer = json.loads(fetch(receiver, f"/api/v1/query?{urlencode({'query': query, 'time': time.time() + 1})}"))
    return {series["metric"]["job"] for series in answer["data"]["result"]}


def test_group_and_schedule(server: Server, caller: Caller) -> None:
    """Labels of any text name the group, and what is expected of the job is reported with it."""
    odd = 'a/b "c" \\ ü\n'
    flags = ("--job", "labels", "--label", f"instance={odd}", "--label", "empty=", "--every=7d", "--grace=90m")
    done = caller.run("true", flags=flags)
    assert (done.returncode, done.stderr) == (0, b"")
    assert group(server, "labels")["labels"] == {"job": "labels", "instance": odd, "empty": ""}
    shown = values(server, "labels")
    assert (shown[f"{RUN}expected_interval_seconds"], shown[f"{RUN}grace_seconds"]) == (604800, 5400)


def test_input_and_output_pass_untouched(caller: Caller) -> None:
    """Every byte reaches the command and comes back, on both outputs."""
    everything = bytes(range(256)) * 4096
    done = caller.run("sh", "-c", "tee /dev/fd/2", flags=("--job", "bytes"), stdin=everything)
    assert (done.returncode, done.stdout, done.stderr) == (0, everything, everything)


def test_arguments_after_the_command_are_its_own(caller: Caller) -> None:
    """Flags of the command are not read as ours, and no shell touches them."""
    done = caller.run("printf", "%s\n", "--job", "--help", "*", "$HOME", "--", "", flags=("--job", "arguments"))
    assert done.stdout == b"--job\n--help\n*\n$HOME\n--\n\n"


def test_the_jobs_own_metrics(server: Server, caller: Caller) -> None:
    """What the job writes to its file joins the run's group, and the file is gone afterwards."""
    script = 'test ! -s "$PUSHBRIDGE_METRICS" && echo "rows 5" > "$PUSHBRIDGE_METRICS" && echo "$PUSHBRIDGE_METRICS"'
    done = caller.run("sh", "-c", script, flags=("--job", "metrics"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert not Path(done.stdout.decode().strip()).parent.exists()
    shown = values(server, "metrics")
    assert (shown["rows"], shown[f"{RUN}success"]) == (5, 1)


def test_bad_metrics_cost_only_themselves(server: Server, caller: Caller) -> None:
    """A file that the agent refuses is told in one line, and the run is reported as it was."""
    script = 'echo "rows five" > "$PUSHBRIDGE_METRICS"; exit 3'
    done = caller.run("sh", "-c", script, flags=("--job", "bad-metrics"))
    assert (done.returncode, done.stdout, caller.files) == (3, b"", [])
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"pushbridge: http://127.0.0.1:{server.port} refused the metrics of the job with 400: ")
    assert "line 1" in line
    shown = values(server, "bad-metrics")
    assert "rows" not in shown
    assert shown[f"{RUN}exit_code"] == 3


def test_without_agent_the_reports_wait_on_disk(tmp_path: Path) -> None:
    """With nobody there the job runs as ever, one line tells of it, and the agent will find every push in its order."""
    caller = Caller(free_port(), tmp_path / "new" / "spool")
    before_ns = time.time_ns()
    script = 'echo "rows 5" > "$PUSHBRIDGE_METRICS"; sleep 0.1; exit 3'
    flags = ("--job", "j", "--label", "instance=db 1", "--every=7d")
    done = caller.run("sh", "-c", script, flags=flags)
    after_ns = time.time_ns()
    assert (done.returncode, done.stdout) == (3, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"pushbridge: no agent at http://127.0.0.1:{caller.port} (")
    assert [path.name.rpartition("-")[2] for path in caller.files] == ["start.prom", "metrics.prom", "end.prom"]
    start, metrics, end = caller.files
    assert metrics.read_bytes().partition(b"\n")[2] == b"rows 5\n"
    assert before_ns - 1_000_000 <= start.stat().st_mtime_ns <= end.stat().st_mtime_ns - 100_000_000
    assert end.stat().st_mtime_ns <= after_ns
    for path in caller.files:
        said = find_directives(path.read_bytes())
        assert said.labels == (("job", "j"), ("instance", "db 1"))
        assert (said.method, said.ttl) == ("post", "608400s")
        assert said.key == f"run-{path.stem.partition('-')[2]}"


def test_a_spool_that_cannot_be_written(tmp_path: Path) -> None:
    """The job's exit code stands, and each lost report is told with both reasons."""
    (tmp_path / "file").touch()
    done = Caller(free_port(), tmp_path / "file").run("sh", "-c", "exit 3", flags=("--job", "j"))
    assert (done.returncode, done.stdout) == (3, b"")
    start, end = done.stderr.decode().splitlines()
    assert start.startswith("pushbridge: the start of the run is lost: no agent at http://127.0.0.1:")
    assert end.startswith("pushbridge: the end of the run is lost: ")
    assert end.endswith(f"cannot write to {tmp_path / 'file'}: File exists")


def test_the_spool_may_come_from_the_environment(tmp_path: Path) -> None:
    """PUSHBRIDGE_SPOOL stands for --spool."""
    line = [sys.executable, "-m", "bridge", "exec", "--job=j", f"--url=http://127.0.0.1:{free_port()}", "--", "true"]
    environment = {**os.environ, "PUSHBRIDGE_SPOOL": str(tmp_path / "spool")}
    subprocess.run(line, env=environment, check=True, capture_output=True, timeout=30, cwd=REPOSITORY)
    assert len(list((tmp_path / "spool").iterdir())) == 2


def test_an_agent_that_fails_at_the_start_only(scripted: ScriptedReceiver, tmp_path: Path) -> None:
    """A start that got no answer is spooled at once, the end goes to the agent, and nobody needs to be told."""
    scripted.add(Step(500))
    caller = Caller(scripted.port, tmp_path)
    done = caller.run("true", flags=("--job", "j"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert [path.name.rpartition("-")[2] for path in caller.files] == ["start.prom"]
    assert len(scripted.requests()) == 2


def test_an_agent_that_refuses(scripted: ScriptedReceiver, tmp_path: Path) -> None:
    """What will be refused for ever is told, not spooled."""
    scripted.add(Step(400, b"no"), Step(400, b"no"))
    caller = Caller(scripted.port, tmp_path)
    done = caller.run("sh", "-c", "exit 3", flags=("--job", "j"))
    assert (done.returncode, caller.files) == (3, [])
    assert [line.partition(" refused ")[2] for line in done.stderr.decode().splitlines()] == [
        "the start of the run with 400: no",
        "the end of the run with 400: no",
    ]


def test_a_signal_before_the_job(scripted: ScriptedReceiver, tmp_path: Path) -> None:
    """Who ends exec before the job has begun finds it not begun, and reported as ended by the signal."""
    scripted.add(Step(200, delay_s=0.5))
    line = Caller(scripted.port, tmp_path / "spool").line(("--job", "j"), ("touch", str(tmp_path / "begun")))
    with subprocess.Popen(line, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        scripted.wait_for(lambda requests: len(requests) == 1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (143, b"")
    assert not (tmp_path / "begun").exists()
    assert b"pushbridge_run_exit_code 143\n" in scripted.requests()[1].body


FAULTS = {
    "no job": (("--job", ""), "is empty"),
    "label without value": (("--job=j", "--label=a"), "got 'a', want NAME=VALUE"),
    "label name": (("--job=j", "--label=a-b=1"), "'a-b' is reserved, or not a label name"),
    "reserved label": (("--job=j", "--label=ttl=1"), "'ttl' is reserved"),
    "label twice": (("--job=j", "--label=a=1", "--label=a=2"), "given twice"),
    "job as label": (("--job=j", "--label=job=k"), "given twice"),
    "duration": (("--job=j", "--timeout=soon"), "not a duration: got 'soon'"),
    "no time": (("--job=j", "--every=0"), "must be more than 0"),
    "grace alone": (("--job=j", "--grace=1h"), "needs --every"),
    "ttl": (("--job=j", "--ttl=never"), "not a duration: got 'never'"),
    "url": (("--job=j", "--url=localhost:9091"), "want http://host:port, got 'localhost:9091'"),
    "user without host": (("--job=j", "--url=http://user:secret@"), "want http://host:port, got 'http:"),
    "port": (("--job=j", "--url=http://localhost:x"), "--url"),
    "unknown flag": (("--job=j", "--jobb=k"), "--jobb"),
}


@pytest.mark.parametrize(("flags", "words"), FAULTS.values(), ids=FAULTS)
def test_flags_that_make_no_sense(caller: Caller, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    """A mistake in our own flags is told before the job is run, with the exit code 2."""
    done = caller.run("touch", str(tmp_path / "begun"), flags=flags)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert not (tmp_path / "begun").exists()


def test_a_value_that_is_no_text(caller: Caller) -> None:
    """A label value that cannot be a label's is refused, not a traceback."""
    done = subprocess.run(
        [*map(os.fsencode, caller.line(("--job", "j"), ())[:-1]), b"--label=a=\xff", b"--", b"true"],
        capture_output=True,
        check=False,
        timeout=30,
        cwd=REPOSITORY,
    )
    assert (done.returncode, b"the value of a is not UTF-8" in done.stderr) == (2, True)


def test_no_command(caller: Caller) -> None:
    """Without a command there is nothing to run."""
    assert caller.run(flags=("--job", "j")).returncode == 2


def test_exec_starts_without_the_agent(caller: Caller) -> None:
    """A cron job does not pay for the agent's libraries."""
    line = [sys.executable, "-X", "importtime", *caller.line(("--job", "light"), ("true",))[1:]]
    done = subprocess.run(line, capture_output=True, check=True, timeout=30, cwd=REPOSITORY)
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.decode().splitlines()}
    assert "bridge.wrapper.command" in imported
    assert not imported & {
        "asyncio",
        "aiohttp",
        "uvloop",
        "pydantic",
        "yaml",
        "google.protobuf",
        "structlog",
        "subprocess",
    }
