"""Dropped files with a real agent: what reaches a receiver, when, and what does not get in the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import yaml

from tests.blackbox.checker import Stored
from tests.blackbox.load import Client, Push, metrics, one_value, request, wait_for
from tests.blackbox.ports import free_port
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import agent

REPOSITORY = Path(__file__).resolve().parents[2]
GRID_MS = 60_000


@pytest.fixture
def receiver() -> Iterator[ScriptedReceiver]:
    """Take everything."""
    with ScriptedReceiver() as up:
        yield up


def drop(path: Path, body: str, at_ms: int | None = None) -> None:
    """Make a file as writers should: under another name, then renamed."""
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(body, encoding="utf-8")
    if at_ms is not None:
        os.utime(hidden, ns=(at_ms * 1_000_000, at_ms * 1_000_000))
    hidden.rename(path)


def of(stored: list[Stored], name: str) -> list[Stored]:
    """Samples of one metric, repeats left out: these stand on the grid."""
    return [one for one in stored if dict(one.series)["__name__"] == name and one.timestamp_ms % GRID_MS]


def now_ms() -> int:
    """Tell the time."""
    return time.time_ns() // 1_000_000


def test_a_file_reaches_the_receiver_at_once(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """Its samples have its mtime to the millisecond, and its end is a marker."""
    directory = tmp_path / "files"
    directory.mkdir()
    with agent(tmp_path / "agent", f"--textfile.directory={directory}", config=receiver.config):
        at_ms = now_ms() - 90_001
        drop(directory / "a.prom", "a 1\n", at_ms)
        receiver.wait_for(lambda requests: any(of(list(one.samples), "a") for one in requests), 10)
        (directory / "a.prom").unlink()
        wait_for(receiver.stored, lambda stored: len(of(stored, "a")) > 1, 10)
    first, marker = of(receiver.stored(), "a")
    assert (first.timestamp_ms, first.value) == (at_ms, 1)
    assert dict(first.series)["job"] == "textfile"
    assert marker.value is None


def test_a_crash_changes_nothing_about_files(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """After SIGKILL an unchanged file is neither sent again nor ended, a removed one ends."""
    directory = tmp_path / "files"
    directory.mkdir()
    drop(directory / "stays.prom", "stays 1\n", now_ms() - 5001)
    drop(directory / "goes.prom", "goes 1\n", now_ms() - 5001)
    flags = (f"--textfile.directory={directory}",)
    with agent(tmp_path / "agent", *flags, config=receiver.config) as server:
        wait_for(receiver.stored, lambda stored: bool(of(stored, "stays") and of(stored, "goes")), 10)
        server.kill()
    (directory / "goes.prom").unlink()
    with agent(tmp_path / "agent", *flags, config=receiver.config):
        wait_for(receiver.stored, lambda stored: any(one.value is None for one in stored), 10)
    stored = receiver.stored()
    assert {one.value for one in of(stored, "stays")} == {1}
    assert len({one.timestamp_ms for one in of(stored, "stays")}) == 1
    assert [one.value for one in of(stored, "goes")][-1] is None


def test_what_is_spooled_comes_before_what_is_pushed(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """Pushes that wait for the agent's start find the spool taken, so that its files keep their times."""
    spool = tmp_path / "agent" / "storage" / "spool"
    spool.mkdir(parents=True)
    count, start_ms, port = 300, now_ms() - 3_000_001, free_port()
    for number in range(count):
        drop(spool / f"{number:04}.prom", f"# PUSHBRIDGE job=raced\nnumbered {number}\n", start_ms + number)
    config = {"web": {"listen_address": f"127.0.0.1:{port}"}, "storage": {"path": str(spool.parent)}}
    path = tmp_path / "agent.yml"
    path.write_text(yaml.safe_dump(config) + receiver.config, encoding="utf-8")
    command = (sys.executable, "-m", "bridge", "run", f"--config.file={path}")
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process, Client(port) as client:
        answer = wait_for(lambda: client.send(one_value("raced", count)), lambda got: got is not None)
        assert answer is not None
        assert answer.status == 200
        wait_for(receiver.stored, lambda stored: len(of(stored, "numbered")) > count)
        process.terminate()
    stored = of(receiver.stored(), "numbered")
    assert [(one.value, one.timestamp_ms) for one in stored[:count]] == [(n, start_ms + n) for n in range(count)]
    assert stored[count].value == count


