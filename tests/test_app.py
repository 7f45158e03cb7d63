import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bridge.app import Agent
from bridge.config.file import Config, load
from bridge.journal.store import Journal
from bridge.receiver import SampleStore, StoredSample, make_app
from bridge.restore import load_groups


@asynccontextmanager
async def receiver(store: SampleStore) -> AsyncIterator[str]:
    """Run the embedded receiver on a free port."""
    runner = web.AppRunner(make_app(store), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1/write"
    finally:
        await runner.cleanup()


def config_of(directory: Path, *targets: str, **storage: str) -> Config:
    """The settings of an agent on a free port."""
    values: dict[str, object] = {"path": str(directory), **storage}
    return load(
        "",
        "test",
        {
            "web": {"listen_address": "127.0.0.1:0", "expose_groups": "true"},
            "storage": values,
            "remote_write": {"targets": [{"url": url, "name": f"t{at}"} for at, url in enumerate(targets)]},
        },
    )


@asynccontextmanager
async def agent(directory: Path, *targets: str, **storage: str) -> AsyncIterator[str]:
    """Run an agent in this process and end it in order."""
    running = Agent(config_of(directory, *targets, **storage))
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(running.run(url.set_result))
    try:
        yield await url
    finally:
        running.stopping.set()
        await task


async def samples_when(store: SampleStore, enough: Callable[[list[StoredSample]], bool]) -> list[StoredSample]:
    """Wait until the receiver has what is wanted."""
    async with asyncio.timeout(10):
        while not enough(store.samples()):  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # the store is SQLite: it tells nobody
    return store.samples()


def values_of(samples: list[StoredSample], name: str) -> list[float | None]:
    """Values of one metric in the order in which they arrived, None for a staleness marker."""
    of_name = [sample for sample in samples if dict(sample.labels)["__name__"] == name]
    return [None if sample.stale else struct.unpack("<d", sample.value)[0] for sample in of_name]


async def test_a_push_reaches_the_receiver_and_ends_with_a_marker(tmp_path: Path) -> None:
    """PUT, POST and DELETE arrive in order, and what ended gets one staleness marker."""
    store = SampleStore(":memory:")
    async with receiver(store) as target, agent(tmp_path, target) as url, aiohttp.ClientSession() as http:
        path = f"{url}/metrics/job/backup"
        assert (await http.put(path, data=b"a 1\nb 2\n")).status == 200
        assert (await http.put(path, data=b"a 3\n")).status == 200
        assert (await http.post(path, data=b"c 4\n")).status == 200
        assert (await http.delete(path)).status == 202
        samples = await samples_when(store, lambda got: values_of(got, "c") == [4.0, None])
        assert values_of(samples, "a") == [1.0, 3.0, None]
        assert values_of(samples, "b") == [2.0, None]
        assert values_of(samples, "push_failure_time_seconds") == [0.0, 0.0, 0.0, None]
        stamps = [sample.timestamp_ms for sample in samples]
        assert stamps == sorted(stamps)


async def test_a_refused_push_changes_nothing_but_the_failure_time(tmp_path: Path) -> None:
    """The sender is told the line, the group keeps its series, push_failure_time_seconds is set."""
    async with agent(tmp_path) as url, aiohttp.ClientSession() as http:
        path = f"{url}/metrics/job/j"
        await http.put(path, data=b"a 1\n")
        answer = await http.put(path, data=b"a 1\nb zwei\n")
        assert answer.status == 400
        assert "line 2" in await answer.text()
        shown = await (await http.get(f"{url}/metrics")).text()
        assert 'a{instance="",job="j"} 1\n' in shown
        assert 'push_failure_time_seconds{instance="",job="j"} 0\n' not in shown


async def test_groups_and_undelivered_samples_survive_a_restart(tmp_path: Path) -> None:
    """A receiver that is away at the push gets the sample with its own time after agent and receiver came back."""
    store = SampleStore(":memory:")
    async with receiver(store) as away:
        pass
    async with agent(tmp_path, away) as url, aiohttp.ClientSession() as http:
        await http.put(f"{url}/metrics/job/j/instance/i", data=b"# TYPE a counter\n# HELP a Says a.\na 1\n")
        shown = await (await http.get(f"{url}/metrics")).text()
        assert 'pushbridge_samples_pending{target="t0"} 3\n' in shown
    async with receiver(store) as target, agent(tmp_path, target) as url, aiohttp.ClientSession() as http:
        samples = await samples_when(store, lambda got: len(got) == 3)
        assert values_of(samples, "a") == [1.0]
        shown = await (await http.get(f"{url}/metrics")).text()
        assert '# HELP a Says a.\n# TYPE a counter\na{instance="i",job="j"} 1\n' in shown


async def test_a_series_of_another_group_is_refused(tmp_path: Path) -> None:
    """Two groups cannot own series with exactly the same labels."""
    async with agent(tmp_path) as url, aiohttp.ClientSession() as http:
        assert (await http.put(f"{url}/metrics/job/j/instance/i", data=b"a 1\n")).status == 200
        answer = await http.put(f"{url}/metrics/job/j", data=b'a{instance="i"} 1\n')
        assert answer.status == 400
        assert "already pushed by the group" in await answer.text()


@pytest.mark.parametrize("turns", range(6))
async def test_an_agent_that_is_to_end_as_it_begins_ends(
    tmp_path: Path, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that comes just before the first look at files is done, by some turns of the loop, is not lost."""
    agent = Agent(load("", "test", {"web": {"listen_address": "127.0.0.1:0"}, "storage": {"path": str(tmp_path)}}))
    looked = agent._files.looked
    done = looked.set

    def stop(turns_left: int = turns) -> None:
        agent.stopping.set()
        if turns_left:
            asyncio.get_running_loop().call_soon(stop, turns_left - 1)
        else:
            done()

    monkeypatch.setattr(looked, "set", stop)
    async with asyncio.timeout(10):
        await agent.run()


async def test_an_orderly_stop_leaves_nothing_to_replay(tmp_path: Path) -> None:
    """When the agent has ended, the stored groups know every row."""
    async with agent(tmp_path) as url, aiohttp.ClientSession() as http:
        for value in range(5):
            assert (await http.put(f"{url}/metrics/job/j", data=f"a {value}\n".encode())).status == 200
    journal = Journal.open(tmp_path, max_bytes=1 << 26, now_ms=1)
    groups, replayed = load_groups(journal, {})
    assert (journal.end_seq, journal.state_seq, replayed) == (5, 5, set())
    assert [part.values for group in groups.live() for part in group.parts] == [(4.0,)]
    journal.close()


async def test_an_agent_whose_committer_died_ends(tmp_path: Path) -> None:
    """A fault of our own ends the agent with its cause: one that cannot write must not stay and look alive."""

    def fault(_: object) -> None:
        raise ZeroDivisionError

    running = Agent(config_of(tmp_path))
    task = asyncio.create_task(running.run())
    asking = asyncio.create_task(running.committer.submit(fault))
    async with asyncio.timeout(20):
        with pytest.raises(ZeroDivisionError):
            await task
    asking.cancel()
