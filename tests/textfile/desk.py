"""A journal with its committer, a clock, and directories that are looked at by hand: for tests of both modes."""

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bridge.flatten import FlattenOptions
from bridge.groups import Group
from bridge.journal.rows import NEVER_MS
from bridge.pipeline import PushOptions
from bridge.telemetry import Telemetry
from bridge.textfile.collect import Collect, Ended
from bridge.textfile.dropped import Defaults
from bridge.textfile.intake import Intake
from bridge.textfile.spool import Spool
from bridge.wire import snappy_block
from bridge.wire.head import decode_sample, labels_of
from bridge.wire.remote_write import STALE_NAN, split_series
from tests.journal.test_committer import MIB, NOW_MS, Bench, committing

OWN = Defaults({"job": "textfile", "instance": "host"}, given=False)
Sent = tuple[str, float | None, int]
"""Name, value (None for a staleness marker), time as ms from the start of the test."""


@dataclass
class Clock:
    """Time as the test sets it."""

    ms: int = NOW_MS

    def __call__(self) -> int:
        """Tell it."""
        return self.ms


@dataclass
class Desk:
    """What a test of a directory needs."""

    bench: Bench
    base: Path
    clock: Clock
    intake: Intake
    ended: Ended = field(default_factory=Ended)

    def collect(self, name: str = "c", defaults: Defaults = OWN) -> Collect:
        """Begin to collect a directory, made if need be."""
        (self.base / name).mkdir(exist_ok=True)
        return Collect(self.base / name, defaults, self.intake, self.ended)

    def spool(self, name: str = "s") -> Spool:
        """Begin to take from a spool directory, made if need be."""
        (self.base / name).mkdir(exist_ok=True)
        return Spool(self.base / name, OWN, self.intake)

    def drop(self, path: str, body: str | bytes, at_ms: int = 0) -> None:
        """Put a file into a directory under another name, then rename it, with its time relative to the start."""
        target = self.base / path
        hidden = target.with_name(f".{target.name}")
        hidden.write_bytes(body.encode() if isinstance(body, str) else body)
        at_ns = (NOW_MS + at_ms) * 1_000_000
        os.utime(hidden, ns=(at_ns, at_ns))
        hidden.rename(target)

    def sent(self, after_seq: int = 0) -> list[Sent]:
        """Give what the journal has for delivery, without push times."""
        found: list[Sent] = []
        for row in self.bench.rows(after_seq):
            for series in split_series(snappy_block.decompress(row.body, MIB)):
                head, value, at_ms = decode_sample(series)
                name = dict(labels_of(head))["__name__"]
                if not name.startswith("push_"):
                    stale = struct.pack("<d", value) == STALE_NAN
                    found.append((name, None if stale else value, at_ms - NOW_MS))
        return found

    def groups(self) -> list[Group]:
        """Give the groups that hold something."""
        return list(self.bench.committer.groups.live())

    def pushes(self, method: str, outcome: str, reason: str = "") -> float:
        """Give the count of one kind of push."""
        labels = {"method": method, "outcome": outcome, "reason": reason}
        return self.intake.telemetry.registry.get_sample_value("pushbridge_pushes_total", labels) or 0.0


@asynccontextmanager
async def desk(
    base: Path, flatten: FlattenOptions | None = None, *, max_body_bytes: int = MIB, max_bytes: int = 64 * MIB
) -> AsyncIterator[Desk]:
    """Open everything over the journal in `base`; a second time on the same `base` is a restart."""
    clock = Clock(NOW_MS + 1000)
    async with committing(base / "storage", "target", now_ms=clock, max_bytes=max_bytes) as bench:
        options = PushOptions(flatten or FlattenOptions({}, max_series=5000), max_body_bytes, lambda _: NEVER_MS)
        yield Desk(bench, base, clock, Intake(bench.committer, lambda: options, Telemetry(), clock))
