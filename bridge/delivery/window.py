"""What was read and is not settled: how far the cursor may go, and what to tell of the rows before it.

Requests end in any order, the cursor only moves over rows of which every sample is settled. Owns that account. Pure.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from bridge.delivery.batch import Request
from bridge.delivery.outcome import concerns_all
from bridge.journal.rows import DeadLetter, Settled
from bridge.reasons import BY_RULES, refusal_reason
from bridge.wire import snappy_block

_DELIVERED: tuple[frozenset[str], str] = frozenset(), ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Samples of a request, from `start` to `stop`, that the receiver refused for good."""

    start: int
    stop: int
    status: int
    words: str
    maybe_stored: bool
    fields: tuple[bytes, ...] | None
    """They themselves, to be kept as dead letters; None when they are only counted as dropped."""


@dataclass(slots=True)
class _Row:
    seq: int
    left: int
    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    words: str = ""
    letters: list[DeadLetter] = field(default_factory=list)


class Window:
    """Rows in their order, from the first that is not settled on."""

    def __init__(self, sent_before: int = 0) -> None:
        """Begin with nothing; rows up to `sent_before` may have been sent before the start, with nobody to know."""
        self._sent_before = sent_before
        self._rows: deque[_Row] = deque()
        self._by_seq: dict[int, _Row] = {}

    def __len__(self) -> int:
        """Count the rows that are not settled, or wait for one before them."""
        return len(self._rows)

    def open(self, seq: int, samples: int, dropped: Mapping[str, int]) -> None:
        """Add the next row: `samples` go to the receiver, the others are dropped by reason."""
        row = _Row(seq, samples, dropped=dropped)
        self._rows.append(row)
        self._by_seq[seq] = row

    def open_delivered(self, seq: int, samples: int) -> None:
        """Add the next row, which the target has."""
        row = _Row(seq, 0, samples)
        self._rows.append(row)
        self._by_seq[seq] = row

    def delivered(self) -> list[int]:
        """Give the rows that wait for one before them and of which the target has everything."""
        whole = (row for row in self._rows if row.left == 0 and row.delivered)
        return [row.seq for row in whole if not (row.dropped or row.letters or row.words)]

    def reopen(self, seq: int, samples: int, dropped: Mapping[str, int]) -> None:
        """Know better what becomes of a row of which nothing was sent."""
        row = self._by_seq[seq]
        row.left, row.dropped = samples, dropped

    def is_settled(self, seq: int) -> bool:
        """Whether nothing of a row that was opened is under way."""
        row = self._by_seq.get(seq)
        return row is None or row.left == 0

    def settle(self, request: Request, refusals: Sequence[Refusal] = ()) -> None:
        """Note the end of a request: everything in it is delivered but for the refusals, which are in order."""
        start = at = 0
        for share in request.shares:
            row = self._by_seq[share.seq]
            row.left -= share.samples
            row.delivered += share.samples
            stop = start + share.samples
            while at < len(refusals) and refusals[at].start < stop:
                self._refuse(row, refusals[at], (start, stop), request.tenant)
                if refusals[at].stop > stop:
                    break
                at += 1
            start = stop

    def take(self) -> list[Settled]:
        """Give what may be confirmed now, in order; neighbours that met with the same as one stretch."""
        done: list[_Row] = []
        while self._rows and self._rows[0].left == 0:
            row = self._rows.popleft()
            del self._by_seq[row.seq]
            done.append(row)
        return [_join(list(rows)) for _, rows in groupby(done, key=_fate)]

    def _refuse(self, row: _Row, refusal: Refusal, span: tuple[int, int], tenant: str) -> None:
        """Count what a refusal costs a row whose samples in the request are those of `span`."""
        first, last = max(span[0], refusal.start), min(span[1], refusal.stop)
        maybe_stored = refusal.maybe_stored or row.seq <= self._sent_before
        row.delivered -= last - first
        row.words = row.words or refusal.words
        if refusal.fields is None:
            row.dropped = Counter(row.dropped) + Counter({refusal_reason(refusal.status): last - first})
            return
        body = snappy_block.compress(b"".join(refusal.fields[first - refusal.start : last - refusal.start]))
        row.letters.append(DeadLetter(row.seq, last - first, refusal.status, refusal.words, maybe_stored, body, tenant))


def _join(rows: Sequence[_Row]) -> Settled:
    dropped: Counter[str] = Counter()
    for row in rows:
        if row.dropped:
            dropped.update(row.dropped)
    letters = tuple(_put_together([letter for row in rows for letter in row.letters]))
    return Settled(rows[0].seq, rows[-1].seq, sum(row.delivered for row in rows), dropped, rows[0].words, letters)


def _put_together(letters: Sequence[DeadLetter]) -> Iterator[DeadLetter]:
    """Make one of neighbours that were refused together: a wrong password would write one for each push."""
    for (whole, *_), some in groupby(letters, key=_circumstances):
        alike = list(some)
        if not whole or len(alike) == 1:
            yield from alike
            continue
        body = snappy_block.join([letter.body for letter in alike])
        yield replace(alike[0], samples=sum(letter.samples for letter in alike), body=body)


def _circumstances(letter: DeadLetter) -> tuple[bool, int, str, bool, str]:
    return concerns_all(letter.status), letter.status, letter.words, letter.maybe_stored, letter.tenant


def _fate(row: _Row) -> tuple[frozenset[str], str]:
    """What is told of a push besides that it is settled: what its target's own rules drop is none of it."""
    if not row.words and not row.dropped and not row.letters:
        return _DELIVERED
    return frozenset(row.dropped) - BY_RULES | {letter.reason for letter in row.letters}, row.words
