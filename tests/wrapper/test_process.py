"""Commands run as if nobody stood between: exit codes, descriptors, signals and timeouts, on real processes.

Each run has a process of its own, because it sets signal handlers.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DRIVER = r"""
import os, sys
from bridge.wrapper.process import SignalRelay, run
timeout, kill_after = (float(text) if text else None for text in sys.argv[1:3])
done = run(tuple(sys.argv[3:]), os.environ, SignalRelay(), timeout, kill_after or 10.0)
os.write(2, b"\n" + repr((done.exit_code, done.duration_s, done.max_rss_bytes, done.fault)).encode())
"""
ENDS = {
    "success": (["true"], 0),
    "failure": (["sh", "-c", "exit 3"], 3),
    "a code above 128": (["sh", "-c", "exit 200"], 200),
    "killed": (["sh", "-c", "kill -KILL $$"], 137),
    "terminated": (["sh", "-c", "kill -TERM $$"], 143),
    "broken pipe": (["sh", "-c", "kill -PIPE $$; exit 1"], 141),
    "not found": (["no-such-command"], 127),
    "no such path": (["/no/such/command"], 127),
    "no name": ([""], 127),
    "a directory": (["/"], 126),
    "no program": (["/etc/passwd"], 126),
    "arguments": (["sh", "-c", "[ \"$1\" = 'a  $HOME*' ]", "sh", "a  $HOME*"], 0),
}


def command(*arguments: str, timeout: str = "", kill_after: str = "") -> list[str]:
    """Command line of the driver."""
    return [sys.executable, "-c", DRIVER, timeout, kill_after, *arguments]


def run(*arguments: str, timeout: str = "", kill_after: str = "") -> tuple[int, float, int, str | None]:
    """Exit code, duration, memory and fault of a command, whose output has to be closed within 20 s."""
    line = command(*arguments, timeout=timeout, kill_after=kill_after)
    done = subprocess.run(line, capture_output=True, check=True, timeout=20)
    code, duration_s, max_rss_bytes, fault = eval(done.stderr.splitlines()[-1])  # noqa: S307 - the driver's own repr
    return code, duration_s, max_rss_bytes, fault


@pytest.mark.parametrize(("arguments", "code"), ENDS.values(), ids=ENDS)
def test_every_end_has_the_shells_exit_code(arguments: list[str], code: int) -> None:
    """What the caller of the command would see is what the caller of exec sees; only what did not start has a fault."""
    got, duration_s, _, fault = run(*arguments)
    assert got == code
    assert 0 <= duration_s < 10
    assert (fault is not None) == (code in {126, 127})


def test_a_script_without_interpreter_is_not_executable(tmp_path: Path) -> None:
    """No shell stands in for a missing `#!` line, and the reason is told."""
    script = tmp_path / "script"
    script.write_text("exit 0\n")
    script.chmod(0o755)
    code, _, _, fault = run(str(script))
    assert (code, fault) == (126, f"cannot run {str(script)!r}: Exec format error")


def test_memory_and_time_are_those_of_the_command() -> None:
    """Peak memory covers what the command and its children used, the duration is the clock's."""
    code, duration_s, max_rss_bytes, _ = run("sh", "-c", f"{sys.executable} -c 'x = b\"x\" * (200 << 20)'; sleep 0.2")
    assert code == 0
    assert 0.2 <= duration_s < 10
    assert 200 << 20 < max_rss_bytes < 400 << 20


def test_descriptors_and_groups() -> None:
    """The command leads a process group of its own and keeps the descriptors that we were given."""
    read_end, write_end = os.pipe()
    text = f"import os; os.write({write_end}, b'%d' % (os.getpgrp() == os.getpid()))"
    with os.fdopen(read_end, "rb") as pipe:
        subprocess.run(command(sys.executable, "-c", text), check=True, capture_output=True, pass_fds=[write_end])
        os.close(write_end)
        assert pipe.read() == b"1"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_signals_reach_the_group(number: int) -> None:
    """A signal that we get arrives at the command and at its children; the command's answer is the exit code."""
    child = f"trap 'echo child; exit' {number}; echo ready; while :; do sleep 0.01; done"
    # A test run in the background of a shell ignores some, and a shell cannot trap what is ignored when it starts.
    text = f"import os, signal, sys; signal.signal({int(number)}, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    script = f"trap 'echo command; exit 7' {int(number)}; sh -c \"$1\""
    line = [sys.executable, "-c", text, *command("sh", "-c", script, "sh", child)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert sorted(output.split()) == [b"child", b"command"]
    assert b"\n(7, " in errors


def test_ignored_signals_stay_ignored() -> None:
    """Under nohup and the like the command does not see the signal, whether we get it or it does."""
    script = "kill -HUP $PPID; kill -HUP $$; kill -INT $$; echo alive"
    line = ["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh", *command("sh", "-c", script)]
    done = subprocess.run(line, capture_output=True, check=True, timeout=20)
    assert done.stdout == b"alive\n"


def test_a_parent_that_ignores_its_children() -> None:
    """The exit code is known also where the caller left SIGCHLD ignored."""
    text = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    line = [sys.executable, "-c", text, *command("sh", "-c", "exit 3")]
    assert subprocess.run(line, capture_output=True, check=True, timeout=20).stderr.startswith(b"\n(3, ")


TIMEOUTS = {
    "ends by SIGTERM": "echo x; exec sleep 60",
    "ends well on SIGTERM": "trap 'exit 0' TERM; while :; do sleep 0.01; done",
    "ignores SIGTERM": "trap '' TERM; while :; do sleep 0.01; done",
    "is stopped": "kill -STOP $$; sleep 60",
    "leaves a child that ignores SIGTERM": "(trap '' TERM; while :; do sleep 0.01; done) & exec sleep 60",
    "leaves a child": "sleep 60 & exec sleep 60",
}


@pytest.mark.parametrize("script", TIMEOUTS.values(), ids=TIMEOUTS)
def test_a_timeout_ends_the_whole_group(script: str) -> None:
    """After the timeout nothing of the group is left to hold its output open, and the exit code is 124."""
    started_s = time.monotonic()
    code, duration_s, _, _ = run("sh", "-c", script, timeout="0.3", kill_after="0.3")
    assert code == 124
    assert duration_s >= 0.29
    assert time.monotonic() - started_s < 10


def test_time_to_clean_up() -> None:
    """Between SIGTERM and SIGKILL every process of the group may finish its work."""
    script = "(trap 'sleep 0.3; echo cleaned' TERM; while :; do sleep 0.01; done) & exec sleep 60"
    script = script.replace("echo cleaned", "echo cleaned; exit")
    done = subprocess.run(
        command("sh", "-c", script, timeout="0.2", kill_after="5"), capture_output=True, check=True, timeout=20
    )
    assert done.stdout == b"cleaned\n"


def test_a_timeout_that_is_not_reached() -> None:
    """A command that is in time is left alone, as are the children that it leaves behind."""
    started_s = time.monotonic()
    code, _, _, _ = run("sh", "-c", "(sleep 0.5; echo late) & exit 5", timeout="0.3")
    assert code == 5
    assert time.monotonic() - started_s >= 0.5  # its output was open until the child had ended by itself
