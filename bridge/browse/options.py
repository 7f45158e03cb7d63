"""What the commands that read the journal share: flags, and how what they say becomes values; how they end."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from bridge.config.file import Config, read
from bridge.errors import ConfigError, PushRefusedError
from bridge.moments import parse_moment_ms, time_text
from bridge.selector import Selector, parse_selector

Command = Callable[..., Any]
_WHEN = "6h (ago), RFC 3339 or unix seconds."


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read a point in time, as milliseconds since the epoch."""
    if text is None:
        return None
    try:
        return parse_moment_ms(text, wall_ms())
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _selector(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Selector | None:
    if text is None:
        return None
    try:
        return parse_selector(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def place(command: Command) -> Command:
    """Add the flags that say where the journal is, as for `run`."""
    for option in (
        click.option("--storage.path", "path", metavar="DIR", help="Directory of the journal. [default: data]"),
        click.option("--config.file", "file", metavar="FILE", help="Configuration file of the agent (YAML)."),
    ):
        command = option(command)
    return command


def config_at(file: str | None, path: str | None, max_bytes: str | None = None) -> Config:
    """Read the configuration that these flags name. Raise ConfigError."""
    given = {name: value for name, value in (("path", path), ("max_bytes", max_bytes)) if value is not None}
    return read(file, {"storage": given} if given else None)


def window(command: Command) -> Command:
    """Add the flags that choose what is looked at."""
    for option in (
        click.option(
            "--match",
            "selector",
            metavar="SELECTOR",
            callback=_selector,
            help="Only series such as '{job=\"backup\"}'.",
        ),
        click.option("--until", "until_ms", metavar="WHEN", callback=moment, help=f"Arrived before: {_WHEN}"),
        click.option("--since", "since_ms", metavar="WHEN", callback=moment, help=f"Arrived then or later: {_WHEN}"),
    ):
        command = option(command)
    return command


@contextmanager
def told_faults() -> Iterator[None]:
    """What cannot be done for a setting's or the journal's sake: its reason on stderr, exit code 2."""
    try:
        yield
    except (ConfigError, PushRefusedError) as error:
        for line in str(error).splitlines():
            tell(line)
        sys.exit(2)


@contextmanager
def quiet_end() -> Iterator[None]:
    """Whoever read the output has seen enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def tell(words: str) -> None:
    """Tell on stderr."""
    click.echo(f"pushbridge: {words}", err=True)


def tell_reach(since_ms: int | None, begins_ms: int | None) -> None:
    """Say so when less is there than was asked for."""
    if since_ms is not None and begins_ms is not None and since_ms < begins_ms:
        tell(f"the journal begins at {time_text(begins_ms)}; what arrived before is gone (storage.retention)")
