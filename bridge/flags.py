"""Flags that `push` and `exec` share, checked before anything is sent or run: one line, exit code 2.

Owns what their texts must look like. Imports next to nothing of the agent, for cron jobs wait for it.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click

from bridge.durations import parse_ttl_ms
from bridge.model import Labels
from bridge.peer import Peer
from bridge.posting import grouping_labels

_SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python makes of arguments that are not UTF-8."""


class Checked(click.ParamType[object]):
    """A flag whose text has to pass a check that raises ValueError."""

    def __init__(self, name: str, check: Callable[[str], object]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Give what the check gives."""
        try:
            return self._check(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class OneLine(click.Command):
    """A command that tells a mistake in its flags in one line, as cron's mail has it; --help has the usage."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the flags."""
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            raise _Fault(error.format_message()) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _Fault(error.format_message()) from error


class _Fault(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the line."""
        click.echo(f"pushbridge: {' '.join(self.message.split())}", file=file, err=True)


def _ttl(text: str) -> str:
    parse_ttl_ms(text)
    return text


def _agent(text: str) -> Peer:
    peer = Peer(text)
    parts = urlsplit(peer.shown)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"want http://host:port, got {peer.shown!r}")
    _ = parts.port  # raises ValueError when it is none
    return peer


TTL, AGENT = Checked("ttl", _ttl), Checked("url", _agent)


def group(job: str, texts: tuple[str, ...]) -> Labels:
    """Labels of the group that --job and --label name; raises click's error for what can be none."""
    if not job:
        raise click.BadParameter("is empty", param_hint="--job")
    try:
        labels = grouping_labels(job, texts)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--label") from error
    seen: dict[str, str] = {}
    for name, value in labels:
        if not name:
            raise click.BadParameter(f"got '={value}', want NAME=VALUE", param_hint="--label")
        if name in seen:
            where = "is given twice, by --job too" if name == "job" else "is given twice"
            raise click.BadParameter(f"label {name} {where}: got {seen[name]!r} and {value!r}", param_hint="--label")
        if _SURROGATE.search(name + value):
            raise click.BadParameter(f"the value of {ascii(name)[1:-1]} is not UTF-8", param_hint="--label")
        seen[name] = value
    return labels
