"""How many labels a series may have and how long they may be: Mimir's limits, checked before a push is taken.

Receivers refuse what is over theirs, one by one, long after the sender got its answer. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bridge.errors import BadPushError
from bridge.groups import spell_series
from bridge.wire.head import labels_of

_LONGEST_SHOWN = 300


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """The settings of `push:` of the same names; 0 stands for no limit. Lengths are in bytes of UTF-8."""

    max_label_names_per_series: int = 30
    """The metric's name is one of them, as Mimir counts."""
    max_label_name_length: int = 1024
    max_label_value_length: int = 2048

    def check(self, head: bytes, count: int, line: int = 0) -> None:
        """Refuse a series that is over a limit; `count` is at least the number of its labels. Raises BadPushError."""
        shortest = min(self.max_label_name_length or 1 << 62, self.max_label_value_length or 1 << 62)
        # A series that is shorter as a whole has no label that is longer.
        if len(head) <= shortest and count <= (self.max_label_names_per_series or count):
            return
        for setting, most, got, what in self._found(head):
            if most and got > most:
                series = spell_series(head)
                shown = series if len(series) <= _LONGEST_SHOWN else f"{series[:_LONGEST_SHOWN]}..."
                at = f" in line {line}" if line else ""
                raise BadPushError(
                    "label_limits",
                    f"{shown}: {what}, more than push.{setting}={most}{at}; shorten it or raise that setting",
                )

    def _found(self, head: bytes) -> Iterable[tuple[str, int, int, str]]:
        """Each limit, what there is of it, and how that reads."""
        labels = labels_of(head)
        yield "max_label_names_per_series", self.max_label_names_per_series, len(labels), f"{len(labels)} labels"
        for name, value in labels:
            size = len(name.encode())
            shown = name if size <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
            yield "max_label_name_length", self.max_label_name_length, size, f"label name {shown} has {size} bytes"
            size = len(value.encode())
            yield (
                "max_label_value_length",
                self.max_label_value_length,
                size,
                f"value of label {shown} has {size} bytes",
            )
