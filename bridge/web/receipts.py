"""Receipts: what became of a push at each target, by its id, and answers that wait for it (design.md section 8).

Owns the id's form, the states and the JSON. What is known comes from the journal's history and the cursors.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from bridge.errors import JournalUnavailableError, PushRefusedError
from bridge.groups import key_of, labels_of_key
from bridge.ingress.terms import MAX_WAIT_S
from bridge.journal.committer import Committer
from bridge.journal.fates import Fate, fate_of
from bridge.journal.history import History, PushRows
from bridge.moments import time_text
from bridge.pipeline import Receipt
from bridge.web import responses
from bridge.web.responses import Answer

_log = structlog.get_logger(__name__)
_ID = re.compile(r"([0-9a-f]{8})-([0-9]{1,18})")
_DEFAULT_LIMIT, _MOST = 100, 1000
_MOST_STRETCHES = 2000
"""Of the journal, that a list by job looks through: a million rows."""
_AT_ONCE, _PAUSE_S = 20, 0.001
"""Pushes that are looked up before others have their turn, and for how long: commits wait for some turns each."""
_WAITED = {"refused": 502, "unknown": 202, "pending": 202, "delivered": 200}
"""State to the status of an answer that waited; the first one that any target is in decides."""
_UNKNOWN = {"state": "unknown"}


class Receipts:
    """Answers about pushes of one journal."""

    def __init__(self, committer: Committer, history: History, journal_id: str) -> None:
        """Ids begin with `journal_id`, so that those of another journal are not found."""
        self._committer = committer
        self._history = history
        self._journal_id = journal_id
        self._waits: set[asyncio.Timeout] = set()
        self._longest_wait_s = MAX_WAIT_S

    async def answer(self, status: int, receipt: Receipt, wait_s: float | None) -> Answer:
        """Answer an accepted push or DELETE, after delivery if it is to be waited for."""
        push_id = self._id(receipt.first_seq) if receipt.first_seq else ""
        headers: tuple[tuple[str, str], ...] = (("X-Push-Id", push_id),) if push_id else ()
        if receipt.replayed:
            headers = (*headers, ("Idempotency-Replayed", "true"))
        if wait_s is None:
            return Answer(status, headers=headers)
        await self._wait(receipt.last_seq, wait_s)
        states: dict[str, Fate] = {}
        if receipt.first_seq:
            try:
                push = self._history.push_at(receipt.first_seq)
                states = self._states(receipt.first_seq, receipt.last_seq, push.arrival_ms if push else 0)
            except JournalUnavailableError as error:
                # The push is on disk all the same, and its sender must not think otherwise.
                _log.error("receipt_unreadable", push=push_id, error=str(error))
                states = dict.fromkeys(self._committer.ledger.cursors, _UNKNOWN)
        document: dict[str, Any] = {"status": "success", "data": {"id": push_id, "targets": states}}
        status = self._status_of(states)
        if status == HTTPStatus.BAD_GATEWAY:
            document |= {"status": "error", "errorType": "refused", "error": _refusals(states)}
        body = json.dumps(document, ensure_ascii=False)
        return Answer(status, f"{body}\n".encode(), (*headers, ("Content-Type", "application/json")))

    def stop_waiting(self) -> None:
        """Let every answer that waits be given now, and none wait from here on: the agent ends."""
        self._longest_wait_s = 0.0
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0.0)

    async def _wait(self, seq: int, wait_s: float) -> None:
        """Return when every target has settled the rows up to `seq`, or when the time is up."""
        try:
            async with asyncio.timeout(min(wait_s, self._longest_wait_s)) as wait:
                self._waits.add(wait)
                for target in list(self._committer.ledger.cursors):
                    await self._committer.wait_for_cursor(target, seq)
        except TimeoutError:
            pass
        finally:
            self._waits.discard(wait)

    def _status_of(self, states: Mapping[str, Mapping[str, str]]) -> int:
        if not self._committer.ledger.cursors:
            # Without a target there is nobody to have it: that must not pass for proof.
            return HTTPStatus.ACCEPTED
        found = {state["state"] for state in states.values()}
        return next((status for state, status in _WAITED.items() if state in found), HTTPStatus.OK)

    async def show(self, push_id: str) -> web.Response:
        """Answer GET /api/v1/pushes/{id}."""
        match = _ID.fullmatch(push_id)
        try:
            push = self._history.push_at(int(match[2])) if match and match[1] == self._journal_id else None
            if push is None:
                words = f"push {push_id!r}: the journal does not have it, or no longer (storage.retention)"
                return responses.api_error(404, "not_found", words)
            return responses.api(self._json(push))
        except PushRefusedError as error:
            return responses.api_refusal(error)

    async def newest(self, query: str) -> web.Response:
        """Answer GET /api/v1/pushes: the newest pushes, of one job if it is named, before an id if one is given."""
        given = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := sorted(given.keys() - {"job", "limit", "before"}):
            return responses.api_error(400, "bad_data", f"unknown parameter {unknown[0]!r}: want job, limit or before")
        limit = given.get("limit", str(_DEFAULT_LIMIT))
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= _MOST):
            return responses.api_error(400, "bad_data", f"limit: got {limit!r}, want a number from 1 to {_MOST}")
        before = _ID.fullmatch(given["before"]) if "before" in given else None
        if "before" in given and (before is None or before[1] != self._journal_id):
            return responses.api_error(400, "bad_data", f"before: got {given['before']!r}, want the id of a push")
        try:
            found = await self._find(int(before[2]) if before else 1 << 62, given.get("job"), int(limit))
            return responses.api(found)
        except PushRefusedError as error:
            return responses.api_refusal(error)

    async def _find(self, before_seq: int, job: str | None, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        part = b"" if job is None else key_of((("job", job),))
        stretches = 0
        for push in self._history.pushes_before(before_seq, part):
            if push is not None and (job is None or dict(labels_of_key(push.group)).get("job") == job):
                found.append(self._json(push))
            stretches += push is None
            if len(found) == limit or stretches == _MOST_STRETCHES:
                break
            if push is None or len(found) % _AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_S)
        return found

    def _id(self, first_seq: int) -> str:
        return f"{self._journal_id}-{first_seq}"

    def _json(self, push: PushRows) -> dict[str, Any]:
        return {
            "id": self._id(push.first_seq),
            "time": time_text(push.arrival_ms),
            "method": push.operation,
            "labels": dict(labels_of_key(push.group)),
            "samples": push.samples,
            "targets": self._states(push.first_seq, push.last_seq, push.arrival_ms),
        }

    def _states(self, first_seq: int, last_seq: int, arrival_ms: int) -> dict[str, Fate]:
        cursors = self._committer.ledger.cursors
        return {target: self._state(target, first_seq, last_seq, arrival_ms) for target in cursors}

    def _state(self, target: str, first_seq: int, last_seq: int, arrival_ms: int) -> Fate:
        cursor = self._committer.ledger.cursors[target]
        known = [] if cursor.seq < last_seq else self._history.deliveries(target, first_seq, last_seq)
        return fate_of(cursor, known, (first_seq, last_seq), arrival_ms)


def _refusals(states: Mapping[str, Mapping[str, str]]) -> str:
    return "; ".join(
        f"{target} refused it for good ({state['reason']}): {state['words'] or 'no words'}"
        for target, state in states.items()
        if state["state"] == "refused"
    )
