"""The storage directory: who holds it, how much room there is, and what makes names in it last.

Nothing of SQLite here.
"""

import fcntl
import os
from pathlib import Path

from bridge.errors import ConfigError


def lock_directory(directory: Path) -> int:
    """Make the directory if need be and take it for this process; gives the lock's descriptor. Raise ConfigError."""
    path = directory / "lock"
    try:
        if not directory.exists():
            directory.mkdir(parents=True, exist_ok=True)
            sync_directory(directory.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"storage.path: cannot write to {directory}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ConfigError(
            f"storage.path: {directory} is in use by process {holder or 'unknown'}; one agent per directory"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"storage.path: cannot lock {path}: {error.strerror}") from error
    return descriptor


def free_bytes(directory: Path) -> int:
    """Room on the file system, 0 when that cannot be told."""
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def sync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` survive a power loss. Raise OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
