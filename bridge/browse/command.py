"""`pushbridge journal`: the journal looked at, written out and sent again, beside a running agent or without one.

Owns the commands, their exit codes and what is printed; each does its work in a module of its own.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from bridge.browse import account, export
from bridge.browse.options import config_at, place, quiet_end, tell, tell_reach, told_faults, wall_ms, window
from bridge.browse.pushes import Pushes
from bridge.browse.replay import Replay, Tally
from bridge.browse.series import Choice
from bridge.config.file import Config
from bridge.config.remote_write import RemoteWrite
from bridge.delivery.connect import connect
from bridge.delivery.negotiation import V2, Negotiation
from bridge.delivery.target import rules_of_target
from bridge.errors import ConfigError
from bridge.journal.archive import Archive, Span
from bridge.journal.rows import NEVER_MS
from bridge.log import set_up as set_up_log
from bridge.moments import time_text
from bridge.rules import Rules
from bridge.selector import Selector

_INTERRUPTED = 130


@click.group()
def journal() -> None:
    """Look at the journal, write it out, or send it again.

    Works beside a running agent and without one; nothing in the journal changes. Exits 2 when there is no journal, or
    one of another version.
    """


@journal.command()
@place
@click.option(
    "--storage.max-bytes", "max_bytes", metavar="VALUE", help="Bound of the journal, if a flag of run set it."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def stats(*, file: str | None, path: str | None, max_bytes: str | None, form: str) -> None:
    """Tell how much the journal holds, and how far each target is."""
    with told_faults():
        config = config_at(file, path, max_bytes)
        with Archive(config.storage.path) as archive:
            told = account.document(
                str(archive.path), archive.id, archive.overview(), config.storage.max_bytes, wall_ms()
            )
    click.echo(json.dumps(told, ensure_ascii=False) if form == "json" else account.table(told))


@journal.command("list")
@place
@window
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Pushes at the most.")
@click.option("--samples", is_flag=True, help="Show the series and values too.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_(
    *,
    file: str | None,
    path: str | None,
    since_ms: int | None,
    until_ms: int | None,
    selector: Selector | None,
    limit: int,
    samples: bool,
    form: str,
) -> None:
    """List the newest pushes, each with what became of it at every target.

    With --match those that have such a series. --format json is a line for each.
    """
    with told_faults(), quiet_end(), Archive(config_at(file, path).storage.path) as archive:
        tell_reach(since_ms, archive.begins_ms())
        span = archive.span(since_ms, until_ms)
        found = Pushes(archive, span, Choice(selector), samples).newest()
        for number, listed in enumerate(found):
            if number == limit:
                tell(f"there are more; these are the newest {limit} (--limit)")
                break
            shown = listed.document(samples=samples)
            click.echo(json.dumps(shown, ensure_ascii=False) if form == "json" else listed.text())


@journal.command("export")
@place
@window
@click.option("--format", "form", type=click.Choice(export.FORMATS), default="jsonl", show_default=True)
@click.option("-o", "--output", "output", metavar="FILE", help="Write to this file, which appears once it is whole.")
@click.option("-f", "--force", is_flag=True, help="Replace the file if it is there already.")
def export_(
    *,
    file: str | None,
    path: str | None,
    since_ms: int | None,
    until_ms: int | None,
    selector: Selector | None,
    form: str,
    output: str | None,
    force: bool,
) -> None:
    """Write out every sample: time, labels, value, and the id of its push.

    The value of a staleness marker is "stale". Parquet needs --output and pushbridge[parquet]. Exits 2 when the file is
    there already.
    """
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    with told_faults(), quiet_end(), Archive(config_at(file, path).storage.path) as archive:
        if output is not None:
            export.check_free(Path(output), force=force)
        tell_reach(since_ms, archive.begins_ms())
        span = archive.span(since_ms, until_ms)
        shows = sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())
        try:
            with _progress("exporting", span.rows, shown=shows) as settled:
                export.write(form, Path(output) if output else None, _counted(archive, span, selector, settled))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"export: cannot write {output or 'standard output'}: {error.strerror}") from error


@journal.command()
@place
@click.option("--target", "name", required=True, metavar="T", help="Name of the target in the configuration file.")
@window
@click.option("--dry-run", is_flag=True, help="Count what would be sent, and send nothing.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Samples per second at the most."
)
def replay(
    *,
    file: str | None,
    path: str | None,
    name: str,
    since_ms: int | None,
    until_ms: int | None,
    selector: Selector | None,
    dry_run: bool,
    rate: float | None,
) -> None:
    """Send again to a target what it has lost, with the times of then.

    Sends what the journal still has (storage.retention) and the target once confirmed, in order, with the target's own
    settings; what it has not confirmed yet is left to the agent. Cursors and totals stay as they are. Exits 0 when all
    was sent, 1 when something was refused or damaged, 130 after Ctrl-C, which tells how to go on.
    """
    with told_faults():
        config = config_at(file, path)
        target = _target(config, name)
        set_up_log(config.log)
        with Archive(config.storage.path) as archive:
            tell_reach(since_ms, archive.begins_ms())
            confirmed = next((cursor.seq for cursor in archive.cursors() if cursor.target == name), NEVER_MS)
            span = archive.span(since_ms, until_ms, confirmed)
            if waiting := archive.span(since_ms, until_ms).rows - span.rows:
                tell(f"{waiting} newer rows are left out: {name} has not confirmed them yet, the agent delivers them")
            tally = Tally(last_seq=span.first_seq - 1)
            # Native histograms with custom buckets have no other way than 2.0; types are not known here.
            spoken = Negotiation(name, target.protobuf_message)
            rules = rules_of_target(
                target,
                Rules(config.rules),
                utf8_names=config.push.enable_utf8_names,
                gets_version_2=lambda: spoken.version is V2,
            )
            work = Replay(None, target.queue_config, rules, Choice(selector), rate, tally)
            stopped = not asyncio.run(_replay(work, archive, span, spoken, None if dry_run else target))
            rest_ms = archive.rest_since_ms(span, tally.last_seq) if stopped or tally.stopped else None
    click.echo(f"{name}: {tally.summary('would send' if dry_run else 'sent')}")
    for words in tally.refusals():
        tell(words)
    if tally.stopped:
        tell(f"stopped by a refusal that is not about samples: {tally.stopped}")
    if rest_ms is not None:
        until = time_text(span.until_ms if until_ms is not None else wall_ms())
        tell(f"stopped; to go on, the same with --since {time_text(rest_ms)} --until {until}")
    if stopped:
        sys.exit(_INTERRUPTED)
    sys.exit(0 if tally.is_complete else 1)


async def _replay(work: Replay, archive: Archive, span: Span, spoken: Negotiation, target: RemoteWrite | None) -> bool:
    """Send to the target, if there is one; tell whether it came to its end."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with AsyncExitStack() as connections:
        if target is not None:
            connected = connect(target, now_s=lambda: wall_ms() / 1000, negotiation=spoken)
            work.client = await connections.enter_async_context(connected)
        try:
            with _progress("replaying", span.rows, shown=sys.stderr.isatty()) as settled:
                await work.run(archive.pieces(span), settled)
        except asyncio.CancelledError:
            return False
    return True


def _target(config: Config, name: str) -> RemoteWrite:
    for target in config.remote_write:
        if target.target == name:
            return target
    names = ", ".join(target.target for target in config.remote_write) or "none (--config.file)"
    raise ConfigError(f"--target: no remote_write target is called {name!r}; there are: {names}")


def _counted(
    archive: Archive, span: Span, selector: Selector | None, settled: Callable[[int], object]
) -> Iterator[list[export.Line]]:
    for rows, found in export.lines(archive, span, Choice(selector)):
        yield found
        settled(rows)


@contextmanager
def _progress(label: str, length: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    if not shown:
        yield lambda _: None
        return
    bar: Any
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update
