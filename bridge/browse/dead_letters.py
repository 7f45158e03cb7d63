"""`pushbridge dead-letters`: what targets refused for good, looked at, sent again and deleted.

`list` and `show` read the journal file. `replay` and `purge` ask the running agent, for nobody else may write to its
journal, and it has the targets open already. Owns the commands, their exit codes and what is printed.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import click

from bridge.browse.letters import FEW_SAMPLES, letter_document, letter_text
from bridge.browse.options import Command, config_at, place, quiet_end, tell, told_faults, wall_ms
from bridge.config.file import Config
from bridge.durations import parse_duration_s
from bridge.errors import ConfigError
from bridge.journal.archive import Archive
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.rows import NEVER_MS, DeadLetter
from bridge.peer import AwayError, Peer

_API = "/api/v1/dead-letters"
_TIMEOUT_S = 300.0
_MOST_WORDS = 200
_MOST_REFUSALS = 5
_MOST_LEFT_OUT = 500
"""Tenants in a question; those of which it is longest known that nothing is taken are asked again if there are more."""
Parameters = list[tuple[str, str]]


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at what a target refused for good, send it again, or delete it.

    list and show work beside a running agent and without one; replay and purge need it (--url). Exits 2 when there is
    no journal, or no agent.
    """


def _form(command: Command) -> Command:
    return click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)(
        command
    )


def _agent(command: Command) -> Command:
    return click.option("--url", default="http://127.0.0.1:9091", show_default=True, help="The agent.")(command)


@dead_letters.command("list")
@place
@click.option("--target", metavar="T", help="Only those of this target.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Letters at the most.")
@click.option("--samples", is_flag=True, help=f"Show the series of those with more than {FEW_SAMPLES} samples too.")
@_form
def list_(*, file: str | None, path: str | None, target: str | None, limit: int, samples: bool, form: str) -> None:
    """List the newest dead letters: id, time, target, push, group, status and the target's own words.

    --format json is a line for each, as in GET /api/v1/dead-letters.
    """
    with told_faults(), quiet_end():
        config = config_at(file, path)
        with Archive(config.storage.path) as archive:
            if target is not None:
                _check_target(target, config, archive)
            found = _show(archive, LetterQuestion(target), limit, NEVER_MS if samples else FEW_SAMPLES, form)
            if found > limit:
                tell(f"there are more; these are the newest {limit} (--limit)")


@dead_letters.command()
@place
@click.argument("letter_id", metavar="ID", type=click.IntRange(min=1))
@_form
def show(*, file: str | None, path: str | None, letter_id: int, form: str) -> None:
    """Show one dead letter with all of its samples; exits 1 when it is not kept."""
    with told_faults(), quiet_end(), Archive(config_at(file, path).storage.path) as archive:
        if not _show(archive, LetterQuestion(ids=(letter_id,)), 1, NEVER_MS, form):
            tell(f"dead letter {letter_id} is not kept, or no longer (storage.dead_letter_retention)")
            sys.exit(1)


@dead_letters.command()
@_agent
@click.option("--target", metavar="T", help="Only those of this target.")
@click.option("--id", "ids", multiple=True, type=click.IntRange(min=1), metavar="ID", help="Only this; repeatable.")
@click.option("--dry-run", is_flag=True, help="Count what would be sent, and send nothing.")
def replay(*, url: str, target: str | None, ids: tuple[int, ...], dry_run: bool) -> None:
    """Send dead letters again to their target, with the times of then, oldest first.

    What the target takes leaves the dead letters; what it refuses stays, with its newest words. When it takes nothing
    of a tenant at the moment, the rest of that tenant is left out. Exits 0 when all was taken, 1 when something was
    refused, damaged or not sent.
    """
    chosen = _chosen(target, ids)
    if dry_run:
        with told_faults():
            counted = _ask(url, "POST", f"{_API}/replay", [*chosen, ("dry_run", "true")])
        click.echo(f"would send {counted['samples']:,} samples of {counted['letters']:,} dead letters")
        return
    tally = _Tally()
    with told_faults():
        after: int | None = 0
        while after is not None:
            parameters = [*chosen, *tally.left_out(), ("after", str(after))]
            after = tally.add(_ask(url, "POST", f"{_API}/replay", parameters))
    click.echo(tally.summary())
    for (status, words), samples in tally.refused.most_common(_MOST_REFUSALS):
        tell(f"refused ({samples:,}): {status} {' '.join(words.split())[:_MOST_WORDS]}")
    for tenant, words in sorted(tally.stopped.items()):
        whose = f"letters of tenant {tenant}" if tenant else "letters without tenant"
        # Where nobody has a tenant the word would only puzzle.
        what = "it" if list(tally.stopped) == [""] else whose
        tell(f"the target does not take {what} now: {words}; what was not sent stays")
    sys.exit(0 if tally.is_complete and _has_all(ids, tally.letters) else 1)


