"""`pushbridge import`: the groups of a running Pushgateway, pushed into an agent with their push times.

Owns the order of the two conversations and what is printed of them; which push a group becomes is `convert`.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import click

from bridge.durations import parse_duration_s
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME
from bridge.ingress.terms import TTL
from bridge.migration.convert import (
    PushTimes,
    SourceGroup,
    convert_group,
    grouping_labels,
    push_times,
    reason_to_leave,
)
from bridge.model import Labels
from bridge.peer import AwayError, Peer

_METRICS = "/api/v1/metrics"
_HELD = "/api/v1/groups"
"""Of the agent: its groups whose values have ended are here too, and must not come back by a second import."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_Key = frozenset[tuple[str, str]]


class _StoppedError(Exception):
    """A server that is away or answers something else than asked for; nothing more can be done."""


@dataclass(slots=True)
class _Count:
    """What became of the groups."""

    groups: int = 0
    pushed: int = 0
    series: int = 0
    left_alone: int = 0
    refused: int = 0
    incomplete: int = 0

    def summary(self, *, dry_run: bool) -> str:
        verb = "would import" if dry_run else "imported"
        return (
            f"{verb} {self.pushed} of {self.groups} groups with {self.series} series; "
            f"left alone: {self.left_alone}, refused: {self.refused}, incomplete: {self.incomplete}"
        )

    @property
    def exit_code(self) -> int:
        return 1 if self.refused or self.incomplete else 0


@dataclass(frozen=True, slots=True)
class _Import:
    """One run of the command."""

    source: Peer
    agent: Peer
    headers: Mapping[str, str]
    overwrite: bool
    dry_run: bool
    count: _Count = field(default_factory=_Count)

    def run(self) -> None:
        """Read both sides, then push group by group; raises _StoppedError."""
        groups = _read_groups(self.source, _METRICS, "the Pushgateway")
        found = sorted(groups, key=lambda group: push_times(group).success_s)
        held = {} if self.overwrite else _held(_read_groups(self.agent, _HELD, "the agent"))
        self.count.groups = len(found)
        with _progress(found, hidden=self.dry_run) as counted:
            for group in counted:
                self._take(group, held)

    def _take(self, document: Mapping[str, Any], held: Mapping[_Key, PushTimes]) -> None:
        try:
            group = convert_group(document)
        except ValueError as error:
            self.count.refused += 1
            _tell(f"refused: a group of the Pushgateway cannot be read: {error}")
            return
        shown = _spell(group.labels)
        reason = reason_to_leave(group.times, held.get(frozenset(group.labels)))
        if reason is not None:
            self.count.left_alone += 1
            click.echo(f"{shown}: left alone, {reason}", err=not self.dry_run)
            return
        if self.dry_run:
            click.echo(f"{shown}: would be pushed, {group.series} series, {_age(group.times, time.time())}")
        elif not self._push(group, shown):
            return
        self.count.pushed += 1
        self.count.series += group.series
        self.count.incomplete += bool(group.left_out)
        for words in group.left_out:
            _tell(f"{shown}: left out: {words}")

    def _push(self, group: SourceGroup, shown: str) -> bool:
        try:
            answer = self.agent.ask("PUT", f"/metrics/{group.path}", group.body, self.headers)
        except AwayError as error:
            raise _StoppedError(f"cannot push {shown} to {self.agent.shown}: {error}") from error
        if not answer.is_success:
            self.count.refused += 1
            _tell(f"{shown}: refused, the agent answered {answer.status}: {answer.words}")
        return answer.is_success


def _read_groups(peer: Peer, path: str, who: str) -> list[Mapping[str, Any]]:
    failed = f"cannot read {who} at {peer.shown}{path}"
    try:
        answer = peer.ask("GET", path)
    except AwayError as error:
        raise _StoppedError(f"{failed}: {error}") from error
    if not answer.is_success:
        raise _StoppedError(f"{failed}: it answered {answer.status}: {answer.words[:200]}")
    try:
        groups = json.loads(answer.body)["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise _StoppedError(f"{failed}: its answer is no list of groups in JSON") from error
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise _StoppedError(f"{failed}: its answer is no list of groups")
    return groups


def _held(groups: Iterable[Mapping[str, Any]]) -> dict[_Key, PushTimes]:
    held: dict[_Key, PushTimes] = {}
    for group in groups:
        if group.get("source", "push") == "push":
            with suppress(ValueError):
                held[frozenset(grouping_labels(group))] = PushTimes(
                    float(group.get(PUSH_TIME) or 0), float(group.get(PUSH_FAILURE_TIME) or 0)
                )
    return held


def _progress(groups: list[Mapping[str, Any]], *, hidden: bool) -> AbstractContextManager[Iterable[Mapping[str, Any]]]:
    if hidden or not sys.stdout.isatty():
        return nullcontext(groups)
    return click.progressbar(groups, label="importing")


def _tell(words: str) -> None:
    click.echo(f"pushbridge: {words}", err=True)


def _spell(labels: Labels) -> str:
    return "{" + ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels) + "}"


def _age(times: PushTimes, now_s: float) -> str:
    if not times.success_s:
        return "never pushed with success"
    left = max(0, int(now_s - times.success_s))
    parts: list[str] = []
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return f"pushed {''.join(parts[:2]) or '0s'} ago"


def _server(_context: click.Context, _parameter: click.Parameter, url: str) -> Peer:
    try:
        peer = Peer(url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not peer.shown.startswith(("http://", "https://")):
        raise click.BadParameter(f"got {peer.shown!r}, want a URL such as http://pushgateway:9091")
    return peer


def _ttl(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and text != "inf":
        try:
            parse_duration_s(text)
        except ValueError as error:
            raise click.BadParameter(f"{error}, or inf") from error
    return text


@click.command("import")
@click.option("--from", "source", required=True, metavar="URL", callback=_server, help="The Pushgateway.")
@click.option("--url", "agent", default="http://127.0.0.1:9091", show_default=True, callback=_server, help="The agent.")
@click.option("--ttl", metavar="D", callback=_ttl, help="How long the values stay visible from now: 25h, 0, inf.")
@click.option("--overwrite", is_flag=True, help="Replace groups too that the agent has with a push as new or newer.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and push nothing.")
def import_groups(source: Peer, agent: Peer, ttl: str | None, overwrite: bool, dry_run: bool) -> None:
    """Take over all groups of a running Pushgateway, with their push times.

    Run it as often as you like: groups that the agent has with a push as new or newer are left alone.
    A URL may hold user:password@. Exits 0 when all was done, 1 when something was refused, could not be
    carried over or was out of reach.
    """
    headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "X-Push-Import": "true"}
    if ttl is not None:
        headers[TTL] = ttl
    work = _Import(source, agent, headers, overwrite, dry_run)
    stopped = False
    try:
        work.run()
    except _StoppedError as error:
        _tell(str(error))
        stopped = True
    if work.count.groups or not stopped:
        click.echo(work.count.summary(dry_run=dry_run))
    sys.exit(1 if stopped else work.count.exit_code)
