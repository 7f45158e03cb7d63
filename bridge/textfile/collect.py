"""A directory whose files are the state: each is the group of its own path, for as long as it is there.

Owns what is known of the files and the order of the steps: list, plan, read in a thread, commit many at once. A file
that cannot be taken keeps what its group had. What to do about which file is `plan`'s decision.
"""

import asyncio
import time
from collections import ChainMap
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from bridge.content import Content
from bridge.errors import BadPushError, JournalFullError, PushRefusedError
from bridge.groups import delete, key_of
from bridge.heartbeat import Fact
from bridge.journal.committer import Committer
from bridge.journal.staging import Staging
from bridge.pipeline import Order, apply
from bridge.textfile.dropped import Defaults, digest, read_state
from bridge.textfile.intake import Intake
from bridge.textfile.plan import Known, chunks, is_in_force, is_settled, plan, time_ms
from bridge.textfile.scan import FileFaultError, Listing, list_directory, read_file
from bridge.textfile.tell import ERROR, MTIME, label, shown, tell_conflicts, tell_directory, tell_refusal

_log = structlog.get_logger(__name__)
_MOST_ENDED = 200_000
_GONE_AT_ONCE = 200
MOST_FULL = 3
"""Files that may not fit into the journal in one look, before no more are tried."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read."""

    name: str
    known: Known
    content: Content | None = None
    """None when there is nothing to take."""
    key: bytes = b""
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    error: str = ""
    changed: bool = True


