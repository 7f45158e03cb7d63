"""One request until its fate is known: sent again while nobody knows, split when something in it is refused.

Owns retries and their pauses, the rule for statuses that may belong to the data, and what is told of a refusal.
What an answer means is `outcome`, which part to send next `split`, how long to wait `backoff`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Protocol

from bridge.delivery.backoff import delay_s
from bridge.delivery.batch import Request, cut
from bridge.delivery.outcome import Delivered, Outcome, Rejected, RetryLater
from bridge.delivery.split import Bisection
from bridge.delivery.throttle import ThrottledLog
from bridge.delivery.window import Refusal

OnRejected = Literal["split", "drop"]
_DOUBTFUL = HTTPStatus.INTERNAL_SERVER_ERROR
"""Old receivers answer so to bad data (protocol.md section 0): nobody but a probe can tell it from an outage."""
_DOUBTFUL_TRIES = 5


class Client(Protocol):
    """One POST (`bridge.delivery.client`)."""

    async def send(self, block: bytes, attempt: int, tenant: str) -> Outcome:
        """Send a snappy block of a tenant; `attempt` is 0 for the first try. Raises nothing but cancellation."""
        ...


class Observer(Protocol):
    """What metrics want to know; called on the loop, must not block or raise."""

    def request_finished(self, target: str, status: int | None, latency_s: float) -> None:
        """Count one POST; `status` is None when there was no answer."""
        ...

    def retried(self, target: str, samples: int) -> None:
        """Count samples that are sent again."""
        ...

    def repeated(self, target: str, reason: str, samples: int) -> None:
        """Count repeats that the target has, or that it refused for a reason."""
        ...


class Posted(Protocol):
    """What a POST is made of."""

    @property
    def block(self) -> bytes:
        """A snappy block."""
        ...

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        ...

    @property
    def tenant(self) -> str:
        """Whose samples these are, "" when the target's own headers say it."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Time, and how it passes between tries."""

    clock_s: Callable[[], float]
    """Monotonic."""
    sleep: Callable[[float], Coroutine[None, None, None]]
    """Returns early when the sender is to stop."""
    random_01: Callable[[], float]
    min_backoff_s: float
    max_backoff_s: float

    def delay_s(self, failures: int, after_s: float | None) -> float:
        """How long to wait after so many failures, the receiver's own wish first."""
        return delay_s(failures, after_s, self.random_01(), self.min_backoff_s, self.max_backoff_s)


