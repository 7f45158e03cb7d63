"""The agent's own series that every target gets with the repeats: that it lives, since when, and what parts add.

With them a query tells a job that failed from an agent that is gone (design.md section 8). Owns names and labels;
nothing is counted here. Pure: what the parts have to say is asked at each point of the grid.
"""

from collections.abc import Callable, Iterable, Mapping

from bridge.model import Labels
from bridge.wire import snappy_block
from bridge.wire.head import encode_samples, make_head
from bridge.wire.remote_write import label_bytes, value_bytes

JOB = "pushbridge"
Fact = tuple[str, Labels, float]
"""Metric name, labels, value."""
Source = Callable[[int], Iterable[Fact]]
"""Gives facts for a point of the grid, in ms."""
_Series = tuple[bool, str, Labels]
"""Whether it is about the agent, metric name, labels."""


class Heartbeat:
    """What the agent says of itself."""

    def __init__(self, instance: str, external: Mapping[str, str], started_ms: int) -> None:
        """Speak as `job="pushbridge"` and `instance`, with the external labels."""
        self._beneath = {True: {**external, "job": JOB, "instance": instance}, False: external}
        self._started_s = started_ms / 1000
        self._sources: list[tuple[Source, bool]] = []
        self._heads: dict[_Series, bytes] = {}

    def add(self, source: Source, *, about_agent: bool = True) -> None:
        """Say what `source` gives, too.

        Its labels stand over the agent's `job` and `instance`; what is not about the agent does not get these at all,
        so that a group without an instance does not look like one on the agent's.
        """
        self._sources.append((source, about_agent))

    def probe(self, at_ms: int) -> bytes:
        """A block with one sample that a receiver in order takes: it tells bad data from a receiver in trouble."""
        return snappy_block.compress(
            encode_samples([self._head((True, "pushbridge_probe", ()))], [value_bytes(1.0)], at_ms)
        )

    def points(
        self, at_ms: int, tenant_of: Callable[[Labels], str] | None = None
    ) -> list[tuple[str, tuple[list[bytes], list[bytes]]]]:
        """Heads and doubles of everything that is to be said at a point of the grid; nothing before the start.

        By tenant, sorted: what is about a group goes where the group's samples go (`tenant_of` its labels), what is
        about the agent to none.
        """
        if at_ms < self._started_s * 1000:
            return []
        facts: list[tuple[_Series, float]] = [
            ((True, "pushbridge_up", ()), 1.0),
            ((True, "pushbridge_start_time_seconds", ()), self._started_s),
        ]
        for source, about_agent in self._sources:
            facts += [((about_agent, name, labels), value) for name, labels, value in source(at_ms)]
        self._heads = {series: self._heads.get(series) or self._head(series) for series, _ in facts}
        found: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for series, value in facts:
            tenant = "" if series[0] or tenant_of is None else tenant_of(series[2])
            heads, doubles = found.setdefault(tenant, ([], []))
            heads.append(self._heads[series])
            doubles.append(value_bytes(value))
        return sorted(found.items())

    def _head(self, series: _Series) -> bytes:
        about_agent, name, labels = series
        return head_of(name, labels, self._beneath[about_agent])


def head_of(name: str, labels: Labels, beneath: Mapping[str, str]) -> bytes:
    """Head of a series with these labels, which stand over those `beneath`."""
    return make_head(label_bytes(tuple({**beneath, **dict(labels), "__name__": name}.items())))
