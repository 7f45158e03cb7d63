"""What the configuration says of a target, made ready."""

from bridge.config.file import load
from bridge.delivery.target import rules_of_target
from bridge.groups import key_of
from bridge.rules import Rules
from bridge.wire.head import labels_of, make_head
from bridge.wire.remote_write import label_bytes

CONFIG = """
rules: [{match: {job: ".*"}, tenant: "{team}"}]
remote_write:
  - {url: http://a/, write_relabel_configs: [{target_label: c, replacement: d}]}
  - {url: http://b/}
"""


def test_each_target_has_its_own_rules() -> None:
    """Relabeling is the target's, tenants are everybody's; what cannot be a tenant is none."""
    config = load(CONFIG, "c")
    one, other = (
        rules_of_target(target, Rules(config.rules), utf8_names=False, gets_version_2=lambda: False)
        for target in config.remote_write
    )
    assert one.relabel is not None
    made = one.relabel(make_head(label_bytes([("__name__", "m")])))
    assert isinstance(made, bytes)
    assert labels_of(made) == (("__name__", "m"), ("c", "d"))
    assert other.relabel is None
    for found in (one, other):
        assert found.tenant_of is not None
        teams = [found.tenant_of(key_of((("job", "j"), ("team", team)))) for team in ("x", "", "a b")]
        assert teams == ["x", "", ""]
        assert found.tenant_of(key_of((("team", "x"), ("job", "j")), "/var/a.prom")) == "x"


def test_nothing_is_asked_when_there_is_nothing_to_say() -> None:
    """Without rules there is neither relabeling nor a tenant to look up for each row."""
    config = load("remote_write: [{url: http://b/}]\nrules: [{match: {}, ttl: 1h}]", "c")
    found = rules_of_target(config.remote_write[0], Rules(config.rules), utf8_names=False, gets_version_2=lambda: False)
    assert (found.relabel, found.tenant_of) == (None, None)
