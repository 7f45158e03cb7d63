"""A directory whose files are the state, looked at over a real journal with a clock of the test's own."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.errors import JournalFullError
from bridge.flatten import FlattenOptions
from bridge.hold import due_ms, end
from bridge.pipeline import end_all, end_matching
from bridge.textfile.collect import Collect, end_strangers
from bridge.textfile.dropped import Defaults
from tests.blackbox.load import noise
from tests.journal.test_committer import MIB, NOW_MS
from tests.textfile.desk import Desk, desk


def errors(collect: Collect) -> dict[str, float]:
    """Give what is said of errors, by file name."""
    return {Path(labels[0][1]).name: value for name, labels, value in collect.facts() if name.endswith("_error")}


def mtimes(collect: Collect) -> dict[str, float]:
    """Give what is said of times, by file name."""
    return {Path(labels[0][1]).name: value for name, labels, value in collect.facts() if name.endswith("_seconds")}


async def expire(here: Desk) -> None:
    """End what is due, as time does."""

    def operation(staging: object) -> None:
        for group in here.groups():
            if due_ms(group, 1 << 40) <= here.clock.ms:
                staging.add(end(group, here.clock.ms))  # type: ignore[attr-defined]

    await here.bench.committer.submit(operation)


async def test_a_file_is_the_state_of_its_group(tmp_path: Path) -> None:
    """A new and a changed file are PUT with their mtime, nothing happens between, and the end has a marker."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\nb 2\n", at_ms=5)
        assert await collect.look()
        (group,) = here.groups()
        assert (dict(group.id.labels), group.id.source) == (dict(collect._defaults.labels), f"{tmp_path}/c/a.prom")
        assert not await collect.look()
        here.drop("c/a.prom", "a 3\n", at_ms=20)
        assert await collect.look()
        (tmp_path / "c/a.prom").unlink()
        here.clock.ms += 1000
        assert await collect.look()
        assert not here.groups()
        assert here.sent() == [("a", 1, 5), ("b", 2, 5), ("b", None, 20), ("a", 3, 20), ("a", None, 2000)]


async def test_the_time_is_never_in_the_future_and_never_goes_back(tmp_path: Path) -> None:
    """A future mtime counts as now; an older one as just after what was sent, repeats included."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n", at_ms=3_600_000)
        await collect.look()
        here.drop("c/a.prom", "a 2\n", at_ms=-50)
        await collect.look()
        await here.bench.committer.tick(here.clock.ms + 500)
        here.clock.ms += 1000
        here.drop("c/a.prom", "a 3\n", at_ms=1600)
        await collect.look()
        here.drop("c/a.prom", "a 4\n", at_ms=1400)
        await collect.look()
        assert here.sent() == [("a", 1, 1000), ("a", 2, 1001), ("a", 3, 1600), ("a", 4, 1601)]


@pytest.mark.parametrize("body", ["a one\n", "a 2", "a 2\r\n", 'a{x="1"} 2\na{x="1"} 3\n', "# PUSHBRIDGE ttl=x\n"])
async def test_a_bad_file_keeps_what_its_group_had(tmp_path: Path, body: str) -> None:
    """Its error is there until it changes, its time is that of the good content, and its neighbours go on."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n", at_ms=5)
        await collect.look()
        here.drop("c/a.prom", body, at_ms=10)
        here.drop("c/b.prom", "b 1\n", at_ms=11)
        await collect.look()
        assert errors(collect) == {"c": 0, "a.prom": 1, "b.prom": 0}
        assert mtimes(collect)["a.prom"] == pytest.approx((here.clock.ms - 995) / 1000)
        here.drop("c/a.prom", "a 4\n", at_ms=15)
        await collect.look()
        assert errors(collect)["a.prom"] == 0
        assert here.sent() == [("a", 1, 5), ("b", 1, 11), ("a", 4, 15)]


