"""Groups: what each grouping key holds now, and what a push does to it.

Owns Pushgateway's PUT, POST and DELETE semantics and the consistency rules (design.md section 4,
"resolve"; protocol.md sections 5.3 to 5.6). Values are immutable: a push that is not committed has
changed nothing. No I/O, no bytes of the journal, no clock.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TypeVar

from bridge.errors import BadPushError
from bridge.exposition.template import Template
from bridge.journal.rows import NEVER_MS, Operation
from bridge.model import Labels, MetricType
from bridge.wire.head import labels_of, make_head
from bridge.wire.remote_write import cut_doubles, label_bytes, pack_doubles, unpack_doubles

LOOKBACK_MS = 5 * 60 * 1000
"""How long an instant query sees a sample: what is sent once stays known for as long."""
PUSH_TIME, PUSH_FAILURE_TIME = "push_time_seconds", "push_failure_time_seconds"
_SEPARATOR = b"\xff"
_BEHIND_SOURCE = b"\xfe"
_SECOND_MS = 1000
_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class FamilyShape:
    """One family of a shape: its series are `heads[start:stop]`."""

    name: str
    type: MetricType
    help: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What repeated pushes of one job have in common: families and series, without values."""

    families: tuple[FamilyShape, ...]
    heads: tuple[bytes, ...]
    names: frozenset[str]
    header: bytes
    """Families as JSON, for the group's stored state; made once because pushes repeat it."""
    template: Template | None = None
    """The form of the body that gave this shape, if the next one can be told by it."""

    def without(self, names: frozenset[str]) -> tuple["Shape", list[int]]:
        """Leave out these families; also gives the positions of the series that stay."""
        families: list[FamilyShape] = []
        kept: list[int] = []
        for family in self.families:
            if family.name not in names:
                start = len(kept)
                kept.extend(range(family.start, family.stop))
                families.append(replace(family, start=start, stop=len(kept)))
        return make_shape(families, [self.heads[i] for i in kept]), kept


def make_shape(families: Sequence[FamilyShape], heads: Sequence[bytes]) -> Shape:
    """Put a shape together with what is derived from its families."""
    rows = [[family.name, family.type, family.help, family.stop - family.start] for family in families]
    header = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    return Shape(tuple(families), tuple(heads), frozenset(family.name for family in families), header)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The parsed series of one push: a shape and a value for each of its series."""

    shape: Shape
    doubles: bytes
    """The values, eight bytes each as they are sent; a tuple of floats takes four times as much memory."""
    timestamps: tuple[int | None, ...] | None = None
    """Explicit timestamps in ms, None when no sample has one."""

    @property
    def values(self) -> tuple[float, ...]:
        """The values as numbers."""
        return unpack_doubles(self.doubles)

    def __len__(self) -> int:
        """Count the series."""
        return len(self.shape.heads)

    def without(self, names: frozenset[str]) -> "Content | None":
        """Leave out these families; None when nothing stays."""
        if self.shape.names <= names:
            return None
        if self.shape.names.isdisjoint(names):
            return self
        shape, kept = self.shape.without(names)
        doubles, stamps = cut_doubles(self.doubles), self.timestamps
        return Content(
            shape,
            b"".join([doubles[i] for i in kept]),
            tuple(stamps[i] for i in kept) if stamps else None,
        )

    def untimed_heads(self) -> tuple[bytes, ...]:
        """Series that get a staleness marker when they end; explicit timestamps are exempt (design.md section 7)."""
        if self.timestamps is None:
            return self.shape.heads
        return tuple(head for head, stamp in zip(self.shape.heads, self.timestamps, strict=True) if stamp is None)


def repeat(parts: Iterable[Content], body: bytes, format_: str) -> Content | None:
    """Read a body that repeats the form of one that made a part; None when it does not."""
    for part in parts:
        template = part.shape.template
        if template is not None and template.format == format_ and (values := template.read(body)) is not None:
            return Content(part.shape, pack_doubles(values))
    return None


def make_content(shape: Shape, values: Sequence[float], timestamps: tuple[int | None, ...] | None = None) -> Content:
    """Put a content together from numbers."""
    return Content(shape, pack_doubles(values), timestamps)


EMPTY = Content(make_shape((), ()), b"")


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


def _repeats(one: Content, other: Content) -> bool:
    return one.shape is other.shape and one.timestamps is None and other.timestamps is None


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

    `ttl_ms` is how long it holds that: `NEVER_MS` until it is deleted, 0 for samples that are never repeated.
    Raises BadPushError when a family that stays has a series of the push under another family's name.
    """
    arrival_ms = next_ms(group, now_ms)
    if replace_all:
        parts: tuple[Content, ...] = (content,) if content.shape.families else ()
    elif any(part.shape is content.shape for part in group.parts):
        parts = tuple([content if part.shape is content.shape else part for part in group.parts])
    else:
        kept = [part for old in group.parts if (part := old.without(content.shape.names)) is not None]
        _check_kept(kept, content)
        parts = (*kept, content) if content.shape.families else tuple(kept)
    expires_ms = NEVER_MS if ttl_ms == NEVER_MS else arrival_ms + (ttl_ms or LOOKBACK_MS)
    after = Group(group.id, arrival_ms, arrival_ms, group.failure_ms, True, parts, expires_ms, ttl_ms > 0)
    return Change("put" if replace_all else "post", after, content, ended_between(group.parts, parts))


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
    return Change("delete", after, ended=ended, gauges=False)


