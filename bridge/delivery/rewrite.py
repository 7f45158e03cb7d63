"""A row of the journal as one target gets it: relabeled, and with its tenant.

Owns the walk through a row's body and the count of what the rules drop. What they make of a series is
`bridge.delivery.relabel`; which rows make up a request is `bridge.delivery.batch`. Pure.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bridge.delivery.age import without_old
from bridge.delivery.relabel import Verdict
from bridge.delivery.taken import EVERYTHING, take_fields
from bridge.journal.rows import Entry
from bridge.reasons import RELABEL_DUPLICATE, TOO_OLD
from bridge.wire import snappy_block
from bridge.wire.head import cut_field, label_fields_of, make_head
from bridge.wire.remote_write import DOUBLE_BYTES, STALE_NAN, split_series, timeseries_field

MOST_ROW_BYTES = 1 << 30
"""A row that claims more when decompressed is taken for damaged."""
_BEHIND_HEAD_BYTES = 15
_HEAD_ENDS = b"\x12\x10\x09"
_HEAD, _BEHIND_HEAD = slice(-_BEHIND_HEAD_BYTES), slice(-_BEHIND_HEAD_BYTES, None)
_HEAD_END = slice(-_BEHIND_HEAD_BYTES - len(_HEAD_ENDS), -_BEHIND_HEAD_BYTES)
_NONE: Mapping[str, int] = {}
_SAMPLE_TAG = 0x12
_SAMPLE_HEAD_BYTES = 2
_VALUE = slice(3, 3 + DOUBLE_BYTES)


@dataclass(frozen=True, slots=True)
class TargetRules:
    """What the configuration says of everything that goes to one target."""

    relabel: Callable[[bytes], Verdict] | None = None
    """Gives a series' new head, or why it is dropped (`Relabeler.relabel`); None when there are no rules."""
    tenant_of: Callable[[bytes], str] | None = None
    """Gives the tenant of a group's key, "" for none; None when no group has one."""
    takes: Callable[[], int] = lambda: EVERYTHING
    """Gives what the target takes besides plain samples (`kinds_taken`); less once it has fallen back to 1.0."""
    note_missing: Callable[[str], object] = lambda _: None
    """Is told the reason, each time, when the target does not get a native histogram."""


class Row(NamedTuple):
    """A row as it is sent. A tuple: there is one for each push, and a frozen dataclass takes three times as long."""

    body: bytes
    """A snappy block; empty when the rules changed something."""
    content: bytes | None
    """What is left when the rules changed something, uncompressed: many rows are compressed at once."""
    samples: int
    content_bytes: int
    """Uncompressed, in both cases."""
    tenant: str
    dropped: Mapping[str, int]
    """By reason."""


def prepare(entry: Entry, rules: TargetRules, oldest_ms: int | None = None) -> Row | None:
    """Give the row as the target gets it, None when it is damaged; a row that no rule changes keeps its bytes.

    Samples from before `oldest_ms` are dropped.
    """
    if entry.damaged or entry.kinds & ~rules.takes():
        return None if entry.damaged else _prepare_taken(entry, rules, oldest_ms)
    try:
        size = snappy_block.declared_length(entry.body)
        if size > MOST_ROW_BYTES:
            return None
        tenant = rules.tenant_of(entry.group) if rules.tenant_of else ""
        if rules.relabel is None and oldest_ms is None:
            return Row(entry.body, None, entry.samples, size, tenant, _NONE)
        data = snappy_block.decompress(entry.body, MOST_ROW_BYTES)
        all_fields = split_series(data)
        fields = all_fields if oldest_ms is None else without_old(all_fields, oldest_ms)
        dropped = {TOO_OLD: len(all_fields) - len(fields)} if len(fields) < len(all_fields) else _NONE
        if rules.relabel is not None:
            fields, by_rules = relabel_fields(fields, rules.relabel)
            dropped = {**dropped, **by_rules} if dropped else by_rules
    except (ValueError, IndexError):
        return None
    joined = b"".join(fields)
    if joined == data:
        return Row(entry.body, None, entry.samples, size, tenant, _NONE)
    return Row(b"", joined, len(fields), len(joined), tenant, dropped)


