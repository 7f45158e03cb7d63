"""What holds for the files of both modes."""

from dataclasses import replace
from pathlib import Path

from bridge.config.file import load
from bridge.rules import Rules
from tests.textfile.desk import desk

BAD = '# PUSHBRIDGE job=j team="a b"\na 1\n'
GOOD = "# PUSHBRIDGE job=j team=b\na 1\n"


async def test_labels_that_make_no_tenant_are_refused(tmp_path: Path) -> None:
    """The file is told to be wrong, or set aside with the reason, and nothing of its group is sent."""
    rules = Rules(load('rules: [{match: {}, tenant: "{team}"}]', "c").rules)
    async with desk(tmp_path) as one:
        options = replace(one.intake.options(), tenant=rules.tenant)
        one.intake = replace(one.intake, options=lambda: options)
        spool, collect = one.spool(), one.collect()
        for directory in ("s", "c"):
            one.drop(f"{directory}/bad.prom", BAD)
        await spool.look()
        await collect.look()
        assert one.bench.rows() == []
        assert "tenant 'a b' has ' '" in (one.base / "s/failed/bad.prom.error.txt").read_text(encoding="utf-8")
        assert one.pushes("put", "refused", "tenant") == 1
        for directory in ("s", "c"):
            one.drop(f"{directory}/good.prom", GOOD.replace("a 1", f"{directory} 1"))
        await spool.look()
        await collect.look()
        assert sorted(name for name, _, _ in one.sent()) == ["c", "s"]
