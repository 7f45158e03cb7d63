"""Puts the same directories before the real node_exporter and the agent, and compares what they read and show."""

import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.blackbox.exposition_diff import PushedSeries, read_series
from tests.blackbox.load import request, wait_for
from tests.blackbox.servers import Server, agent, needs, node_exporter
from tests.blackbox.textfile_rows import ROWS, Row

pytestmark = [pytest.mark.real, needs("prometheus-node-exporter")]

_MTIME = re.compile(r'_textfile_mtime_seconds\{file="([^"]*)"\}')
_LAST = Row("last", {"last.prom": "last 1\n"})


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make all directories."""
    base = tmp_path_factory.mktemp("rows")
    for row in (*ROWS, _LAST):
        row.make(base)
    return base


@pytest.fixture(scope="module")
def ours(directories: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give what the agent shows of all directories, each with a job of its own."""
    entries = [{"directory": str(directories / row.name), "labels": {"job": row.name}} for row in (*ROWS, _LAST)]
    config = yaml.safe_dump({"push": {"bucket_labels": "as_pushed"}, "textfile": entries})
    with agent(tmp_path_factory.mktemp("agent"), config=config) as server:
        yield wait_for(lambda: request(server.port, "GET", "/metrics").text, lambda text: "last{" in text)


class Exporter:
    """A node_exporter over the directory that `current` leads to; some files end it, so it may be started again."""

    def __init__(self, tmp: Path, directories: Path) -> None:
        self._tmp = tmp
        self._current = directories / "current"
        self._server: Server | None = None

    def shown(self, row: Row) -> str:
        """Give its answer to a scrape of one directory, nothing when it ends instead."""
        self._current.unlink(missing_ok=True)
        if self._server is None:
            self._server = node_exporter(self._tmp, self._current)
        self._current.symlink_to(row.name)
        try:
            return request(self._server.port, "GET", "/metrics").text
        except (OSError, http.client.HTTPException):
            self.end()
            return ""

    def end(self) -> None:
        """End it, if it has not ended by itself."""
        if self._server is not None:
            self._server.kill()
            self._server = None


@pytest.fixture(scope="module")
def real(directories: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Give the real thing."""
    exporter = Exporter(tmp_path_factory.mktemp("node_exporter"), directories)
    yield exporter
    exporter.end()


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_agent_reads_as_node_exporter(row: Row, directories: Path, real: Exporter, ours: str) -> None:
    """The agent takes the files that node_exporter takes and shows the same series, or differs as the row says."""
    want = theirs(row, real)
    got = read_by_agent(directories, row, ours), series_of(ours, row)
    if not row.difference:
        assert got == want
        return
    assert row.series is not None
    assert got == (row.read, read_series(row.series))
    assert got != want, "node_exporter does the same: no difference any more"


def theirs(row: Row, real: Exporter) -> tuple[frozenset[str], PushedSeries] | None:
    """Names that node_exporter read and the series that it shows; None when it ended over them."""
    text = real.shown(row)
    if not text:
        return None
    series = {key: value for key, value in read_series(text).items() if not key[0].startswith("node_")}
    return frozenset(Path(path).name for path in _MTIME.findall(text)), series


def read_by_agent(directories: Path, row: Row, shown: str) -> frozenset[str]:
    """Names that the agent took."""
    paths = [Path(path) for path in _MTIME.findall(shown)]
    return frozenset(path.name for path in paths if path.parent == directories / row.name)


def series_of(shown: str, row: Row) -> PushedSeries:
    """What the agent shows of one directory, without the label that tells it from the others."""
    job = ("job", row.name)
    return {
        (name, tuple(pair for pair in labels if pair != job)): value
        for (name, labels), value in read_series(shown).items()
        if job in labels and not name.startswith("push_")
    }
