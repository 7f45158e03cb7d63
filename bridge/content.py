"""What one push brings: families and series, and a value for each. The series repeat, the values do not.

Owns the split between the two, which is what makes a repeated push cheap. Immutable and pure; nothing here knows
of groups.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bridge.exposition.template import Template
from bridge.model import Exemplar, MetricType
from bridge.wire.histogram import stale_like
from bridge.wire.remote_write import cut_doubles, pack_doubles, unpack_doubles


@dataclass(frozen=True, slots=True)
class FamilyShape:
    """One family of a shape: its series are `heads[start:stop]`."""

    name: str
    type: MetricType
    help: str
    start: int
    stop: int
    unit: str = ""


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
    rows = [
        [family.name, family.type, family.help, family.stop - family.start, *([family.unit] if family.unit else [])]
        for family in families
    ]
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
    histograms: tuple[bytes | None, ...] | None = None
    """Messages of the series that have a native histogram in place of a value, None when there are none."""
    exemplars: Mapping[int, tuple[Exemplar, ...]] | None = None
    """Of the series at these positions, None when there are none; sent with the push and not kept."""

    @property
    def values(self) -> tuple[float, ...]:
        """The values as numbers."""
        return unpack_doubles(self.doubles)

    def __len__(self) -> int:
        """Count the series."""
        return len(self.shape.heads)

    def points(self) -> Sequence[bytes]:
        """What is sent of each series: the bytes of its value, or the message of its histogram."""
        doubles = cut_doubles(self.doubles)
        if self.histograms is None:
            return doubles
        return [message or double for message, double in zip(self.histograms, doubles, strict=True)]

    def kept(self) -> "Content":
        """What a group keeps of it."""
        return self if self.exemplars is None else replace(self, exemplars=None)

    def repeats(self, other: "Content") -> bool:
        """Whether it differs from another content in nothing but values and times; histograms are more than that."""
        return self.shape is other.shape and self.histograms is None and other.histograms is None

    def without(self, names: frozenset[str]) -> "Content | None":
        """Leave out these families; None when nothing stays."""
        if self.shape.names <= names:
            return None
        if self.shape.names.isdisjoint(names):
            return self
        shape, kept = self.shape.without(names)
        doubles, stamps = cut_doubles(self.doubles), self.timestamps
        messages = [self.histograms[i] for i in kept] if self.histograms else ()
        return Content(
            shape,
            b"".join([doubles[i] for i in kept]),
            tuple(stamps[i] for i in kept) if stamps else None,
            tuple(messages) if any(messages) else None,
        )

    def untimed_heads(self) -> tuple[bytes, ...]:
        """Series that get a staleness marker when they end; explicit timestamps are exempt (design.md section 7)."""
        if self.timestamps is None:
            return self.shape.heads
        return tuple(head for head, stamp in zip(self.shape.heads, self.timestamps, strict=True) if stamp is None)


def histogram_markers(parts: Iterable[Content]) -> dict[bytes, bytes]:
    """The markers that end the series of these parts whose values are native histograms, by head."""
    return {
        head: stale_like(message)
        for part in parts
        if part.histograms is not None
        for head, message in zip(part.shape.heads, part.histograms, strict=True)
        if message is not None
    }


def repeat(parts: Iterable[Content], body: bytes, format_: str) -> Content | None:
    """Read a body that repeats the form of one that made a part; None when it does not."""
    for part in parts:
        template = part.shape.template
        if template is not None and template.format == format_ and (values := template.read(body)) is not None:
            return Content(part.shape, pack_doubles(values))
    return None


EMPTY = Content(make_shape((), ()), b"")
