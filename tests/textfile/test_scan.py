"""Reading directories and files: what is ours, what is followed, and what cannot be read."""

import os
import socket
from pathlib import Path

import pytest

from bridge.textfile.plan import NO_STAMP
from bridge.textfile.scan import FileFaultError, identity, list_directory, read_file, takes


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("a.prom", True),
        (".prom", False),
        (".a.prom", False),
        ("a.prom.tmp", False),
        ("a.PROM", False),
        ("é .prom", True),
    ],
)
def test_names(name: str, ours: bool) -> None:
    """Names end in .prom and are not hidden."""
    assert takes(name) is ours


def test_a_listing(tmp_path: Path) -> None:
    """It has what ends in .prom with a stamp; a link has its target's, or its own where links are not followed."""
    (tmp_path / "a.prom").write_bytes(b"a 1\n")
    (tmp_path / "b.txt").write_bytes(b"a 1\n")
    (tmp_path / "link.prom").symlink_to("a.prom")
    (tmp_path / "dead.prom").symlink_to("nowhere")
    followed = list_directory(tmp_path, follow=True).files
    assert followed["link.prom"] == followed["a.prom"]
    assert followed["dead.prom"] == NO_STAMP
    own = list_directory(tmp_path, follow=False).files
    assert own.keys() == followed.keys() == {"a.prom", "link.prom", "dead.prom"}
    assert own["link.prom"] != own["a.prom"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """The listing says why it is none, and it has no identity."""
    assert (
        list_directory(tmp_path / "none", follow=True).fault == "cannot read the directory: No such file or directory"
    )
    assert identity(tmp_path / "none") is None
    (tmp_path / "file").touch()
    assert identity(tmp_path / "file") is None
    assert identity(tmp_path) is not None


def test_a_file_with_its_stamp(tmp_path: Path) -> None:
    """The content comes with mtime, size and inode; a file that went since it was listed is none."""
    path = tmp_path / "a.prom"
    path.write_bytes(b"a 1\n")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    found = read_file(path, follow=True, max_bytes=4)
    assert found is not None
    assert found == (list_directory(tmp_path, follow=True).files["a.prom"], b"a 1\n")
    assert found[0].mtime_ms == 1_700_000_000_123
    assert read_file(tmp_path / "gone.prom", follow=True, max_bytes=4) is None


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """Beyond the limit nothing is read, however large the file claims to be."""
    path = tmp_path / "a.prom"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(FileFaultError, match=r"has 1099511627776 bytes, want at most push.max_body_bytes = 100"):
        read_file(path, follow=True, max_bytes=100)


@pytest.mark.parametrize("follow", [True, False], ids=["collect", "spool"])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path, follow: bool) -> None:
    """Named pipes, sockets, devices and directories are refused at once."""
    os.mkfifo(tmp_path / "pipe.prom")
    (tmp_path / "directory.prom").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s.prom"))
    listener.close()
    for name, kind in (("pipe", "a named pipe"), ("directory", "a directory"), ("s", "a socket")):
        with pytest.raises(FileFaultError, match=f"is {kind}, want a regular file"):
            read_file(tmp_path / f"{name}.prom", follow=follow, max_bytes=4)


def test_links_are_followed_only_where_writers_are_trusted(tmp_path: Path) -> None:
    """A collect directory's link is its target; a spool directory's link, also a hard one, is never opened."""
    (tmp_path / "secret").write_bytes(b"a 1\n")
    (tmp_path / "link.prom").symlink_to("secret")
    (tmp_path / "dead.prom").symlink_to("nowhere")
    found = read_file(tmp_path / "link.prom", follow=True, max_bytes=4)
    assert found is not None
    assert found[1] == b"a 1\n"
    with pytest.raises(FileFaultError, match="leads nowhere"):
        read_file(tmp_path / "dead.prom", follow=True, max_bytes=4)
    for name in ("link.prom", "dead.prom"):
        with pytest.raises(FileFaultError, match="is a symbolic link, want a regular file"):
            read_file(tmp_path / name, follow=False, max_bytes=4)
    (tmp_path / "hard.prom").hardlink_to(tmp_path / "secret")
    with pytest.raises(FileFaultError, match="more than one name"):
        read_file(tmp_path / "hard.prom", follow=False, max_bytes=4)
    assert read_file(tmp_path / "hard.prom", follow=True, max_bytes=4) is not None