def refuse(group: Group, now_ms: int) -> Change:
    """Note a refused push: its time is kept, everything else stays (protocol.md section 5.4)."""
    arrival_ms = next_ms(group, now_ms)
    return Change("failure", replace(group, last_ms=arrival_ms, failure_ms=arrival_ms, live=True))


@dataclass(slots=True)
class Groups:
    """All groups by key. The one mutable thing here; its owner publishes what is on disk."""

    external_labels: Mapping[str, str] = field(default_factory=dict)
    _by_key: dict[bytes, Group] = field(default_factory=dict)
    _name_sets: dict[tuple[str, ...], int] = field(default_factory=dict)
    _types: dict[str, dict[MetricType, int]] = field(default_factory=dict)
    """Family name -> type -> number of parts with it."""
    _source_owners: dict[bytes, bytes] = field(default_factory=dict)
    """Series -> group of those that come from no push: their keys do not follow from their labels."""
    soonest_ms: int = NEVER_MS
    """Nothing in any group ends before this; whoever ends things sets it anew."""

    def get(self, key: bytes) -> Group:
        """The group under this key; a group that never was is empty and not live."""
        return self._by_key.get(key) or Group(group_id(key, self.external_labels))

    def find(self, key: bytes) -> Group | None:
        """The group under this key, None when it never was."""
        return self._by_key.get(key)

    def publish(self, groups: Iterable[Group]) -> None:
        """Take over states that are on disk."""
        for group in groups:
            soonest_ms = group.expires_ms if group.parts else group.last_ms
            if soonest_ms < self.soonest_ms and group.live:
                self.soonest_ms = soonest_ms
            before = self._by_key.get(group.id.key)
            self._by_key[group.id.key] = group
            change = group.live - (before.live if before else False)
            if change and not group.id.source:
                names = tuple(name for name, _ in group.id.labels)
                _count(self._name_sets, names, change)
            was, now = before.parts if before else (), group.parts
            # A repeated push keeps its shape, so the everyday case ends here.
            if len(was) != len(now) or any(old.shape is not new.shape for old, new in zip(was, now, strict=True)):
                self._count_types(was, -1)
                self._count_types(now, 1)
                if group.id.source:
                    for head in _heads(was):
                        self._source_owners.pop(head, None)
                    self._source_owners.update(dict.fromkeys(_heads(now), group.id.key))

    def _count_types(self, parts: Iterable[Content], change: int) -> None:
        for part in parts:
            for family in part.shape.families:
                types = self._types.setdefault(family.name, {})
                _count(types, family.type, change)
                if not types:
                    del self._types[family.name]

    def type_conflicts(self, content: Content) -> list[tuple[str, MetricType, MetricType]]:
        """(family, its type here, another type that some group gives it), at most one for each family.

        They are told, not refused: a client upgrade must not lock out its own push (design.md section 4).
        """
        conflicts: list[tuple[str, MetricType, MetricType]] = []
        for family in content.shape.families:
            other = next((kind for kind in self._types.get(family.name, ()) if kind != family.type), None)
            if other is not None:
                conflicts.append((family.name, family.type, other))
        return conflicts

    def forget_ended(self, before_ms: int) -> None:
        """Drop groups that ended before this; until then they keep time from going back in a group that returns."""
        ended = [key for key, group in self._by_key.items() if not group.live and group.last_ms < before_ms]
        for key in ended:
            del self._by_key[key]

    def live(self) -> Iterator[Group]:
        """Groups that hold something, in the order of their first push."""
        return (group for group in self._by_key.values() if group.live)

    def source_owner(self, head: bytes) -> bytes | None:
        """The group that has this series from a source that is no push."""
        return self._source_owners.get(head)

    def name_sets(self) -> Iterable[tuple[str, ...]]:
        """The distinct sets of grouping label names among live groups."""
        return self._name_sets.keys()


