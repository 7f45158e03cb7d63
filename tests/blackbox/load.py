"""Pushes numbered values to an agent, over several connections at once, logs how each push was answered, reads metrics.

Every series has one writer and its values count up, which is what `checker` needs. Starting servers, and judging what
came of the pushes, do not belong here.
"""

import http.client
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

from tests.blackbox.checker import Fate, Pushed, Series, Stored

_T = TypeVar("_T")
_RECONNECT_S = 0.01
_POLL_S = 0.02
_TIMEOUT_S = 30.0
_OF_TARGET = re.compile(r"pushbridge_samples_(delivered|pending|dropped|dead_lettered)(?:_total)?\{(.*)\}")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)")


@dataclass(frozen=True, slots=True)
class Push:
    """One request, and what it says about which series."""

    method: str
    path: str
    body: bytes
    effects: tuple[tuple[Series, float | None], ...]
    """Series with its new value, None where the push ends it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent said to a request."""

    status: int
    headers: Mapping[str, str]
    text: str


def series(name: str, **labels: str) -> Series:
    """Return the identity of a series."""
    return tuple(sorted({"__name__": name, **labels}.items()))


def one_value(group: str, number: int, method: str = "PUT", padding: str = "") -> Push:
    """Push one value to the group `job=group`; `padding` becomes a label of a second series."""
    body = f"numbered {number}\n"
    if padding:
        body += f'padded{{padding="{padding}"}} 1\n'
    return Push(method, f"/metrics/job/{group}", body.encode(), ((series("numbered", job=group), float(number)),))


def noise(size: int, seed: int) -> str:
    """Return text that does not compress."""
    return random.Random(seed).randbytes(size // 2).hex()


def padded(number: int, size: int = 20_000) -> Push:
    """Push a number that takes up `size` bytes in the journal."""
    return one_value("bulk", number, padding=noise(size, number))


def numbers(stored: Iterable[Stored]) -> list[Stored]:
    """Leave out the padding, which no log has."""
    return [sample for sample in stored if dict(sample.series)["__name__"] != "padded"]


def numbers_of(entries: Iterable[Pushed]) -> list[int]:
    """Return the pushed numbers."""
    return [int(entry.value) for entry in entries if entry.value is not None]


def mixed(writer: int, number: int) -> Push:
    """Push number `number` of a writer: to a group of its own, to one that it shares, or with a series that ends."""
    value = float(number)
    if number % 3 == 0:
        group = {"job": "shared", "instance": str(number % 2)}
        name = f"numbered_by_{writer}"
        return Push(
            "POST",
            f"/metrics/job/shared/instance/{number % 2}",
            f"# TYPE {name} counter\n{name} {number}\n".encode(),
            ((series(name, **group), value),),
        )
    if number % 3 == 1:
        group = {"job": "own", "instance": str(writer)}
        return Push(
            "PUT" if number % 2 else "POST",
            f"/metrics/job/own/instance/{writer}",
            f'numbered {number}\nnumbered_parts{{part="a"}} {number}\nnumbered_parts{{part="b"}} {number}\n'.encode(),
            (
                (series("numbered", **group), value),
                (series("numbered_parts", part="a", **group), value),
                (series("numbered_parts", part="b", **group), value),
            ),
        )
    group = {"job": "ending", "instance": str(writer)}
    stays, ends = series("stays", **group), series("ends", **group)
    with_both = number % 4 < 2
    return Push(
        "PUT",
        f"/metrics/job/ending/instance/{writer}",
        (f"stays {number}\n" + (f"ends {number}\n" if with_both else "")).encode(),
        ((stays, value), (ends, value if with_both else None)),
    )


@dataclass(slots=True)
class Client:
    """One connection to an agent, opened again when it breaks; use it from one thread."""

    port: int
    log: list[Pushed] = field(default_factory=list)
    """What was pushed and became of it, in the order of sending."""
    _connection: http.client.HTTPConnection | None = None

    def send(self, push: Push) -> Answer | None:
        """Send a push and log it; None when there was no answer. What could not even be sent is not logged."""
        fate: Fate = "unanswered"
        answer = None
        try:
            connection = self._connected()
        except OSError:
            return None
        try:
            answer = _exchange(connection, push.method, push.path, push.body)
            fate = "acknowledged" if answer.status < http.client.MULTIPLE_CHOICES else "refused"
        except (OSError, http.client.HTTPException):
            self.close()
        self.log.extend(Pushed(of, value, fate) for of, value in push.effects)
        return answer

    def must_accept(self, push: Push) -> None:
        """Send a push that has to be answered 200."""
        answer = self.send(push)
        assert answer is not None, f"no answer to {push}"
        assert answer.status == http.client.OK, f"{push} was answered {answer}"

    def close(self) -> None:
        """Close the connection; the next push opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)
            connection.connect()
            self._connection = connection
        return self._connection

    def __enter__(self) -> Self:
        """Hand over the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()


def push_next(client: Client) -> Answer:
    """Push the number after the last one, padded; it has to be answered."""
    number = max(numbers_of(client.log), default=0) + 1
    assert number < 1000, "the journal does not get full"
    answer = client.send(padded(number))
    assert answer is not None
    return answer


class Load:
    """Writers that push without pause, each over its own connection, until the `with` block ends."""

    def __init__(
        self, port: int, *, writers: int = 4, plan: Callable[[int, int], Push] = mixed, pause_s: float = 0.0
    ) -> None:
        """Push `plan(writer, number)` with numbers from 1; each writer rests for `pause_s` after a push."""
        self._clients = [Client(port) for _ in range(writers)]
        self._plan = plan
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(at, client), name=f"writer-{at}")
            for at, client in enumerate(self._clients)
        ]

    def log(self) -> list[Pushed]:
        """Return what all writers pushed so far; series by series it is in order."""
        return [entry for client in self._clients for entry in list(client.log)]

    def acknowledged(self) -> int:
        """Count the series values that were acknowledged so far."""
        return sum(entry.fate == "acknowledged" for entry in self.log())

    def _write(self, writer: int, client: Client) -> None:
        number = 0
        with client:
            while not self._stop.is_set():
                number += 1
                answer = client.send(self._plan(writer, number))
                self._stop.wait(max(self._pause_s, _RECONNECT_S if answer is None else 0.0))

    def __enter__(self) -> Self:
        """Start pushing."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Let every writer finish its push; no effect when they have."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


@dataclass(frozen=True, slots=True)
class Account:
    """An agent's own account of its samples, for one target."""

    accepted: int
    delivered: int
    pending: int
    dropped: Mapping[str, int]
    """By reason."""
    dead_lettered: Mapping[str, int]
    """By reason."""

    @property
    def left_over(self) -> int:
        """How many samples are in no column; less than none when some are in several."""
        return (
            self.accepted - self.delivered - self.pending - sum((*self.dropped.values(), *self.dead_lettered.values()))
        )

    @property
    def balanced(self) -> bool:
        """Whether nothing vanished."""
        return self.pending >= 0 and self.left_over == 0


