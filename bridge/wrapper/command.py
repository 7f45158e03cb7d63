"""The command `exec`: its flags, and the course of a run from the first report to the exit code."""

import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import click

from bridge.durations import parse_duration_s
from bridge.flags import AGENT, TTL, Checked, OneLine, group
from bridge.ingress.directive import LABEL_NAME, RESERVED_NAMES
from bridge.model import Labels
from bridge.peer import Peer
from bridge.wrapper.metrics_file import VARIABLE, metrics_file, read
from bridge.wrapper.outbox import PATIENCE_S, Outbox
from bridge.wrapper.process import SignalRelay, own_environment
from bridge.wrapper.process import run as run_process
from bridge.wrapper.report import End, Report, Run, end_report, metrics_report, start_report


def _duration(text: str) -> float:
    seconds = parse_duration_s(text)
    if not seconds:
        raise ValueError("must be more than 0")
    return seconds


def _group(job: str, texts: tuple[str, ...]) -> Labels:
    """Labels of the group. Nobody reads the agent's refusal before the job has run, so names are checked here."""
    labels = group(job, texts)
    for name, _ in labels:
        if LABEL_NAME.fullmatch(name) is None or name in RESERVED_NAMES:
            raise click.BadParameter(f"{name!r} is reserved, or not a label name", param_hint="--label")
    return labels


_DURATION = Checked("duration", _duration)


@click.command(
    "exec", cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False}
)
@click.option("--job", required=True, help="Job name: the first label of the group.")
@click.option("--label", "texts", multiple=True, metavar="NAME=VALUE", help="Another grouping label; repeatable.")
@click.option("--every", type=_DURATION, metavar="D", help="The job is run this often, for example 6h.")
@click.option("--grace", type=_DURATION, metavar="D", help="How late a run may be; needs --every.")
@click.option("--timeout", type=_DURATION, metavar="D", help="SIGTERM after this time, SIGKILL 10 s later.")
@click.option(
    "--ttl",
    type=TTL,
    metavar="D",
    help="Keep the metrics visible this long, or inf. [default: the agent's, longer for a rare --every]",
)
@click.option("--url", type=AGENT, default="http://127.0.0.1:9091", show_default=True, help="The agent.")
@click.option(
    "--spool",
    type=click.Path(path_type=Path),
    envvar="PUSHBRIDGE_SPOOL",
    default="/var/lib/pushbridge/spool",
    metavar="DIR",
    help="Reports that no agent takes wait here. [default: $PUSHBRIDGE_SPOOL or /var/lib/pushbridge/spool]",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]...")
def exec_(
    *,
    job: str,
    texts: tuple[str, ...],
    every: float | None,
    grace: float | None,
    timeout: float | None,
    ttl: str | None,
    url: Peer,
    spool: Path,
    command: tuple[str, ...],
) -> None:
    """Run a command and report its start, end, exit code and peak memory.

    \b
    In a crontab:
      0 2 * * * pushbridge exec --job backup --every 1d --grace 1h -- /usr/local/bin/backup

    The command runs without a shell, with the same input, output, environment and signals as without exec. What it
    writes to the file $PUSHBRIDGE_METRICS, in text format, is pushed to the same group. An agent that is down neither
    delays nor fails the job: the reports wait in the spool directory.

    \b
    Exit code: the command's own, or
      128+n  signal n ended it
      124    --timeout ended it
      126    it is not executable
      127    it was not found
      2      the flags of exec are wrong
    """  # noqa: D301 - click's mark for lines that stay as they are
    labels = _group(job, texts)
    if grace is not None and every is None:
        raise click.BadParameter("needs --every", param_hint="--grace")
    run = Run(labels, uuid.uuid4().hex, _now_ms(), every, grace or 0.0, ttl)
    sys.exit(_course(run, command, timeout, Outbox(url, spool, _tell)))


def _course(run: Run, command: tuple[str, ...], timeout_s: float | None, outbox: Outbox) -> int:
    """Report, run, report; give the exit code."""
    relay = SignalRelay()
    _send(outbox, start_report(run))
    with metrics_file(_tell) as path:
        finished = run_process(command, {**own_environment(), VARIABLE: str(path)}, relay, timeout_s)
        # A clock that was set back must not make a finished run look like a running one.
        end_ms = max(_now_ms(), run.start_ms)
        body = read(path, _tell)
    if finished.fault is not None:
        _tell(finished.fault)
    if body:
        _send(outbox, metrics_report(run, body, end_ms), PATIENCE_S)
    end = End(end_ms, finished.duration_s, finished.exit_code, finished.max_rss_bytes)
    _send(outbox, end_report(run, end), PATIENCE_S)
    return finished.exit_code


def _send(outbox: Outbox, report: Report, patience_s: float = 0.0) -> None:
    try:
        outbox.send(report, patience_s)
    except Exception as error:  # noqa: BLE001 - no fault in reporting may cost the job its start or its exit code
        _tell(f"the {report.kind} report is lost: {type(error).__name__}: {error}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tell(line: str) -> None:
    """One line for whoever reads cron's mail; a closed standard error is no reason to fail."""
    with suppress(OSError, ValueError):
        click.echo(f"pushbridge: {line}", err=True)
