"""Rules of the configuration: what holds for the groups whose labels match. First match wins.

Owns the matching and its memory. What a rule sets is read by those that it concerns. Pure.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from bridge.config import Rule
from bridge.model import Labels
from bridge.regex import compile_anchored

_REMEMBERED = 1 << 14


class Rules:
    """The rules, ready to be asked."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Take rules whose patterns were checked."""
        self._rules = [
            (rule, [(name, compile_anchored(pattern)) for name, pattern in rule.match.items()]) for rule in rules
        ]
        self.find: Callable[[Labels], Rule | None] = lru_cache(_REMEMBERED)(self._find)
        """The first rule that matches a group, None when none does."""

    def _find(self, grouping: Labels) -> Rule | None:
        labels = dict(grouping)
        for rule, matchers in self._rules:
            if all(matches(labels.get(name, "")) for name, matches in matchers):
                return rule
        return None

    def ttl_ms(self, grouping: Labels, default_ms: int) -> int:
        """How long a group holds what a push without a TTL of its own brings."""
        rule = self.find(grouping)
        return default_ms if rule is None or rule.ttl is None else rule.ttl
