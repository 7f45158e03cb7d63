"""Which rule of the configuration holds for a group."""

import pytest

from bridge.config.file import load
from bridge.model import Labels
from bridge.rules import Rules

CONFIG = """
rules:
  - {match: {job: "weekly_.*"}, ttl: 8d}
  - {match: {job: "weekly_report", team: "a|b"}, ttl: 1h}
  - {match: {team: "a|b"}, ttl: inf}
  - {match: {job: "probe", instance: ""}, ttl: 0}
  - {match: {job: "plain"}}
  - {match: {job: "pl.*"}, ttl: 2h}
"""
DEFAULT_MS = 25 * 3_600_000
DAY_MS = 86_400_000
CASES: dict[str, tuple[Labels, int]] = {
    "none matches": ((("job", "x"),), DEFAULT_MS),
    "a pattern": ((("job", "weekly_x"),), 8 * DAY_MS),
    "the first one that matches": ((("job", "weekly_report"), ("team", "a")), 8 * DAY_MS),
    "anchored at the front": ((("job", "biweekly_x"),), DEFAULT_MS),
    "anchored at the end": ((("job", "x"), ("team", "ab")), DEFAULT_MS),
    "inf": ((("job", "x"), ("team", "b")), 1 << 62),
    "an absent label is empty": ((("job", "probe"),), 0),
    "an empty label too": ((("job", "probe"), ("instance", "")), 0),
    "all must match": ((("job", "probe"), ("instance", "x")), DEFAULT_MS),
    "a rule without a TTL leaves the default": ((("job", "plain"),), DEFAULT_MS),
    "behind it comes the next": ((("job", "plan"),), 2 * 3_600_000),
}


@pytest.mark.parametrize(("grouping", "ttl_ms"), CASES.values(), ids=CASES)
def test_first_match_wins(grouping: Labels, ttl_ms: int) -> None:
    """Patterns are RE2, cover the whole value, and stand for all labels that they name."""
    rules = Rules(load(CONFIG, "test").rules)
    assert rules.ttl_ms(grouping, DEFAULT_MS) == ttl_ms
    # Remembered, and still the same.
    assert rules.ttl_ms(grouping, DEFAULT_MS) == ttl_ms


def test_no_rules() -> None:
    """Without rules the default holds."""
    assert Rules(()).ttl_ms((("job", "x"),), 7) == 7


TENANTS = """
rules:
  - {match: {job: "own_.*"}}
  - {match: {job: "fixed"}, tenant: shared}
  - {match: {team: ".+"}, tenant: "{team}"}
  - {match: {}, tenant: "{job}-{other}"}
"""


@pytest.mark.parametrize(
    ("grouping", "tenant"),
    [
        ((("job", "own_x"), ("team", "a")), ""),
        ((("job", "fixed"), ("team", "a")), "shared"),
        ((("job", "x"), ("team", "a")), "a"),
        ((("job", "x"),), ""),
        ((("job", "x"), ("other", "y")), "x-y"),
    ],
)
def test_tenants(grouping: Labels, tenant: str) -> None:
    """The first rule that matches says whose a group is; one that says nothing gives no tenant."""
    rules = Rules(load(TENANTS, "test").rules)
    assert rules.set_tenants
    assert rules.tenant(grouping) == rules.tenant_at_target(grouping) == tenant


def test_labels_that_make_no_tenant() -> None:
    """What receivers would refuse names the value and the rule, and is none where it is too late to refuse."""
    rules = Rules(load(TENANTS, "test").rules)
    grouping = (("job", "x"), ("team", "a b"))
    with pytest.raises(
        ValueError, match=r"tenant 'a b' has ' '; want .*; it comes from .* tenant: '\{team\}' in rules"
    ):
        rules.tenant(grouping)
    assert rules.tenant_at_target(grouping) == ""
