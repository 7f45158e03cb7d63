"""What became of a push at a target: read from the target's cursor and the notes of its deliveries. Pure."""

from collections.abc import Sequence

from bridge.journal.rows import CursorRow, DeliveryRow
from bridge.moments import time_text

Fate = dict[str, str]
"""`state` is pending, delivered (`at`), refused (`at`, `reason`, `words`) or unknown."""


def fate_of(cursor: CursorRow, known: Sequence[DeliveryRow], rows: tuple[int, int], arrival_ms: int) -> Fate:
    """Tell of a push with these first and last rows; `known` are the notes that touch them, newest first."""
    first_seq, last_seq = rows
    if cursor.seq < last_seq:
        return {"state": "pending"}
    # Deliveries of one second are noted as one, with the time of the first.
    at = time_text(max(arrival_ms, *(row.at_ms for row in known))) if known else ""
    for row in known:
        if row.reason:
            return {"state": "refused", "at": at, "reason": row.reason, "words": row.words}
    if not known or known[-1].first_seq > first_seq:
        # Before the target was added, dropped when the journal was full, or longer ago than is remembered.
        return {"state": "unknown"}
    return {"state": "delivered", "at": at}
