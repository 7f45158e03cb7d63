"""The way of a report to the agent: a few tries over HTTP, then a file in the spool directory.

Nothing here raises for a fault of agent, network or disk: each is told in one line, and the caller goes on.
What a report says is `report`'s.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Final

from bridge.delivery.backoff import delay_s, parse_retry_after
from bridge.peer import AwayError, Peer, PeerAnswer
from bridge.posting import send
from bridge.wrapper.report import Report, headers, spool_name, spool_text

TRY_S: Final = 2.0
"""Limit of one attempt, name look-up included."""
PATIENCE_S: Final = 5.0
"""How long a report is tried again before it is spooled."""

_LEAST_TRY_S: Final = 0.2
_MIN_BACKOFF_S: Final = 0.2
_MAX_BACKOFF_S: Final = 2.0
_WORDS: Final = {"start": "start of the run", "metrics": "metrics of the job", "end": "end of the run"}
_LONGEST_TEXT: Final = 500
# The agent runs as another user than most jobs, whose umask may hide their files.
_FILE_MODE: Final = 0o644
_SPOOL_MODE: Final = 0o1777


def _make(spool: Path) -> None:
    """Make the directory; root's is for everybody, as the agent makes it."""
    if not spool.is_dir():
        spool.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            # The umask does not apply to this.
            spool.chmod(_SPOOL_MODE)


class Outbox:
    """Sends one run's reports, in order."""

    def __init__(self, agent: Peer, spool: Path, tell: Callable[[str], None]) -> None:
        """Reports go to the agent, else to `spool`; `tell` gets a line for each fault."""
        self._agent = agent
        self._spool = spool
        self._tell = tell
        self._absent = False
        """The last report found no agent that takes it."""
        self._spooled_ms = 0

    def send(self, report: Report, patience_s: float = 0.0) -> None:
        """Deliver or spool a report, or tell that it is lost.

        Tries again for `patience_s`, but once only when the report before found no agent.
        """
        why = self._deliver(report, 0.0 if self._absent else patience_s)
        self._absent = why is not None
        if why is not None:
            self._keep(report, why)

    def _deliver(self, report: Report, patience_s: float) -> str | None:
        """Push until the agent has decided; None then, else why there is no decision."""
        give_up_s = time.monotonic() + patience_s
        attempt = 0
        while True:
            attempt += 1
            # The first try has its full time, later ones what is left.
            limit_s = TRY_S if attempt == 1 else min(TRY_S, max(_LEAST_TRY_S, give_up_s - time.monotonic()))
            answer = _attempt(self._agent, report, limit_s)
            if isinstance(answer, PeerAnswer):
                if not _is_passing(answer.status):
                    self._tell_refusal(report, answer)
                    return None
                why, after_s = f"it answered {answer.status}: {_one_line(answer.words)}", _retry_after_s(answer)
            else:
                why, after_s = answer, None
            pause_s = delay_s(attempt, after_s, random.random(), _MIN_BACKOFF_S, _MAX_BACKOFF_S)
            if time.monotonic() + pause_s >= give_up_s:
                return why
            time.sleep(pause_s)

    def _tell_refusal(self, report: Report, answer: PeerAnswer) -> None:
        if not answer.is_success:
            words = _one_line(answer.words)
            self._tell(f"{self._agent.shown} refused the {_WORDS[report.kind]} with {answer.status}: {words}")

    def _keep(self, report: Report, why: str) -> None:
        name = spool_name(report, self._spooled_ms + 1)
        try:
            _make(self._spool)
            _write_durably(self._spool, name, spool_text(report), report.time_ms)
        except OSError as error:
            fault = f"cannot write to {self._spool}: {error.strerror}"
            self._tell(f"the {_WORDS[report.kind]} is lost: no agent at {self._agent.shown} ({why}), and {fault}")
            return
        self._spooled_ms = int(name.partition("-")[0])
        if report.kind == "end":
            self._tell(f"no agent at {self._agent.shown} ({why}); the {_WORDS['end']} waits for it in {self._spool}")


def _is_passing(status: int) -> bool:
    """Whether the same push may be taken later."""
    return status == 429 or status >= 500  # noqa: PLR2004 - Too Many Requests, and the class of server errors


def _retry_after_s(answer: PeerAnswer) -> float | None:
    return None if answer.retry_after is None else parse_retry_after(answer.retry_after, time.time())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]


def _attempt(agent: Peer, report: Report, limit_s: float) -> PeerAnswer | str:
    """One request: the answer, or why there is none. A socket's timeout bounds neither name look-ups nor trickles."""
    found: list[PeerAnswer | str] = []

    def request() -> None:
        # Signals are for the main thread, which passes them to the job.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            found.append(send(agent, report.labels, report.body, limit_s, headers=headers(report)))
        except AwayError as error:
            found.append(_one_line(str(error)))

    # Left behind when it is late; if it succeeds after all, the key tells the agent that the spooled file is the same.
    thread = Thread(target=request, daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else f"no answer within {limit_s:.1f} s"


def _write_durably(directory: Path, name: str, content: bytes, time_ms: int) -> None:
    """Make a file that is there whole or not at all, with the event's time as its own; raises OSError."""
    hidden = directory / f".{name}.tmp"
    try:
        with hidden.open("xb") as file:
            os.fchmod(file.fileno(), _FILE_MODE)
            file.write(content)
            file.flush()
            os.utime(file.fileno(), ns=(time_ms * 1_000_000, time_ms * 1_000_000))
            os.fsync(file.fileno())
        hidden.rename(directory / name)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
