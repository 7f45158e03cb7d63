"""What `write_relabel_configs` cost: rows to requests under a typical block of three rules, first and repeated.

Run it by itself: `python -m tests.bench.relabel`. In process, for what is measured is plain computing.
"""

import sys
import time
from collections.abc import Callable

from bridge.config.relabel import RelabelConfig
from bridge.delivery.batch import Packer
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules, prepare
from bridge.journal.rows import Entry
from bridge.wire import snappy_block
from tests.made import encode_series

_RULES = (
    RelabelConfig(source_labels=("__name__",), regex="go_.*|process_.*", action="drop"),
    RelabelConfig(regex="pod|uid", action="labeldrop"),
    RelabelConfig(target_label="cluster", replacement="eu1"),
)
_SAMPLES = 20_000
_SHAPES = (2000, 102, 12, 3)
"""Samples in a row: a full one, and those of pushes of 100, 10 and 1 series with their push times."""
_SAMPLES_PER_SEND = 2000
_ROUNDS = 15


def reads(samples: int) -> list[list[Entry]]:
    """Rows of so many samples, as they are read for one request after the other; every eighth series shall go."""
    rows = []
    for start in range(0, _SAMPLES - samples + 1, samples):
        fields = [_series(number) for number in range(start, start + samples)]
        rows.append(Entry(start + 1, samples, snappy_block.compress(b"".join(fields)), 0))
    at_once = _SAMPLES_PER_SEND // samples
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


def _series(number: int) -> bytes:
    name = "go_threads" if number % 8 == 0 else f"batch_rows_{number % 50}"
    labels = {
        "__name__": name,
        "job": "backup",
        "instance": f"db{number}.example.com:9100",
        "pod": f"backup-{number:x}",
        "team": "storage",
        "stage": "load",
    }
    return encode_series(tuple(labels.items()), float(number), 1_700_000_000_000 + number)


def _best_us(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Microseconds per sample of the best round."""
    seconds = []
    for _ in range(_ROUNDS):
        before()
        started_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds) / _SAMPLES * 1e6


def measure(samples: int) -> tuple[float, float, float]:
    """Microseconds per sample: without rules, when no series was seen before, and when all were."""
    work = reads(samples)
    rules = [TargetRules()]

    def plan() -> None:
        packer = Packer(_SAMPLES_PER_SEND, 8 << 20)
        for entries in work:
            for entry in entries:
                if row := prepare(entry, rules[0]):
                    packer.add(entry.seq, row)
            packer.flush()

    def forget() -> None:
        rules[0] = TargetRules(Relabeler(_RULES).relabel)

    return _best_us(plan), _best_us(plan, forget), _best_us(plan)


def main() -> None:
    """Write the table."""
    lines = ["| samples in a row | no rules, µs a sample | first time | again |", "|---|---|---|---|"]
    for samples in _SHAPES:
        without, first, again = measure(samples)
        lines.append(f"| {samples} | {without:.2f} | {first:.1f} | {again:.2f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
