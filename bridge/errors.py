"""What can go wrong with a push, split by whose fault it is and what the sender should do next.

The HTTP status of each is chosen in one place (`bridge.web.responses`), not here.
"""

from bridge.reasons import FileReason


class PushRefusedError(Exception):
    """A push that changed nothing; the text tells the sender what, where and why."""

    def __init__(self, reason: FileReason, message: str) -> None:
        """Keep `reason`, a short slug for the `reason` label of metrics, and the text for the sender."""
        super().__init__(message)
        self.reason = reason


class BadPushError(PushRefusedError):
    """The sender's fault: the same push will be refused again."""


class TooLargeError(PushRefusedError):
    """The body is larger than the limit, on the wire or after decompression."""


class UnsupportedEncodingError(PushRefusedError):
    """The Content-Encoding is not one that we decode."""


class KeyReusedError(PushRefusedError):
    """The Idempotency-Key came with another push before."""


class JournalFullError(PushRefusedError):
    """Nothing more fits on disk or under `storage.max_bytes`; the sender should retry later."""


class JournalUnavailableError(PushRefusedError):
    """The disk did not take the write; the state is as before and the sender should retry later."""


class ConfigError(Exception):
    """A setting, file or directory that the agent cannot start with; exit code 2."""
