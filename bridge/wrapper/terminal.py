"""Job control for one job: it has the terminal while it runs, and when it stops we stop with it.

The job is a process group of its own, so the kernel gives it the keyboard and Ctrl-C only if we make it the
terminal's foreground group. POSIX.1-2017, General Terminal Interface, section 11.1.4.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WANTS_TERMINAL = {signal.SIGTTIN, signal.SIGTTOU}


class Terminal:
    """The terminal on a descriptor; where there is none, nothing here has an effect."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._here = self._front() is not None
        self._lent = False

    def lend(self, group: int) -> None:
        """Put a process group in the foreground, if ours is there now."""
        if self._front() == os.getpgrp():
            self._lent = self._give(group)

    def take_back(self) -> None:
        """Put our own group in the foreground again, if it was lent."""
        if self._lent:
            self._give(os.getpgrp())
            self._lent = False

    def stopped(self, group: int, number: int) -> None:
        """The job was stopped by a signal: let the shell above us have the terminal, return when it continues us.

        Without a terminal the stop is somebody's wish for the job alone, and is left to them.
        """
        if not self._here:
            return
        if number not in _WANTS_TERMINAL or self._front() not in (group, os.getpgrp()):
            self.take_back()
            # All of our own group, as Ctrl-Z does: a pipeline stops as a whole. Has no effect where no shell watches.
            os.killpg(os.getpgrp(), signal.SIGTSTP)
        # Otherwise it only reached for the terminal before it was lent.
        self.lend(group)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGCONT)

    def _front(self) -> int | None:
        """Foreground process group, None if this is not our controlling terminal."""
        try:
            return os.tcgetpgrp(self._descriptor)
        except OSError:
            return None

    def _give(self, group: int) -> bool:
        try:
            with _in_background():
                os.tcsetpgrp(self._descriptor, group)
        except OSError:
            return False
        return True


@contextmanager
def _in_background() -> Iterator[None]:
    """Who is not in the foreground and changes that is stopped by SIGTTOU, unless it is blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
