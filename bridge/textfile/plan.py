"""What is to be done about the files of a directory: from what was known and what is there. Pure.

Owns when a file counts as changed, which files share a transaction, and whether a group has a file's content already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.content import Content, Shape
from bridge.groups import Group

MOST_FILES, MOST_BYTES = 25, 1 << 20
"""In one transaction: pushes that wait for it must not wait long."""
_SETTLED_NS = 2_000_000_000
"""A file may be written again within the grain of its time stamp; on some file systems that is two seconds."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another."""

    mtime_ns: int
    size: int
    inode: int

    @property
    def mtime_ms(self) -> int:
        """When the file was written."""
        return self.mtime_ns // 1_000_000


NO_STAMP = Stamp(0, 0, 0)
"""Of what is no readable file."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a file."""

    stamp: Stamp
    """When it was looked at."""
    digest: bytes = b""
    """Of its content then."""
    error: str = ""
    """Why it was refused, empty when it was not."""
    waits: bool = False
    """Whether it may be taken later although it does not change."""
    settled: bool = True
    """Whether it cannot have changed since without another stamp."""
    good_mtime_ns: int | None = None
    """Time of the content that is in force."""
    shape: Shape | None = None
    """Series of that content."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, each in the order of names."""

    gone: tuple[str, ...] = ()
    look: tuple[str, ...] = ()


def plan(known: Mapping[str, Known], sources: Iterable[str], found: Mapping[str, Stamp]) -> Plan:
    """Compare; `sources` are names whose groups hold something, whether the file is known or not."""
    gone = {*known, *sources} - found.keys()
    look = [name for name, stamp in found.items() if _is_news(known.get(name), stamp)]
    return Plan(tuple(sorted(gone)), tuple(sorted(look)))


def _is_news(known: Known | None, stamp: Stamp) -> bool:
    return known is None or known.stamp != stamp or stamp == NO_STAMP or known.waits or not known.settled


def is_settled(stamp: Stamp, now_ns: int) -> bool:
    """Whether another write from now on gives another stamp."""
    return now_ns - stamp.mtime_ns > _SETTLED_NS


def chunks(names: Sequence[str], found: Mapping[str, Stamp]) -> Iterable[list[str]]:
    """Put names together that are read and committed at once."""
    chunk: list[str] = []
    size_bytes = 0
    for name in names:
        size_bytes += found[name].size
        if chunk and (len(chunk) == MOST_FILES or size_bytes > MOST_BYTES):
            yield chunk
            chunk, size_bytes = [], found[name].size
        chunk.append(name)
    if chunk:
        yield chunk


def is_in_force(group: Group, content: Content, mtime_ms: int, now_ms: int) -> bool:
    """Whether a group has taken this content of its file before, when nothing else is known of the file.

    What has expired is not there to be compared; the file has to be newer to count. A time in the future was not
    kept, so it tells nothing.
    """
    if not group.live or (group.push_ms < mtime_ms <= now_ms):
        return False
    return group.expired or _same(group.parts, content)


def _same(parts: Sequence[Content], content: Content) -> bool:
    if not parts:
        return not content.shape.families
    (part,) = parts
    return (
        part.shape.header == content.shape.header
        and part.shape.heads == content.shape.heads
        and part.doubles == content.doubles
        and part.timestamps == content.timestamps
    )


def time_ms(mtime_ms: int, now_ms: int, ended: Mapping[bytes, int], group: Group, content: Content) -> int:
    """The time of a file's content: its mtime, not in the future, and behind the end of its series in other files.

    What was sent for its own group is `bridge.groups.next_ms`' business.
    """
    at_ms = min(mtime_ms, now_ms)
    if ended and not any(part.shape is content.shape for part in group.parts):
        at_ms = max(at_ms, 1 + max((ended.get(head, -1) for head in content.shape.heads), default=-1))
    return at_ms
