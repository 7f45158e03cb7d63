"""What is held is sent again between the rows of the journal: a request at a time, and never before what is older.

Where there are tenants no other waits for long for the answer that one gets; its rows stay in the journal until then.

Owns whose turn it is and when a try that failed is made again. What is repeated is the hold's business, how a request
is sent and judged the courier's; reading the journal does not belong here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Literal, Protocol

from bridge.delivery.batch import Request
from bridge.delivery.courier import Courier, Observer, Pace, Posted
from bridge.delivery.first_of import first_of
from bridge.delivery.lanes import PATIENCE_S, Lanes
from bridge.delivery.outcome import Rejected, RetryLater
from bridge.reasons import refusal_reason

_LONG_PATIENCE_S = 5.0
"""So long the other tenants' repeats do: a tenant that is not waited for gets only a part of its own."""
Turn = Literal["now", "later", "not this time"]
"""What may be done with the repeats of a tenant; others wait for what comes later, not for what is left out."""


class Hold(Protocol):
    """What is repeated for this target (`bridge.hold`)."""

    def request(self, turn: Callable[[str, int], Turn]) -> Posted | None:
        """Return what is to be sent now, the same again until `sent`; None when nothing is due.

        `turn(tenant, seq)` is asked whether repeats of a tenant may go that follow the journal's row `seq`.
        """
        ...

    def sent(self) -> None:
        """Go on behind the newest request."""
        ...


class Repeats:
    """The repeats of one target."""

    def __init__(
        self,
        name: str,
        hold: Hold,
        courier: Courier,
        observer: Observer,
        pace: Pace,
        *,
        has: Callable[[str, int], bool],
        lanes: Lanes | None,
    ) -> None:
        """`has(tenant, seq)` tells whether the target has all rows of a tenant up to `seq`.

        `lanes` are those of the tenants, None where there are none.
        """
        self._name = name
        self._hold = hold
        self._courier = courier
        self._observer = observer
        self._pace = pace
        self._has, self._lanes = has, lanes
        self._failures: Counter[str] = Counter()
        """By tenant, since something was taken."""
        self._next_s: dict[str, float] = {}
        self._in_flight: set[str] = set()
        """Tenants."""
        self._since_s: dict[str, float] = {}
        """By tenant, when the first request began of those that are in flight or failed."""
        self._awaited: tuple[str, float] | None = None
        """Whose repeats all others wait for, and since when."""
        self.waiting = False
        """Whether something is due that has to wait for its turn."""

    @property
    def pause_s(self) -> float:
        """How long nothing is tried; 0 where there are tenants, who do not wait for each other."""
        return max(0.0, self._next_s.get("", 0.0) - self._pace.clock_s()) if self._lanes is None else 0.0

    async def send_next(self, *, drained: bool) -> bool:
        """Send the next repeats that are due; False when there are none. `drained`: the journal has no more rows.

        One try: what failed is tried later, with what the groups are by then, and the journal does not wait for it.
        Rows in flight do no harm: they are of groups that are left out, because these rows are newer than the point.
        """
        self.waiting = False
        request = self._hold.request(lambda tenant, seq: self._turn(tenant, seq, drained=drained))
        if request is None:
            return False
        if not request.samples:
            # The target's rules dropped what was looked at; there may be much of it.
            self._hold.sent()
            await asyncio.sleep(0)
        elif await (self._send(request) if self._lanes is None else self._send_beside(request, self._lanes)):
            self._hold.sent()
        return True

    async def _send_beside(self, request: Posted, lanes: Lanes) -> bool:
        """Send something and tell whether it is settled, or takes so long that its tenant is not waited for."""
        tenant, ended, settled = request.tenant, asyncio.Event(), False

        async def work() -> None:
            nonlocal settled
            settled = await self._send(request)
            self._in_flight.discard(tenant)
            ended.set()
            lanes.go_on(tenant)

        self._in_flight.add(tenant)
        now_s = self._pace.clock_s()
        late_s = self._since_s.setdefault(tenant, now_s) + _LONG_PATIENCE_S
        lanes.beside(work())
        if now_s < late_s:
            await first_of(ended.wait(), self._pace.sleep(PATIENCE_S))
        if ended.is_set():
            return settled
        lanes.keep_back(tenant)
        return True

    async def _send(self, request: Posted) -> bool:
        """Send something once, and tell whether it is settled."""
        tenant = request.tenant
        answer = await self._courier.post(request, self._failures[tenant])
        outcome = await self._courier.judge(answer, self._failures[tenant] + 1, tenant)
        if isinstance(outcome, RetryLater):
            await self._put_off(request, outcome, is_wish=isinstance(answer, RetryLater) and answer.after_s is not None)
            return False
        refused = 0
        if isinstance(outcome, Rejected):
            one = Request(request.block, request.samples, tenant)
            for refusal in await self._courier.find_refused(one, outcome) or ():
                refused += refusal.stop - refusal.start
                self._observer.repeated(self._name, refusal_reason(refusal.status), refusal.stop - refusal.start)
        self._failures.pop(tenant, None)
        self._next_s.pop(tenant, None)
        self._since_s.pop(tenant, None)
        if refused < request.samples:
            self._observer.repeated(self._name, "", request.samples - refused)
        return True

    def _turn(self, tenant: str, seq: int, *, drained: bool) -> Turn:
        now_s = self._pace.clock_s()
        if self._lanes is not None and self._is_left_out(tenant, now_s, self._lanes):
            return "not this time"
        is_busy = tenant in self._in_flight or now_s < self._next_s.get(tenant, now_s)
        if not is_busy and (drained or self._has(tenant, seq)):
            self._awaited = None
            return "now"
        if self._awaited is None or self._awaited[0] != tenant:
            self._awaited = tenant, now_s
        if self._lanes is not None and now_s >= self._awaited[1] + _LONG_PATIENCE_S:
            return "not this time"
        self.waiting = True
        return "later"

    def _is_left_out(self, tenant: str, now_s: float, lanes: Lanes) -> bool:
        late_s, next_s = self._since_s.get(tenant, now_s) + _LONG_PATIENCE_S, self._next_s.get(tenant, now_s)
        if tenant in self._in_flight:
            return now_s >= late_s
        if now_s < next_s:
            return next_s >= late_s
        return lanes.lags(tenant) or self._courier.in_trouble(tenant)

    async def _put_off(self, request: Posted, later: RetryLater, *, is_wish: bool) -> None:
        tenant = request.tenant
        self._failures[tenant] += 1
        wait_s = self._pace.delay_s(self._failures[tenant], later.after_s)
        self._courier.log_retry(later, self._failures[tenant], wait_s, request)
        self._next_s[tenant] = self._pace.clock_s() + wait_s
        if is_wish and self._lanes is None:
            await self._pace.sleep(wait_s)