def _count(counts: dict[_K, int], key: _K, change: int) -> None:
    counts[key] = counts.get(key, 0) + change
    if not counts[key]:
        del counts[key]


def check_foreign(group: Group, content: Content, others: "Groups", staged: Mapping[bytes, Group]) -> None:
    """Refuse a series that another group already owns with exactly the same labels (design.md section 4).

    A grouping key is part of its series' labels, so a possible owner follows from the series itself
    and each set of grouping label names in use; with one such set there can be none.
    """
    if any(part.shape is content.shape for part in group.parts):
        return
    external = others.external_labels
    own = tuple(name for name, _ in group.id.labels)
    name_sets = set(others.name_sets())
    name_sets.update(
        tuple(name for name, _ in other.id.labels) for other in staged.values() if other.live and not other.id.source
    )
    if external.keys().isdisjoint(own) and not group.id.source:
        name_sets.discard(own)
    # Keys that differ in an empty label only have the same push-time gauges.
    heads = content.shape.heads if group.live else (*content.shape.heads, *group.id.gauge_heads[:1])
    owned = {group.id.key: frozenset[bytes]()}
    staged_sources = {head: key for key, other in staged.items() if other.id.source for head in _heads_of(other)}
    for head in heads:
        source_owner = staged_sources.get(head) or others.source_owner(head)
        if not name_sets and source_owner is None:
            continue
        labels = dict(labels_of(head))
        possible = {key for names in name_sets for key in _possible_keys(names, labels, external)}
        for key in possible if source_owner is None else {*possible, source_owner}:
            if key not in owned:
                owned[key] = _heads_of(staged.get(key) or others.get(key))
            if head in owned[key]:
                raise BadPushError(
                    "inconsistent",
                    "pushed metrics are invalid or inconsistent with existing metrics: "
                    f"{spell_series(head)} is already pushed by the group {spell_group(key)}; "
                    "delete that group or change the grouping labels",
                )


def _possible_keys(names: Sequence[str], labels: Mapping[str, str], external: Mapping[str, str]) -> Iterator[bytes]:
    """Keys with these label names of groups that may own a series: an external label may stand for an empty one."""
    values = [labels.get(name, "") for name in names]
    options = [
        {value, ""} if value == external.get(name) else {value} for name, value in zip(names, values, strict=True)
    ]
    return (key_of(tuple(zip(names, chosen, strict=True))) for chosen in product(*options))


def _heads_of(group: Group) -> frozenset[bytes]:
    return frozenset((*(group.id.gauge_heads[:1] if group.live else ()), *_heads(group.parts)))


def _heads(parts: Iterable[Content]) -> Iterator[bytes]:
    return (head for part in parts for head in part.shape.heads)


def spell_group(key: bytes) -> str:
    """A group for messages."""
    source = group_id(key, {}).source
    return f"{dict(labels_of_key(key))}" + (f" of {source}" if source else "")
