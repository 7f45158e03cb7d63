"""What `pushbridge exec` says of a run: facts to metrics, headers and the text of a spool file.

Pure. A run makes up to three pushes, added (POST) to the group that job and labels name: its start, the job's
own metrics, its end. The end repeats the start, so that a start later than the end means running or crashed.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bridge.ingress.directive import MARK, Directive, write_directive
from bridge.ingress.terms import TTL
from bridge.model import Labels

Kind = Literal["start", "metrics", "end"]

METRICS: Final = {
    "pushbridge_run_start_time_seconds": "When the last run began; later than its end: running or crashed.",
    "pushbridge_run_end_time_seconds": "When the last run ended.",
    "pushbridge_run_duration_seconds": "How long the last run took.",
    "pushbridge_run_exit_code": "Its exit code; 128+n: signal n, 124: timeout, 126, 127: could not start.",
    "pushbridge_run_success": "1 if the exit code was 0, else 0.",
    "pushbridge_run_max_rss_bytes": "Most memory that a process of the last run had resident.",
    "pushbridge_run_expected_interval_seconds": "A run is expected this often.",
    "pushbridge_run_grace_seconds": "A run may be this late.",
}
"""Every metric of a run with its help; all are gauges."""

_LATENESS_S: Final = 3600
_DEFAULT_TTL_S: Final = 25 * 3600
"""The agent's `push.default_ttl`: jobs that run more often need no TTL of their own."""

_MARKED_LINE: Final = re.compile(b"^" + MARK.encode(), re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """One execution, as far as it is known before it begins."""

    labels: Labels
    """Of the group, `job` first."""
    id: str
    """A new UUID in hexadecimal."""
    start_ms: int
    every_s: float | None = None
    grace_s: float = 0.0
    ttl: str | None = None
    """As the user gave it; None leaves it to the interval or to the agent."""


@dataclass(frozen=True, slots=True)
class End:
    """How it ended."""

    end_ms: int
    duration_s: float
    exit_code: int
    max_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """One push, ready to be sent or spooled."""

    kind: Kind
    time_ms: int
    """When what it tells took place."""
    run_id: str
    labels: Labels
    ttl: str | None
    body: bytes

    @property
    def key(self) -> str:
        """Idempotency key: the same for every attempt, by HTTP or by file."""
        return f"run-{self.run_id}-{self.kind}"


def start_report(run: Run) -> Report:
    """The push that says that a run begins."""
    return _report(run, "start", run.start_ms, _exposition(_begun(run)))


def metrics_report(run: Run, body: bytes, end_ms: int) -> Report:
    """The push of what the job wrote to its metrics file."""
    return _report(run, "metrics", end_ms, body)


def end_report(run: Run, end: End) -> Report:
    """The push that says how the run ended."""
    ended = {
        "pushbridge_run_end_time_seconds": _seconds(end.end_ms / 1000),
        "pushbridge_run_duration_seconds": _seconds(end.duration_s),
        "pushbridge_run_exit_code": str(end.exit_code),
        "pushbridge_run_success": str(int(end.exit_code == 0)),
        "pushbridge_run_max_rss_bytes": str(end.max_rss_bytes),
    }
    return _report(run, "end", end.end_ms, _exposition(_begun(run) | ended))


def headers(report: Report) -> dict[str, str]:
    """Request headers of a report, besides its Content-Type."""
    ttl = {} if report.ttl is None else {TTL: report.ttl}
    return {"Idempotency-Key": report.key, **ttl}


def spool_name(report: Report, not_before_ms: int) -> str:
    """File name of a spooled report; names sort as the events did, those of one millisecond by `not_before_ms`."""
    return f"{max(report.time_ms, not_before_ms):013}-{report.run_id}-{report.kind}.prom"


def spool_text(report: Report) -> bytes:
    """The file: who it is for in the first line, then the body."""
    line = write_directive(Directive(report.labels, report.ttl, "post", report.key))
    # A job may write what looks like a directive; sent by HTTP it is a comment, so it must not speak here either.
    body = _MARKED_LINE.sub(b"# " + MARK.encode(), report.body)
    return line.encode() + b"\n" + body


def _report(run: Run, kind: Kind, time_ms: int, body: bytes) -> Report:
    return Report(kind, time_ms, run.id, run.labels, _ttl(run), body)


def _ttl(run: Run) -> str | None:
    """A rare job's metrics have to last until its next run."""
    if run.ttl is not None or run.every_s is None:
        return run.ttl
    wanted_s = run.every_s + run.grace_s + _LATENESS_S
    return f"{math.ceil(wanted_s)}s" if wanted_s > _DEFAULT_TTL_S else None


def _begun(run: Run) -> dict[str, str]:
    start = {"pushbridge_run_start_time_seconds": _seconds(run.start_ms / 1000)}
    if run.every_s is None:
        return start
    return start | {
        "pushbridge_run_expected_interval_seconds": _seconds(run.every_s),
        "pushbridge_run_grace_seconds": _seconds(run.grace_s),
    }


def _exposition(values: Mapping[str, str]) -> bytes:
    return "".join(
        f"# HELP {name} {METRICS[name]}\n# TYPE {name} gauge\n{name} {value}\n" for name, value in values.items()
    ).encode()


def _seconds(value: float) -> str:
    return f"{value:.3f}"
