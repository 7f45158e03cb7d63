"""Rules of the configuration: what holds for the groups whose labels match. First match wins.

Owns the matching and its memory. What a rule sets is read by those that it concerns. Pure.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from bridge.config.sections import Rule
from bridge.model import Labels
from bridge.regex import compile_anchored
from bridge.tenant import check_tenant, fill, parse_template

_REMEMBERED = 1 << 14
_SECOND_MS = 1000
_NO_RULE = Rule(match={})


class Rules:
    """The rules, ready to be asked."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        """Take rules whose patterns were checked."""
        self.replace(rules)

    def replace(self, rules: Sequence[Rule]) -> None:
        """Have these rules from now on."""
        self._rules = [
            (rule, [(name, compile_anchored(pattern)) for name, pattern in rule.match.items()]) for rule in rules
        ]
        self.find: Callable[[Labels], Rule] = lru_cache(_REMEMBERED)(self._find)
        """The first rule that matches a group; one that sets nothing when none does."""
        self.expect_something = any(rule.expect_every is not None for rule in rules)
        """Whether there is a rule that says how often a group is expected."""
        self._templates = {rule.tenant: parse_template(rule.tenant) for rule in rules}
        self.set_tenants = any(rule.tenant for rule in rules)
        """Whether there is a rule that gives a tenant."""

    def _find(self, grouping: Labels) -> Rule:
        labels = dict(grouping)
        for rule, matchers in self._rules:
            if all(matches(labels.get(name, "")) for name, matches in matchers):
                return rule
        return _NO_RULE

    def ttl_ms(self, grouping: Labels, default_ms: int) -> int:
        """How long a group holds what a push without a TTL of its own brings."""
        rule = self.find(grouping)
        return default_ms if rule.ttl is None else rule.ttl

    def expected_ms(self, grouping: Labels) -> tuple[int, int]:
        """How often a group is expected and how late it may be; 0 when it is not."""
        rule = self.find(grouping)
        return round((rule.expect_every or 0) * _SECOND_MS), round(rule.grace * _SECOND_MS)

    def max_runtime_ms(self, grouping: Labels) -> int:
        """How long a run of a group may take."""
        return round(self.find(grouping).max_runtime * _SECOND_MS)

    def tenant(self, grouping: Labels) -> str:
        """Whose samples a group's are, "" when no rule says it or the group lacks a label.

        Raises ValueError when its labels make a tenant that receivers refuse.
        """
        template = self.find(grouping).tenant
        if not template:
            return ""
        tenant = fill(self._templates[template], dict(grouping))
        try:
            check_tenant(tenant)
        except ValueError as error:
            raise ValueError(f"{error}; it comes from the group's labels by tenant: {template!r} in rules") from error
        return tenant

    def tenant_at_target(self, grouping: Labels) -> str:
        """The same where it is too late to refuse: what cannot be a tenant is none."""
        try:
            return self.tenant(grouping)
        except ValueError:
            return ""
