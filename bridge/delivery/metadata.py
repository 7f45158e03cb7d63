"""TYPE, HELP and UNIT for one target of remote_write 1.0, as Prometheus sends them: at times, beside the samples.

Owns which families are sent and when. What the journal holds neither waits for this nor is it accounted here: what is
not taken until the next time is given up, for it comes again then.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from bridge.delivery.backoff import MAX_BACKOFF_S, MIN_BACKOFF_S, delay_s
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.throttle import ThrottledLog
from bridge.groups import GAUGE_HELP, Group
from bridge.reasons import EXPIRED
from bridge.wire import snappy_block
from bridge.wire.metadata import Described, encode_metadata

_GROUPS_AT_ONCE = 500
"""So many are looked at before others get their turn."""


class Client(Protocol):
    """One POST (`bridge.delivery.client`)."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Send a snappy block of a tenant; `attempt` is 0 for the first try. Raises nothing but cancellation."""
        ...


class Observer(Protocol):
    """What metrics want to know; called on the loop, must not block or raise."""

    def metadata_sent(self, target: str, families: int) -> None:
        """Count families whose metadata the target took."""
        ...

    def metadata_failed(self, target: str, reason: str, families: int) -> None:
        """Count families whose metadata it did not take."""
        ...


@dataclass(frozen=True, slots=True)
class MetadataTimes:
    """The settings of `metadata_config`, and the pauses between tries."""

    interval_s: float = 60.0
    max_families_per_send: int = 2000
    min_backoff_s: float = MIN_BACKOFF_S
    max_backoff_s: float = MAX_BACKOFF_S


Families = dict[str, dict[str, Described]]
"""By tenant and name."""


def add_families(found: Families, group: Group, tenant: str) -> None:
    """Add what a group holds; of families of one name the first stays."""
    names = found.setdefault(tenant, {})
    if group.id.gauge_heads:
        for name, text in GAUGE_HELP.items():
            names.setdefault(name, (name, "gauge", text, ""))
    for part in group.parts:
        for family in part.shape.families:
            if family.name not in names:
                names[family.name] = family.name, family.type, family.help, family.unit


def batches(families: Mapping[str, Described], most: int) -> Iterator[list[Described]]:
    """Cut into requests, in order of names."""
    left = iter([families[name] for name in sorted(families)])
    while batch := list(islice(left, most)):
        yield batch


class MetadataSender:
    """Sends the metadata of all live groups to one target, at an interval."""

    def __init__(
        self,
        name: str,
        url: str,
        times: MetadataTimes,
        *,
        wanted: Callable[[], bool] = lambda: True,
        live: Callable[[], Iterable[Group]],
        tenant_of: Callable[[bytes], str] | None,
        client: Client,
        observer: Observer,
        clock_s: Callable[[], float],
        sleep: Callable[[float], Coroutine[None, None, None]],
        random_01: Callable[[], float],
    ) -> None:
        """Look at the groups that `live` gives; `tenant_of` tells whose a group is by its key.

        Sends nothing while it is not `wanted`: in 2.0 the series bring their metadata along. `url` is for logs only.
        """
        self._name = name
        self._times = times
        self._wanted = wanted
        self._live = live
        self._tenant_of = tenant_of
        self._client = client
        self._observer = observer
        self._clock_s = clock_s
        self._sleep = sleep
        self._random_01 = random_01
        self._log = ThrottledLog(name, url, clock_s)

    async def run(self) -> None:
        """Send until cancelled, the first time after one interval: like Prometheus."""
        while True:
            await self._sleep(self._times.interval_s)
            if self._wanted():
                await self.send_all(self._clock_s() + self._times.interval_s)

    async def send_all(self, until_s: float) -> None:
        """Send everything once; what was not taken at `until_s` is given up."""
        for tenant, families in sorted((await self._collect()).items()):
            for batch in batches(families, self._times.max_families_per_send):
                await self._send(snappy_block.compress(encode_metadata(batch)), len(batch), tenant, until_s)

    async def _collect(self) -> Families:
        found: Families = {}
        for number, group in enumerate(list(self._live()), 1):
            if not group.expired:
                add_families(found, group, self._tenant_of(group.id.key) if self._tenant_of else "")
            if number % _GROUPS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def _send(self, block: bytes, families: int, tenant: str, until_s: float) -> None:
        attempt = 0
        while True:
            outcome = await self._client.send(block, attempt, tenant)
            if isinstance(outcome, Delivered):
                self._observer.metadata_sent(self._name, families)
                return
            if isinstance(outcome, Rejected):
                self._give_up(outcome, outcome.reason, families)
                return
            attempt += 1
            bounds = self._times.min_backoff_s, self._times.max_backoff_s
            wait_s = delay_s(attempt, outcome.after_s, self._random_01(), *bounds)
            if self._clock_s() + wait_s >= until_s:
                self._give_up(outcome, EXPIRED, families)
                return
            await self._sleep(wait_s)

    def _give_up(self, outcome: Rejected | RetryLater, reason: str, families: int) -> None:
        self._log.warning("metadata_not_sent", status=outcome.status, words=outcome.words, families=families)
        self._observer.metadata_failed(self._name, reason, families)
