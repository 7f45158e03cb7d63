"""Why something did not arrive: all words of the `reason` labels, declared once.

An alert sees a counter grow only when it was there before, so every counter begins at 0 with each of its reasons
(`bridge.telemetry`). That is why the words are a closed list. No behaviour lives here.
"""

from typing import Final, Literal, get_args

DiskReason = Literal["disk_full", "io_error", "journal_full"]
"""What a transaction fails for."""
PushReason = Literal[
    DiskReason,
    "aborted",
    "body_too_large",
    "custom_buckets",
    "encoding",
    "future",
    "inconsistent",
    "key_reused",
    "label_limits",
    "parse",
    "path",
    "seconds",
    "tenant",
    "terms",
    "timestamps",
    "too_large",
    "too_many_series",
]
"""What a push by HTTP is refused for."""
FileReason = Literal[PushReason, "directive"]
"""What a dropped file is refused for."""

DISK_REASONS: Final[tuple[str, ...]] = get_args(DiskReason)
PUSH_REASONS: Final[tuple[str, ...]] = get_args(PushReason)

REFUSAL_STATUSES: Final = (301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 413, 415, 422, 500)
"""With which receivers, and what stands in front of them, refuse for good (protocol.md section 3.1)."""
REFUSALS: Final = (*(f"http_{status}" for status in REFUSAL_STATUSES), "http_3xx", "http_4xx")


def refusal_reason(status: int) -> str:
    """The reason for which samples are lost that a target refused with this status."""
    return f"http_{status}" if status in REFUSAL_STATUSES else f"http_{status // 100}xx"


JOURNAL_FULL: Final = "journal_full"
"""Dropped as the oldest (`when_full: drop_oldest`)."""
DAMAGED: Final = "damaged"
"""The row cannot be read."""
LOST: Final = "lost"
"""The rows were not in a journal that had to be recovered."""
TOO_OLD: Final = "too_old"
"""Older than `sample_age_limit`."""
RELABEL, RELABEL_NAMELESS, RELABEL_DUPLICATE = "relabel", "relabel_nameless", "relabel_duplicate"
NATIVE_DISABLED, CUSTOM_IN_RW1 = "native_histograms_disabled", "nhcb_in_rw1_not_supported"
"""Prometheus' own words for a target that gets no native histograms, or none with custom buckets."""
BY_RULES: Final = frozenset({RELABEL, RELABEL_NAMELESS, RELABEL_DUPLICATE, NATIVE_DISABLED, CUSTOM_IN_RW1})
"""Samples are dropped because a target's settings say so: no refusal, the push is settled."""
DROPS: Final = (*sorted(BY_RULES), DAMAGED, JOURNAL_FULL, LOST, TOO_OLD, *REFUSALS)
"""Why a target never gets samples; refusals where it is set to `on_rejected: drop`."""

EXPIRED: Final = "expired"
METADATA_FAILURES: Final = (*REFUSALS, EXPIRED)
