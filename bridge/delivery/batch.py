"""Which rows make up the next requests: rows in, bytes to POST out.

Pure. Reading the journal, sending and counting are the sender's; what a target's rules make of a row is `rewrite`.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from bridge.delivery.rewrite import MOST_ROW_BYTES, Row
from bridge.wire import snappy_block
from bridge.wire.remote_write import split_series


@dataclass(frozen=True, slots=True)
class Share:
    """What a row has in a request."""

    seq: int
    samples: int
    group: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of one POST, which stay the same for all its attempts."""

    block: bytes
    samples: int
    tenant: str = ""
    """Whose samples these are, all of them; "" when the target's own headers say it."""
    shares: tuple[Share, ...] = ()
    """Of its rows, in the order of the samples."""

    def fields(self) -> list[bytes]:
        """The timeseries fields, one for each sample."""
        return split_series(snappy_block.decompress(self.block, MOST_ROW_BYTES))


def cut(fields: Sequence[bytes], tenant: str, shares: tuple[Share, ...] = ()) -> Request:
    """Make a request of some timeseries fields."""
    return Request(snappy_block.compress(b"".join(fields)), len(fields), tenant, shares)


def separate(request: Request, suspects: Container[bytes]) -> list[Request]:
    """Take groups of which something may be refused out of a request: no two rows of one in the same part.

    Nobody else pays for them then, and a receiver that stores the good part of what it refuses cannot refuse the older
    of two rows when it comes again.
    """
    shares = request.shares
    if not any(share.group in suspects for share in shares) or len(shares) == 1:
        return [request]
    fields = request.fields()
    parts: list[tuple[list[bytes], list[Share]]] = [([], [])]
    turns: dict[bytes, int] = {}
    start = 0
    for share in shares:
        turn = 0
        if share.group in suspects:
            turn = turns[share.group] = turns.get(share.group, 0) + 1
        if turn == len(parts):
            parts.append(([], []))
        parts[turn][0].extend(fields[start : start + share.samples])
        parts[turn][1].append(share)
        start += share.samples
    return [cut(some, request.tenant, tuple(of)) for some, of in parts if of]


@dataclass(slots=True)
class _Forming:
    """A request that more rows may join."""

    blocks: list[bytes] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    """Of rows behind the blocks, not compressed yet: together they take less time and room."""
    shares: list[Share] = field(default_factory=list)
    samples: int = 0
    content_bytes: int = 0

    def add(self, seq: int, row: Row, group: bytes) -> None:
        if row.content is not None:
            self.contents.append(row.content)
        else:
            self._compress()
            self.blocks.append(row.body)
        self.shares.append(Share(seq, row.samples, group))
        self.samples += row.samples
        self.content_bytes += row.content_bytes

    def request(self, tenant: str) -> Request:
        self._compress()
        return Request(snappy_block.join(self.blocks), self.samples, tenant, tuple(self.shares))

    def _compress(self) -> None:
        if self.contents:
            self.blocks.append(snappy_block.compress(b"".join(self.contents)))
            self.contents = []


class Packer:
    """Joins rows to requests, each full or flushed, tenants apart; a row over the limits becomes several."""

    def __init__(self, max_samples: int, max_body_bytes: int) -> None:
        """`max_body_bytes` counts uncompressed."""
        self._max_samples = max_samples
        self._max_body_bytes = max_body_bytes
        self._forming: dict[str, _Forming] = {}

    def add(self, seq: int, row: Row, group: bytes = b"") -> list[Request]:
        """Take a row; gives the requests that are ready, in order.

        Raise ValueError, with nothing taken, for a damaged one.
        """
        forming = self._forming.get(row.tenant)
        if forming is not None and self._fits(forming, row):
            forming.add(seq, row, group)
            return []
        if not self._fits(_Forming(), row):
            cuts = self._cut(seq, row, group)
            return [*self._take(row.tenant), *cuts]
        ready = self._take(row.tenant)
        self._forming[row.tenant] = fresh = _Forming()
        fresh.add(seq, row, group)
        return ready

    def flush(self) -> list[Request]:
        """Give what is left."""
        return [request for tenant in list(self._forming) for request in self._take(tenant)]

    def _fits(self, forming: _Forming, row: Row) -> bool:
        return (
            forming.samples + row.samples <= self._max_samples
            and forming.content_bytes + row.content_bytes <= self._max_body_bytes
        )

    def _take(self, tenant: str) -> list[Request]:
        forming = self._forming.pop(tenant, None)
        return [] if forming is None else [forming.request(tenant)]

    def _cut(self, seq: int, row: Row, group: bytes) -> list[Request]:
        """Cut one row into requests, in order; the cuts depend on the limits alone, so repeats are alike."""
        requests: list[Request] = []
        part: list[bytes] = []
        part_bytes = 0
        content = snappy_block.decompress(row.body, MOST_ROW_BYTES) if row.content is None else row.content
        for one in split_series(content):
            if part and (len(part) >= self._max_samples or part_bytes + len(one) > self._max_body_bytes):
                requests.append(cut(part, row.tenant, (Share(seq, len(part), group),)))
                part, part_bytes = [], 0
            part.append(one)
            part_bytes += len(one)
        requests.append(cut(part, row.tenant, (Share(seq, len(part), group),)))
        return requests
