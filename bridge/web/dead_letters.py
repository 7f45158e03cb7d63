"""/api/v1/dead-letters: what targets refused for good, looked at, sent again and deleted.

Owns the queries and the JSON. How letters are sent again is `bridge.delivery.resend`, how one is read
`bridge.browse.letters`. No answer changes the account: what was refused once stays counted as that.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from bridge.browse.letters import FEW_SAMPLES, letter_document
from bridge.delivery.resend import Resent
from bridge.errors import PushRefusedError
from bridge.journal.committer import Committer
from bridge.journal.history import History, Origin
from bridge.journal.letter_table import LetterQuestion
from bridge.journal.rows import NEVER_MS, DeadLetter
from bridge.moments import parse_moment_ms
from bridge.web import responses

_log = structlog.get_logger(__name__)
_DEFAULT_LIMIT, _MOST = 100, 1000
_MOST_SAMPLES = 50_000
"""In one answer, or sent again in one request: whoever wants more asks for the next ones."""
_MOST_TENANTS = 50
"""To which letters are sent at the same time, in one request."""
_AT_ONCE, _PAUSE_S = 20, 0.001
"""Letters that are read before others have their turn."""
_MOST_PARAMETERS = 1000
_MOST_ID = 1 << 62
_BOOLEANS = {"true": True, "false": False}
_CHOOSING = ("target", "id", "before", "until")
_SEVERAL = ("id", "without_tenant")
"""Parameters that may be there several times."""

SendAgain = Callable[[str, Sequence[DeadLetter]], Coroutine[None, None, Resent | None]]


class DeadLetters:
    """Answers about the dead letters of one journal."""

    def __init__(
        self,
        committer: Committer,
        history: History,
        journal_id: str,
        now_ms: Callable[[], int],
        send_again: SendAgain,
    ) -> None:
        """`send_again` gives None for a target that is not configured."""
        self._committer = committer
        self._history = history
        self._journal_id = journal_id
        self._now_ms = now_ms
        self._send_again = send_again
        self._sending = asyncio.Lock()

    async def newest(self, query: str) -> web.Response:
        """Answer GET /api/v1/dead-letters: the newest ones, the series of small ones with them."""
        try:
            given = _Query(query, ("target", "limit", "before", "samples"))
            wanted = LetterQuestion(given.one("target"), before_id=given.number("before", _MOST_ID, _MOST_ID))
            limit, samples = given.number("limit", _DEFAULT_LIMIT, _MOST), given.boolean("samples")
        except ValueError as error:
            return responses.api_error(400, "bad_data", str(error))
        try:
            letters = self._history.dead_letters(wanted, limit, bodies_up_to=NEVER_MS if samples else FEW_SAMPLES)
            return responses.api(await self._documents(letters, bounded=samples))
        except PushRefusedError as error:
            return responses.api_refusal(error)

    async def show(self, letter_id: str) -> web.Response:
        """Answer GET /api/v1/dead-letters/<id>."""
        known = letter_id.isascii() and letter_id.isdigit() and len(letter_id) < len(str(_MOST_ID))
        try:
            wanted = LetterQuestion(ids=(int(letter_id),) if known else ())
            documents = await self._documents(self._history.dead_letters(wanted, 1))
        except PushRefusedError as error:
            return responses.api_refusal(error)
        if not documents:
            words = f"dead letter {letter_id!r} is not kept, or no longer (storage.dead_letter_retention)"
            return responses.api_error(404, "not_found", words)
        return responses.api(documents[0])

    async def delete(self, query: str) -> web.Response:
        """Answer DELETE /api/v1/dead-letters: forget those that are meant, or without `confirm=true` count them."""
        try:
            given = _Query(query, (*_CHOOSING, "confirm"))
            wanted, confirmed = self._choice(given), given.boolean("confirm")
        except ValueError as error:
            return responses.api_error(400, "bad_data", str(error))
        try:
            if self._is_nobody(wanted.target):
                return self._no_target(wanted.target)
            letters, samples = self._history.measure_letters(wanted)
            deleted = await self._committer.delete_letters(wanted) if confirmed else 0
        except PushRefusedError as error:
            return responses.api_refusal(error)
        if confirmed:
            _log.info("dead_letters_deleted", target=wanted.target, letters=deleted)
        return responses.api({"dry_run": not confirmed, "deleted": deleted, "letters": letters, "samples": samples})

    async def replay(self, query: str) -> web.Response:
        """Answer POST /api/v1/dead-letters/replay: send the oldest of those that are meant again, behind an id."""
        try:
            given = _Query(query, (*_CHOOSING, "without_tenant", "after", "limit", "dry_run"))
            wanted = self._choice(given)
            limit, dry_run = given.number("limit", _MOST, _MOST), given.boolean("dry_run")
        except ValueError as error:
            return responses.api_error(400, "bad_data", str(error))
        try:
            if dry_run:
                if self._is_nobody(wanted.target):
                    return self._no_target(wanted.target)
                letters, samples = self._history.measure_letters(wanted)
                return responses.api({"dry_run": True, "letters": letters, "samples": samples})
            # One after the other: what two requests sent at a time would arrive twice.
            async with self._sending:
                return await self._replay(wanted.target, self._history.oldest_letters(wanted, limit), limit)
        except PushRefusedError as error:
            return responses.api_refusal(error)

    async def _replay(self, target: str | None, letters: list[DeadLetter], limit: int) -> web.Response:
        more = len(letters) == limit
        targets = sorted({letter.target for letter in letters})
        if len(targets) > 1:
            words = f"these letters are of {len(targets)} targets: send those of one at a time, with target=T"
            return responses.api_error(400, "bad_data", words)
        if not letters:
            if target is not None and await self._send_again(target, []) is None:
                return self._no_target(target)
            return responses.api(_told(Resent(), 0, None))
        few = _up_to(letters, _MOST_SAMPLES, _MOST_TENANTS)
        more = more or len(few) < len(letters)
        resent = await self._send_again(targets[0], few)
        if resent is None:
            return self._no_target(targets[0])
        await self._committer.settle_letters(resent.taken, resent.left)
        return responses.api(_told(resent, len(few), few[-1].id if more else None))

    def _is_nobody(self, target: str | None) -> bool:
        """Whether no target has this name and no letter is of it: a slip must not look as if all were well."""
        if target is None or target in self._committer.ledger.cursors:
            return False
        return not self._history.dead_letters_kept().get(target)

    def _no_target(self, name: str | None) -> web.Response:
        names = ", ".join(sorted(self._committer.ledger.cursors)) or "none"
        return responses.api_error(404, "not_found", f"no remote_write target is called {name!r}; there are: {names}")

    def _choice(self, given: "_Query") -> LetterQuestion:
        """Read which letters are meant; a target or ids have to be named, so that a slip does not mean all."""
        target, ids = given.one("target"), given.numbers("id")
        if target is None and not ids:
            raise ValueError("no target and no id: want target=NAME, or id=ID for each letter")
        until = given.one("until")
        try:
            before_ms = NEVER_MS if until is None else parse_moment_ms(until, self._now_ms())
        except ValueError as error:
            raise ValueError(f"until: {error}") from error
        return LetterQuestion(
            target,
            ids or None,
            given.number("after", 0, _MOST_ID, least=0),
            given.number("before", _MOST_ID, _MOST_ID),
            before_ms,
            given.all("without_tenant"),
        )

    async def _documents(self, letters: list[DeadLetter], *, bounded: bool = False) -> list[dict[str, Any]]:
        documents: list[dict[str, Any]] = []
        origins: dict[int, Origin | None] = {}
        for number, letter in enumerate(_up_to(letters, _MOST_SAMPLES) if bounded else letters):
            if letter.seq not in origins:
                origins[letter.seq] = self._history.origin(letter.seq)
            documents.append(letter_document(letter, origins[letter.seq], self._journal_id))
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(_PAUSE_S)
        return documents


def _up_to(letters: list[DeadLetter], most_samples: int, most_tenants: int = _MOST) -> list[DeadLetter]:
    """Give the first letters that have so many samples and tenants together, one at least."""
    samples, tenants = 0, set[str]()
    for number, letter in enumerate(letters):
        samples += letter.samples
        tenants.add(letter.tenant)
        if number and (samples > most_samples or len(tenants) > most_tenants):
            return letters[:number]
    return letters


def _told(resent: Resent, letters: int, last_id: int | None) -> dict[str, Any]:
    return {
        "dry_run": False,
        "letters": letters,
        "taken": resent.samples,
        "refused": [
            {"status": status, "words": words, "samples": samples}
            for (status, words), samples in resent.refused.most_common()
        ],
        "damaged": resent.damaged,
        "stopped": [{"tenant": tenant, "words": words} for tenant, words in sorted(resent.stopped.items())],
        "next": last_id,
    }


class _Query:
    """A query whose parameters are all known: a slip in one must not widen what is meant."""

    def __init__(self, query: str, known: Sequence[str]) -> None:
        """Read it; ValueError for what is not known."""
        if query.count("&") >= _MOST_PARAMETERS:
            raise ValueError(f"too many parameters: got {query.count('&') + 1}, want at most {_MOST_PARAMETERS}")
        try:
            self._pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError as error:
            raise ValueError(f"the query is not valid UTF-8 after percent-decoding: {error}") from error
        for name, _ in self._pairs:
            if name not in known:
                raise ValueError(f"unknown parameter {name!r}: want {', '.join(known[:-1])} or {known[-1]}")
            if name not in _SEVERAL:
                self.one(name)

    def one(self, name: str) -> str | None:
        """Give the value of a parameter that may be there once."""
        values = self.all(name)
        if len(values) > 1:
            raise ValueError(f"{name}: got {' and '.join(map(repr, values))}, want one value")
        return values[0] if values else None

    def number(self, name: str, default: int, most: int, least: int = 1) -> int:
        """Give a number."""
        text = self.one(name)
        return default if text is None else _number(name, text, most, least)

    def all(self, name: str) -> tuple[str, ...]:
        """Give every value of a parameter."""
        return tuple(value for other, value in self._pairs if other == name)

    def numbers(self, name: str) -> tuple[int, ...]:
        """Give every number of a parameter."""
        return tuple(_number(name, value, _MOST_ID, 1) for value in self.all(name))

    def boolean(self, name: str) -> bool:
        """Give true or false, which is the default."""
        text = self.one(name)
        if text is not None and text not in _BOOLEANS:
            raise ValueError(f"{name}: got {text!r}, want true or false")
        return text is not None and _BOOLEANS[text]


def _number(name: str, text: str, most: int, least: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < len(str(_MOST_ID)) and least <= int(text) <= most:
        return int(text)
    want = f"a number from {least} to {most}" if most < _MOST_ID else "the id of a dead letter"
    raise ValueError(f"{name}: got {text[:40]!r}, want {want}")
