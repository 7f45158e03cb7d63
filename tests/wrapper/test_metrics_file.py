"""The file for the job's own metrics: private, empty, read once, gone."""

import os
import tempfile
from pathlib import Path

import pytest

from bridge.wrapper import metrics_file as module
from bridge.wrapper.metrics_file import metrics_file, read


def test_a_private_file_that_does_not_stay() -> None:
    """The job finds an empty file that only its user can reach; with what it added it is gone afterwards."""
    told: list[str] = []
    with metrics_file(told.append) as path:
        assert path.read_bytes() == b""
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert read(path, told.append) == b""
        path.write_bytes(b"a 1\n")
        (path.parent / "other").mkdir()
        assert read(path, told.append) == b"a 1\n"
    assert not path.parent.exists()
    assert told == []


def test_where_no_file_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job can still write its metrics, to nowhere, and the loss is told."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    told: list[str] = []
    with metrics_file(told.append) as path:
        path.write_bytes(b"a 1\n")
        assert read(path, told.append) == b""
    assert path == Path(os.devnull)
    assert told == ["PUSHBRIDGE_METRICS leads to /dev/null: cannot make a temporary file: No such file or directory"]


@pytest.mark.parametrize("left", ["nothing", "directory", "fifo", "dangling link"])
def test_what_is_no_file_is_nothing(tmp_path: Path, left: str) -> None:
    """A job that removed the file or put something else there is reported without metrics, and never waited for."""
    path = tmp_path / "metrics.prom"
    if left == "directory":
        path.mkdir()
    elif left == "fifo":
        os.mkfifo(path)
    elif left == "dangling link":
        path.symlink_to("nowhere")
    assert read(path, pytest.fail) == b""


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agent would refuse for its size is not read into memory."""
    monkeypatch.setattr(module, "MAX_BYTES", 3)
    path = tmp_path / "metrics.prom"
    path.write_bytes(b"abcd")
    told: list[str] = []
    assert read(path, told.append) == b""
    assert told == [f"the metrics of the job are lost: {path} has more than 3 bytes"]
