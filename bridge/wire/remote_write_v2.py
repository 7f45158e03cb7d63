"""Remote write 2.0 (rc.4) made of 1.0: the journal's timeseries fields in, one `io.prometheus.write.v2.Request` out.

Every string stands once in the request, in `symbols`; series refer to it. A series carries its family's metadata, and
its start time where the request itself tells it: by the `_created` series beside it, which OpenMetrics and the Python
client write.

    22 <len> symbol ...
    2a <len> 0a <len> refs [12 <len> sample | 1a <len> histogram]... [22 <len> exemplar]... 2a <len> metadata

Samples and histograms are the bytes of 1.0: their fields have the same numbers. Pure; negotiation and HTTP are
`bridge.delivery`'s.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bridge.model import Metadata, MetricType
from bridge.wire.created import CREATED, HAVE_START, StartTimes
from bridge.wire.message import LABEL, SERIES, Series, cut_label, cut_series, field, fields, number
from bridge.wire.remote_write import DOUBLE_BYTES
from bridge.wire.varint import read_uvarint, uvarint

Describe = Callable[[str], Metadata]
"""Tells the metadata of a series by its metric name."""

_TYPES: Final[dict[MetricType, int]] = {
    "untyped": 0,
    "counter": 1,
    "gauge": 2,
    "histogram": 3,
    "gaugehistogram": 4,
    "summary": 5,
    "info": 6,
    "stateset": 7,
}
_HEAD_END: Final = b"\x12\x10\x09"
"""Ends the head of a series (`bridge.wire.head`); value and time are the last 15 bytes."""
MOST_REMEMBERED: Final = 131_072
"""Series whose labels are kept in pieces; a third of a kilobyte each."""
_POINT_BYTES: Final = DOUBLE_BYTES + 7
_SAMPLE_BYTES: Final = len(_HEAD_END) + _POINT_BYTES


class Encoder:
    """Writes requests, and remembers the labels of the series that it saw; several threads may use it."""

    def __init__(self, describe: Describe) -> None:
        """Take each series' metadata from `describe` when it is written."""
        self._describe = describe
        self._labels: dict[bytes, tuple[bytes, ...]] = {}
        """Head -> its label messages."""
        self._same: dict[bytes, bytes] = {}
        """Label message -> the one object for it, whose hash is known."""

    def encode(self, body: bytes) -> bytes:
        """Return the uncompressed request that says the same as `body`, an uncompressed one of 1.0 with series alone.

        A series whose head came before in the request costs a lookup. Raises ValueError for what is no such body.
        """
        request = _Request(body, self._describe)
        known, labels_of = request.known, self._labels
        out: list[bytes] = []
        position, end = 0, len(body)
        try:
            while position < end:
                size, start = body[position + 1], position + 2
                if size > 0x7F:  # noqa: PLR2004 - the top bit says that more follows
                    if body[start] > 0x7F:  # noqa: PLR2004
                        size, start = read_uvarint(body, position + 1)
                    else:
                        size, start = size & 0x7F | body[start] << 7, start + 1
                stop = start + size
                if body[position] != SERIES or stop > end:
                    raise ValueError(f"body byte {position}: got no timeseries field that ends within {end} bytes")
                head = body[position : stop - _POINT_BYTES]
                edges = known.get(head)
                if edges is None:
                    labels = labels_of.get(head) or self._cut(head, start - position)
                    edges = request.edges(head, labels) if labels else None
                if edges is None:
                    out.append(request.series(body[start:stop]))
                else:
                    out += (edges[0], body[stop - _POINT_BYTES : stop], edges[1])
                position = stop
        except IndexError as error:
            raise ValueError(f"body byte {position}: got a timeseries field that breaks off") from error
        return b"".join([*request.symbols.fields(), *out])

    def _cut(self, head: bytes, position: int) -> tuple[bytes, ...]:
        """The label messages of a head, which begin at `position`; none for a series that is no everyday one."""
        if not head.endswith(_HEAD_END):
            return ()
        end = len(head) - len(_HEAD_END)
        labels: list[bytes] = []
        while position < end and head[position] == LABEL:
            size, start = read_uvarint(head, position + 1)
            position = start + size
            label = head[start:position]
            labels.append(self._same.setdefault(label, label))
        if position != end:
            return ()
        if len(self._labels) >= MOST_REMEMBERED:
            self._labels.clear()
            self._same.clear()
        self._labels[head] = cut = tuple(labels)
        return cut


