"""What the configuration says of everything that goes to one target, made ready: its relabeling, and the tenants.

Owns nothing else: what is done with it is `bridge.delivery.rewrite`. Pure.
"""

from collections.abc import Callable
from functools import lru_cache, partial

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.taken import kinds_taken
from bridge.groups import labels_of_key
from bridge.rules import Rules

_REMEMBERED = 1 << 17


def rules_of_target(
    target: RemoteWrite,
    rules: Rules,
    *,
    utf8_names: bool,
    gets_version_2: Callable[[], bool],
    note_missing: Callable[[str], object] = lambda _: None,
) -> TargetRules:
    """Compile a target's rules, which were checked; `note_missing` is that of `TargetRules`.

    `gets_version_2` tells the version that is spoken now.
    """
    configs = target.write_relabel_configs
    relabel = Relabeler(configs, utf8_names=utf8_names).relabel if configs else None
    tenant_of = lru_cache(_REMEMBERED)(lambda key: rules.tenant_at_target(labels_of_key(key)))
    of_version = partial(kinds_taken, native_histograms=target.send_native_histograms, exemplars=target.send_exemplars)
    by_1, by_2 = of_version(version_2=False), of_version(version_2=True)
    takes = lambda: by_2 if gets_version_2() else by_1  # noqa: E731
    return TargetRules(relabel, tenant_of if rules.set_tenants else None, takes, note_missing)


def wants_version_2(target: RemoteWrite) -> bool:
    """Tell which version the target is set to; what it gets may be less."""
    return target.protobuf_message == "io.prometheus.write.v2.Request"
