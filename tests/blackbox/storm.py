"""Servers that are killed at random moments and started again, while a watcher reads the agent's books.

Owns the lives and deaths. Who is killed, and what must be true in the end, is the test's business.
"""

import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.blackbox.books import accounts_in, steps_back
from tests.blackbox.load import Account, accounts
from tests.blackbox.servers import Server

_SCRAPE_EVERY_S = 0.02
_LONGEST_START_S = 0.8
_LOOK_EVERY_S = 0.2
_MOST_S_MORE = 60.0
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
    dies: bool = True
    kills: int = 0

    def live(self, moments: random.Random, over: threading.Event) -> Server:
        """Start, kill and start again until it is `over`; gives the server that runs then, at least the second."""
        while True:
            server = self.start()
            if not self.dies:
                return server
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
def storm(
    victims: Sequence[Victim], seconds: float, seed: int, enough: Callable[[], bool] = lambda: True
) -> Iterator[list[Server]]:
    """Kill them at random for so long, and until it is `enough`; hand over the servers, which run, and kill them."""
    over = threading.Event()
    with ThreadPoolExecutor(len(victims)) as pool, ExitStack() as running:
        # Each has moments of its own: when one is late it does not move those of the others.
        lives = [pool.submit(victim.live, random.Random(f"{seed} {victim.name}"), over) for victim in victims]
        try:
            wait(lives, seconds, FIRST_EXCEPTION)
            for _ in range(int(_MOST_S_MORE / _LOOK_EVERY_S)):
                if enough() or any(life.done() and life.exception() for life in lives):
                    break
                time.sleep(_LOOK_EVERY_S)
        finally:
            over.set()
            for life in lives:
                if life.exception() is None:
                    running.callback(life.result().kill)
        yield [life.result() for life in lives]


@dataclass(slots=True)
class Watcher:
    """Reads the books of an agent, off /metrics while it runs and from its file, also when it is dead."""

    port: int
    directory: Path
    drops: bool = False
    """Whether rows may leave the journal that are in hand, and so count as dropped only after the next start."""
    scrapes: int = 0
    looks: int = 0
    """How often the file was read, at each scrape and each death."""
    faults: list[str] = field(default_factory=list)
    _newest: Mapping[str, Account] = field(default_factory=dict)
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

    def has_dropped(self, target: str) -> bool:
        """Whether something was dropped for want of room."""
        return target in self._newest and bool(self._newest[target].dropped)

    def look_at_the_dead(self) -> None:
        """Compare what the file says with what was said before."""
        with self._reading:
            self._compare(self._look_at_file())

    def _look_at_file(self) -> Mapping[str, Account]:
        found = accounts_in(self.directory)
        self.looks += bool(found)
        left_over = {target: account.left_over for target, account in found.items()}
        if any(samples != 0 and not (self.drops and samples > 0) for samples in left_over.values()):
            self.faults.append(f"look {self.looks}: {left_over} samples are in no column of the file: {found}")
        return found

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
                # Which is ahead of what the agent says for a moment, so the two are not compared.
                self._look_at_file()

    def _compare(self, found: Mapping[str, Account]) -> None:
        self.faults += steps_back(self._newest, found)
        self._newest = {**self._newest, **found}
