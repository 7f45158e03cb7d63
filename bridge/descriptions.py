"""What is known of metric families by name: type, help and unit, from what all groups hold now.

Receivers keep these by name, as Prometheus does, so groups that agree are one. Owns which type counts when groups
differ, and which family a series belongs to. No I/O, no clock.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from bridge.content import Content, FamilyShape
from bridge.groups import GAUGE_HELP
from bridge.model import Metadata, MetricType

OWN_SERIES: Final = {
    **{name: Metadata("gauge", text) for name, text in GAUGE_HELP.items()},
    "pushbridge_up": Metadata("gauge", "1: the agent runs."),
    "pushbridge_start_time_seconds": Metadata("gauge", "When the agent started, in Unix seconds."),
    "pushbridge_job_overdue": Metadata("gauge", "1 when a run, or a push, is late by more than its grace."),
    "pushbridge_textfile_error": Metadata("gauge", "1 when a file, or a whole directory, could not be taken, else 0."),
    "pushbridge_textfile_mtime_seconds": Metadata("gauge", "When the content of a file in force was written."),
}
"""What no push brings."""
MEMBER_ENDINGS: Final[dict[str, frozenset[MetricType]]] = {
    "_bucket": frozenset({"histogram", "gaugehistogram"}),
    "_sum": frozenset({"histogram", "gaugehistogram", "summary"}),
    "_count": frozenset({"histogram", "gaugehistogram", "summary"}),
    "_gsum": frozenset({"gaugehistogram"}),
    "_gcount": frozenset({"gaugehistogram"}),
    "_created": frozenset({"counter", "histogram", "summary"}),
    "_total": frozenset({"counter"}),
    "_info": frozenset({"info"}),
}
"""Endings of series' names, with the types whose families are named without them."""
MOST_ENDED = 10_000
"""So many families are remembered that no group holds any more: their last samples may still be on their way."""


@dataclass(slots=True)
class _Family:
    metadata: Metadata
    """Of the part that came last."""
    types: dict[MetricType, int] = field(default_factory=dict)
    """Type -> number of parts that give it; empty when the family has ended."""


class Descriptions:
    """Families by name; its owner says which parts begin and end."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}
        self._ended: dict[str, None] = {}
        """Names of families without parts, the oldest first."""

    def begin(self, parts: Iterable[Content]) -> None:
        """Count in what a group holds from now on."""
        for shape in _shapes(parts):
            metadata = Metadata(shape.type, shape.help, shape.unit)
            family = self._families.setdefault(shape.name, _Family(metadata))
            family.metadata = metadata
            family.types[shape.type] = family.types.get(shape.type, 0) + 1
            self._ended.pop(shape.name, None)

    def end(self, parts: Iterable[Content]) -> None:
        """Take out what a group held until now."""
        for shape in _shapes(parts):
            types = self._families[shape.name].types
            types[shape.type] -= 1
            if not types[shape.type]:
                del types[shape.type]
            if not types:
                self._ended[shape.name] = None
        while len(self._ended) > MOST_ENDED:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._families[oldest]

    def types(self, name: str) -> Iterable[MetricType]:
        """The types that groups give this family now."""
        family = self._families.get(name)
        return family.types.keys() if family else ()

    def of_series(self, name: str) -> Metadata:
        """The metadata of the family that a series with this metric name belongs to, an unknown type for none."""
        own = OWN_SERIES.get(name)
        if own is not None:
            return own
        family = self._families.get(name)
        if family is not None:
            return _agreed(family)
        base, _, ending = name.rpartition("_")
        family = self._families.get(base)
        metadata = _agreed(family) if family else Metadata()
        return metadata if metadata.type in MEMBER_ENDINGS.get(f"_{ending}", ()) else Metadata()


def _agreed(family: _Family) -> Metadata:
    """Groups that differ in the type leave it unknown, as /metrics does; the newest help and unit count."""
    if len(family.types) > 1:
        return replace(family.metadata, type="untyped")
    return replace(family.metadata, type=next(iter(family.types), family.metadata.type))


def _shapes(parts: Iterable[Content]) -> Iterator[FamilyShape]:
    return (shape for part in parts for shape in part.shape.families)
