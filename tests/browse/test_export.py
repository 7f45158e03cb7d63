"""The forms of an export: what a line says, and that memory does not grow with the journal."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.browse.export import JsonLines
from bridge.browse.series import Point, document
from tests.browse.journals import AT_MS, record, write

LABELS = (("__name__", "a"), ("l", 'quote " and\nü'))
MEASURED = """
import resource, sys
from bridge.cli import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
SERIES = 500


class Lines:
    """A text file in memory."""

    def __init__(self) -> None:
        self.text = ""

    def writelines(self, lines: list[str]) -> None:
        """Keep them."""
        self.text += "".join(lines)


@pytest.mark.parametrize(
    "point",
    [
        Point(LABELS, AT_MS, 1.5),
        Point(LABELS, AT_MS + 1, -0.0),
        Point(LABELS, AT_MS, 5e-324),
        Point((), -1, 1e300),
        Point(LABELS, AT_MS, math.inf),
        Point(LABELS, AT_MS, -math.inf),
        Point(LABELS, AT_MS, math.nan),
        Point(LABELS, AT_MS, math.nan, stale=True),
        Point(LABELS, AT_MS, math.nan, histogram='{"count_int":"3","sum":4.5}'),
        Point(LABELS, AT_MS, math.nan, True, '{"sum":"NaN"}'),
    ],
)
@pytest.mark.parametrize("push", ["0000abcd-7", ""])
def test_a_line_is_the_document_of_its_sample(point: Point, push: str) -> None:
    """Whatever the value, the line that is put together by hand says what the document says, and the push."""
    file = Lines()
    JsonLines(file).write([(point, push)])  # type: ignore[arg-type]
    assert file.text.endswith("}\n")
    read = json.loads(file.text)
    assert read == document(point) | {"push": push or None}
    assert repr(read.get("value")) == repr(document(point).get("value"))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_memory_does_not_grow_with_the_journal(tmp_path: Path, form: str) -> None:
    """Ten times the rows take hardly more memory, and far less than what is written."""
    peaks = []
    for rows in (40, 400):
        directory = tmp_path / str(rows)
        series = [[(f"s{number}", float(number * turn)) for number in range(SERIES)] for turn in range(10)]
        write(directory, *(record(AT_MS + n, f"j{n % 7}", *series[n % 10]) for n in range(rows)))
        words = ["journal", "export", f"--storage.path={directory}", f"--format={form}", f"-o{directory / 'x'}"]
        done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) << 10)
    assert peaks[1] - peaks[0] < (60 << 20 if form == "parquet" else 12 << 20)
