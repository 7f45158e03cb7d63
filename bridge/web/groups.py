"""/api/v1/groups: find groups by Prometheus' selectors, and end those found.

Owns the two answers and their query parameters. What a selector means is `bridge.selector`; how a group ends is
`bridge.pipeline`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from bridge.errors import PushRefusedError
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME, Group
from bridge.journal.committer import Committer
from bridge.journal.rows import NEVER_MS
from bridge.pipeline import can_end, end_matching
from bridge.selector import NAME, Selector, parse_selector
from bridge.web import responses
from bridge.wire.head import labels_of

_log = structlog.get_logger(__name__)
_MATCH, _CONFIRM = "match[]", "confirm"
_CONFIRM_VALUES = {"true": True, "false": False}
_MOST_PARAMETERS = 1000


@dataclass(frozen=True, slots=True)
class _Question:
    match: tuple[str, ...]
    selectors: tuple[Selector, ...]
    confirmed: bool

    def matches(self, group: Group) -> bool:
        """Tell whether one of the selectors matches."""
        labels = dict(group.id.labels)
        names = cache(lambda: _names(group))
        return any(selector.matches(labels, names) for selector in self.selectors)


async def find(committer: Committer, request: web.BaseRequest) -> web.Response:
    """Answer GET: the groups that one of the selectors matches, or all of them."""
    try:
        question = _read(request, {_MATCH})
    except ValueError as error:
        return responses.api_error(400, "bad_data", str(error))
    live = committer.groups.live()
    return responses.api([_json(group) for group in live if not question.selectors or question.matches(group)])


async def end(committer: Committer, request: web.BaseRequest) -> web.Response:
    """Answer DELETE: end the groups that one of the selectors matches, or without `confirm=true` only name them."""
    try:
        question = _read(request, {_MATCH, _CONFIRM})
    except ValueError as error:
        return responses.api_error(400, "bad_data", str(error))
    try:
        found = (
            await end_matching(question.matches, committer)
            if question.confirmed
            else [group for group in committer.groups.live() if can_end(group) and question.matches(group)]
        )
    except PushRefusedError as error:
        return responses.api_refusal(error)
    if question.confirmed:
        _log.info("groups_deleted", match=", ".join(question.match), groups=len(found))
    return responses.api(
        {
            "dry_run": not question.confirmed,
            "deleted": len(found) if question.confirmed else 0,
            "groups": [dict(group.id.labels) for group in found],
        }
    )


def _read(request: web.BaseRequest, known: set[str]) -> _Question:
    """Read the query; ValueError for a parameter that is not known: a slip in one must not widen what is deleted."""
    query = request.raw_path.partition("?")[2]
    if query.count("&") >= _MOST_PARAMETERS:
        raise ValueError(f"too many parameters: got {query.count('&') + 1}, want at most {_MOST_PARAMETERS}")
    try:
        parameters = parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"the query is not valid UTF-8 after percent-decoding: {error}") from error
    for name, _ in parameters:
        if name not in known:
            raise ValueError(f"unknown parameter {name!r}: want {' or '.join(sorted(known, reverse=True))}")
    match = tuple(value for name, value in parameters if name == _MATCH)
    if not match and _CONFIRM in known:
        raise ValueError('no match[] parameter provided: want for example match[]={job="backup"}')
    confirm = [value for name, value in parameters if name == _CONFIRM]
    if len(confirm) > 1 or not _CONFIRM_VALUES.keys() >= set(confirm):
        raise ValueError(f'invalid parameter "{_CONFIRM}": got {" and ".join(map(repr, confirm))}, want true or false')
    return _Question(match, tuple(map(_selector, match)), any(_CONFIRM_VALUES[value] for value in confirm))


def _selector(text: str) -> Selector:
    try:
        return parse_selector(text)
    except ValueError as error:
        raise ValueError(f'invalid parameter "{_MATCH}": {error}') from error


def _names(group: Group) -> set[str]:
    """Names of a group's series, as its receivers have them; its push times are series too."""
    return {
        PUSH_TIME,
        PUSH_FAILURE_TIME,
        *(dict(labels_of(head))[NAME] for part in group.parts for head in part.shape.heads),
    }


def _json(group: Group) -> dict[str, Any]:
    return {
        "labels": dict(group.id.labels),
        "source": group.id.source or "push",
        "push_time_seconds": group.push_ms / 1000,
        "push_failure_time_seconds": group.failure_ms / 1000,
        "last_push_successful": group.last_push_successful,
        "expires_seconds": None if group.expires_ms == NEVER_MS else group.expires_ms / 1000,
        "expired": group.expired,
        "series": sum(len(part.shape.heads) for part in group.parts),
        "families": sorted({family.name for part in group.parts for family in part.shape.families}),
    }
