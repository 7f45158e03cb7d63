"""What the journal stores and gives back, as plain values; no SQL here.

Ingress and delivery meet only through these. A body is one snappy block whose content is a run of
encoded `prometheus.TimeSeries` fields of a WriteRequest (remote_write 1.0), so that bodies can be
joined into a request without decoding them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bridge.reasons import refusal_reason

Operation = Literal["put", "post", "delete", "failure", "expire", "forget"]
NEVER_MS = 1 << 62
"""Later than any time."""
NATIVE_HISTOGRAMS, CUSTOM_BUCKETS, EXEMPLARS = 1, 2, 4
"""What a row may hold besides plain samples, as bits; targets differ in what they take of it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One journal row to be appended; a large push is several rows of one transaction."""

    arrival_ms: int
    group: bytes
    """The grouping key, as `bridge.groups` spells it."""
    operation: Operation
    samples: int
    """Number of samples in the body, staleness markers and push-time gauges included."""
    body: bytes
    kinds: int = 0
    """Bits of what it holds besides plain samples."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal row as read back."""

    seq: int
    samples: int
    body: bytes
    """Empty when `damaged`."""
    arrival_ms: int
    damaged: bool = False
    """The stored checksum does not match: the row must be skipped and counted."""
    group: bytes = b""
    kinds: int = 0


@dataclass(frozen=True, slots=True)
class PartRow:
    """A piece of a group's current state, less its values: what one push left that no later push replaced."""

    families: bytes
    heads: bytes


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group's state as stored; `parts` empty and `live` false once it is deleted."""

    key: bytes
    last_ms: int
    """Newest arrival stamp given out for this group; it survives deletion so that time never goes back."""
    push_ms: int
    """Last successful push, 0 for never."""
    failure_ms: int
    """Last refused push, 0 for never."""
    live: bool
    expires_ms: int
    """When what the group holds ends, 0 once it has."""
    hold: bool
    doubles: bytes
    """Values of all parts, one after the other."""
    parts: tuple[PartRow, ...] | None
    """None when they are as stored."""
    damaged: bool = False
    """A stored checksum does not match: what the group held is lost."""
    seq: int = 0
    """Newest row when it was stored, which the journal adds: what the group is now says all of its rows up to here."""


@dataclass(frozen=True, slots=True)
class CursorRow:
    """How far along the journal one target has confirmed, with the totals that must survive restarts."""

    target: str
    seq: int
    """Newest confirmed sequence number; 0 before the first."""
    start_total: int
    """Samples accepted before this target was known: not its business."""
    delivered: int
    dropped: tuple[tuple[str, int], ...]
    """(reason, samples) pairs."""
    dead_lettered: tuple[tuple[str, int], ...] = ()
    """(reason, samples) pairs, whether the dead letters are still kept or not."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Samples of one row that a target refused for good."""

    seq: int
    """The row."""
    samples: int
    status: int
    """The target's answer."""
    words: str
    """The target's own."""
    maybe_stored: bool
    """An earlier request with these samples had no clear answer: the target may have them."""
    body: bytes
    """They themselves, as in a row."""
    tenant: str = ""
    target: str = ""
    at_ms: int = 0
    """When it was refused."""
    id: int = 0
    """The journal's number for it, 0 before it has one."""

    @property
    def reason(self) -> str:
        """The `reason` label of metrics."""
        return refusal_reason(self.status)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An idempotency key that a push of a group came with."""

    group: bytes
    key: str
    digest: bytes
    """Of method and body: another one under the same key is another push."""
    first_seq: int
    """Rows of the push; 0 when it made none."""
    last_seq: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """What became of a stretch of the journal at one target."""

    target: str
    first_seq: int
    last_seq: int
    at_ms: int
    reason: str = ""
    """Empty when it was delivered, else why it never will be."""
    words: str = ""
    """The target's own."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a sender says of rows, behind those it spoke of before."""

    first_seq: int
    last_seq: int
    delivered: int
    dropped: Mapping[str, int]
    """Samples by reason."""
    words: str = ""
    letters: tuple[DeadLetter, ...] = ()


UNKNOWN = -1
"""What a run does not say of itself."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One execution of a job. Group and start tell it from others."""

    group: bytes
    start_ms: int
    end_ms: int = 0
    """0 before it has ended."""
    success: bool = False
    exit_code: int = UNKNOWN
    duration_ms: int = UNKNOWN
    max_rss_bytes: int = UNKNOWN
    every_ms: int = 0
    """The next run is expected so long after this one, 0 for no such promise."""
    grace_ms: int = 0


RunNote = RunRow | bytes
"""What is new of a run, or the key of a group that ended: what ran in it until then is history."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction writes: rows in order, group states after them (each group once), cursor moves."""

    records: tuple[Record, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    cursors: tuple[CursorRow, ...] = ()
    state_seq: int = 0
    """The stored groups know every row up to here; 0 says nothing new."""
    tick_ms: int = 0
    """Newest point of the grid; 0 says nothing new."""
    keys: tuple[KeyRow, ...] = ()
    deliveries: tuple[DeliveryRow, ...] = ()
    runs: tuple[RunNote, ...] = ()
    """In their order."""
    letters: tuple[DeadLetter, ...] = ()
