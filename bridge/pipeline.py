"""The way of a push: decode, parse, resolve, encode, journal. Read this first.

Owns the order of the stages and the rule that a refused push is remembered in
`push_failure_time_seconds`. The stages know nothing of each other; HTTP stays in `bridge.web`.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from typing import ParamSpec, TypeVar

from bridge.content import EMPTY, Content, repeat
from bridge.errors import BadPushError, JournalFullError, JournalUnavailableError, KeyReusedError, PushRefusedError
from bridge.exposition.formats import format_of, parse_body
from bridge.exposition.template import make_template
from bridge.flatten import FlattenOptions, check_suffixes, flatten
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME, Change, Group, delete, key_of, refuse, store
from bridge.ingress.body import decode_body
from bridge.ingress.terms import IMPORT, NO_TERMS, Terms
from bridge.journal.committer import KEY_LIFE_MS, Committer
from bridge.journal.rows import NEVER_MS, KeyRow
from bridge.journal.staging import Staging
from bridge.model import Labels, MetricType
from bridge.registry import check_foreign
from bridge.wire.head import labels_of

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LONG_BYTES = 1 << 17
_DIGEST_BYTES = 16
_SECOND_MS = 1000
_key_of = lru_cache(1 << 14)(key_of)


@dataclass(frozen=True, slots=True)
class Push:
    """One request as it came, with its grouping labels and terms read."""

    grouping: Labels
    replace_all: bool
    """PUT replaces the group, POST the families that it brings."""
    body: bytes
    content_type: str = ""
    content_encoding: str = ""
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The settings of `push:` and the rules."""

    flatten: FlattenOptions
    max_body_bytes: int
    ttl_ms: Callable[[Labels], int] = lambda _: NEVER_MS
    """How long a group holds what a push without a TTL of its own brings."""
    tenant: Callable[[Labels], str] = lambda _: ""
    """Whose samples a group's are; ValueError when its labels make none that receivers take."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an accepted push stands in the journal, and what it was."""

    first_seq: int
    """0 when there was nothing to journal."""
    last_seq: int
    series: int = 0
    type_conflicts: tuple[tuple[str, MetricType, MetricType], ...] = ()
    """(family, its type here, its type in some other group): told, not refused."""
    replayed: bool = False
    """Whether this is the receipt of an earlier push with the same idempotency key."""


@dataclass(frozen=True, slots=True)
class Order:
    """How a content is stored."""

    replace_all: bool
    ttl_ms: int
    times: Mapping[str, int] = field(default_factory=dict)
    """Push and failure time in ms that an import brings along, by the names of their gauges."""
    at_ms: int | None = None
    """When it took place, None for now; what was sent for its group is older in any case."""


async def accept(push: Push, committer: Committer, options: PushOptions, now_ms: int) -> Receipt:
    """Take one push: when this returns it is on disk.

    Raises BadPushError, TooLargeError, UnsupportedEncodingError, KeyReusedError, JournalFullError or
    JournalUnavailableError; the group is then as it was, but for its failure time.
    """
    # Before all else: not even that it was refused may go to a tenant that is not the group's.
    check_tenant(push.grouping, options)
    key, terms = _key_of(push.grouping), push.terms
    _check_new_group(committer.groups.get(key), options)
    conflicts: tuple[tuple[str, MetricType, MetricType], ...] = ()
    try:
        body = await _beside(len(push.body), decode_body, push.body, push.content_encoding, options.max_body_bytes)
        content = repeat(committer.groups.get(key).parts, body, format_of(push.content_type))
        # The form was taken before, but limits may have changed since.
        if content is None or len(content) > options.flatten.max_series:
            content = await _beside(len(body), parse, body, push, options.flatten, now_ms)
            conflicts = tuple(committer.groups.type_conflicts(content))
        times = await _beside(len(body), _own_times, body, push, now_ms) if terms.imported else {}
    except PushRefusedError:
        # What is wrong with the push is worth more to its sender than that the disk is full as well.
        with suppress(JournalFullError, JournalUnavailableError):
            await committer.submit(lambda staging: note_refusal(staging, key))
        raise
    ttl_ms = options.ttl_ms(push.grouping) if terms.ttl_ms is None else terms.ttl_ms
    order = Order(push.replace_all, ttl_ms, times)

    digest = b""
    if terms.key:
        digest = await _beside(len(body), fingerprint, b"put" if push.replace_all else b"post", body)

    def operation(staging: Staging) -> Receipt | PushRefusedError:
        return once(staging, key, terms.key, digest, lambda: stage(staging, key, content, order))

    receipt = _accepted(await committer.submit(operation))
    return Receipt(receipt.first_seq, receipt.last_seq, len(content), conflicts, receipt.replayed)


