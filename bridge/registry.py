"""All groups by key, and the rule that a series has one owner (design.md section 4; protocol.md section 5.6).

The one mutable thing among the groups: its owner publishes what is on disk. No I/O and no clock.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

from bridge.content import Content
from bridge.descriptions import Descriptions
from bridge.errors import BadPushError
from bridge.groups import Group, group_id, key_of, spell_group, spell_series
from bridge.model import MetricType
from bridge.wire.head import labels_of

_K = TypeVar("_K")


@dataclass(slots=True)
class Groups:
    """All groups by key."""

    external_labels: Mapping[str, str] = field(default_factory=dict)
    _by_key: dict[bytes, Group] = field(default_factory=dict)
    _name_sets: dict[tuple[str, ...], int] = field(default_factory=dict)
    descriptions: Descriptions = field(default_factory=Descriptions)
    _source_owners: dict[bytes, bytes] = field(default_factory=dict)
    """Series -> group of those that come from no push: their keys do not follow from their labels."""
    soonest_ms: int = 0
    """No group's parts end before this; whoever ends things sets it anew."""

    def get(self, key: bytes) -> Group:
        """The group under this key; a group that never was is empty and not live."""
        return self._by_key.get(key) or Group(group_id(key, self.external_labels))

    def find(self, key: bytes) -> Group | None:
        """The group under this key, None when it never was."""
        return self._by_key.get(key)

    def publish(self, groups: Iterable[Group]) -> None:
        """Take over states that are on disk."""
        for group in groups:
            if group.parts and group.expires_ms < self.soonest_ms:
                self.soonest_ms = group.expires_ms
            before = self._by_key.get(group.id.key)
            self._by_key[group.id.key] = group
            change = group.live - (before.live if before else False)
            if change and not group.id.source:
                names = tuple(name for name, _ in group.id.labels)
                _count(self._name_sets, names, change)
            was, now = before.parts if before else (), group.parts
            # A repeated push keeps its shape, so the everyday case ends here.
            if len(was) != len(now) or any(old.shape is not new.shape for old, new in zip(was, now, strict=True)):
                self.descriptions.end(was)
                self.descriptions.begin(now)
                if group.id.source:
                    for head in _heads(was):
                        self._source_owners.pop(head, None)
                    self._source_owners.update(dict.fromkeys(_heads(now), group.id.key))

    def type_conflicts(self, content: Content) -> list[tuple[str, MetricType, MetricType]]:
        """(family, its type here, another type that some group gives it), at most one for each family.

        They are told, not refused: a client upgrade must not lock out its own push (design.md section 4).
        """
        conflicts: list[tuple[str, MetricType, MetricType]] = []
        for family in content.shape.families:
            other = next((kind for kind in self.descriptions.types(family.name) if kind != family.type), None)
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
