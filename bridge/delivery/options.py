"""What is set for a target's delivery, as the sender takes it. Where it is set does not belong here."""

from collections.abc import Callable
from dataclasses import dataclass

from bridge.delivery.backoff import MAX_BACKOFF_S, MIN_BACKOFF_S
from bridge.delivery.courier import OnRejected
from bridge.delivery.rewrite import TargetRules

_NO_RULES = TargetRules()


@dataclass(frozen=True, slots=True)
class Options:
    """What is set for a target: its queue in the words of Prometheus' queue_config, and its rules."""

    max_samples_per_send: int = 2000
    max_body_bytes: int = 8 << 20
    """Of a request, uncompressed."""
    capacity: int = 10_000
    """Samples of one shard that are read and not settled."""
    min_shards: int = 1
    max_shards: int = 50
    min_backoff_s: float = MIN_BACKOFF_S
    max_backoff_s: float = MAX_BACKOFF_S
    batch_send_deadline_s: float = 5.0
    """How long a request waits to be full while there is a backlog."""
    on_rejected: OnRejected = "split"
    rules: TargetRules = _NO_RULES
    oldest_ms: Callable[[], int] | None = None
    """Samples from before this time are dropped as they are read; None when age does not matter."""