class Ended:
    """When series of files that went or changed got their markers: another file may bring them with an older time."""

    def __init__(self) -> None:
        """Know nothing."""
        self.at_ms: dict[bytes, int] = {}

    def add(self, more: MutableMapping[bytes, int]) -> None:
        """Remember; the oldest are forgotten beyond a bound."""
        self.at_ms.update(more)
        if len(self.at_ms) > _MOST_ENDED:
            for head in list(self.at_ms)[: len(self.at_ms) - _MOST_ENDED // 2]:
                del self.at_ms[head]


class Collect:
    """One collect directory."""

    def __init__(self, path: Path, defaults: Defaults, intake: Intake, ended: Ended) -> None:
        """Begin with what the groups tell of the directory's files."""
        self.path = path
        self._defaults = defaults
        self._intake = intake
        self._committer = intake.committer
        self._ended = ended
        self._known: dict[str, Known] = {}
        self._fault = ""
        self._full = 0
        """Files in a row that did not fit into the journal."""
        self._keys: dict[str, frozenset[bytes]] = {}
        """Groups by the name of the file that they come from; more than one when its labels were changed."""
        for group in intake.committer.groups.live():
            directory, _, name = group.id.source.rpartition("/")
            if group.id.source and directory == str(path):
                self._keys[name] = self._keys.get(name, frozenset()) | {group.id.key}

    @property
    def waits(self) -> bool:
        """Whether a file may be taken at another look although it does not change."""
        return any(known.waits for known in self._known.values())

    def facts(self) -> Iterator[Fact]:
        """What is to be said of the directory and its files."""
        yield ERROR, label(self.path), float(bool(self._fault))
        for name, known in self._known.items():
            file = label(shown(self.path, name))
            yield ERROR, file, float(bool(known.error))
            if known.good_mtime_ns is not None:
                yield MTIME, file, known.good_mtime_ns / 1e9

    async def look(self) -> bool:
        """Take up what changed; tells whether something did. Raise JournalFullError, JournalUnavailableError."""
        listing = await asyncio.to_thread(list_directory, self.path, follow=True)
        tell_directory(self.path, self._fault, listing.fault)
        self._fault, self._full = listing.fault, 0
        if listing.fault:
            return False
        todo = plan(self._known, self._keys, listing.files)
        changed = bool(todo.gone)
        for start in range(0, len(todo.gone), _GONE_AT_ONCE):
            await self._end(todo.gone[start : start + _GONE_AT_ONCE])
        for names in chunks(todo.look, listing.files):
            files = await asyncio.to_thread(self._read_all, names, listing)
            changed = await self._take(files) or changed
        return changed

    def _read_all(self, names: list[str], listing: Listing) -> list[_File]:
        return [file for name in names if (file := self._read(name, listing)) is not None]

    def _read(self, name: str, listing: Listing) -> _File | None:
        """Read one file, as far as its own content is concerned; None when it is gone."""
        before = self._known.get(name)
        known = Known(listing.files[name])
        if before is not None:
            known = replace(known, good_mtime_ns=before.good_mtime_ns, shape=before.shape)
        try:
            path = self.path / _utf8(name)
            found = read_file(path, follow=True, max_bytes=self._intake.options().max_body_bytes)
            if found is None:
                return None
            stamp, body = found
            known = replace(known, stamp=stamp, digest=digest(body), settled=is_settled(stamp, time.time_ns()))
            if before == replace(known, settled=False, error=before.error if before else ""):
                # Only the question whether it was written again within the grain of its stamp was open.
                return _File(name, replace(before, settled=known.settled))
            dropped = read_state(body, self._defaults)
            self._intake.check(dropped)
            key = key_of(dropped.grouping, str(path))
            return _File(name, known, self._intake.read(dropped, key, body), key, self._intake.ttl_ms(dropped))
        except FileFaultError as error:
            return _File(name, replace(known, error=str(error), waits=True))
        except PushRefusedError as error:
            return _File(name, replace(known, error=str(error)))

    async def _take(self, files: list[_File]) -> bool:
        """Commit what was read, one by one if it does not fit together; tells whether something changed."""
        if len(files) > 1:
            with suppress(JournalFullError):
                return await self._commit(files)
        changed = False
        for file in files:
            try:
                changed = await self._commit([file]) or changed
                self._full = 0
            except JournalFullError as error:
                # A giant must not keep the others out; when they do not fit either, it is the journal that is full.
                self._full += 1
                if self._full > MOST_FULL:
                    raise
                self._note(file, _Outcome(str(error), changed=False))
        return changed

    async def _commit(self, files: list[_File]) -> bool:
        outcomes, ended = await self._committer.submit(lambda staging: self._stage_all(staging, files))
        self._ended.add(ended)
        for file, outcome in zip(files, outcomes, strict=True):
            self._note(file, outcome)
        return any(outcome.changed for outcome in outcomes)

    def _stage_all(self, staging: Staging, files: list[_File]) -> tuple[list[_Outcome], dict[bytes, int]]:
        # Made anew at each try: a transaction may have to be put together more than once.
        fresh: dict[bytes, int] = {}
        ended = ChainMap(fresh, self._ended.at_ms)
        return [self._stage(staging, file, ended) for file in files], fresh

    def _stage(self, staging: Staging, file: _File, ended: MutableMapping[bytes, int]) -> _Outcome:
        if file.content is None:
            return _Outcome(file.known.error, changed=False)
        mark = staging.mark() if (strays := self._keys.get(file.name, frozenset()) - {file.key}) else None
        for key in strays:
            _end_group(staging, key, ended)
        group, mtime_ms = staging.group(file.key), file.known.stamp.mtime_ms
        before = self._known.get(file.name)
        first = before is None or before.good_mtime_ns is None
        if first and is_in_force(group, file.content, mtime_ms, staging.now_ms):
            return _Outcome(changed=False)
        at_ms = time_ms(mtime_ms, staging.now_ms, ended, group, file.content)
        try:
            change = apply(staging, file.key, file.content, Order(True, file.ttl_ms, at_ms=at_ms))
        except BadPushError as error:
            if mark is not None:
                staging.undo(mark)
            return _Outcome(str(error), changed=False)
        ended.update(dict.fromkeys(change.ended, change.group.last_ms))
        return _Outcome()

    def _note(self, file: _File, outcome: _Outcome) -> None:
        """Remember what became of a file, and tell it if that is new."""
        path, before, known = shown(self.path, file.name), self._known.get(file.name), file.known
        if file.content is not None and outcome.error:
            known = replace(known, error=outcome.error, waits=True)
        elif file.content is not None:
            parts = self._committer.groups.get(file.key).parts
            shape = parts[0].shape if parts else file.content.shape
            known = replace(known, good_mtime_ns=known.stamp.mtime_ns, shape=shape)
            self._keys[file.name] = frozenset({file.key})
            if outcome.changed and (before is None or before.shape is not shape):
                tell_conflicts(path, file.content, self._committer.groups, self._intake.telemetry)
        self._known[file.name] = known
        if known.error and (before is None or before.error != known.error):
            tell_refusal(path, known.error)
        elif before is not None and before.error and not known.error:
            _log.info("textfile_taken", file=path)

    async def _end(self, names: tuple[str, ...]) -> None:
        """End the groups of files that are gone."""

        def operation(staging: Staging) -> dict[bytes, int]:
            ended: dict[bytes, int] = {}
            for name in names:
                known = self._known.get(name)
                for key in self._keys.get(name, ()):
                    group = staging.group(key)
                    if group.expired and known is not None and known.shape is not None:
                        ended.update(dict.fromkeys(known.shape.heads, group.last_ms))
                    _end_group(staging, key, ended)
            return ended

        self._ended.add(await self._committer.submit(operation))
        for name in names:
            self._keys.pop(name, None)
            self._known.pop(name, None)


def _end_group(staging: Staging, key: bytes, ended: MutableMapping[bytes, int]) -> None:
    group = staging.group(key)
    if group.live:
        change = delete(group, staging.now_for(group))
        staging.add(change)
        ended.update(dict.fromkeys(change.ended, change.group.last_ms))


def _utf8(name: str) -> str:
    """A name as it is; labels and logs have no room for others."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise FileFaultError("has a name that is not valid UTF-8") from error
    return name


async def end_strangers(committer: Committer, directories: frozenset[str]) -> None:
    """End the groups whose files are in no directory that is collected now: nothing else would ever end them."""
    keys = [
        group.id.key
        for group in committer.groups.live()
        if group.id.source and group.id.source.rpartition("/")[0] not in directories
    ]

    def operation(staging: Staging) -> None:
        for key in keys:
            _end_group(staging, key, {})

    if keys:
        await committer.submit(operation)
        _log.warning("textfile_groups_ended", groups=len(keys), why="their directories are not collected any more")
