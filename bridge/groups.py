"""Groups: what each grouping key holds now, and what a push does to it.

Owns Pushgateway's PUT, POST and DELETE semantics (design.md section 4, "resolve"; protocol.md sections 5.3 to
5.5). All groups together, and who owns a series, are `bridge.registry`. Values are immutable: a push that is not
committed has changed nothing. No I/O, no bytes of the journal, no clock.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bridge.content import EMPTY, Content, histogram_markers
from bridge.errors import BadPushError
from bridge.journal.rows import NEVER_MS, Operation
from bridge.model import Labels
from bridge.wire.head import labels_of, make_head
from bridge.wire.remote_write import cut_doubles, label_bytes, pack_doubles

LOOKBACK_MS = 5 * 60 * 1000
"""How long an instant query sees a sample: what is sent once stays known for as long."""
PUSH_TIME, PUSH_FAILURE_TIME = "push_time_seconds", "push_failure_time_seconds"
GAUGE_HELP = {
    PUSH_TIME: "Last Unix time when changing this group in the Pushgateway succeeded.",
    PUSH_FAILURE_TIME: "Last Unix time when changing this group in the Pushgateway failed.",
}
RUN_PREFIX = "pushbridge_run_"
"""Begins the names of what is said of a run, by whoever runs the job: a PUT of the job itself does not replace it."""
_SEPARATOR = b"\xff"
_BEHIND_SOURCE = b"\xfe"
_SECOND_MS = 1000


@dataclass(frozen=True, slots=True)
class GroupId:
    """A grouping key with what is derived from it once."""

    key: bytes
    labels: Labels
    """Grouping labels sorted by name, empty values included: they are part of the key."""
    gauge_heads: tuple[bytes, ...]
    """Of the two push-time gauges; none for what does not come by a push."""
    source: str = ""
    """Where it comes from when that is no push: the path of a file. Two sources may have the same labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A group's state after its newest push."""

    id: GroupId
    last_ms: int = 0
    push_ms: int = 0
    failure_ms: int = 0
    live: bool = False
    parts: tuple[Content, ...] = ()
    expires_ms: int = NEVER_MS
    """When the parts end, 0 once they have."""
    hold: bool = True
    """Whether the parts are repeated until then."""

    @property
    def expired(self) -> bool:
        """Whether what it held has ended and only its push times are left."""
        return self.live and self.expires_ms == 0

    @property
    def ttl_ms(self) -> int:
        """Time from the newest push to the end of the parts, more than any time for never."""
        return self.expires_ms - self.last_ms

    def has_form_of(self, other: "Group") -> bool:
        """Whether they differ in nothing but values and times of pushes: what the journal's rows tell by themselves."""
        return (
            self.live
            and other.live
            and self.hold == other.hold
            and (self.ttl_ms == other.ttl_ms or self.expires_ms == other.expires_ms == NEVER_MS)
            and len(self.parts) == len(other.parts)
            and all(map(_repeats, self.parts, other.parts))
            # Without gauges a row tells no times but its own.
            and (bool(self.id.gauge_heads) or (self.push_ms, self.failure_ms) == (self.last_ms, other.failure_ms))
        )

    @property
    def last_push_successful(self) -> bool:
        """Pushgateway's reading: the newest failure is not after the newest success."""
        return self.failure_ms <= self.push_ms


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What one push does: the group afterwards, the samples to send, the series that ended."""

    operation: Operation
    group: Group
    content: Content = EMPTY
    ended: tuple[bytes, ...] = ()
    gauges: bool = True
    """Whether the group's two push-time gauges are sent."""
    markers: Mapping[bytes, bytes] | None = None
    """What ends a series when that is not the marker of a plain one."""


def _repeats(one: Content, other: Content) -> bool:
    return one.repeats(other) and one.timestamps is None and other.timestamps is None


def gauge_seconds(group: Group) -> tuple[float, float]:
    """Values of the two push-time gauges, 0 for never (protocol.md section 5.4)."""
    return group.push_ms / _SECOND_MS, group.failure_ms / _SECOND_MS


def gauge_doubles(group: Group) -> tuple[bytes, ...]:
    """Bytes of the values of the group's gauges."""
    return cut_doubles(pack_doubles(gauge_seconds(group))) if group.id.gauge_heads else ()


def key_of(labels: Labels, source: str = "") -> bytes:
    """Identity of a group: sorted names and values joined by 0xFF, behind a source and 0xFE; UTF-8 has neither."""
    labels_key = _SEPARATOR.join(part.encode() for pair in sorted(labels) for part in pair)
    return source.encode(errors="surrogateescape") + _BEHIND_SOURCE + labels_key if source else labels_key


