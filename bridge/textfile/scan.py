"""What is in a directory, and what is in a file: all reading of textfile directories.

Two ways, for two kinds of trust. Whoever may write into a collect directory is trusted, and links are followed
there, as node_exporter does. Anybody may write into a spool directory: there nothing but a regular file with one name
is opened. Blocking, to be called in a thread; what files mean is not decided here.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from bridge.textfile.plan import NO_STAMP, Stamp

SUFFIX = ".prom"
_READ_BYTES = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


class FileFaultError(Exception):
    """A file that cannot be read as it is; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory has."""

    files: dict[str, Stamp] = field(default_factory=dict)
    """By name. What is there but has no stamp, such as a link that leads nowhere, has NO_STAMP."""
    fault: str = ""
    """Why it could not be read, empty when it was."""


def takes(name: str) -> bool:
    """Whether a file of this name is one of ours; writers use hidden names for files that are not done."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def list_directory(directory: Path, *, follow: bool) -> Listing:
    """List the files of a directory that are ours."""
    files: dict[str, Stamp] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if takes(entry.name) and (stamp := _stamp_of(entry, follow=follow)) is not None:
                    files[entry.name] = stamp
    except OSError as error:
        return Listing(fault=f"cannot read the directory: {error.strerror}")
    return Listing(files)


def _stamp_of(entry: "os.DirEntry[str]", *, follow: bool) -> Stamp | None:
    """A file's stamp; None when it is gone since it was listed."""
    try:
        return _stamp(entry.stat(follow_symlinks=follow))
    except FileNotFoundError:
        return NO_STAMP if entry.is_symlink() else None
    except OSError:
        return NO_STAMP


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def read_file(path: Path, *, follow: bool, max_bytes: int) -> tuple[Stamp, bytes] | None:
    """Read a file; gives the stamp that it had before, None when it is gone. Raise FileFaultError.

    Nothing is awaited: a named pipe without a writer is told like any other thing that is no file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        # Opening a device may do something, and opening a link of a stranger shows whether its target exists.
        _check_kind(path.stat(follow_symlinks=follow), single=not follow)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        if path.is_symlink():
            raise FileFaultError("is a symbolic link that leads nowhere") from None
        return None
    except OSError as error:
        raise FileFaultError(f"cannot be read: {error.strerror}; the agent runs as uid {os.geteuid()}") from error
    try:
        status = os.fstat(descriptor)
        _check_kind(status, single=not follow)
        if status.st_size > max_bytes:
            raise FileFaultError(f"has {status.st_size} bytes, want at most push.max_body_bytes = {max_bytes}")
        body = _read(descriptor, max_bytes)
    except OSError as error:
        raise FileFaultError(f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(body) > max_bytes:
        raise FileFaultError(f"has more than push.max_body_bytes = {max_bytes} bytes")
    return _stamp(status), body


def _read(descriptor: int, max_bytes: int) -> bytes:
    """Read to the end, but not much more than the limit: the file may grow meanwhile."""
    pieces: list[bytes] = []
    size = 0
    while size <= max_bytes and (piece := os.read(descriptor, _READ_BYTES)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _check_kind(status: os.stat_result, *, single: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileFaultError(f"is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, want a regular file")
    if single and status.st_nlink > 1:
        raise FileFaultError("has more than one name (hard links), want a file of its own")


def identity(directory: Path) -> tuple[int, int] | None:
    """What tells a directory from another one that takes its place; None while there is none."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
