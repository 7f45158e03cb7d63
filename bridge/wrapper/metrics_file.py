"""The file that a job may write its own metrics to: given out empty, read once, removed."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

VARIABLE: Final = "PUSHBRIDGE_METRICS"
MAX_BYTES: Final = 64 << 20
"""The agent's default `push.max_body_bytes`."""


@contextmanager
def metrics_file(tell: Callable[[str], None]) -> Iterator[Path]:
    """An empty file in a private directory, gone after the block; the null device where none can be made."""
    directory: str | None = None
    try:
        directory = tempfile.mkdtemp(prefix="pushbridge-")
        path = Path(directory, "metrics.prom")
        path.touch(mode=0o600)
    except OSError as error:
        tell(f"{VARIABLE} leads to {os.devnull}: cannot make a temporary file: {error.strerror}")
        path = Path(os.devnull)
    try:
        yield path
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def read(path: Path, tell: Callable[[str], None]) -> bytes:
    """What the job left; nothing, and a line, when that cannot be taken."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        tell(f"the metrics of the job are lost: cannot read {path}: {error.strerror}")
        return b""
    if len(body) > MAX_BYTES:
        tell(f"the metrics of the job are lost: {path} has more than {MAX_BYTES} bytes")
        return b""
    return body