def test_reports_of_exec_arrive_once_with_their_times(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """Runs while the agent is down are spooled; however often it dies while it takes them, each arrives once."""
    spool, port = tmp_path / "agent" / "storage" / "spool", free_port()
    before_ms = now_ms()
    for number in range(3):
        flags = ("--job", f"run-{number}", "--url", f"http://127.0.0.1:{port}", "--spool", str(spool))
        command = (sys.executable, "-m", "bridge", "exec", *flags, "--", "sh", "-c", f"exit {number}")
        assert subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True).returncode == number
    after_ms = now_ms()
    assert len(list(spool.glob("*.prom"))) == 6
    for number in range(600):
        drop(spool / f"bulk-{number:04}.prom", f"# PUSHBRIDGE job=bulk-{number} \nbulk 1\n", before_ms - 1 - number)
    random = Random(7)
    for _ in range(6):
        kill_at_work(spool, port, receiver, random.random() * 0.05)
    with agent(tmp_path / "agent", config=receiver.config, port=port):
        assert not list(spool.glob("*.prom"))
        wait_for(receiver.stored, lambda stored: len({one.series for one in of(stored, "bulk")}) == 600)
        wait_for(receiver.stored, lambda stored: len({o.series for o in of(stored, "pushbridge_run_exit_code")}) == 3)
    stored = receiver.stored()
    for name, wanted in (("bulk", 600), ("pushbridge_run_exit_code", 3)):
        samples = {(one.series, one.timestamp_ms) for one in of(stored, name)}
        assert len(samples) == len({series for series, _ in samples}) == wanted, name
    for one in of(stored, "pushbridge_run_exit_code"):
        assert one.value == int(dict(one.series)["job"][-1])
        assert before_ms <= one.timestamp_ms <= after_ms
    starts = {one.timestamp_ms for one in of(stored, "pushbridge_run_start_time_seconds")}
    assert all(before_ms <= at_ms <= after_ms for at_ms in starts)


def kill_at_work(spool: Path, port: int, receiver: ScriptedReceiver, after_s: float) -> None:
    """Start the agent and end it with SIGKILL a moment after the first file is gone."""
    left = len(list(spool.glob("*.prom")))
    config = spool.parent / "agent.yml"
    config.write_text(receiver.config, encoding="utf-8")
    flags = (f"--storage.path={spool.parent}", f"--web.listen-address=127.0.0.1:{port}", f"--config.file={config}")
    with subprocess.Popen((sys.executable, "-m", "bridge", "run", *flags), cwd=REPOSITORY) as process:
        wait_for(lambda: len(list(spool.glob("*.prom"))), lambda now: now < left or not left, 20)
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)