@dead_letters.command()
@_agent
@click.option("--target", metavar="T", help="Only those of this target.")
@click.option("--id", "ids", multiple=True, type=click.IntRange(min=1), metavar="ID", help="Only this; repeatable.")
@click.option("--older-than", "age", metavar="D", help="Only what was refused longer ago, for example 7d.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(*, url: str, target: str | None, ids: tuple[int, ...], age: str | None, yes: bool) -> None:
    """Delete dead letters; what they hold is lost. Totals stay as they are."""
    chosen = _chosen(target, ids)
    if age is not None:
        try:
            chosen.append(("until", f"{max(0.0, wall_ms() / 1000 - parse_duration_s(age)):.3f}"))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--older-than") from error
    with told_faults():
        counted = _ask(url, "DELETE", _API, chosen)
        if counted["letters"] and not yes:
            words = f"Delete {counted['letters']:,} dead letters with {counted['samples']:,} samples?"
            click.confirm(words, abort=True, err=True)
        deleted = _ask(url, "DELETE", _API, [*chosen, ("confirm", "true")])["deleted"] if counted["letters"] else 0
    click.echo(f"deleted {deleted:,} dead letters")
    # Of those that are named some may be younger than is asked for.
    if age is None and not _has_all(ids, deleted):
        sys.exit(1)


def _has_all(ids: tuple[int, ...], found: int) -> bool:
    """Whether there is a dead letter of every id that is named; tells when there is not."""
    if missing := max(0, len(set(ids)) - found):
        tell(f"{missing:,} of {len(set(ids)):,} dead letters are not kept, or no longer (or not of this target)")
    return not missing


@dataclass(slots=True)
class _Tally:
    """What a replay did, over all of its requests."""

    letters: int = 0
    taken: int = 0
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    damaged: int = 0
    stopped: dict[str, str] = field(default_factory=dict)
    """By tenant the reason why not all was sent."""

    def add(self, told: dict[str, Any]) -> int | None:
        """Count an answer; gives the letter to go on behind, None at the end."""
        self.letters += told["letters"]
        self.taken += told["taken"]
        for one in told["refused"]:
            self.refused[one["status"], one["words"]] += one["samples"]
        self.damaged += len(told["damaged"])
        for one in told["stopped"]:
            self.stopped[one["tenant"]] = one["words"]
        after: int | None = told["next"]
        return after

    def left_out(self) -> Parameters:
        """Whose letters are not to be tried again behind those that were not taken."""
        return [("without_tenant", tenant) for tenant in list(self.stopped)[-_MOST_LEFT_OUT:]]

    @property
    def is_complete(self) -> bool:
        return not self.refused and not self.damaged and not self.stopped

    def summary(self) -> str:
        parts = [f"sent {self.taken:,} samples of {self.letters:,} dead letters"]
        if self.refused:
            parts.append(f"{self.refused.total():,} refused again")
        if self.damaged:
            parts.append(f"{self.damaged:,} letters cannot be read")
        return "; ".join([parts[0], ", ".join(parts[1:])] if parts[1:] else parts)


def _check_target(name: str, config: Config, archive: Archive) -> None:
    """Refuse a target that neither the file nor the journal knows: a slip must not look as if all were well."""
    history = archive.history()
    try:
        known = {target for target, samples in history.dead_letters_kept().items() if samples}
    finally:
        history.close()
    known |= {target.target for target in config.remote_write} | {cursor.target for cursor in archive.cursors()}
    if name not in known:
        raise ConfigError(f"--target: no target is called {name!r}; there are: {', '.join(sorted(known)) or 'none'}")


def _show(archive: Archive, wanted: LetterQuestion, limit: int, bodies_up_to: int, form: str) -> int:
    """Print letters; gives how many there are, one more than `limit` at the most."""
    history = archive.history()
    try:
        letters = history.dead_letters(wanted, limit + 1, bodies_up_to=bodies_up_to)
        for letter in letters[:limit]:
            told: tuple[DeadLetter, Any, str] = letter, history.origin(letter.seq), archive.id
            click.echo(json.dumps(letter_document(*told), ensure_ascii=False) if form == "json" else letter_text(*told))
    finally:
        history.close()
    return len(letters)


def _chosen(target: str | None, ids: tuple[int, ...]) -> Parameters:
    if target is None and not ids:
        raise click.UsageError("name the letters: --target T, or --id ID for each")
    chosen = [("id", str(letter_id)) for letter_id in ids]
    return chosen if target is None else [("target", target), *chosen]


def _ask(url: str, method: str, path: str, parameters: Parameters) -> dict[str, Any]:
    """Ask the agent; gives the data of its answer. Raise ConfigError with its words."""
    try:
        peer = Peer(url)
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from error
    try:
        answer = peer.ask(method, f"{path}?{urlencode(parameters)}", timeout_s=_TIMEOUT_S)
    except AwayError as error:
        raise ConfigError(
            f"no agent answers at {peer.shown}: {error}; replay and purge go through the running agent, want --url"
        ) from error
    try:
        document = json.loads(answer.body)
        if answer.is_success:
            data: dict[str, Any] = document["data"]
            return data
        words = document["error"]
    except (ValueError, KeyError, TypeError):
        words = answer.words[:_MOST_WORDS]
    raise ConfigError(f"the agent at {peer.shown} answered {answer.status}: {words}")