def request(port: int, method: str, path: str, body: bytes = b"") -> Answer:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        return _exchange(connection, method, path, body)
    finally:
        connection.close()


def ready(port: int) -> int:
    """Return the status of /-/ready."""
    return request(port, "GET", "/-/ready").status


def metrics(port: int) -> dict[str, float]:
    """Return every sample of GET /metrics, by name and labels as they are written there."""
    answer = request(port, "GET", "/metrics")
    assert answer.status == http.client.OK, answer
    found = (_SAMPLE.fullmatch(line) for line in answer.text.splitlines() if not line.startswith("#"))
    return {f"{match[1]}{match[2] or ''}": float(match[3]) for match in found if match}


def accounts(port: int) -> dict[str, Account]:
    """Read an agent's account of every target, without reasons for which nothing is missing."""
    values = metrics(port)
    found: dict[str, dict[str, dict[str, int]]] = {}
    for key, value in values.items():
        if match := _OF_TARGET.fullmatch(key):
            labels = dict(_LABEL.findall(match[2]))
            if "reason" in labels and not value:
                continue
            found.setdefault(labels["target"], {}).setdefault(match[1], {})[labels.get("reason", "")] = int(value)
    accepted = int(values["pushbridge_samples_accepted_total"])
    return {
        target: Account(
            accepted,
            of["delivered"][""],
            of["pending"][""],
            of.get("dropped", {}),
            of.get("dead_lettered", {}),
        )
        for target, of in found.items()
    }


def account(port: int) -> Account:
    """Read an agent's account of its only target."""
    ((_, only),) = accounts(port).items()
    return only


def settled_account(port: int, within_s: float = 30.0) -> Account:
    """Return the account once nothing is pending; after `within_s` as it then is."""
    return wait_for(lambda: account(port), lambda now: now.pending == 0, within_s)


def wait_for(look: Callable[[], _T], good: Callable[[_T], bool], within_s: float = 30.0) -> _T:
    """Look until it is good, or until the time is over, and return what was seen last: the caller asserts."""
    deadline_s = time.monotonic() + within_s
    while not good(seen := look()) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return seen


def _exchange(connection: http.client.HTTPConnection, method: str, path: str, body: bytes) -> Answer:
    connection.request(method, path, body or None)
    response = connection.getresponse()
    return Answer(response.status, dict(response.headers), response.read().decode(errors="replace"))
