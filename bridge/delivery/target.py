"""What the configuration says of everything that goes to one target, made ready: its relabeling, and the tenants.

Owns nothing else: what is done with it is `bridge.delivery.rewrite`. Pure.
"""

from collections.abc import Callable
from functools import lru_cache

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.taken import kinds_taken
from bridge.groups import labels_of_key
from bridge.rules import Rules

_REMEMBERED = 1 << 17


def rules_of_target(
    target: RemoteWrite, rules: Rules, *, utf8_names: bool, note_missing: Callable[[str], object] = lambda _: None
) -> TargetRules:
    """Compile a target's rules, which were checked; `note_missing` is that of `TargetRules`."""
    configs = target.write_relabel_configs
    relabel = Relabeler(configs, utf8_names=utf8_names).relabel if configs else None
    tenant_of = lru_cache(_REMEMBERED)(lambda key: rules.tenant_at_target(labels_of_key(key)))
    takes = kinds_taken(
        native_histograms=target.send_native_histograms,
        exemplars=target.send_exemplars,
        version_2=speaks_version_2(target),
    )
    return TargetRules(relabel, tenant_of if rules.set_tenants else None, takes, note_missing)


def speaks_version_2(target: RemoteWrite) -> bool:
    """Tell which version the target is set to."""
    return target.protobuf_message == "io.prometheus.write.v2.Request"
