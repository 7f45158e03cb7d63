"""The agent's own log: logfmt or JSON on standard error, one line for each event, whoever tells it.

Owns how lines look and that a log which cannot be written harms nothing. What is worth a line is
decided where it happens.
"""

import logging
import sys
from typing import Any

import structlog

from bridge.config.sections import Log

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
# As JSON and logfmt's readers spell them. LogfmtRenderer sees to line feeds itself.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\n")}


class _Stderr:
    """Standard error that may be closed or full: a line is lost then, and nothing else."""

    def msg(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = exception = critical = msg


class _FromLibraries(logging.Handler):
    """Lines of libraries in our form, with the fault in a word: their tracebacks are about clients' nonsense."""

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        log = structlog.get_logger(record.name)
        error = f"{type(fault).__name__}: {fault}" if fault else None
        log.warning("library", logger=record.name, message=record.getMessage(), error=error)


def _escape_controls(_: object, __: str, line: Any) -> Any:
    """A receiver's words must neither break a line nor reach the terminal as commands.

    Behind the renderer, which would escape the escapes.
    """
    return line.translate(_CONTROLS)


def set_up(settings: Log) -> None:
    """Log from now on as the settings say."""
    stamp = structlog.processors.TimeStamper(fmt="iso", key="ts")
    common: list[Any] = [structlog.processors.add_log_level, stamp, structlog.processors.format_exc_info]
    if settings.format == "json":
        form: list[Any] = [structlog.processors.JSONRenderer()]
    else:
        order = ["ts", "level", "event"]
        form = [structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True), _escape_controls]
    structlog.configure(
        processors=[*common, *form],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: _Stderr(),
    )
    logging.basicConfig(handlers=[_FromLibraries(logging.WARNING)], force=True)
