"""Hold and expiry: what groups repeat between two pushes, and when that ends (design.md section 7).

Owns the grid, what a group repeats at a point of it, and what ends when. Pure: the clock is an argument,
nothing is sent here, and nothing that is repeated is journaled: it follows from the groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bridge.groups import Change, Group, delete, ended_between, gauge_doubles, next_ms
from bridge.journal.rows import NEVER_MS
from bridge.registry import Groups
from bridge.wire import snappy_block
from bridge.wire.head import encode_samples
from bridge.wire.remote_write import cut_doubles

Points = tuple[Sequence[bytes], Sequence[bytes]]
"""Heads and doubles of series."""


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """The settings of `push:` that say when things are repeated and end, in ms."""

    interval_ms: int = 60_000
    forget_after_ms: int = 30 * 86_400_000


def grid_ms(now_ms: int, interval_ms: int) -> int:
    """The newest point of the grid that is not in the future."""
    return now_ms - now_ms % interval_ms


def due_ms(group: Group, forget_after_ms: int) -> int:
    """When something of the group ends next: what it holds, or, after that, its push times."""
    if not group.live:
        return NEVER_MS
    if group.parts:
        return group.expires_ms
    return max(group.push_ms, group.failure_ms) + forget_after_ms


def end(group: Group, now_ms: int) -> Change:
    """What time does to a group of which something is due: its content ends, later its push times."""
    if not group.parts:
        return replace(delete(group, now_ms), operation="forget")
    # What is emitted once is out of sight by now, and a marker would be a sample where there was none.
    ended = ended_between(group.parts, ()) if group.hold else ()
    after = replace(group, last_ms=next_ms(group, now_ms) if ended else group.last_ms, parts=(), expires_ms=0)
    return Change("expire", after, ended=ended, gauges=False)


def held_points(group: Group, at_ms: int) -> Points:
    """Heads and doubles that the group repeats at a point of the grid; none when it has something newer.

    The push times are repeated for as long as the group is known. Samples with timestamps of their own are not.
    """
    if not group.live or group.last_ms >= at_ms:
        return (), ()
    heads, doubles = [*group.id.gauge_heads], [*gauge_doubles(group)]
    if group.hold and at_ms < group.expires_ms:
        for part in group.parts:
            if part.timestamps is None:
                heads += part.shape.heads
                doubles += cut_doubles(part.doubles)
            else:
                untimed = [at for at, stamp in enumerate(part.timestamps) if stamp is None]
                pieces = cut_doubles(part.doubles)
                heads += [part.shape.heads[at] for at in untimed]
                doubles += [pieces[at] for at in untimed]
    return heads, doubles


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """A point of the grid whose time has come."""

    at_ms: int = 0
    seq: int = 0
    """A target gets it once it has every journal row up to here."""
    keys: tuple[bytes, ...] = ()
    """The groups that there were. Each has rows up to `seq`, or it has changed since and is newer than this."""


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """The bytes of one POST of repeats."""

    block: bytes
    samples: int


@dataclass(slots=True)
class Round:
    """One target's way through the groups at one tick, a request at a time.

    A request is put together from the groups as they are when it is sent. A group that was pushed to since the tick
    has a newer sample on its way in the journal and is passed over, so a repeat never follows what it is older than.
    """

    groups: Groups
    tick: Tick
    max_samples: int
    own: Points = ((), ())
    """What the agent says of itself; it comes first."""
    start: int = 0
    """Which of the groups comes first; the others follow in a circle."""
    _position: int = 0
    """0 for the agent's own, then the groups."""
    _offset: int = 0
    _next: tuple[int, int] = (0, 0)

    @property
    def behind(self) -> int:
        """Where a round begins that goes on with the groups that were not tried."""
        return self.start + max(self._next[0] - 1, 0)

    def request(self) -> HeldRequest | None:
        """The next request, the same again until `sent`; None when the round is over."""
        heads: list[bytes] = []
        doubles: list[bytes] = []
        position, offset = self._position, self._offset
        while position <= len(self.tick.keys) and len(heads) < self.max_samples:
            more_heads, more_doubles = self._points(position)
            stop = offset + self.max_samples - len(heads)
            heads += more_heads[offset:stop]
            doubles += more_doubles[offset:stop]
            if len(more_heads) > stop:
                offset = stop
                break
            position, offset = position + 1, 0
        self._next = position, offset
        if not heads:
            return None
        return HeldRequest(snappy_block.compress(encode_samples(heads, doubles, self.tick.at_ms)), len(heads))

    def _points(self, position: int) -> Points:
        if position == 0:
            return self.own
        keys = self.tick.keys
        return held_points(self.groups.get(keys[(self.start + position - 1) % len(keys)]), self.tick.at_ms)

    def sent(self) -> None:
        """Go on behind the newest request."""
        self._position, self._offset = self._next


class TargetHold:
    """What one target gets repeated: a round for every tick, and only the newest tick's.

    A tick that comes before the round is over ends it; the next one begins where it was, so that a slow target, or
    one that does not take a request, gets all groups less often, not some of them never.
    """

    def __init__(
        self,
        groups: Groups,
        newest_tick: Callable[[], Tick],
        max_samples: int,
        own: Callable[[int], Points] = lambda _: ((), ()),
    ) -> None:
        """Begin with the newest tick: the agent may have ended before its round was over. It is repeated alike."""
        self._own = own
        self._groups = groups
        self._newest_tick = newest_tick
        self._max_samples = max_samples
        self._round = Round(groups, newest_tick(), max_samples)

    @property
    def tick(self) -> Tick:
        """The tick that this target is at."""
        return self._round.tick

    def request(self, cursor: int, *, drained: bool) -> HeldRequest | None:
        """What is to be sent now, the same again until `sent`; None when nothing is due.

        `drained` says that the journal has nothing behind `cursor`.
        """
        tick = self._newest_tick()
        if tick is not self.tick:
            self._round = Round(self._groups, tick, self._max_samples, self._own(tick.at_ms), self._round.behind)
        if cursor < tick.seq and not drained:
            return None
        return self._round.request()

    def sent(self) -> None:
        """Go on behind the newest request."""
        self._round.sent()
