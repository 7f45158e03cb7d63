"""What the configuration says of everything that goes to one target, made ready: its relabeling, and the tenants.

Owns nothing else: what is done with it is `bridge.delivery.rewrite`. Pure.
"""

from functools import lru_cache

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules
from bridge.groups import labels_of_key
from bridge.rules import Rules

_REMEMBERED = 1 << 17


def rules_of_target(target: RemoteWrite, rules: Rules, *, utf8_names: bool) -> TargetRules:
    """Compile a target's rules, which were checked."""
    configs = target.write_relabel_configs
    relabel = Relabeler(configs, utf8_names=utf8_names).relabel if configs else None
    if not rules.set_tenants:
        return TargetRules(relabel)
    return TargetRules(relabel, lru_cache(_REMEMBERED)(lambda key: rules.tenant_at_target(labels_of_key(key))))
