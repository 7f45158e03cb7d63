"""Rows read for people: a damaged one is told by its number and passed over, and the rest goes on."""

from bridge.browse.options import tell
from bridge.browse.series import Choice, Point, only, points
from bridge.journal.archive import StoredRow


def read_points(row: StoredRow, choice: Choice) -> list[Point] | None:
    """Give the chosen samples of a row, None when it is damaged, which is told."""
    if row.damaged:
        _tell(row, "its checksum does not match")
        return None
    try:
        return list(points(row.body, choice))
    except ValueError as error:
        _tell(row, str(error))
        return None


def read_chosen(row: StoredRow, choice: Choice) -> tuple[bytes, int] | None:
    """Give the row's body with the chosen series alone, and their number; None when it is damaged, which is told."""
    if row.damaged:
        _tell(row, "its checksum does not match")
        return None
    if choice.selector is None:
        return row.body, row.samples
    try:
        return only(row.body, choice)
    except ValueError as error:
        _tell(row, str(error))
        return None


def _tell(row: StoredRow, why: str) -> None:
    tell(f"row {row.seq} with {row.samples} samples is damaged and left out: {why}")
