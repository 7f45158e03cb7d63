"""Runs one command as if we were not there: signals, terminal, timeout, exit code.

The command is started without a shell, in a process group of its own, with our descriptors. One blocking wait and
signal handlers do the rest; nothing here knows of reports.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from bridge.wrapper.terminal import Terminal

EXIT_TIMEOUT: Final = 124
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
EXIT_SIGNAL: Final = 128
"""Plus the signal's number."""
KILL_AFTER_S: Final = 10.0

_PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Python ignores these for itself, and an ignored signal would stay ignored in the command.
_OURS_TO_UNDO: Final = tuple(
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name)
)
_RSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024
_GROUP_POLL_S: Final = 0.02
_AS_STARTED: Final = Path("/proc/self/environ")
_COERCED: Final = "LC_CTYPE"


def own_environment() -> dict[str, str]:
    """The environment that we were started with; Python gives itself a locale where there is none."""
    environment = dict(os.environ)
    with suppress(OSError):
        given = _AS_STARTED.read_bytes().split(b"\0")
        if not any(entry.startswith(f"{_COERCED}=".encode()) for entry in given):
            environment.pop(_COERCED, None)
    return environment


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    exit_code: int
    """What a shell would show."""
    duration_s: float
    max_rss_bytes: int = 0
    """Of its largest process that was waited for. Not below what we had ourselves when we started it (Linux)."""
    fault: str | None = None
    """Why it could not be started."""


class SignalRelay:
    """Takes the signals that are meant for the job, from its construction on; those that we ignore stay ignored."""

    def __init__(self) -> None:
        self._group: int | None = None
        self._early: list[int] = []
        for number in _PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)
        # Ignored, as some supervisors leave it, it would make the kernel forget how the job ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    @property
    def early(self) -> int | None:
        """The first signal that came while there was no job to pass it to."""
        return self._early[0] if self._early else None

    def attach(self, group: int) -> None:
        """Pass signals to this process group, first those that have come."""
        self._group = group
        for number in self._early:
            _kill_group(group, number)

    def detach(self) -> None:
        """The group is gone; its number may come to belong to somebody else."""
        self._group = None

    def _take(self, number: int, _: FrameType | None) -> None:
        if self._group is None:
            self._early.append(number)
        else:
            _kill_group(self._group, number)


def run(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    relay: SignalRelay,
    timeout_s: float | None = None,
    kill_after_s: float = KILL_AFTER_S,
) -> Finished:
    """Run a command to its end; after `timeout_s` its group gets SIGTERM, and SIGKILL `kill_after_s` later.

    A signal that came before the start ends the run before it begins. Call it from the main thread.
    """
    started_s = time.monotonic()
    if relay.early is not None:
        return Finished(EXIT_SIGNAL + relay.early, 0.0)
    try:
        group = _start(command, environment)
    except OSError as error:
        code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE
        fault = f"cannot run {command[0]!r}: {error.strerror}"
        return Finished(code, time.monotonic() - started_s, fault=fault)
    relay.attach(group)
    deadline = _Deadline(group, timeout_s, kill_after_s)
    code, max_rss_bytes = _wait(group)
    duration_s = time.monotonic() - started_s
    deadline.finish()
    relay.detach()
    return Finished(EXIT_TIMEOUT if deadline.passed else code, duration_s, max_rss_bytes)


class _Deadline:
    """The end of the time that a group has."""

    def __init__(self, group: int, timeout_s: float | None, kill_after_s: float) -> None:
        self.passed = False
        self._group = group
        self._kill_after_s = kill_after_s
        self._kill_s = 0.0
        if timeout_s is not None:
            signal.signal(signal.SIGALRM, self._fire)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            signal.setitimer(signal.ITIMER_REAL, timeout_s)

    def finish(self) -> None:
        """The command is gone: stop the clock, or see to it that no other process of its group stays past the time."""
        if not self.passed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        while time.monotonic() < self._kill_s and _kill_group(self._group, 0):
            time.sleep(_GROUP_POLL_S)
        _kill_group(self._group, signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _fire(self, _: int, __: FrameType | None) -> None:
        if self.passed:
            _kill_group(self._group, signal.SIGKILL)
            return
        self.passed = True
        self._kill_s = time.monotonic() + self._kill_after_s
        _kill_group(self._group, signal.SIGTERM)
        # A stopped process takes SIGTERM only when it continues.
        _kill_group(self._group, signal.SIGCONT)
        signal.setitimer(signal.ITIMER_REAL, self._kill_after_s)


def _start(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Start a command in a new process group, which has its process's number; raises OSError."""
    if not command[0]:
        raise FileNotFoundError(2, "No such file or directory")
    return os.posix_spawnp(command[0], command, environment, setpgroup=0, setsigdef=_OURS_TO_UNDO)


def _wait(process: int) -> tuple[int, int]:
    """Exit code and peak memory of the process, once it has ended; meanwhile it has the terminal."""
    terminal = Terminal()
    terminal.lend(process)
    try:
        while True:
            _, status, usage = os.wait4(process, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            terminal.stopped(process, os.WSTOPSIG(status))
    finally:
        terminal.take_back()
    code = EXIT_SIGNAL + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, usage.ru_maxrss * _RSS_UNIT_BYTES


def _kill_group(group: int, number: int) -> bool:
    """Send a signal to a group; False when nobody is left in it."""
    with suppress(PermissionError):  # what runs as another user is not ours to signal, as for any shell
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
    return True