async def _beside(size_bytes: int, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Do what is short here and what is long in a thread, so that other pushes get their answers meanwhile."""
    if size_bytes < _LONG_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _check_new_group(group: Group, options: PushOptions) -> None:
    """Refuse a group whose own gauges would be over a limit, as its series would; raises BadPushError."""
    if not group.live:
        for head in group.id.gauge_heads:
            options.flatten.limits.check(head, len(labels_of(head)))


def check_tenant(grouping: Labels, options: PushOptions) -> None:
    """Refuse a group whose labels make a tenant that receivers do not take; raises BadPushError."""
    try:
        options.tenant(grouping)
    except ValueError as error:
        raise BadPushError("tenant", str(error)) from error


def parse(body: bytes, push: Push, options: FlattenOptions, now_ms: int) -> Content:
    """Read a decoded body; raises BadPushError or TooLargeError."""
    families = parse_body(body, push.content_type, utf8_names=options.utf8_names)
    content = flatten(families, push.grouping, options, now_ms)
    format_ = format_of(push.content_type)
    if format_ == "protobuf" or len(content) != sum(len(family.samples) for family in families):
        return content
    return replace(content, shape=replace(content.shape, template=make_template(body, format_, families)))


def _own_times(body: bytes, push: Push, now_ms: int) -> dict[str, int]:
    """Push time and failure time in ms that an imported body gives for its group, 0 for never."""
    found: dict[str, int] = {}
    for family in parse_body(body, push.content_type, utf8_names=True):
        if family.name in (PUSH_TIME, PUSH_FAILURE_TIME) and family.samples:
            value = family.samples[0].value
            # Rounded before it is compared: as seconds the present millisecond may come out later than itself.
            if not (isfinite(value) and value >= 0 and round(value * _SECOND_MS) <= now_ms):
                want = "seconds since 1970 that are not in the future"
                raise BadPushError("terms", f"{IMPORT}: {family.name}: got {value!r}, want {want}")
            found[family.name] = round(value * _SECOND_MS)
    return found


def stage(staging: Staging, key: bytes, content: Content, order: Order) -> BadPushError | None:
    """Stage a push, or the note that it was refused and why."""
    try:
        apply(staging, key, content, order)
    except BadPushError as error:
        note_refusal(staging, key)
        return error
    return None


def apply(staging: Staging, key: bytes, content: Content, order: Order) -> Change:
    """Stage what a content does to its group; raises BadPushError before anything is staged."""
    group = staging.group(key)
    now_ms = staging.now_for(group, order.at_ms)
    change = store(group, content, now_ms, replace_all=order.replace_all, ttl_ms=order.ttl_ms)
    if len(change.group.parts) > 1:
        check_suffixes({f.name: f.type for part in change.group.parts for f in part.shape.families})
    check_foreign(group, content, staging.committed, staging.groups)
    if order.times:
        after = change.group
        push_ms = order.times.get(PUSH_TIME, after.push_ms)
        failure_ms = order.times.get(PUSH_FAILURE_TIME, after.failure_ms)
        change = replace(change, group=replace(after, push_ms=push_ms, failure_ms=failure_ms))
    staging.add(change)
    return change


def once(
    staging: Staging,
    key: bytes,
    idempotency_key: str,
    digest: bytes,
    stage: Callable[[], BadPushError | None],
) -> Receipt | PushRefusedError:
    """Stage something, or give the receipt of the first time that it came with this key (design.md section 8).

    `digest` tells one push from another. Gives a KeyReusedError for a key that came with another one. That is no
    failure of the group: what the key stands for was taken. It is given and not raised, because like any result
    it counts once the transaction is on disk: the other push may be a part of it.
    """
    if idempotency_key:
        known = staging.find_key(key, idempotency_key)
        if known is not None and staging.now_ms - known.at_ms < KEY_LIFE_MS:
            if known.digest == digest:
                return Receipt(known.first_seq, known.last_seq, replayed=True)
            return KeyReusedError(
                "key_reused",
                f"Idempotency-Key {idempotency_key!r}: it came with another push to this group within 24 hours; "
                "give each push a key of its own",
            )
    first_seq = staging.next_seq
    refusal = stage()
    if refusal is not None:
        return refusal
    receipt = Receipt(first_seq, staging.next_seq - 1) if staging.next_seq > first_seq else Receipt(0, 0)
    if idempotency_key:
        staging.add_key(KeyRow(key, idempotency_key, digest, receipt.first_seq, receipt.last_seq, staging.now_ms))
    return receipt


def fingerprint(method: bytes, body: bytes = b"") -> bytes:
    """Identity of a push within its group: the method and what the body is when it is decoded."""
    return blake2b(body, digest_size=_DIGEST_BYTES, person=method).digest()


def _accepted(outcome: Receipt | PushRefusedError) -> Receipt:
    if isinstance(outcome, PushRefusedError):
        raise outcome
    return outcome


def note_refusal(staging: Staging, key: bytes) -> None:
    """Stage the failure time of a group whose push was refused."""
    group = staging.group(key)
    try:
        check_foreign(group, EMPTY, staging.committed, staging.groups)
    except BadPushError:
        # The failure time of this group would be written into that of the other one.
        return
    staging.add(refuse(group, staging.now_for(group)))


async def end_group(grouping: Labels, committer: Committer, terms: Terms = NO_TERMS) -> Receipt:
    """Take a DELETE: the group's series end; an unknown group is no error (protocol.md section 5.5)."""
    key, digest = key_of(grouping), fingerprint(b"delete") if terms.key else b""

    def operation(staging: Staging) -> Receipt | PushRefusedError:
        return once(staging, key, terms.key, digest, lambda: _end(staging, key))

    return _accepted(await committer.submit(operation))


async def end_matching(matches: Callable[[Group], bool], committer: Committer) -> list[Group]:
    """Take a DELETE of every group that matches, in one transaction; gives the groups as they were.

    Which groups those are is decided in that transaction, so nothing changes between the choice and the end.
    """

    def operation(staging: Staging) -> list[Group]:
        keys = dict.fromkeys((*(group.id.key for group in staging.committed.live()), *staging.groups))
        found = [group for key in keys if can_end(group := staging.group(key)) and matches(group)]
        for group in found:
            _end(staging, group.id.key)
        return found

    ended: list[Group] = await committer.submit(operation)
    return ended


async def end_all(committer: Committer) -> None:
    """Take a wipe: every group ends."""

    def operation(staging: Staging) -> None:
        for group in filter(can_end, list(staging.committed.live())):
            _end(staging, group.id.key)

    await committer.submit(operation)


def can_end(group: Group) -> bool:
    """Whether a request may end the group; what comes from a file ends with the file."""
    return group.live and not group.id.source


def _end(staging: Staging, key: bytes) -> None:
    group = staging.group(key)
    if group.live:
        staging.add(delete(group, staging.now_for(group)))