def labels_of_key(key: bytes) -> Labels:
    """Labels of a grouping key."""
    parts = [part.decode() for part in key.rpartition(_BEHIND_SOURCE)[2].split(_SEPARATOR)]
    return tuple(zip(parts[::2], parts[1::2], strict=True))


def group_id(key: bytes, external: Mapping[str, str]) -> GroupId:
    """Derive a group's labels and the heads of its push-time gauges."""
    labels = labels_of_key(key)
    everything = {**external, **{name: value for name, value in labels if value}}

    def gauge(name: str) -> bytes:
        return make_head(label_bytes((("__name__", name), *everything.items())))

    source = key.rpartition(_BEHIND_SOURCE)[0].decode(errors="surrogateescape")
    return GroupId(key, labels, () if source else (gauge(PUSH_TIME), gauge(PUSH_FAILURE_TIME)), source)


def next_ms(group: Group, now_ms: int) -> int:
    """Arrival time for the group's next push: now, but always later than the one before (design.md section 4)."""
    return max(now_ms, group.last_ms + 1)


def store(group: Group, content: Content, now_ms: int, *, replace_all: bool, ttl_ms: int = NEVER_MS) -> Change:
    """Apply PUT (`replace_all`) or POST: what the group holds then, and which series ended.

    A PUT replaces all but the run's own families; of those it replaces what it brings, like a POST. `ttl_ms` is how
    long the group holds that: `NEVER_MS` until it is deleted, 0 for samples that are never repeated.
    Raises BadPushError when a family that stays has a series of the push under another family's name.
    """
    arrival_ms = next_ms(group, now_ms)
    staying = (
        [run for part in group.parts if (run := _run_of(part, content)) is not None] if replace_all else group.parts
    )
    held = content.kept()
    if any(part.shape is content.shape for part in staying):
        parts = tuple([held if part.shape is content.shape else part for part in staying])
    else:
        kept = [part for old in staying if (part := old.without(content.shape.names)) is not None]
        _check_kept(kept, content)
        parts = (*kept, held) if content.shape.families else tuple(kept)
    expires_ms = NEVER_MS if ttl_ms == NEVER_MS else arrival_ms + (ttl_ms or LOOKBACK_MS)
    after = Group(group.id, arrival_ms, arrival_ms, group.failure_ms, True, parts, expires_ms, ttl_ms > 0)
    ended = ended_between(group.parts, parts)
    markers = histogram_markers(group.parts) if ended else None
    return Change("put" if replace_all else "post", after, content, ended, markers=markers)


def _run_of(part: Content, content: Content) -> Content | None:
    """What a PUT of `content` leaves of a part."""
    if part.shape is content.shape:
        return part
    return part.without(frozenset(name for name in part.shape.names if not name.startswith(RUN_PREFIX)))


def _check_kept(kept: Sequence[Content], content: Content) -> None:
    # An OpenMetrics counter `x` and a family `x_total` of the text format have the same series.
    held = {head for part in kept for head in part.shape.heads}
    for head in content.shape.heads:
        if head in held:
            raise BadPushError(
                "inconsistent",
                "pushed metrics are invalid or inconsistent with existing metrics: "
                f"{spell_series(head)} is in this group already, in a family of another name; PUT replaces the group",
            )


def spell_series(head: bytes) -> str:
    """A series for messages, as PromQL writes it."""
    labels = dict(labels_of(head))
    name = labels.pop("__name__")
    return (
        name
        + "{"
        + ", ".join(f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in labels.items())
        + "}"
    )


def ended_between(before: tuple[Content, ...], after: tuple[Content, ...]) -> tuple[bytes, ...]:
    """Series of `before` that `after` lacks, in their old order."""
    surviving = {id(part.shape) for part in after}
    gone = [part for part in before if id(part.shape) not in surviving]
    if not gone:
        return ()
    heads = {head for part in after for head in part.shape.heads}
    return tuple(head for part in gone for head in part.untimed_heads() if head not in heads)


def delete(group: Group, now_ms: int) -> Change:
    """Apply DELETE: every series ends, the push-time gauges too."""
    ended = ended_between(group.parts, ())
    if group.live:
        ended = (*ended, *group.id.gauge_heads)
    after = Group(group.id, last_ms=next_ms(group, now_ms))
    return Change("delete", after, ended=ended, gauges=False, markers=histogram_markers(group.parts))


def refuse(group: Group, now_ms: int) -> Change:
    """Note a refused push: its time is kept, everything else stays (protocol.md section 5.4)."""
    arrival_ms = next_ms(group, now_ms)
    return Change("failure", replace(group, last_ms=arrival_ms, failure_ms=arrival_ms, live=True))


def spell_group(key: bytes) -> str:
    """A group for messages."""
    source = group_id(key, {}).source
    return f"{dict(labels_of_key(key))}" + (f" of {source}" if source else "")
