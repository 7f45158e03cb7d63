"""The agent's own series that every target gets with the repeats: that it lives, since when, and what parts add.

With them a query tells a job that failed from an agent that is gone (design.md section 8). Owns names and labels;
nothing is counted here. Pure: what the parts have to say is asked at each point of the grid.
"""

from collections.abc import Callable, Iterable, Mapping

from bridge.model import Labels
from bridge.wire.head import make_head
from bridge.wire.remote_write import label_bytes, value_bytes

JOB = "pushbridge"
Fact = tuple[str, Labels, float]
"""Metric name, labels beside `job` and `instance` of the agent, value."""


class Heartbeat:
    """What the agent says of itself."""

    def __init__(self, instance: str, external: Mapping[str, str], started_ms: int) -> None:
        """Speak as `job="pushbridge"` and `instance`, with the external labels."""
        self._labels = {**external, "job": JOB, "instance": instance}
        self._started_s = started_ms / 1000
        self._sources: list[Callable[[], Iterable[Fact]]] = []
        self._heads: dict[tuple[str, Labels], bytes] = {}

    def add(self, source: Callable[[], Iterable[Fact]]) -> None:
        """Say what `source` gives, too. Its labels stand over the agent's own."""
        self._sources.append(source)

    def points(self, at_ms: int) -> tuple[list[bytes], list[bytes]]:
        """Heads and doubles of everything that is to be said at a point of the grid; none before the start."""
        if at_ms < self._started_s * 1000:
            return [], []
        facts: list[Fact] = [("pushbridge_up", (), 1.0), ("pushbridge_start_time_seconds", (), self._started_s)]
        for source in self._sources:
            facts += source()
        heads = {
            (name, labels): self._heads.get((name, labels)) or self._head(name, labels) for name, labels, _ in facts
        }
        self._heads = heads
        return [heads[name, labels] for name, labels, _ in facts], [value_bytes(value) for _, _, value in facts]

    def _head(self, name: str, labels: Labels) -> bytes:
        return make_head(label_bytes(tuple({**self._labels, **dict(labels), "__name__": name}.items())))
