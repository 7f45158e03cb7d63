"""What a rule makes of a group's labels to name its tenant."""

import pytest

from bridge.tenant import check_tenant, fill, parse_template

LABELS = {"team": "storage", "env": "prod", "empty": ""}
FILLED = [
    ("{team}", "storage"),
    ("{team}-{env}", "storage-prod"),
    ("batch-{team}!", "batch-storage!"),
    ("fixed", "fixed"),
    ("{other}", ""),
    ("{empty}", ""),
    ("{team}-{other}", ""),
    ("x{empty}", ""),
]
BAD_TEMPLATES = [
    ("{", "encountered"),
    ("}", "encountered"),
    ("{}", "{} is no label"),
    ("{0}", "{0} is no label"),
    ("{team!r}", "{team} is no label"),
    ("{team:>5}", "{team} is no label"),
    ("{a.b}", "{a.b} is no label"),
    ("{a[0]}", r"{a[0]} is no label"),
    ("a b", "' '"),
    ("a/{team}", "'/'"),
    ("{team}|x", "'|'"),
    ("ü", "'ü'"),
    ("..", "reserved"),
    ("{{x}}", "'{'"),
    ("x" * 151, "151 bytes"),
]


@pytest.mark.parametrize(("template", "tenant"), FILLED)
def test_a_template_takes_labels(template: str, tenant: str) -> None:
    """Labels go where their names stand; without one of them there is no tenant."""
    assert fill(parse_template(template), LABELS) == tenant


@pytest.mark.parametrize(("template", "complaint"), BAD_TEMPLATES)
def test_a_broken_template_is_named(template: str, complaint: str) -> None:
    """What is no template, or could never make a tenant, says what is wrong with it."""
    with pytest.raises(ValueError, match="want") as refusal:
        parse_template(template)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize("tenant", ["a", "A-b_c.d!e*f'(g)", "x" * 150, "...", "0"])
def test_what_receivers_take(tenant: str) -> None:
    """Mimir's letters, up to 150 of them, are a tenant."""
    check_tenant(tenant)


@pytest.mark.parametrize(
    "tenant", [".", "..", "__mimir_cluster", "x" * 151, "a b", "a\n", "a\r\nX: y", "a|b", "ä", "a\x00"]
)
def test_what_receivers_refuse(tenant: str) -> None:
    """Anything else is refused, whatever could break out of a header among it."""
    with pytest.raises(ValueError, match="tenant"):
        check_tenant(tenant)
