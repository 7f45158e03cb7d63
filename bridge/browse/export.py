"""`journal export`: every sample of a span, one after the other, as JSON lines, CSV or Parquet.

Owns the forms and how a file comes to be: under another name until it is whole. Memory does not grow with the journal.
"""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

from bridge.browse.reading import read_points
from bridge.browse.series import INFINITE, Choice, Point
from bridge.errors import ConfigError
from bridge.journal.archive import Archive, Span
from bridge.journal.history import PUSHES
from bridge.model import Labels
from bridge.moments import time_text

FORMATS = ("jsonl", "csv", "parquet")
_COLUMNS = ("time", "labels", "value", "histogram", "push")
_GROUP_ROWS = 50_000
Line = tuple[Point, str]
"""A sample, and the id of the push that it came with; empty for what came by itself, such as the end of a TTL."""


class Writer(Protocol):
    """One form of an export."""

    def write(self, lines: Sequence[Line]) -> None:
        """Add samples."""
        ...

    def finish(self) -> None:
        """Write what is left."""
        ...


class JsonLines:
    """An object in each line."""

    def __init__(self, file: IO[str]) -> None:
        """Write to a text file."""
        self._file = file

    def write(self, lines: Sequence[Line]) -> None:
        """Add samples."""
        self._file.writelines(_json_line(point, push_id) for point, push_id in lines)

    def finish(self) -> None:
        """Leave it at that."""


class Csv:
    """A header and a line for each sample; labels as JSON."""

    def __init__(self, file: IO[str]) -> None:
        """Write to a text file that translates no line ends."""
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(_COLUMNS)

    def write(self, lines: Sequence[Line]) -> None:
        """Add samples."""
        self._writer.writerows(
            (
                _time_text(point.at_ms),
                _labels_json(point.labels),
                "" if point.histogram else point.value_text,
                point.histogram,
                push_id,
            )
            for point, push_id in lines
        )

    def finish(self) -> None:
        """Leave it at that."""


class Parquet:
    """Columns: time, labels (a map), value, stale, histogram (JSON), push."""

    def __init__(self, path: Path) -> None:
        """Write to a file. Raise ConfigError when pyarrow is missing."""
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra, and large
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                "export: --format parquet needs pyarrow, which is not installed: pip install 'pushbridge[parquet]'"
            ) from error
        text = pa.string()
        self._arrow = pa
        self._schema = pa.schema(
            {
                "time": pa.timestamp("ms", tz="UTC"),
                "labels": pa.map_(text, text),
                "value": pa.float64(),
                "stale": pa.bool_(),
                "histogram": text,
                "push": text,
            }
        )
        self._lines: list[Line] = []
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, lines: Sequence[Line]) -> None:
        """Add samples."""
        self._lines += lines
        if len(self._lines) >= _GROUP_ROWS:
            self._write_group()

    def finish(self) -> None:
        """Write the last samples and the index of them all."""
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        lines, self._lines = self._lines, []
        columns: dict[str, list[Any]] = {
            "time": [point.at_ms for point, _ in lines],
            "labels": [list(point.labels) for point, _ in lines],
            "value": [None if point.stale or point.histogram else point.value for point, _ in lines],
            "stale": [point.stale for point, _ in lines],
            "histogram": [point.histogram or None for point, _ in lines],
            "push": [push_id or None for _, push_id in lines],
        }
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))


_time_text = lru_cache(1 << 10)(time_text)
"""The samples of a push have the same time."""


@lru_cache(1 << 16)
def _labels_json(labels: Labels) -> str:
    return json.dumps(dict(labels), ensure_ascii=False, separators=(",", ":"))


def _json_line(point: Point, push_id: str) -> str:
    """`document` and the push, put together from parts that repeat: that takes a third of the time."""
    if point.histogram:
        rest = f'"histogram":{point.histogram},"stale":{"true" if point.stale else "false"}'
    elif abs(point.value) < INFINITE:
        rest = f'"value":{point.value!r}'
    else:
        rest = f'"value":"{point.value_text}"'
    push = f'"{push_id}"' if push_id else "null"
    return f'{{"time":"{_time_text(point.at_ms)}","labels":{_labels_json(point.labels)},{rest},"push":{push}}}\n'


def lines(archive: Archive, span: Span, choice: Choice) -> Iterator[tuple[int, list[Line]]]:
    """Give the chosen samples of a span in order, some at a time behind the number of rows that they come from."""
    known: tuple[int, bytes] | None = None
    push_id = ""
    for piece in archive.pieces(span):
        found: list[Line] = []
        for row in piece:
            # Rows of one push have its time and its group, which no two pushes share.
            if known != (row.arrival_ms, row.group):
                known = row.arrival_ms, row.group
                push_id = f"{archive.id}-{row.seq}" if row.operation in PUSHES else ""
            found += [(point, push_id) for point in read_points(row, choice) or ()]
        yield len(piece), found


def check_free(file: Path, *, force: bool) -> None:
    """Refuse a name under which no file can be made, or one is already unless `force`. Raise ConfigError."""
    if file.is_dir():
        raise ConfigError(f"export: cannot write {file}: Is a directory")
    if file.exists() and not file.is_file():
        raise ConfigError(f"export: {file} is no regular file; want one, or no --output for standard output")
    if os.path.lexists(file) and not force:
        raise ConfigError(f"export: {file} is there already; want another name, or --force to replace it")


def write(form: str, file: Path | None, found: Iterable[list[Line]]) -> None:
    """Write samples to a file, or to standard output. Raise OSError, ConfigError.

    The file has its name once it is whole and on disk; whatever stops this before leaves nothing behind.
    """
    if file is None:
        writer = _text_writer(form, sys.stdout)
        for some in found:
            writer.write(some)
        sys.stdout.flush()
        return
    with _replaced(file) as path:
        if form == "parquet":
            _write_all(Parquet(path), found)
            return
        with path.open("w", encoding="utf-8", newline="") as text:
            _write_all(_text_writer(form, text), found)


def _write_all(writer: Writer, found: Iterable[list[Line]]) -> None:
    for some in found:
        writer.write(some)
    writer.finish()


def _text_writer(form: str, file: IO[str]) -> Writer:
    return Csv(file) if form == "csv" else JsonLines(file)


@contextmanager
def _replaced(file: Path) -> Iterator[Path]:
    path = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield path
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.replace(file)
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