class Courier:
    """Brings the requests of one target, several at the same time."""

    def __init__(
        self,
        name: str,
        *,
        client: Client,
        observer: Observer,
        log: ThrottledLog,
        pace: Pace,
        stopping: asyncio.Event,
        on_rejected: OnRejected = "split",
        probe: Callable[[], Request] | None = None,
    ) -> None:
        """After `stopping` is set nothing is tried again.

        `probe` makes a request that a receiver in order takes; without one a 500 is never the data's.
        """
        self._name = name
        self._client = client
        self._observer = observer
        self._log = log
        self._pace = pace
        self._stopping = stopping
        self._splits = on_rejected == "split"
        self._probe = probe
        self._trying = self._failing = 0
        self.troubled = False
        """Whether the newest answer was none, or a wish for patience."""
        self.latency_s = 0.0
        """Of the newest request that was taken."""

    @property
    def stuck(self) -> bool:
        """Whether nothing gets through: everything in hand is being tried again."""
        return 0 < self._trying == self._failing

    async def settle(self, request: Request) -> tuple[Refusal, ...] | None:
        """Send a request until all of it is delivered or refused for good; gives what is refused, in order.

        None when it was to stop before: nobody knows then what the receiver has.
        """
        sent = await self._send(request)
        if sent is None:
            return None
        outcome, maybe_stored = sent
        return () if isinstance(outcome, Delivered) else await self.find_refused(request, outcome, maybe_stored)

    async def doubt(self, outcome: Outcome, tries: int) -> Outcome:
        """The outcome, or a refusal when it came that often and the receiver takes others: then it is the data's."""
        if tries < _DOUBTFUL_TRIES or outcome.status != _DOUBTFUL or not isinstance(outcome, RetryLater):
            return outcome
        if not self._splits or self._probe is None or not isinstance(await self.post(self._probe(), 0), Delivered):
            return outcome
        return Rejected(_DOUBTFUL, outcome.words, f"http_{_DOUBTFUL:d}")

    async def post(self, request: Posted, attempt: int) -> Outcome:
        """Send something once."""
        started_s = self._pace.clock_s()
        outcome = await self._client.send(request.block, attempt, request.tenant)
        latency_s = self._pace.clock_s() - started_s
        self._observer.request_finished(self._name, outcome.status, latency_s)
        self.troubled = isinstance(outcome, RetryLater)
        if isinstance(outcome, Delivered):
            self.latency_s = latency_s
        return outcome

    async def find_refused(
        self, request: Request, rejected: Rejected, maybe_stored: bool = False
    ) -> tuple[Refusal, ...] | None:
        """Go on as `settle` does from the answer that the request as a whole is refused."""
        if not self._splits:
            return (self._refuse(None, 0, request.samples, rejected, maybe_stored),)
        fields = request.fields()
        if len(fields) == 1 or rejected.concerns_all:
            return (self._refuse(fields, 0, len(fields), rejected, maybe_stored),)
        search = Bisection(len(fields))
        refusals: list[Refusal] = []
        while not search.over:
            start, stop = search.start, search.stop
            sent = await self._send(cut(fields[start:stop], request.tenant))
            if sent is None:
                return None
            outcome, again = sent
            if isinstance(outcome, Delivered):
                search.passed()
                continue
            whole = outcome.concerns_all
            if whole:
                search.decide()
            if whole or search.refused():
                refusals.append(self._refuse(fields, start, stop, outcome, maybe_stored or again))
        return tuple(refusals)

    async def _send(self, request: Request) -> tuple[Delivered | Rejected, bool] | None:
        """Send until there is a clear answer, and tell whether a try before had none; None when it was to stop."""
        failures = doubtful = 0
        maybe_stored = False
        self._trying += 1
        try:
            while not self._stopping.is_set():
                outcome = await self.post(request, failures)
                doubtful = doubtful + 1 if outcome.status == _DOUBTFUL else 0
                outcome = await self.doubt(outcome, doubtful)
                if not isinstance(outcome, RetryLater):
                    return outcome, maybe_stored
                failures += 1
                self._failing += failures == 1
                maybe_stored = maybe_stored or outcome.status != HTTPStatus.TOO_MANY_REQUESTS
                await self._pause(outcome, failures, request)
        finally:
            self._trying -= 1
            self._failing -= failures > 0
        return None

    async def _pause(self, outcome: RetryLater, failures: int, request: Request) -> None:
        wait_s = self._pace.delay_s(failures, outcome.after_s)
        self.log_retry(outcome, failures, wait_s, request.samples)
        await self._pace.sleep(wait_s)
        if not self._stopping.is_set():
            self._observer.retried(self._name, request.samples)

    def _refuse(
        self, fields: list[bytes] | None, start: int, stop: int, rejected: Rejected, maybe_stored: bool
    ) -> Refusal:
        self._log.error(
            "remote_write_rejected",
            status=rejected.status,
            words=rejected.words,
            samples=stop - start,
            result="these samples are dropped for this target" if fields is None else "kept as dead letters",
        )
        kept = None if fields is None else tuple(fields[start:stop])
        return Refusal(start, stop, rejected.status, rejected.words, maybe_stored, kept)

    def log_retry(self, outcome: RetryLater, attempt: int, wait_s: float, samples: int) -> None:
        """Tell that something is sent again later."""
        self._log.warning(
            "remote_write_failed",
            status=outcome.status,
            words=outcome.words,
            attempt=attempt,
            retry_in_s=round(wait_s, 3),
            samples=samples,
        )
