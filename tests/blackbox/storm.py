"""Servers that are killed at random moments and started again, while a watcher reads the agent's books.

Owns the lives and deaths. Who is killed, and what must be true in the end, is the test's business.
"""

import http.client
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.blackbox.books import accounts_in, steps_back
from tests.blackbox.load import Account, accounts
from tests.blackbox.servers import Server

_SCRAPE_EVERY_S = 0.02
_LONGEST_START_S = 0.8
_SHARE_KILLED_WHILE_STARTING = 0.2


@dataclass(slots=True)
class Victim:
    """One server, and how long it lives and is dead at the most."""

    name: str
    start: Callable[[], Server]
    """Start it, on what it left behind."""
    longest_life_s: float
    longest_death_s: float
    kill_while_starting: Callable[[float], None] | None = None
    """Start it and kill it so many seconds later, ready or not."""
    when_dead: Callable[[], None] = lambda: None
    """Look at what it left behind."""
    kills: int = 0

    def live(self, moments: random.Random, over: threading.Event) -> Server:
        """Start, kill and start again until it is `over`; gives the server that runs then, at least the second."""
        while True:
            server = self.start()
            try:
                if over.wait(moments.uniform(0, self.longest_life_s)) and self.kills:
                    return server
            except BaseException:
                server.kill()
                raise
            server.kill()
            self._died()
            over.wait(moments.uniform(0, self.longest_death_s))
            if self.kill_while_starting is not None and moments.random() < _SHARE_KILLED_WHILE_STARTING:
                self.kill_while_starting(moments.uniform(0, _LONGEST_START_S))
                self._died()

    def _died(self) -> None:
        self.kills += 1
        self.when_dead()


@contextmanager
def storm(victims: Sequence[Victim], seconds: float, seed: int) -> Iterator[list[Server]]:
    """Kill them at random for so long, then hand over the servers, which run; they are killed in the end."""
    over = threading.Event()
    with ThreadPoolExecutor(len(victims)) as pool:
        # Each has moments of its own: when one is late it does not move those of the others.
        lives = [pool.submit(victim.live, random.Random(f"{seed} {victim.name}"), over) for victim in victims]
        try:
            wait(lives, seconds, FIRST_EXCEPTION)
        finally:
            over.set()
            servers = [life.result() for life in lives if life.exception() is None]
        try:
            for life in lives:
                life.result()
            yield servers
        finally:
            for server in servers:
                server.kill()


@dataclass(slots=True)
class Watcher:
    """Reads the books of an agent, off /metrics while it runs and from its file when it is dead, and compares them."""

    port: int
    directory: Path
    drops: bool = False
    """Whether rows may leave the journal that are in hand, and so count as dropped only after the next start."""
    scrapes: int = 0
    deaths: int = 0
    faults: list[str] = field(default_factory=list)
    _before: Mapping[str, Account] = field(default_factory=dict)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    """What was read first is compared first."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Scrape again and again meanwhile."""
        over = threading.Event()
        thread = threading.Thread(target=self._scrape, args=(over,), name="watcher")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look_at_the_dead(self) -> None:
        """Compare what the file says with what was said before."""
        with self._reading:
            found = accounts_in(self.directory)
            self.deaths += 1
            left_over = {target: account.left_over for target, account in found.items()}
            if any(samples != 0 and not (self.drops and samples > 0) for samples in left_over.values()):
                self.faults.append(f"at death {self.deaths}: {left_over} samples are in no column: {found}")
            self._compare(found)

    def _scrape(self, over: threading.Event) -> None:
        while not over.wait(_SCRAPE_EVERY_S):
            with self._reading:
                try:
                    found = accounts(self.port)
                except (OSError, http.client.HTTPException):
                    continue
                self.scrapes += 1
                if not all(account.balanced for account in found.values()):
                    self.faults.append(f"scrape {self.scrapes}: {found}")
                self._compare(found)

    def _compare(self, found: Mapping[str, Account]) -> None:
        self.faults += steps_back(self._before, found)
        self._before = {**self._before, **found}