def _prepare_taken(entry: Entry, rules: TargetRules, oldest_ms: int | None) -> Row | None:
    """Give the row of which the target does not take everything."""
    takes = rules.takes()
    try:
        fields, missing = take_fields(split_series(snappy_block.decompress(entry.body, MOST_ROW_BYTES)), takes)
    except (ValueError, IndexError):
        return None
    for reason in missing:
        rules.note_missing(reason)
    body = snappy_block.compress(b"".join(fields))
    row = prepare(replace(entry, body=body, samples=len(fields), kinds=entry.kinds & takes), rules, oldest_ms)
    return row and row._replace(dropped={**row.dropped, **missing})


def relabel_fields(
    fields: Sequence[bytes], relabel: Callable[[bytes], Verdict]
) -> tuple[list[bytes], Mapping[str, int]]:
    """Give the timeseries fields that are left, in order, and the number of dropped ones by reason.

    Of those that become the same series at the same time the first is left, but a marker gives way to a value: a
    series that goes on has not ended. Raises ValueError or IndexError for fields that are none.
    """
    verdicts = _verdicts_of_everyday(fields, relabel)
    if verdicts is None:
        pairs = [_relabel_any(one, relabel) for one in fields]
        verdicts, made = [verdict for verdict, _ in pairs], [new for _, new in pairs if new]
    else:
        made = [
            verdict + one[_BEHIND_HEAD]
            for verdict, one in zip(verdicts, fields, strict=True)
            if isinstance(verdict, bytes)
        ]
    dropped: Mapping[str, int] = _NONE
    if len(made) < len(fields):
        dropped = Counter(verdict for verdict in verdicts if isinstance(verdict, str))
    if len(set(verdicts)) < len(made) + len(dropped):
        left = _without_duplicates(made)
        if len(left) < len(made):
            return left, {**dropped, RELABEL_DUPLICATE: len(made) - len(left)}
    return made, dropped


def _verdicts_of_everyday(fields: Sequence[bytes], relabel: Callable[[bytes], Verdict]) -> list[Verdict] | None:
    """Verdicts of fields that are a head, a value and a time, whose heads are found without reading the labels.

    None when not all of them are such. What only looks like one, with the bytes of a head's end inside of something
    longer, is no head for `relabel`.
    """
    heads = [one[_HEAD] for one in fields if one[_HEAD_END] == _HEAD_ENDS]
    if len(heads) < len(fields):
        return None
    try:
        return list(map(relabel, heads))
    except ValueError:
        return None


def _relabel_any(one: bytes, relabel: Callable[[bytes], Verdict]) -> tuple[Verdict, bytes]:
    labels, behind = cut_field(one)
    verdict = relabel(make_head(labels))
    return verdict, b"" if isinstance(verdict, str) else timeseries_field(label_fields_of(verdict) + behind)


def relabel_points(
    heads: Sequence[bytes], doubles: Sequence[bytes], relabel: Callable[[bytes], Verdict] | None
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Give heads and doubles of the series that are left, in order."""
    if relabel is None:
        return heads, doubles
    pairs = [(relabel(head), double) for head, double in zip(heads, doubles, strict=True)]
    left = [(verdict, double) for verdict, double in pairs if not isinstance(verdict, str)]
    return [head for head, _ in left], [double for _, double in left]


def first_of_each(heads: Sequence[bytes], doubles: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Give each series once, for points that are all of one time."""
    left = dict(zip(reversed(heads), reversed(doubles), strict=True))
    return list(reversed(left)), list(reversed(left.values()))


def _without_duplicates(fields: Sequence[bytes]) -> list[bytes]:
    left: dict[bytes, bytes] = {}
    for one in fields:
        labels, behind = cut_field(one)
        # Anything but a float sample is left to the receiver, for its time is inside of it.
        is_sample = behind[0] == _SAMPLE_TAG
        key = labels + behind[_VALUE.stop : _SAMPLE_HEAD_BYTES + behind[1]] if is_sample else one
        known = left.get(key)
        if known is None or (is_sample and cut_field(known)[1][_VALUE] == STALE_NAN):
            left[key] = one
    return list(left.values())
