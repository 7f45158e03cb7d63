"""The embedded receiver as a process that can be killed, and what is in its file afterwards.

Its file is written before it answers, so that what it took survives a kill. What ought to be in it is no matter here.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from bridge.receiver import SampleStore
from tests.blackbox.checker import Stored
from tests.blackbox.servers import Server, _start

_FILE = "samples.db"
_READY = "/api/v1/samples?limit=0"


def receiver(directory: Path, port: int) -> Server:
    """Start `pushbridge receiver` on its file in `directory`."""
    return _start(
        "receiver", (sys.executable, "-m", "bridge", "receiver", *_flags(directory, port)), port, _READY, directory
    )


def slow_receiver(directory: Path, port: int, delay_s: float) -> Server:
    """Start one whose every answer takes `delay_s`, and that refuses what asks for it, with all that came with it."""
    command = (sys.executable, "-m", "tests.blackbox.slow_receiver", *_flags(directory, port), "--delay", str(delay_s))
    return _start("slow-receiver", command, port, _READY, directory)


def stored_in(directory: Path) -> Iterator[Stored]:
    """Read what either stored, in order of arrival."""
    store = SampleStore(str(directory / _FILE))
    newest = 0
    while samples := store.samples(newest):
        newest = samples[-1].id
        for sample in samples:
            value = None if sample.stale else struct.unpack("<d", sample.value)[0]
            yield Stored(tuple(sorted(sample.labels)), sample.timestamp_ms, value)
    store.close()


def _flags(directory: Path, port: int) -> tuple[str, ...]:
    directory.mkdir(exist_ok=True)
    return "--listen-address", f"127.0.0.1:{port}", "--file", str(directory / _FILE)