async def test_a_file_that_goes_takes_its_metrics_with_it(tmp_path: Path) -> None:
    """Nothing is said of a file that is gone, good or bad."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n")
        here.drop("c/b.prom", "b\n")
        await collect.look()
        for name in ("a.prom", "b.prom"):
            (tmp_path / "c" / name).unlink()
        await collect.look()
        assert (errors(collect), mtimes(collect)) == ({"c": 0}, {})


async def test_limits_of_a_push_hold_for_files(tmp_path: Path) -> None:
    """A file over the size, over the number of series or with refused timestamps is told, and the others are taken."""
    options = FlattenOptions({}, max_series=3, accept_timestamps=False)
    async with desk(tmp_path, options, max_body_bytes=100) as here:
        collect = here.collect()
        here.drop("c/large.prom", "a 1\n" + "#" * 100 + "\n")
        here.drop("c/many.prom", "".join(f'a{{n="{n}"}} 1\n' for n in range(4)))
        here.drop("c/timed.prom", "a 1 1700000000000\n")
        here.drop("c/z.prom", "z 1\n")
        await collect.look()
        assert errors(collect) == {"c": 0, "large.prom": 1, "many.prom": 1, "timed.prom": 1, "z.prom": 0}
        assert here.sent() == [("z", 1, 0)]


async def test_the_first_file_has_the_series_and_the_second_waits(tmp_path: Path) -> None:
    """Of two files with one series the second by name is refused whole, and has its turn when the first goes."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n", at_ms=5)
        here.drop("c/b.prom", "a 2\nb 2\n", at_ms=3)
        await collect.look()
        assert errors(collect) == {"c": 0, "a.prom": 0, "b.prom": 1}
        assert f"{tmp_path}/c/a.prom" in collect._known["b.prom"].error
        assert not await collect.look()
        (tmp_path / "c/a.prom").unlink()
        assert await collect.look()
        assert errors(collect) == {"c": 0, "b.prom": 0}
        # In the order of time for each series, whatever the mtimes say.
        assert here.sent() == [("a", 1, 5), ("a", None, 1000), ("a", 2, 1001), ("b", 2, 1001)]


async def test_a_renamed_file_goes_on(tmp_path: Path) -> None:
    """Its series end under the old name and go on under the new one, after the marker although the mtime is old."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/z.prom", "a 1\n", at_ms=5)
        await collect.look()
        (tmp_path / "c/z.prom").rename(tmp_path / "c/a.prom")
        await collect.look()
        assert here.sent() == [("a", 1, 5), ("a", None, 1000), ("a", 1, 1001)]
        assert [group.id.source for group in here.groups()] == [f"{tmp_path}/c/a.prom"]


async def test_a_series_may_move_between_files_in_one_look(tmp_path: Path) -> None:
    """What one file gives up another one has, in either order of names, at the second look at the latest."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n")
        here.drop("c/b.prom", "b 1\n")
        await collect.look()
        here.drop("c/a.prom", "b 2\n", at_ms=10)
        here.drop("c/b.prom", "c 2\n", at_ms=10)
        await collect.look()
        assert collect.waits
        await collect.look()
        assert not collect.waits
        assert [sample for sample in here.sent() if sample[0] == "b"] == [("b", 1, 0), ("b", None, 10), ("b", 2, 11)]


async def test_a_restart_changes_nothing_but_what_changed(tmp_path: Path) -> None:
    """After a restart unchanged files are left alone; what changed, came or went meanwhile is noticed."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        for name in ("changed", "gone", "same", "timed", "touched"):
            here.drop(f"c/{name}.prom", f"{name} 1{' 1700000000000' if name == 'timed' else ''}\n", at_ms=5)
        here.drop("c/bad.prom", "bad\n")
        await collect.look()
        end_seq = here.bench.journal.end_seq
    here.drop("c/changed.prom", "changed 2\n", at_ms=7)
    here.drop("c/touched.prom", "touched 1\n", at_ms=8)
    here.drop("c/new.prom", "new 1\n", at_ms=9)
    (tmp_path / "c/gone.prom").unlink()
    async with desk(tmp_path) as here:
        collect = here.collect()
        await collect.look()
        wanted = [("gone", None, 1000), ("changed", 2, 7), ("new", 1, 9), ("touched", 1, 8)]
        assert here.sent(end_seq) == wanted
        assert errors(collect) == {"c": 0, "bad.prom": 1} | dict.fromkeys(
            ("changed.prom", "new.prom", "same.prom", "timed.prom", "touched.prom"), 0
        )
        assert mtimes(collect).keys() == errors(collect).keys() - {"c", "bad.prom"}
        assert not await collect.look()


async def test_an_unchanged_file_stays_ended(tmp_path: Path) -> None:
    """After its TTL a file is left alone, also by a restart, until it is written anew."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "# PUSHBRIDGE ttl=10s\na 1\n", at_ms=5)
        await collect.look()
        here.clock.ms += 20_000
        await expire(here)
        assert not await collect.look()
        assert here.sent() == [("a", 1, 5), ("a", None, 21_000)]
    async with desk(tmp_path) as here:
        here.clock.ms += 30_000
        collect = here.collect()
        assert not await collect.look()
        here.drop("c/a.prom", "# PUSHBRIDGE ttl=10s\na 1\n", at_ms=25_000)
        assert await collect.look()
        assert here.sent()[2:] == [("a", 1, 25_000)]


