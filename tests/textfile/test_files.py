"""All directories together: which there are, and when they are looked at."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.config.file import Check, Config, load
from bridge.errors import ConfigError
from bridge.rules import Rules
from bridge.textfile import files as module
from bridge.textfile.files import DIRECTORIES_ARE_THERE, Files
from tests.textfile.desk import Desk, desk


def config(
    base: Path, *entries: dict[str, Any], rules: list[dict[str, Any]] | None = None, checks: tuple[Check, ...] = ()
) -> Config:
    """Give a configuration with these directories."""
    storage = {"path": str(base / "storage")}
    return load("", "test", {"storage": storage, "textfile": {"directories": list(entries)}}, checks).model_copy(
        update={"rules": load(f"rules: {rules or []}", "test").rules}
    )


def make_files(settings: Config, here: Desk) -> Files:
    """The directories of these settings."""
    return Files(settings, "host", here.intake, Rules(settings.rules))


@asynccontextmanager
async def running(here: Desk, *entries: dict[str, Any], **more: Any) -> AsyncIterator[Files]:
    """Look at directories until the end of the block."""
    files = make_files(config(here.base, *entries, **more), here)
    task = asyncio.create_task(files.run())
    try:
        await asyncio.wait_for(files.looked.wait(), 10)
        yield files
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(good: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not good():  # noqa: ASYNC110 - files tell nobody in the test
            await asyncio.sleep(0.01)


async def test_changes_are_noticed_at_once(tmp_path: Path) -> None:
    """A new, a changed and a removed file show long before the regular look."""
    async with desk(tmp_path) as here:
        (tmp_path / "c").mkdir()
        async with running(here, {"directory": str(tmp_path / "c")}):
            here.drop("c/a.prom", "a 1\n", at_ms=1)
            await until(lambda: len(here.sent()) == 1)
            (tmp_path / "c/a.prom").write_text("a 2\n", encoding="utf-8")
            await until(lambda: [value for _, value, _ in here.sent()][-1] == 2)
            (tmp_path / "c/a.prom").unlink()
            await until(lambda: not here.groups())


async def test_what_nobody_tells_is_noticed_by_the_regular_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change behind a link, and a directory that was away and is back, are found without being told."""
    monkeypatch.setattr(module, "RESCAN_S", 0.05)
    async with desk(tmp_path) as here:
        (tmp_path / "c").mkdir()
        here.drop("target", "a 1\n", at_ms=1)
        (tmp_path / "c/a.prom").symlink_to(tmp_path / "target")
        async with running(here, {"directory": str(tmp_path / "c")}) as files:
            here.drop("target", "a 2\n", at_ms=2)
            await until(lambda: here.sent() == [("a", 1, 1), ("a", 2, 2)])
            (tmp_path / "c").rename(tmp_path / "away")
            here.drop("away/b.prom", "b 1\n", at_ms=3)
            await until(lambda: max(value for name, _, value in files.facts() if name.endswith("error")) == 1)
            assert len(here.sent()) == 2
            (tmp_path / "away").rename(tmp_path / "c")
            await until(lambda: len(here.sent()) == 3)


async def test_the_agent_has_a_spool_of_its_own(tmp_path: Path) -> None:
    """It is made for everybody to write into, and one that is there keeps its mode."""
    async with desk(tmp_path) as here:
        spool = tmp_path / "storage" / "spool"
        files = make_files(config(tmp_path), here)
        assert stat.S_IMODE(spool.stat().st_mode) == 0o1777
        spool.chmod(0o700)
        here.drop("storage/spool/a.prom", "a 1\n", at_ms=5)
        await files.take_spooled()
        assert here.sent() == [("a", 1, 5)]
        named = make_files(config(tmp_path, {"directory": str(spool), "mode": "spool"}), here)
        assert [labels for _, labels, _ in named.facts()] == [(("file", str(spool)),)]
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700


async def test_a_spool_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    """The agent goes on without it."""
    async with desk(tmp_path) as here:
        (tmp_path / "storage" / "spool").touch()
        assert not list(make_files(config(tmp_path), here).facts())


async def test_ttl_of_collected_files(tmp_path: Path) -> None:
    """It is the file's, else that of the first matching rule, else there is no end."""
    async with desk(tmp_path) as here:
        (tmp_path / "c").mkdir()
        for name in ("own", "ruled", "endless"):
            ttl = " ttl=5s" if name == "own" else ""
            here.drop(f"c/{name}.prom", f"# PUSHBRIDGE kind={name}{ttl}\n{name} 1\n", at_ms=1)
        rules = [{"match": {"kind": "own|ruled"}, "ttl": "9s"}]
        async with running(here, {"directory": str(tmp_path / "c")}, rules=rules):
            ends = {dict(group.id.labels)["kind"]: group.ttl_ms for group in here.groups()}
            assert (ends["own"], ends["ruled"]) == (5000, 9000)
            assert ends["endless"] > 1 << 60


def test_a_missing_directory_stops_the_start(tmp_path: Path) -> None:
    """The error names the key; the agent's own spool need not be there."""
    (tmp_path / "c").mkdir()
    own = {"directory": str(tmp_path / "storage/spool"), "mode": "spool"}
    config(tmp_path, {"directory": str(tmp_path / "c")}, own, checks=(DIRECTORIES_ARE_THERE,))
    with pytest.raises(ConfigError, match=r"^test: textfile\.1\.directory: want a directory, got .*/none$"):
        config(tmp_path, own, {"directory": str(tmp_path / "none")}, checks=(DIRECTORIES_ARE_THERE,))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([{"directory": "{0}/c"}, {"directory": "{0}/x/../c", "mode": "spool"}], r"textfile\.1\.directory: .* twice"),
        ([{"directory": "{0}/storage"}], r"textfile\.0\.directory: got .* not inside storage.path"),
        ([{"directory": "{0}/storage/inside"}], "not inside storage.path"),
        ([{"directory": "{0}/storage/spool"}], "not inside storage.path"),
        ([{"directory": "{0}/c", "labels": {"instance": "i"}}], "textfile.0.labels: want a label job"),
        ([{"directory": "{0}/c", "labels": {"job": "j", "9": "i"}}], "not a label name: got '9'"),
        ([{"directory": "{0}/c", "mode": "both"}], "textfile.0.mode"),
        ([{"mode": "spool"}], "textfile.0.directory"),
    ],
)
def test_directories_that_make_no_sense(tmp_path: Path, entries: list[dict[str, Any]], told: str) -> None:
    """Each is refused when the configuration is read, with its key."""
    filled = [
        {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in entry.items()}
        for entry in entries
    ]
    with pytest.raises(ConfigError, match=told):
        config(tmp_path, *filled)