class _Symbols(dict[bytes, bytes]):
    """String -> its reference as a varint; asking for a new string adds it."""

    def __missing__(self, text: bytes) -> bytes:
        self[text] = reference = number(len(self))
        return reference

    def fields(self) -> list[bytes]:
        """The `symbols` fields, in order."""
        return [field(b"\x22", text) for text in self]


class _Refs(dict[bytes, bytes]):
    """Label message of 1.0 -> the references of its name and value."""

    def __init__(self, symbols: _Symbols) -> None:
        super().__init__()
        self._symbols = symbols

    def __missing__(self, label: bytes) -> bytes:
        name, value = cut_label(label)
        self[label] = refs = self._symbols[name] + self._symbols[value]
        return refs


_Edges = tuple[bytes, bytes]
"""What stands before and behind value and time of a series."""


class _About(NamedTuple):
    """A metric's metadata field, and its type."""

    field: bytes
    type: MetricType


class _Request:
    """What is known of a request while it is written."""

    def __init__(self, body: bytes, describe: Describe) -> None:
        self.symbols = _Symbols({b"": b"\x00"})
        self.known: dict[bytes, _Edges] = {}
        """By head."""
        self._refs = _Refs(self.symbols)
        self._describe = describe
        self._abouts: dict[bytes, _About] = {}
        """By label message, of those that say the metric's name."""
        self._starts = StartTimes(body) if CREATED in body else None

    def edges(self, head: bytes, labels: Sequence[bytes]) -> _Edges | None:
        """The edges of a series with this head and these labels; None when its start time is to be looked for."""
        about = self._abouts.get(labels[0]) or self._about(labels)
        if self._starts is not None and about[1] in HAVE_START:
            return None
        refs = b"".join(map(self._refs.__getitem__, labels))
        count = number(len(refs))
        behind = about[0]
        size = number(1 + len(count) + len(refs) + _SAMPLE_BYTES + len(behind))
        self.known[head] = edges = b"".join((b"\x2a", size, b"\x0a", count, refs, _HEAD_END)), behind
        return edges

    def series(self, message: bytes) -> bytes:
        """Return a timeseries field of 2.0 (two, when the series has samples and histograms)."""
        series = cut_series(message)
        about = self._about(series.labels)
        if self._starts is not None and about.type in HAVE_START:
            series = self._with_start(series, about.type)
        refs = field(b"\x0a", b"".join(map(self._refs.__getitem__, series.labels)))
        exemplars = b"".join([field(b"\x22", self._exemplar(one)) for one in series.exemplars])
        samples = b"".join([field(b"\x12", sample) for sample in series.samples])
        histograms = b"".join([field(b"\x1a", histogram) for histogram in series.histograms])
        if samples and histograms:
            both = (refs + samples + exemplars + about.field, refs + histograms + about.field)
            return b"".join([field(b"\x2a", one) for one in both])
        return field(b"\x2a", refs + samples + histograms + exemplars + about.field)

    def _about(self, labels: Sequence[bytes]) -> _About:
        for label in labels:
            known = self._abouts.get(label)
            if known is not None:
                return known
            name, value = cut_label(label)
            if name == b"__name__":
                self._abouts[label] = about = self._metadata(value.decode())
                return about
        return _About(field(b"\x2a", b""), "untyped")

    def _metadata(self, name: str) -> _About:
        told = self._describe(name)
        kind = _TYPES[told.type]
        texts = ((b"\x18", told.help), (b"\x20", told.unit))
        parts = [b"\x08" + number(kind) if kind else b""]
        parts += [tag + self.symbols[text.encode()] for tag, text in texts if text]
        return _About(field(b"\x2a", b"".join(parts)), told.type)

    def _exemplar(self, exemplar: bytes) -> bytes:
        refs: list[bytes] = []
        rest: list[bytes] = []
        for part in fields(exemplar):
            if part.tag == LABEL:
                refs.append(self._refs[exemplar[part.start : part.stop]])
            else:
                rest.append(exemplar[part.tag_at : part.stop])
        return field(b"\x0a", b"".join(refs)) + b"".join(rest)

    def _with_start(self, series: Series, kind: MetricType) -> Series:
        assert self._starts is not None  # noqa: S101 - who calls has looked
        start_ms = self._starts.of(series, kind)
        if start_ms is None:
            return series
        start = uvarint(start_ms)
        return series._replace(
            samples=[sample + b"\x18" + start for sample in series.samples],
            histograms=[histogram + b"\x88\x01" + start for histogram in series.histograms],
        )
