"""How files leave a spool directory: only what was read, and never over anything else."""

import os
from pathlib import Path

import pytest

from bridge.textfile import failed as module
from bridge.textfile.failed import remove, set_aside
from bridge.textfile.plan import Stamp
from bridge.textfile.scan import list_directory


def stamp(directory: Path, name: str) -> Stamp:
    """Give a file's stamp."""
    return list_directory(directory, follow=False).files[name]


def drop(directory: Path, name: str, body: bytes = b"a 1\n") -> Stamp:
    """Make a file and give its stamp."""
    (directory / name).write_bytes(body)
    return stamp(directory, name)


def test_a_taken_file_is_removed(tmp_path: Path) -> None:
    """It is gone, and removing it again is no fault."""
    seen = drop(tmp_path, "a.prom")
    remove(tmp_path, "a.prom", seen)
    assert not list(tmp_path.iterdir())
    remove(tmp_path, "a.prom", seen)


def test_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    """Another file under the name is neither removed nor moved."""
    seen = drop(tmp_path, "a.prom")
    (tmp_path / "new").write_bytes(b"a 2\n")
    (tmp_path / "new").rename(tmp_path / "a.prom")
    remove(tmp_path, "a.prom", seen)
    set_aside(tmp_path, "a.prom", seen, "why")
    assert (tmp_path / "a.prom").read_bytes() == b"a 2\n"
    assert not (tmp_path / "failed").exists()


def test_failed_files_keep_apart(tmp_path: Path) -> None:
    """Each has its note beside it, also when several had one name."""
    for body in (b"one", b"two"):
        set_aside(tmp_path, "a.prom", drop(tmp_path, "a.prom", body), f"why {body.decode()}")
    failed = tmp_path / "failed"
    assert {path.name: path.read_text(encoding="utf-8") for path in failed.iterdir()} == {
        "a.prom": "one",
        "a.prom.error.txt": "why one\n",
        "a.prom.2": "two",
        "a.prom.2.error.txt": "why two\n",
    }


def test_a_long_name_has_room_for_its_note(tmp_path: Path) -> None:
    """A name of the greatest length is cut, not refused."""
    name = "x" * 250 + ".prom"
    set_aside(tmp_path, name, drop(tmp_path, name), "why")
    assert len(list((tmp_path / "failed").iterdir())) == 2


def test_a_note_is_for_those_who_may_read_the_file(tmp_path: Path) -> None:
    """What a note quotes of a private file is not shown to others."""
    (tmp_path / "a.prom").touch(mode=0o600)
    set_aside(tmp_path, "a.prom", stamp(tmp_path, "a.prom"), "why")
    assert (tmp_path / "failed" / "a.prom.error.txt").stat().st_mode & 0o777 == 0o600


def test_a_link_by_the_name_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    """Who makes `failed` a link gets nothing written where it leads."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "failed").symlink_to("elsewhere")
    with pytest.raises(OSError, match="directory"):
        set_aside(tmp_path, "a.prom", drop(tmp_path, "a.prom"), "why")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "a.prom").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_somebody_elses_directory_is_not_used(tmp_path: Path) -> None:
    """A `failed` of another user might lead anywhere tomorrow."""
    (tmp_path / "failed").mkdir()
    os.chown(tmp_path / "failed", 65534, 65534)
    with pytest.raises(OSError, match="another user"):
        set_aside(tmp_path, "a.prom", drop(tmp_path, "a.prom"), "why")


def test_failed_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest go, each with its note."""
    monkeypatch.setattr(module, "MOST_FAILED", 10)
    for number in range(25):
        set_aside(tmp_path, f"{number:02}.prom", drop(tmp_path, f"{number:02}.prom"), "why")
        note = tmp_path / "failed" / f"{number:02}.prom.error.txt"
        os.utime(note, (number, number))
    names = {path.name for path in (tmp_path / "failed").iterdir()}
    assert names == {f"{number:02}.prom{note}" for number in range(15, 25) for note in ("", ".error.txt")}
