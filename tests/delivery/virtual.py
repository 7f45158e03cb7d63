"""An event loop on which time passes only when there is nothing else to do, and at once then: hours in milliseconds.

What waits for ever is found as that, and so is a loop that turns without end. No test lives here.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")
_MOST_TURNS = 50_000
"""Of the loop between two waits."""
_TURN_S = 1e-7
"""Lasts one turn: a timer that is due in less than the clock can tell goes off early, and again and again."""


class StandstillError(Exception):
    """Nothing will ever happen again, or the loop turns without end."""


class _Selector(selectors.SelectSelector):
    """Waits for nothing."""

    now_s = 0.0
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time pass that the loop would wait."""
        if timeout is None:
            raise StandstillError("everybody waits, and nothing will ever happen")
        self.turns = 0 if timeout > 0 else self.turns + 1
        if self.turns > _MOST_TURNS:
            raise StandstillError(f"{_MOST_TURNS} turns of the loop without a pause")
        self.now_s += max(timeout, _TURN_S)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        """Tell the time."""
        return self.selector.now_s


def run(work: Coroutine[None, None, T]) -> T:
    """Run until the end."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
