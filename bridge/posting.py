"""One push to an agent over HTTP, for the commands that stand beside the jobs (`push`, `exec`).

When to try again, and what to do with a push that nobody takes, is the callers' affair.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from bridge.ingress.path import write_grouping_path
from bridge.model import Labels
from bridge.peer import Peer, PeerAnswer

TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"


def grouping_labels(job: str, texts: Sequence[str]) -> Labels:
    """Labels of the group that `--job` and `--label NAME=VALUE` name, `job` first; ValueError for other texts."""
    pairs = [("job", job)]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"got {text!r}, want NAME=VALUE")
        pairs.append((name, value))
    return tuple(pairs)


def send(
    peer: Peer,
    labels: Labels,
    body: bytes,
    timeout_s: float,
    *,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
) -> PeerAnswer:
    """Push a text body to the group `labels`; raises AwayError when there is no answer."""
    path = f"/metrics/{write_grouping_path(labels)}"
    return peer.ask(method, path, body, {"Content-Type": TEXT_FORMAT, **(headers or {})}, timeout_s)
