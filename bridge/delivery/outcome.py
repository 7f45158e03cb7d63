"""What a receiver's answer means for the batch: the table of remote_write 1.0, "Retries & Backoff".

Pure. Nothing here sends, waits or counts.
"""

from dataclasses import dataclass

from bridge.delivery.backoff import parse_retry_after
from bridge.reasons import refusal_reason

MAX_WORDS_BYTES = 1024
_LEAST_CLIENT_ERROR, _LEAST_SERVER_ERROR = 400, 500
_ABOUT_THE_REQUEST = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 411, 415, 426, 431, 451})


def concerns_all(status: int) -> bool:
    """Whether a refusal is about the address, the sender or the method: no part of a request would fare better."""
    return status < _LEAST_CLIENT_ERROR or status in _ABOUT_THE_REQUEST


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has the batch (any 2xx; 202 too, which some use for deduplicated replicas)."""

    status: int


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Nobody knows, or the receiver asks for patience: send the same bytes again."""

    after_s: float | None
    """Seconds that Retry-After asked for, None when it did not."""
    status: int | None
    """None when there was no readable answer."""
    words: str
    """The receiver's text, or what went wrong on the way."""

    @property
    def maybe_stored(self) -> bool:
        """Whether the receiver may have the samples all the same."""
        return self.status is None or self.status >= _LEAST_SERVER_ERROR

    @property
    def is_refusal(self) -> bool:
        """Whether it gets better only when somebody changes a setting, here or there."""
        return self.status is not None and concerns_all(self.status)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused: this request must not be sent again as it is."""

    status: int
    words: str
    """The receiver's text, at most `MAX_WORDS_BYTES` of it."""
    of_data: bool = False
    """Whether others are known to be taken: it is the samples, whatever the status says."""

    @property
    def reason(self) -> str:
        """The `reason` label of metrics."""
        return refusal_reason(self.status)

    @property
    def concerns_all(self) -> bool:
        """Whether no part of the request would fare better."""
        return not self.of_data and concerns_all(self.status)


Outcome = Delivered | RetryLater | Rejected

# 407 is a proxy's, which says nothing about the samples.
_AGAIN = {407, 429}
_DELIVERED = range(200, 300)
# Redirects that are followed are followed before (`redirects`); most others would make the POST a GET, which answers
# 200 and stores nothing.
_FINAL = range(300, 500)


def classify(status: int, body: bytes, retry_after: str | None, now_s: float) -> Outcome:
    """Return what follows from an HTTP status, the start of the body and the Retry-After header.

    2xx is delivered; 407, 429 and 5xx are tried again, as is any number that is no HTTP status; 3xx and all
    other 4xx are final. `now_s` is seconds since the epoch.
    """
    if status in _DELIVERED:
        return Delivered(status)
    words = receiver_words(body)
    if status in _FINAL and status not in _AGAIN:
        return Rejected(status, words)
    after_s = None if retry_after is None else parse_retry_after(retry_after, now_s)
    return RetryLater(after_s, status, words)


def receiver_words(body: bytes) -> str:
    """Return the start of an error body as text; what is not UTF-8 becomes U+FFFD."""
    return body[:MAX_WORDS_BYTES].decode(errors="replace").strip()