def test_files_that_are_none_harm_nobody(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """Pipes, links, giants and nonsense are told at the targets too; a good file beside them is taken."""
    directory = tmp_path / "files"
    directory.mkdir()
    os.mkfifo(directory / "a-pipe.prom")
    (directory / "b-directory.prom").mkdir()
    (directory / "c-link.prom").symlink_to("nowhere")
    (directory / "d-loop.prom").symlink_to("d-loop.prom")
    (directory / "e-device.prom").symlink_to("/dev/zero")
    (directory / "f-giant.prom").touch()
    os.truncate(directory / "f-giant.prom", 1 << 40)
    (directory / "g-binary.prom").write_bytes(bytes(range(256)) * 16)
    drop(directory / "z-good.prom", "good 1\n", now_ms() - 1)
    flags = (f"--textfile.directory={directory}", "--push.hold-interval=1s")
    with agent(tmp_path / "agent", *flags, config=receiver.config) as server:
        wait_for(receiver.stored, lambda stored: any(dict(one.series).get("file") for one in stored), 15)
        shown = metrics(server.port)
        log = server.log_tail()
    errors = {
        Path(dict(one.series)["file"]).name: one.value
        for one in receiver.stored()
        if dict(one.series)["__name__"] == "pushbridge_textfile_error"
    }
    bad = {path.name for path in directory.iterdir()} - {"z-good.prom"}
    assert {name for name, value in errors.items() if value} == bad
    assert {Path(key.split('"')[1]).name for key, value in shown.items() if "textfile_error" in key and value} == bad
    assert any(dict(one.series)["__name__"] == "good" for one in receiver.stored())
    assert log.count("event=textfile_refused") == len(bad)
    assert "line=1 " in log


def test_thousands_of_files_do_not_hold_up_pushes(tmp_path: Path) -> None:
    """While five thousand files are taken, and when all are looked at again, pushes are answered."""
    directory = tmp_path / "files"
    directory.mkdir()
    for number in range(5000):
        (directory / f"{number}.prom").write_text(f'many{{n="{number}"}} 1\nmore{{n="{number}"}} 2\n', encoding="utf-8")
    with agent(tmp_path / "agent", f"--textfile.directory={directory}") as server, Client(server.port) as client:
        slowest_s, number, series = 0.0, 0, 0.0
        deadline_s = time.monotonic() + 60
        while series < 10_000 and time.monotonic() < deadline_s:
            number += 1
            started_s = time.monotonic()
            client.must_accept(one_value("beside", number))
            slowest_s = max(slowest_s, time.monotonic() - started_s)
            if number % 50 == 0:
                series = metrics(server.port)["pushbridge_series"]
        assert series >= 10_000
        assert slowest_s < 0.5
        assert sum(value for key, value in metrics(server.port).items() if "textfile_error" in key) == 0


def test_a_directory_comes_with_a_rule_and_labels(tmp_path: Path) -> None:
    """Labels of directory, directive and body stand over one another in this order, reversed."""
    directory = tmp_path / "files"
    directory.mkdir()
    body = '# PUSHBRIDGE disk="sda" team=ops\na{job="x",disk="y",own="z"} 1\n'
    drop(directory / "a.prom", body)
    entry = {"directory": str(directory), "labels": {"job": "disks", "team": "db"}}
    with agent(tmp_path / "agent", config=yaml.safe_dump({"textfile": [entry]})) as server:
        line = 'a{disk="sda",instance="",job="disks",own="z",team="ops"} 1'
        text = wait_for(lambda: request(server.port, "GET", "/metrics").text, lambda text: line in text, 10)
        assert line in text
        listed = request(server.port, "GET", "/api/v1/groups").text
        assert str(directory / "a.prom") in listed
        # A push cannot take a series that a file has, nor end it.
        taken = Push("PUT", "/metrics/job/disks", b'a{disk="sda",own="z",team="ops"} 1\n', ())
        with Client(server.port) as client:
            answer = client.send(taken)
        assert answer is not None
        assert answer.status == 400
        assert str(directory / "a.prom") in answer.text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--textfile.directory={0}/none",), "textfile.0.directory: want a directory, got"),
        (("--textfile.directory={0}", "--textfile.directory={0}"), "textfile.1.directory:"),
        (("--textfile.directory={0}/storage/inside",), "textfile.0.directory:"),
    ],
)
def test_a_directory_that_cannot_be_collected_stops_the_start(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    """The exit code is 2 and one line names the key."""
    command = (sys.executable, "-m", "bridge", "run", "--web.listen-address=127.0.0.1:0")
    arguments = (f"--storage.path={tmp_path}/storage", *(flag.format(tmp_path) for flag in flags))
    done = subprocess.run((*command, *arguments), cwd=REPOSITORY, check=False, capture_output=True, timeout=30)
    assert done.returncode == 2
    assert told in done.stderr.decode()