async def test_a_file_is_there_until_it_is_removed(tmp_path: Path) -> None:
    """No request and no wipe ends what comes from a file."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n")
        await collect.look()
        await end_all(here.bench.committer)
        assert await end_matching(lambda _: True, here.bench.committer) == []
        assert len(here.groups()) == 1


async def test_other_labels_are_another_group(tmp_path: Path) -> None:
    """When a directive or the directory's labels change, the old group ends and the new one begins, in order."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", 'a{disk="x"} 1\n', at_ms=5)
        await collect.look()
        here.drop("c/a.prom", "# PUSHBRIDGE disk=x\na 2\n", at_ms=10)
        await collect.look()
        assert [dict(group.id.labels).get("disk") for group in here.groups()] == ["x"]
        assert here.sent() == [("a", 1, 5), ("a", None, 1000), ("a", 2, 1001)]
    async with desk(tmp_path) as here:
        collect = here.collect(defaults=Defaults({"job": "other"}, given=True))
        await collect.look()
        assert [dict(group.id.labels) for group in here.groups()] == [{"job": "other", "disk": "x"}]
        assert len(here.sent()) == 5


async def test_a_refused_change_of_labels_leaves_the_old_group(tmp_path: Path) -> None:
    """A file whose new group cannot have its series keeps the group that it had."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", 'a{disk="x"} 1\n', at_ms=5)
        here.drop("c/b.prom", "b 1\n", at_ms=5)
        await collect.look()
        here.drop("c/b.prom", "# PUSHBRIDGE disk=x\na 2\n", at_ms=10)
        await collect.look()
        assert errors(collect)["b.prom"] == 1
        assert here.sent() == [("a", 1, 5), ("b", 1, 5)]
        assert len(here.groups()) == 2


async def test_a_directory_that_vanishes_keeps_its_groups(tmp_path: Path) -> None:
    """Its error is told, its groups stay, and it is taken up again when it is back."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n")
        await collect.look()
        (tmp_path / "c").rename(tmp_path / "away")
        assert not await collect.look()
        assert errors(collect) == {"c": 1, "a.prom": 0}
        assert len(here.groups()) == 1
        (tmp_path / "away").rename(tmp_path / "c")
        (tmp_path / "c/a.prom").unlink()
        assert await collect.look()
        assert errors(collect) == {"c": 0}
        assert not here.groups()


async def test_a_second_write_within_the_grain_is_seen(tmp_path: Path) -> None:
    """A file that has the same stamp but other content is taken, if it was fresh when it was looked at."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n", at_ms=5)
        await collect.look()
        # As if it had been looked at in the moment in which it was written.
        collect._known["a.prom"] = replace(collect._known["a.prom"], settled=False)
        (tmp_path / "c/a.prom").write_bytes(b"a 2\n")
        os.utime(tmp_path / "c/a.prom", ns=((NOW_MS + 5) * 1_000_000,) * 2)
        assert await collect.look()
        assert here.sent() == [("a", 1, 5), ("a", 2, 6)]
        assert not await collect.look()


async def test_type_conflicts_between_files_are_told_and_counted(tmp_path: Path) -> None:
    """Both files are taken, and the count of conflicts rises."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", '# TYPE a gauge\na{n="1"} 1\n')
        await collect.look()
        here.drop("c/b.prom", '# TYPE a counter\n# HELP a Other.\na{n="2"} 1\n')
        await collect.look()
        assert here.intake.telemetry.registry.get_sample_value("pushbridge_type_conflicts_total") == 1
        assert errors(collect) == {"c": 0, "a.prom": 0, "b.prom": 0}


async def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Labels and logs have no room for it; what is said of it is text."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        (tmp_path / "c" / "a\udcff.prom").write_bytes(b"a 1\n")
        await collect.look()
        assert errors(collect) == {"c": 0, "a\\xff.prom": 1}
        assert not here.groups()


async def test_groups_of_directories_that_are_no_longer_collected_end(tmp_path: Path) -> None:
    """Without their directory nothing else would end them."""
    async with desk(tmp_path) as here:
        collect = here.collect()
        here.drop("c/a.prom", "a 1\n", at_ms=5)
        await collect.look()
        await end_strangers(here.bench.committer, frozenset({f"{tmp_path}/c"}))
        assert len(here.groups()) == 1
        await end_strangers(here.bench.committer, frozenset())
        assert here.sent() == [("a", 1, 5), ("a", None, 1000)]


async def test_a_full_journal_keeps_files_for_later(tmp_path: Path) -> None:
    """A giant that does not fit keeps nobody out; when nothing fits any more the look ends and says so."""
    async with desk(tmp_path, FlattenOptions({}), max_body_bytes=64 * MIB, max_bytes=MIB // 2) as here:
        collect = here.collect()
        here.drop("c/a.prom", "".join(f'a{{n="{noise(100, n)}"}} {n}\n' for n in range(8000)))
        here.drop("c/b.prom", "b 1\n")
        await collect.look()
        assert errors(collect) == {"c": 0, "a.prom": 1, "b.prom": 0}
        await here.bench.fill()
        for number in range(10):
            here.drop(f"c/late-{number}.prom", f"late_{number} 1\n")
        with pytest.raises(JournalFullError):
            await collect.look()
        assert errors(collect)["b.prom"] == 0
