"""The way of a push: decode, parse, resolve, encode, journal. Read this first.

Owns the order of the stages and the rule that a refused push is remembered in
`push_failure_time_seconds`. The stages know nothing of each other; HTTP stays in `bridge.web`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ParamSpec, TypeVar

from bridge.errors import BadPushError, JournalFullError, JournalUnavailableError, PushRefusedError
from bridge.exposition.formats import format_of, parse_body
from bridge.exposition.template import make_template
from bridge.flatten import FlattenOptions, check_suffixes, flatten
from bridge.groups import EMPTY, Content, Group, check_foreign, delete, key_of, refuse, repeat, store
from bridge.ingress.body import decode_body
from bridge.journal.committer import Committer, Staging
from bridge.model import Labels, MetricType

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LONG_BYTES = 1 << 17
_key_of = lru_cache(1 << 14)(key_of)


@dataclass(frozen=True, slots=True)
class Push:
    """One request as it came, with its grouping labels read."""

    grouping: Labels
    replace_all: bool
    """PUT replaces the group, POST the families that it brings."""
    body: bytes
    content_type: str = ""
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The settings of `push:`."""

    flatten: FlattenOptions
    max_body_bytes: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an accepted push was."""

    series: int
    type_conflicts: tuple[tuple[str, MetricType, MetricType], ...] = ()
    """(family, its type here, its type in some other group): told, not refused."""


async def accept(push: Push, committer: Committer, options: PushOptions, now_ms: int) -> Receipt:
    """Take one push: when this returns it is on disk.

    Raises BadPushError, TooLargeError, UnsupportedEncodingError, JournalFullError or
    JournalUnavailableError; the group is then as it was, but for its failure time.
    """
    key = _key_of(push.grouping)
    conflicts: tuple[tuple[str, MetricType, MetricType], ...] = ()
    try:
        body = await _beside(len(push.body), decode_body, push.body, push.content_encoding, options.max_body_bytes)
        content = repeat(committer.groups.get(key).parts, body, format_of(push.content_type))
        if content is None:
            content = await _beside(len(body), _parse, body, push, options.flatten, now_ms)
            conflicts = tuple(committer.groups.type_conflicts(content))
    except PushRefusedError:
        # What is wrong with the push is worth more to its sender than that the disk is full as well.
        with suppress(JournalFullError, JournalUnavailableError):
            await committer.submit(lambda staging: _note_refusal(staging, key))
        raise
    refusal = await committer.submit(lambda staging: _stage(staging, key, content, replace_all=push.replace_all))
    if refusal is not None:
        raise refusal
    return Receipt(len(content), conflicts)


async def _beside(size_bytes: int, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Do what is short here and what is long in a thread, so that other pushes get their answers meanwhile."""
    if size_bytes < _LONG_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _parse(body: bytes, push: Push, options: FlattenOptions, now_ms: int) -> Content:
    families = parse_body(body, push.content_type, utf8_names=options.utf8_names)
    content = flatten(families, push.grouping, options, now_ms)
    format_ = format_of(push.content_type)
    if format_ == "protobuf" or len(content) != sum(len(family.samples) for family in families):
        return content
    return replace(content, shape=replace(content.shape, template=make_template(body, format_, families)))


def _stage(staging: Staging, key: bytes, content: Content, *, replace_all: bool) -> BadPushError | None:
    group = staging.group(key)
    try:
        change = store(group, content, staging.now_ms, replace_all=replace_all)
        if len(change.group.parts) > 1:
            check_suffixes({f.name: f.type for part in change.group.parts for f in part.shape.families})
        check_foreign(group, content, staging.committed, staging.groups)
    except BadPushError as error:
        _note_refusal(staging, key)
        return error
    staging.add(change)
    return None


def _note_refusal(staging: Staging, key: bytes) -> None:
    group = staging.group(key)
    try:
        check_foreign(group, EMPTY, staging.committed, staging.groups)
    except BadPushError:
        # The failure time of this group would be written into that of the other one.
        return
    staging.add(refuse(group, staging.now_ms))


async def end_group(grouping: Labels, committer: Committer) -> None:
    """Take a DELETE: the group's series end; an unknown group is no error (protocol.md section 5.5)."""
    key = key_of(grouping)
    await committer.submit(lambda staging: _end(staging, key))


async def end_matching(matches: Callable[[Group], bool], committer: Committer) -> list[Group]:
    """Take a DELETE of every group that matches, in one transaction; gives the groups as they were.

    Which groups those are is decided in that transaction, so nothing changes between the choice and the end.
    """

    def operation(staging: Staging) -> list[Group]:
        keys = dict.fromkeys((*(group.id.key for group in staging.committed.live()), *staging.groups))
        found = [group for key in keys if (group := staging.group(key)).live and matches(group)]
        for group in found:
            _end(staging, group.id.key)
        return found

    ended: list[Group] = await committer.submit(operation)
    return ended


async def end_all(committer: Committer) -> None:
    """Take a wipe: every group ends."""

    def operation(staging: Staging) -> None:
        for group in list(staging.committed.live()):
            _end(staging, group.id.key)

    await committer.submit(operation)


def _end(staging: Staging, key: bytes) -> None:
    group = staging.group(key)
    if group.live:
        staging.add(delete(group, staging.now_ms))
