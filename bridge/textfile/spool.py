"""A directory whose files are pushes: each is taken once, by name, and removed when it is on disk.

Anybody may write there, so nothing is followed, nothing but the very file that was read is removed, and a bad one is
moved to `failed/` with an explanation that quotes nothing which its writer could not read. An idempotency key keeps a
file from being taken twice when the agent dies between commit and removal.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from bridge.content import Content
from bridge.errors import BadPushError, JournalFullError, PushRefusedError
from bridge.groups import key_of
from bridge.heartbeat import Fact
from bridge.journal.staging import Staging
from bridge.pipeline import Order, Receipt, fingerprint, note_refusal, once, stage
from bridge.textfile.collect import MOST_FULL
from bridge.textfile.dropped import Defaults, as_sent, digest, read_push
from bridge.textfile.failed import remove, set_aside
from bridge.textfile.intake import Intake
from bridge.textfile.plan import Stamp, chunks
from bridge.textfile.scan import FileFaultError, Listing, list_directory, read_file
from bridge.textfile.tell import ERROR, label, shown, tell_conflicts, tell_directory, tell_refusal

_log = structlog.get_logger(__name__)
_ADVICE = "Nothing of it was taken. Put it right and move it back, or delete it and this note."
_WRITING_MS = 1000
"""A file without an end is left alone for so long: its writer may not know that it should rename."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read; without a content it is refused."""

    name: str
    stamp: Stamp
    method: str = "put"
    key: bytes = b""
    """Of its group, empty when that is not known."""
    content: Content | None = None
    ttl_ms: int = 0
    once_key: str = ""
    digest: bytes = b""
    """As the same push by HTTP has it."""
    reason: str = ""
    error: str = ""


class Spool:
    """One spool directory."""

    def __init__(self, path: Path, defaults: Defaults, intake: Intake) -> None:
        """Take from `path`."""
        self.path = path
        self.soon = False
        """Whether a file was left to be looked at soon."""
        self._defaults = defaults
        self._intake = intake
        self._fault = ""
        self._full = 0
        self._stuck: dict[str, tuple[Stamp, str]] = {}
        """Files that are done with but cannot be removed, and why."""
        for outcome in ("taken", "failed"):
            intake.telemetry.spooled.labels(str(path), outcome)

    def facts(self) -> Iterator[Fact]:
        """What is to be said of the directory, and of files that stay in it."""
        yield ERROR, label(self.path), float(bool(self._fault))
        for name in self._stuck:
            yield ERROR, label(shown(self.path, name)), 1.0

    async def look(self) -> bool:
        """Take what is there; tells whether there was something. Raise JournalFullError, JournalUnavailableError."""
        listing = await asyncio.to_thread(list_directory, self.path, follow=False)
        tell_directory(self.path, self._fault, listing.fault)
        self._fault, self._full, self.soon = listing.fault, 0, False
        self._stuck = {name: why for name, why in self._stuck.items() if listing.files.get(name) == why[0]}
        names = [name for name in sorted(listing.files) if name not in self._stuck]
        for chunk in chunks(names, listing.files):
            await self._take(await asyncio.to_thread(self._read_all, chunk, listing))
        return bool(names)

    def _read_all(self, names: list[str], listing: Listing) -> list[_File]:
        return [file for name in names if (file := self._read(name, listing.files[name])) is not None]

    def _read(self, name: str, listed: Stamp) -> _File | None:
        """Read one file; None when it is gone, or may still be written."""
        key = b""
        method = "put"
        stamp = listed
        try:
            found = read_file(self.path / name, follow=False, max_bytes=self._intake.options().max_body_bytes)
            if found is None:
                return None
            stamp, body = found
            if not body.endswith(b"\n") and 0 <= self._intake.now_ms() - stamp.mtime_ms < _WRITING_MS:
                self.soon = True
                return None
            if not body:
                raise BadPushError("parse", "is empty, want samples; write a file under another name, then rename it")
            dropped = read_push(body, self._defaults)
            # Before there is a key: not even the note of the refusal may go to a tenant that is not the group's.
            self._intake.check(dropped)
            key, method = key_of(dropped.grouping), "put" if dropped.replace_all else "post"
            content = self._intake.read(dropped, key, body)
        except FileFaultError as error:
            return _File(name, stamp, reason="unreadable", error=str(error))
        except PushRefusedError as error:
            return _File(name, stamp, method, key, reason=error.reason, error=str(error))
        mark = digest(name.encode(errors="surrogateescape"), b"%d" % stamp.mtime_ns, body).hex()
        ttl_ms = self._intake.ttl_ms(dropped)
        push_digest = fingerprint(method.encode(), as_sent(body))
        return _File(name, stamp, method, key, content, ttl_ms, dropped.key or f"file-{mark}", push_digest)

    async def _take(self, files: list[_File]) -> None:
        """Commit what was read, one by one if it does not fit together."""
        if len(files) > 1:
            with suppress(JournalFullError):
                await self._commit(files)
                return
        for file in files:
            try:
                await self._commit([file])
                self._full = 0
            except JournalFullError as error:
                # A giant must not keep the others out; when they do not fit either, it is the journal that is full.
                self._full += 1
                if self._full > MOST_FULL:
                    raise
                _log.warning("textfile_waits", file=shown(self.path, file.name), error=str(error))

    async def _commit(self, files: list[_File]) -> None:
        outcomes = await self._intake.committer.submit(lambda staging: [_stage(staging, file) for file in files])
        for file, outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                await self._taken(file, outcome)
            else:
                await self._failed(file, *outcome)

    async def _taken(self, file: _File, receipt: Receipt) -> None:
        if not receipt.replayed:
            self._intake.telemetry.spooled.labels(str(self.path), "taken").inc()
            self._intake.telemetry.pushes_of(file.method, "accepted", "").inc()
            if file.content is not None:
                path = shown(self.path, file.name)
                tell_conflicts(path, file.content, self._intake.committer.groups, self._intake.telemetry)
        try:
            await asyncio.to_thread(remove, self.path, file.name, file.stamp)
        except OSError as error:
            self._keep(file, f"is taken, but cannot be removed: {error.strerror}")

    async def _failed(self, file: _File, reason: str, error: str) -> None:
        self._intake.telemetry.spooled.labels(str(self.path), "failed").inc()
        self._intake.telemetry.pushes_of(file.method, "refused", reason).inc()
        path = shown(self.path, file.name)
        tell_refusal(path, error)
        try:
            await asyncio.to_thread(set_aside, self.path, file.name, file.stamp, f"{path}: {error}\n{_ADVICE}")
        except OSError as fault:
            self._keep(file, f"is refused, but cannot be moved to failed/: {fault.strerror or fault}")

    def _keep(self, file: _File, why: str) -> None:
        _log.error("textfile_stuck", file=shown(self.path, file.name), error=why)
        self._stuck[file.name] = file.stamp, why


def _stage(staging: Staging, file: _File) -> Receipt | tuple[str, str]:
    """Stage one file; gives its receipt, or reason and text of the refusal."""
    content = file.content
    if content is None:
        if file.key:
            note_refusal(staging, file.key)
        return file.reason, file.error
    order = Order(file.method == "put", file.ttl_ms, at_ms=min(file.stamp.mtime_ms, staging.now_ms))
    outcome = once(staging, file.key, file.once_key, file.digest, lambda: stage(staging, file.key, content, order))
    return (outcome.reason, str(outcome)) if isinstance(outcome, PushRefusedError) else outcome
