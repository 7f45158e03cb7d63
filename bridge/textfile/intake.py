"""What both modes take files in with, and the one way in which a file's body becomes series."""

from collections.abc import Callable
from dataclasses import dataclass

from bridge.content import Content
from bridge.journal.committer import Committer
from bridge.pipeline import Push, PushOptions, check_tenant, parse
from bridge.telemetry import Telemetry
from bridge.textfile.dropped import Dropped, repeated


@dataclass(frozen=True, slots=True)
class Intake:
    """The agent's parts that take files."""

    committer: Committer
    options: Callable[[], PushOptions]
    """Those in force."""
    telemetry: Telemetry
    now_ms: Callable[[], int]

    def read(self, dropped: Dropped, key: bytes, body: bytes) -> Content:
        """Read a body for the group of `key`; raises BadPushError or TooLargeError. May be called in a thread."""
        content = repeated(self.committer.groups.get(key).parts, body)
        if content is None:
            push = Push(dropped.grouping, dropped.replace_all, body)
            content = parse(body, push, self.options().flatten, self.now_ms())
        return content

    def check(self, dropped: Dropped) -> None:
        """Refuse a file whose labels make a tenant that receivers do not take; raises BadPushError."""
        check_tenant(dropped.grouping, self.options())

    def ttl_ms(self, dropped: Dropped) -> int:
        """How long a file's series are held: as it says, else as the settings say."""
        return self.options().ttl_ms(dropped.grouping) if dropped.ttl_ms is None else dropped.ttl_ms
