"""What is held is sent again between the rows of the journal: a request at a time, and never before what is older.

Owns whose turn it is and when a try that failed is made again. What is repeated is the hold's business, how a request
is sent and judged the courier's; reading the journal does not belong here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Literal, Protocol

from bridge.delivery.batch import Request
from bridge.delivery.courier import Courier, Observer, Pace, Posted
from bridge.delivery.outcome import Rejected, RetryLater
from bridge.reasons import refusal_reason

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
        lags: Callable[[str], bool] | None,
    ) -> None:
        """`has(tenant, seq)` tells whether the target has all rows of a tenant up to `seq`.

        `lags` tells whether others do not wait for a tenant; None where there are no tenants.
        """
        self._name = name
        self._hold = hold
        self._courier = courier
        self._observer = observer
        self._pace = pace
        self._has, self._lags = has, lags
        self._failures: Counter[str] = Counter()
        """By tenant, since something was taken."""
        self._next_s: dict[str, float] = {}

    @property
    def pause_s(self) -> float:
        """How long nothing is tried; 0 where there are tenants, who do not wait for each other."""
        return max(0.0, self._next_s.get("", 0.0) - self._pace.clock_s()) if self._lags is None else 0.0

    async def send_next(self, *, drained: bool) -> bool:
        """Send the next repeats that are due; False when there are none. `drained`: the journal has no more rows.

        One try: what failed is tried later, with what the groups are by then, and the journal does not wait for it.
        Rows in flight do no harm: they are of groups that are left out, because these rows are newer than the point.
        """
        request = self._hold.request(lambda tenant, seq: self._turn(tenant, seq, drained=drained))
        if request is None:
            return False
        if not request.samples:
            # The target's rules dropped what was looked at; there may be much of it.
            self._hold.sent()
            await asyncio.sleep(0)
            return True
        tenant = request.tenant
        answer = await self._courier.post(request, self._failures[tenant])
        outcome = await self._courier.judge(answer, self._failures[tenant] + 1, tenant)
        if isinstance(outcome, RetryLater):
            await self._put_off(request, outcome, is_wish=isinstance(answer, RetryLater) and answer.after_s is not None)
            return True
        refused = 0
        if isinstance(outcome, Rejected):
            one = Request(request.block, request.samples, tenant)
            for refusal in await self._courier.find_refused(one, outcome) or ():
                refused += refusal.stop - refusal.start
                self._observer.repeated(self._name, refusal_reason(refusal.status), refusal.stop - refusal.start)
        self._failures.pop(tenant, None)
        self._next_s.pop(tenant, None)
        self._hold.sent()
        if refused < request.samples:
            self._observer.repeated(self._name, "", request.samples - refused)
        return True

    def _turn(self, tenant: str, seq: int, *, drained: bool) -> Turn:
        waits = self._pace.clock_s() < self._next_s.get(tenant, 0.0)
        if self._lags is not None and (waits or self._lags(tenant)):
            return "not this time"
        return "now" if not waits and (drained or self._has(tenant, seq)) else "later"

    async def _put_off(self, request: Posted, later: RetryLater, *, is_wish: bool) -> None:
        tenant = request.tenant
        self._failures[tenant] += 1
        wait_s = self._pace.delay_s(self._failures[tenant], later.after_s)
        self._courier.log_retry(later, self._failures[tenant], wait_s, request)
        self._next_s[tenant] = self._pace.clock_s() + wait_s
        if is_wish and self._lags is None:
            await self._pace.sleep(wait_s)
