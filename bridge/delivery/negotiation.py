"""Which remote_write a target is spoken to in, and when 2.0 gives way to 1.0 (protocol.md section 1.2).

1.0 unless the settings say otherwise. A target that is to get 2.0 and does not know it answers 415, or decodes the body
as an empty request of 1.0 and answers 2xx without a word of what it wrote: from then on it gets 1.0, until the agent
starts again. 400 says nothing about the version. Owns this choice, the bodies of 2.0 and what receivers say they wrote;
HTTP is `client`'s.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from bridge.delivery.outcome import Rejected
from bridge.model import Metadata
from bridge.wire import snappy_block
from bridge.wire.message import HISTOGRAM, SERIES, fields
from bridge.wire.remote_write_v2 import Describe, Encoder

_KEPT_BODIES: Final = 16
_LARGE_BYTES: Final = 1 << 20
"""Blocks beyond this are written in a thread; below, a busy thread would cost the loop more than the work itself."""
_MOST_BLOCK_BYTES: Final = 1 << 30
_UNSUPPORTED: Final = 415
_UNPROCESSABLE: Final = 422
"""Given to what 1.0 cannot say: a status that belongs to the data, so that the rest of the block is sent."""
_CUSTOM_SCHEMA: Final = b"\x20\x69"
"""Field 4 of a histogram, -53: what no histogram of 1.0 may have."""
_WRITTEN: Final = {
    "samples": "X-Prometheus-Remote-Write-Samples-Written",
    "histograms": "X-Prometheus-Remote-Write-Histograms-Written",
    "exemplars": "X-Prometheus-Remote-Write-Exemplars-Written",
}
_DIGITS: Final = 18

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of remote_write."""

    number: str
    headers: Mapping[str, str]


V1: Final = Version("1.0", {"Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0"})
# Prometheus splits the parameter without trimming, so there is no space in front of it.
V2: Final = Version(
    "2.0",
    {
        "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        "X-Prometheus-Remote-Write-Version": "2.0.0",
    },
)
MESSAGES: Final = {"prometheus.WriteRequest": V1, "io.prometheus.write.v2.Request": V2}


class Observer(Protocol):
    """Counts what targets speak and say."""

    def speaks(self, target: str, version: str) -> None:
        """Note the version that the target gets from now on."""
        ...

    def written(self, target: str, kind: str, count: int) -> None:
        """Add what the target says it wrote: samples, histograms or exemplars."""
        ...


class Negotiation:
    """The version of one target; safe to use from several tasks."""

    def __init__(
        self,
        target: str = "",
        message: str = "prometheus.WriteRequest",
        describe: Describe = lambda _: Metadata(),
        observer: Observer | None = None,
        *,
        fallen: bool = False,
        fell_back: Callable[[], object] = lambda: None,
    ) -> None:
        """Begin with the version of a `protobuf_message`; `describe` tells the metadata for 2.0 by metric name.

        `fallen` says that the target is known not to take 2.0; `fell_back` is told once that it does not.
        """
        self._target = target
        self._wanted = MESSAGES[message]
        self.version = V1 if fallen else self._wanted
        self._fell_back = fell_back
        self._encoder = Encoder(describe)
        self._observer = observer
        self._kept: dict[int, tuple[bytes, bytes]] = {}
        """Identity of a block -> the block, its body of 2.0: of requests that are not settled, the newest last."""
        if observer is not None:
            observer.speaks(target, self.version.number)

    async def body(self, block: bytes) -> bytes | None:
        """The block as a request of 2.0, the same bytes until `settled`; None when it is not to be read."""
        kept = self._kept.get(id(block))
        if kept is not None:
            return kept[1]
        try:
            if snappy_block.declared_length(block) > _LARGE_BYTES:
                body = await asyncio.to_thread(self._encode, block)
            else:
                body = self._encode(block)
        except ValueError as error:
            _log.error("block_not_readable", target=self._target, error=str(error), result="sent as remote_write 1.0")
            return None
        self._kept[id(block)] = block, body
        while len(self._kept) > _KEPT_BODIES:
            del self._kept[next(iter(self._kept))]
        return body

    def _encode(self, block: bytes) -> bytes:
        return snappy_block.compress(self._encoder.encode(snappy_block.decompress(block, _MOST_BLOCK_BYTES)))

    def settled(self, block: bytes) -> None:
        """Forget the body of a block that is not sent again."""
        self._kept.pop(id(block), None)

    def accepts(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether the answer to a request of 2.0 is one to it; if not, the target gets 1.0 from now on."""
        said = {kind: headers[name] for kind, name in _WRITTEN.items() if name in headers}
        if status == _UNSUPPORTED or (status in range(200, 300) and not said):
            self._fall_back(status)
            return False
        if self._observer is not None:
            for kind, text in said.items():
                if text.isascii() and text.isdigit() and len(text) <= _DIGITS:
                    self._observer.written(self._target, kind, int(text))
        return True

    def _fall_back(self, status: int) -> None:
        if self.version is V1:
            return
        self.version = V1
        self._kept.clear()
        self._fell_back()
        why = "it does not take 2.0" if status == _UNSUPPORTED else "it does not say what it wrote, so it wrote nothing"
        _log.warning("remote_write_falls_back", target=self._target, version=V1.number, status=status, why=why)
        if self._observer is not None:
            self._observer.speaks(self._target, self.version.number)

    def cannot_say(self, block: bytes) -> Rejected | None:
        """Refuse a block for 1.0 that 1.0 has no words for, which only a target that once got 2.0 can have."""
        if self._wanted is V1:
            return None
        try:
            body = snappy_block.decompress(block, _MOST_BLOCK_BYTES)
            custom = _CUSTOM_SCHEMA in body and _has_custom_buckets(body)
        except ValueError:
            return None
        if not custom:
            return None
        words = "native histograms with custom buckets need remote_write 2.0, which this target does not take"
        return Rejected(_UNPROCESSABLE, words)


def _has_custom_buckets(body: bytes) -> bool:
    for series in fields(body):
        if series.tag != SERIES:
            continue
        message = body[series.start : series.stop]
        for part in fields(message):
            if part.tag == HISTOGRAM:
                histogram = message[part.start : part.stop]
                if any(histogram[one.tag_at : one.stop] == _CUSTOM_SCHEMA for one in fields(histogram)):
                    return True
    return False
