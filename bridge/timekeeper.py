"""Time's own operations: a point of the grid begins, and what groups hold ends.

Owns when they are done. What they do is `bridge.hold`; the clock is given in, and may step.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from bridge.errors import PushRefusedError
from bridge.hold import HoldTimes, due_ms, end, grid_ms
from bridge.journal.committer import Committer
from bridge.journal.staging import Staging

_log = structlog.get_logger(__name__)
_LONGEST_STEP_S = 1.0
_GROUPS_AT_ONCE = 200
"""So many end in one transaction: pushes that wait for it must not wait long."""
_LONGEST_LOOK_AWAY_MS = 86_400_000


class Timekeeper:
    """Looks at the clock again and again."""

    def __init__(self, committer: Committer, times: HoldTimes, now_ms: Callable[[], int]) -> None:
        """Do what is due in the groups of `committer`."""
        self._committer = committer
        self._times = times
        self._now_ms = now_ms

    async def run(self) -> None:
        """Go on until cancelled; a disk that takes no writes only makes things late."""
        while True:
            next_ms = grid_ms(self._now_ms(), self._times.interval_ms) + self._times.interval_ms
            try:
                await self.step()
            except PushRefusedError as error:
                _log.debug("time_waits", error=str(error))
            # From before the step: a point that began meanwhile must not be slept through.
            left_s = max(next_ms - self._now_ms(), 0) / 1000
            await asyncio.sleep(min(left_s, _LONGEST_STEP_S))

    async def step(self) -> None:
        """Do what is due now; raises JournalFullError or JournalUnavailableError when it could not be written."""
        now_ms = self._now_ms()
        at_ms = grid_ms(now_ms, self._times.interval_ms)
        # First, because a journal that is full of what one target does not take has no room for markers, and the
        # other targets want their repeats all the same.
        if at_ms > self._committer.newest_tick.at_ms:
            await self._committer.tick(at_ms)
        if self._committer.groups.soonest_ms <= now_ms:
            await self._end_due(now_ms)

    async def _end_due(self, now_ms: int) -> None:
        groups = self._committer.groups
        due = {group.id.key: due_ms(group, self._times.forget_after_ms) for group in groups.live()}
        # A group that holds nothing does not tell when it is due, and that is `forget_after` from now at the soonest.
        latest_ms = now_ms + min(self._times.forget_after_ms, _LONGEST_LOOK_AWAY_MS)
        groups.soonest_ms = min((at_ms for at_ms in due.values() if at_ms > now_ms), default=latest_ms)
        groups.soonest_ms = min(groups.soonest_ms, latest_ms)
        keys = [key for key, at_ms in due.items() if at_ms <= now_ms]
        try:
            for start in range(0, len(keys), _GROUPS_AT_ONCE):
                await self._committer.submit(
                    partial(self._end, keys=keys[start : start + _GROUPS_AT_ONCE], now_ms=now_ms)
                )
        except PushRefusedError:
            groups.soonest_ms = now_ms
            raise

    def _end(self, staging: Staging, keys: list[bytes], now_ms: int) -> None:
        for key in keys:
            group = staging.group(key)
            # A push may have come in between.
            if due_ms(group, self._times.forget_after_ms) <= now_ms:
                change = end(group, staging.now_for(group))
                staging.add(change)
                soonest_ms = due_ms(change.group, self._times.forget_after_ms)
                staging.committed.soonest_ms = min(staging.committed.soonest_ms, soonest_ms)
