"""How files leave a spool directory: removed when they are taken, moved to `failed/` beside an explanation when not.

Everything is done by name under the open directory, without following a link, and only to the state of the file that
was read: a file that took its place meanwhile stays. Blocking, to be called in a thread.
"""

import os
from contextlib import suppress
from pathlib import Path

from bridge.textfile.plan import NO_STAMP, Stamp

FAILED = "failed"
MOST_FAILED = 1000
"""Files kept in `failed/`; the oldest go first."""
_NAME_BYTES = 200
_NOTE = ".error.txt"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(directory: Path, name: str, stamp: Stamp) -> None:
    """Remove a file unless another one has its name by now. Raise OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _is_still(handle, name, stamp):
            os.unlink(name, dir_fd=handle)
    except FileNotFoundError:
        return
    finally:
        os.close(handle)


def set_aside(directory: Path, name: str, stamp: Stamp, why: str) -> None:
    """Move a file to `failed/` and say why beside it. Raise OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if not _is_still(handle, name, stamp):
            return
        failed = _open_failed(handle)
        try:
            _make_room(failed)
            new = _free_name(failed, name)
            os.rename(name, new, src_dir_fd=handle, dst_dir_fd=failed)
            _write(failed, f"{new}{_NOTE}", why, 0o600 | status.st_mode & 0o044)
        finally:
            os.close(failed)
    except FileNotFoundError:
        return
    finally:
        os.close(handle)


def _is_still(handle: int, name: str, stamp: Stamp) -> bool:
    status = os.stat(name, dir_fd=handle, follow_symlinks=False)
    return stamp in (NO_STAMP, Stamp(status.st_mtime_ns, status.st_size, status.st_ino))


def _open_failed(handle: int) -> int:
    """Open `failed/`, made if need be; somebody else's could lead the agent to write where it should not."""
    with suppress(FileExistsError):
        os.mkdir(FAILED, 0o755, dir_fd=handle)
    failed = os.open(FAILED, _DIRECTORY, dir_fd=handle)
    if os.fstat(failed).st_uid != os.geteuid():
        os.close(failed)
        raise OSError(f"{FAILED}/ belongs to another user")
    return failed


def _make_room(failed: int) -> None:
    names = os.listdir(failed)
    if len(names) < 2 * MOST_FAILED:
        return
    notes = [name for name in names if name.endswith(_NOTE)]
    notes.sort(key=lambda name: os.stat(name, dir_fd=failed, follow_symlinks=False).st_mtime_ns)
    for note in notes[: len(notes) // 10]:
        for name in (note.removesuffix(_NOTE), note):
            with suppress(OSError):
                os.unlink(name, dir_fd=failed)


def _free_name(failed: int, name: str) -> str:
    """The file's own name, or with a number when that is in use or too long to be added to."""
    taken = set(os.listdir(failed))
    short = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    new, number = short, 1
    while new in taken or f"{new}{_NOTE}" in taken:
        number += 1
        new = f"{short}.{number}"
    return new


def _write(failed: int, name: str, text: str, mode: int) -> None:
    """Write for those who may read the file itself: the text quotes it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, mode, dir_fd=failed), "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
