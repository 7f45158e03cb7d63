"""Receipts: what became of a push at each target, by its id, and answers that wait for it (design.md section 8).

Owns the id's form, the states and the JSON. What is known comes from the journal's history and the cursors.
"""

import asyncio
import json
import re
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from bridge.errors import PushRefusedError
from bridge.groups import labels_of_key
from bridge.journal.committer import Committer
from bridge.journal.history import History, PushRows
from bridge.pipeline import Receipt
from bridge.web import responses
from bridge.web.responses import Answer

_ID = re.compile(r"([0-9a-f]{8})-([0-9]{1,18})")
_DEFAULT_LIMIT, _MOST = 100, 1000
_MOST_LOOKED_AT = 100_000
"""Pushes that a list by job looks through at the most."""
_WAITED = {"delivered": 200, "pending": 202, "unknown": 202, "refused": 502}
"""State to the status of an answer that waited; the last one that any target is in decides."""


class Receipts:
    """Answers about pushes of one journal."""

    def __init__(self, committer: Committer, history: History, journal_id: str) -> None:
        """Ids begin with `journal_id`, so that those of another journal are not found."""
        self._committer = committer
        self._history = history
        self._journal_id = journal_id

    async def answer(self, status: int, receipt: Receipt, wait_s: float | None) -> Answer:
        """Answer an accepted push or DELETE, after delivery if it is to be waited for."""
        headers: tuple[tuple[str, str], ...] = ()
        if receipt.first_seq:
            headers = (("X-Push-Id", self._id(receipt.first_seq)),)
        if receipt.replayed:
            headers = (*headers, ("Idempotency-Replayed", "true"))
        if wait_s is None or not receipt.first_seq:
            return Answer(status, headers=headers)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                for target in list(self._committer.ledger.cursors):
                    await self._committer.wait_for_cursor(target, receipt.last_seq)
        states = self._states(receipt.first_seq, receipt.last_seq)
        status = next(
            (code for state, code in reversed(_WAITED.items()) if any(s["state"] == state for s in states.values())),
            200,
        )
        body = json.dumps({"status": "success", "data": {"id": self._id(receipt.first_seq), "targets": states}})
        return Answer(status, f"{body}\n".encode(), (*headers, ("Content-Type", "application/json")))

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

    async def list(self, query: str) -> web.Response:
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
            # Closed at once: an open reader would keep the WAL from being reset.
            with closing(self._history.pushes_before(int(before[2]) if before else 1 << 62)) as pushes:
                looked_at = islice(pushes, _MOST_LOOKED_AT)
                found = list(islice((push for push in looked_at if _is_of(push, given.get("job"))), int(limit)))
            return responses.api([self._json(push) for push in found])
        except PushRefusedError as error:
            return responses.api_refusal(error)

    def _id(self, first_seq: int) -> str:
        return f"{self._journal_id}-{first_seq}"

    def _json(self, push: PushRows) -> dict[str, Any]:
        return {
            "id": self._id(push.first_seq),
            "time": _time(push.arrival_ms),
            "method": push.operation,
            "labels": dict(labels_of_key(push.group)),
            "samples": push.samples,
            "targets": self._states(push.first_seq, push.last_seq),
        }

    def _states(self, first_seq: int, last_seq: int) -> dict[str, dict[str, str]]:
        return {target: self._state(target, first_seq, last_seq) for target in self._committer.ledger.cursors}

    def _state(self, target: str, first_seq: int, last_seq: int) -> dict[str, str]:
        if self._committer.ledger.cursors[target].seq < last_seq:
            return {"state": "pending"}
        known = self._history.deliveries(target, first_seq, last_seq)
        for row in known:
            if row.reason:
                return {"state": "refused", "at": _time(row.at_ms), "reason": row.reason, "words": row.words}
        if not known or known[-1].first_seq > first_seq:
            # Before the target was added, dropped when the journal was full, or longer ago than is remembered.
            return {"state": "unknown"}
        return {"state": "delivered", "at": _time(max(row.at_ms for row in known))}


def _is_of(push: PushRows, job: str | None) -> bool:
    return job is None or dict(labels_of_key(push.group)).get("job") == job


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
