"""Hold and expiry: what groups repeat between two pushes, and when that ends (design.md section 7).

Owns the grid, what a group repeats at a point of it, and what ends when. Pure: the clock is an argument,
nothing is sent here, and nothing that is repeated is journaled: it follows from the groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bridge.content import histogram_markers
from bridge.delivery.repeats import Turn
from bridge.delivery.rewrite import TargetRules, first_of_each, relabel_points
from bridge.delivery.taken import take_points
from bridge.groups import Change, Group, delete, ended_between, gauge_doubles, next_ms
from bridge.journal.rows import NEVER_MS
from bridge.registry import Groups
from bridge.wire import snappy_block
from bridge.wire.points import encode_fields

_NO_RULES = TargetRules()
_MOST_LOOKED_AT = 4
"""So many requests full of series are looked at for one: rules may drop all of them, and others want their turn."""
Points = tuple[Sequence[bytes], Sequence[bytes]]
"""Heads of series, and the bytes of their values: doubles, or messages of native histograms."""


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
    return Change("expire", after, ended=ended, gauges=False, markers=histogram_markers(group.parts))


def held_points(group: Group, at_ms: int) -> Points:
    """Heads and values that the group repeats at a point of the grid; none when it has something newer.

    The push times are repeated for as long as the group is known. Samples with timestamps of their own are not.
    """
    if not group.live or group.last_ms >= at_ms:
        return (), ()
    heads, doubles = [*group.id.gauge_heads], [*gauge_doubles(group)]
    if group.hold and at_ms < group.expires_ms:
        for part in group.parts:
            if part.timestamps is None:
                heads += part.shape.heads
                doubles += part.points()
            else:
                untimed = [at for at, stamp in enumerate(part.timestamps) if stamp is None]
                points = part.points()
                heads += [part.shape.heads[at] for at in untimed]
                doubles += [points[at] for at in untimed]
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
    """0 when the target's rules dropped all that was looked at."""
    tenant: str = ""


@dataclass(slots=True)
class Round:
    """One target's way through the groups at one tick, a request at a time.

    A request is put together from the groups as they are when it is sent. A group that was pushed to since the tick
    has a newer sample on its way in the journal and is passed over, so a repeat never follows what it is older than.
    """

    groups: Groups
    tick: Tick
    max_samples: int
    own: Sequence[tuple[str, Points]] = ()
    """What the agent says, by tenant; it comes first."""
    start: int = 0
    """Which of the groups comes first; the others follow in a circle."""
    rules: TargetRules = _NO_RULES
    keys: Sequence[bytes] = ()
    """The tick's, those of a tenant side by side."""
    _position: int = 0
    """Of the agent's own first, then of the groups."""
    _offset: int = 0
    _next: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Put the groups of each tenant together."""
        tenant_of = self.rules.tenant_of
        self.keys = self.tick.keys if tenant_of is None else sorted(self.tick.keys, key=tenant_of)

    @property
    def behind(self) -> int:
        """Where a round begins that goes on with the groups that were not tried."""
        return self.start + max(self._next[0] - len(self.own), 0)

    def request(self) -> HeldRequest | None:
        """The next request, the same again until `sent`; None when the round is over."""
        heads: list[bytes] = []
        doubles: list[bytes] = []
        position, offset = self._position, self._offset
        end, left = len(self.own) + len(self.keys), _MOST_LOOKED_AT * self.max_samples
        tenant = self._tenant(position) if position < end else ""
        looked_at, takes = False, self.rules.takes()
        while position < end and len(heads) < self.max_samples and left > 0 and self._tenant(position) == tenant:
            all_heads, all_doubles = self._points(position)
            stop = offset + min(self.max_samples - len(heads), left)
            part = all_heads[offset:stop]
            taken = take_points(part, all_doubles[offset:stop], takes)
            more_heads, more_doubles = relabel_points(*taken, self.rules.relabel)
            heads += more_heads
            doubles += more_doubles
            looked_at = looked_at or bool(part)
            left -= len(part)
            position, offset = (position, stop) if len(all_heads) > stop else (position + 1, 0)
        self._next = position, offset
        if not looked_at and position >= end:
            return None
        if self.rules.relabel is not None:
            heads, doubles = first_of_each(heads, doubles)
        block = snappy_block.compress(encode_fields(heads, doubles, self.tick.at_ms))
        return HeldRequest(block, len(heads), tenant)

    @property
    def tenant(self) -> str | None:
        """Whose the next request is; None when the round is over."""
        return self._tenant(self._position) if self._position < len(self.own) + len(self.keys) else None

    def pass_over(self, tenant: str) -> None:
        """Go on behind what comes next of this tenant."""
        while self.tenant == tenant:
            self._position += 1
        self._offset = 0

    def _tenant(self, position: int) -> str:
        if position < len(self.own):
            return self.own[position][0]
        return self.rules.tenant_of(self._key(position)) if self.rules.tenant_of else ""

    def _points(self, position: int) -> Points:
        if position < len(self.own):
            return self.own[position][1]
        return held_points(self.groups.get(self._key(position)), self.tick.at_ms)

    def _key(self, position: int) -> bytes:
        return self.keys[(self.start + position - len(self.own)) % len(self.keys)]

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
        own: Callable[[int], Sequence[tuple[str, Points]]] = lambda _: (),
        rules: TargetRules = _NO_RULES,
    ) -> None:
        """Begin with the newest tick: the agent may have ended before its round was over. It is repeated alike.

        `own` gives what the agent says at a point of the grid, by tenant; `rules` hold for it, too.
        """
        self._own = own
        self._groups = groups
        self._newest_tick = newest_tick
        self._max_samples = max_samples
        self._rules = rules
        self._round = Round(groups, newest_tick(), max_samples, rules=rules)

    @property
    def tick(self) -> Tick:
        """The tick that this target is at."""
        return self._round.tick

    def request(self, turn: Callable[[str, int], Turn]) -> HeldRequest | None:
        """What is to be sent now, the same again until `sent`; None when nothing is due.

        `turn(tenant, seq)` tells whether repeats of a tenant may go that follow the journal's row `seq`; this round
        goes on without a tenant whose turn is not this time.
        """
        tick = self._newest_tick()
        if tick is not self.tick:
            own, behind = self._own(tick.at_ms), self._round.behind
            self._round = Round(self._groups, tick, self._max_samples, own, behind, self._rules)
        while (tenant := self._round.tenant) is not None:
            answer = turn(tenant, tick.seq)
            if answer != "not this time":
                return self._round.request() if answer == "now" else None
            self._round.pass_over(tenant)
        return None

    def sent(self) -> None:
        """Go on behind the newest request."""
        self._round.sent()
