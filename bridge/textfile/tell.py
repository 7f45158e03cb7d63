"""What is said of files and directories, in logs and metrics; the same words for both modes."""

import structlog

from bridge.content import Content
from bridge.model import Labels
from bridge.registry import Groups
from bridge.telemetry import Telemetry
from bridge.textfile.dropped import line_of

_log = structlog.get_logger(__name__)
ERROR, MTIME = "pushbridge_textfile_error", "pushbridge_textfile_mtime_seconds"


def shown(directory: object, name: str) -> str:
    """A file's path as text, also when its name is no text."""
    return f"{directory}/{name.encode(errors='surrogateescape').decode(errors='backslashreplace')}"


def label(path: object) -> Labels:
    """The label of what is said of a file or directory."""
    return (("file", str(path)),)


def tell_refusal(path: str, error: str) -> None:
    """Log why a file was refused."""
    _log.warning("textfile_refused", file=path, line=line_of(error), error=error)


def tell_directory(path: object, before: str, now: str) -> None:
    """Log a change of the reason why a directory cannot be read, empty for none."""
    if now and now != before:
        _log.error("textfile_directory_failed", directory=str(path), error=now)
    elif before and not now:
        _log.info("textfile_directory_back", directory=str(path))


def tell_conflicts(path: str, content: Content, groups: Groups, telemetry: Telemetry) -> None:
    """Log and count families that some other group has with another type."""
    for family, here, elsewhere in groups.type_conflicts(content):
        telemetry.type_conflicts.inc()
        _log.warning("type_conflict", family=family, type=here, other_type=elsewhere, file=path)
