"""The way of a push: decode, parse, resolve, encode, journal. Read this first.

Owns the order of the stages and the rule that a refused push is remembered in
`push_failure_time_seconds`. The stages know nothing of each other; HTTP stays in `bridge.web`.
"""

from dataclasses import dataclass

from bridge.errors import BadPushError, PushRefusedError
from bridge.exposition.formats import parse_body
from bridge.flatten import FlattenOptions, check_suffixes, flatten
from bridge.groups import Content, check_foreign, delete, key_of, refuse, store
from bridge.ingress.body import decode_body
from bridge.journal.committer import Committer, Staging
from bridge.model import Labels


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


async def accept(push: Push, committer: Committer, options: PushOptions, now_ms: int) -> int:
    """Take one push: when this returns it is on disk. Gives the number of samples it brought.

    Raises BadPushError, TooLargeError, UnsupportedEncodingError, JournalFullError or
    JournalUnavailableError; the group is then as it was, but for its failure time.
    """
    key = key_of(push.grouping)
    try:
        body = decode_body(push.body, push.content_encoding, options.max_body_bytes)
        families = parse_body(body, push.content_type, utf8_names=options.flatten.utf8_names)
        content = flatten(families, push.grouping, options.flatten, now_ms)
    except PushRefusedError:
        await committer.submit(lambda staging: staging.add(refuse(staging.group(key), staging.now_ms)))
        raise
    refusal = await committer.submit(lambda staging: _stage(staging, key, content, replace_all=push.replace_all))
    if refusal is not None:
        raise refusal
    return len(content.values)


def _stage(staging: Staging, key: bytes, content: Content, *, replace_all: bool) -> BadPushError | None:
    group = staging.group(key)
    try:
        change = store(group, content, staging.now_ms, replace_all=replace_all)
        if len(change.group.parts) > 1:
            check_suffixes({f.name: f.type for part in change.group.parts for f in part.shape.families})
        check_foreign(group, content, staging.committed, staging.groups)
    except BadPushError as error:
        staging.add(refuse(group, staging.now_ms))
        return error
    staging.add(change)
    return None


async def end_group(grouping: Labels, committer: Committer) -> None:
    """Take a DELETE: the group's series end; an unknown group is no error (protocol.md section 5.5)."""
    key = key_of(grouping)
    await committer.submit(lambda staging: _end(staging, key))


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
