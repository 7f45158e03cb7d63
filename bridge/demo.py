"""`pushbridge demo`: agent, embedded receiver and a sample job in one process, to see the whole way.

Owns nothing that the agent needs: it is the agent's user, pushing over HTTP as any job does.
"""

import asyncio
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import aiohttp

from bridge.app import Agent
from bridge.config.file import load
from bridge.errors import ConfigError
from bridge.receiver import SampleStore, StoredSample, serve

_PUSH_EVERY_S = 2.0
_LOOK_EVERY_S = 0.5
AGENT_ADDRESS = "127.0.0.1:9091"
_ANY_ADDRESS = "127.0.0.1:0"


async def run_demo(seconds: float | None, say: Callable[[str], object], address: str | None = None) -> None:
    """Run until Ctrl-C, SIGTERM, the end of the terminal or for `seconds`; `say` prints a line.

    Raises ConfigError, also when the agent is to listen on an `address` that is taken.
    """
    store = SampleStore(":memory:")
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    receiving = asyncio.create_task(serve(store, port=0, started=started.set_result))
    receiver = await started
    with tempfile.TemporaryDirectory(prefix="pushbridge-demo-") as directory:
        agent = _agent(directory, f"{receiver}/api/v1/write", address)
        _stop_on_signals(agent, seconds)
        say(f"agent     {agent.url}/metrics   (own metrics and the pushed group)")
        say(f"receiver  {receiver}/   (a page with what arrived)")
        say(f"try       echo 'my_metric 1' | curl --data-binary @- {agent.url}/metrics/job/my_job")
        say("A sample job pushes every 2 seconds; these are the samples that reach the receiver. Ctrl-C ends it.")
        helpers = [asyncio.create_task(_job(agent.url)), asyncio.create_task(_show(store, say))]
        await agent.run()
        for task in (*helpers, receiving):
            task.cancel()
        await asyncio.gather(*helpers, receiving, return_exceptions=True)
    say(f"{store.count()} samples were delivered; nothing is left behind.")
    store.close()


def _agent(directory: str, target: str, address: str | None) -> Agent:
    """The agent on the given address, else on its usual port, or on a free one when that is taken."""
    sections: dict[str, dict[str, object]] = {
        "web": {"expose_groups": "true", "listen_address": address or AGENT_ADDRESS},
        "storage": {"path": directory},
        "remote_write": {"targets": [{"url": target, "name": "demo"}]},
    }
    try:
        return Agent(load("", "demo", sections))
    except ConfigError:
        if address is not None:
            raise
        sections["web"]["listen_address"] = _ANY_ADDRESS
        return Agent(load("", "demo", sections))


def _stop_on_signals(agent: Agent, seconds: float | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, agent.stopping.set)
    if seconds is not None:
        loop.call_later(seconds, agent.stopping.set)


async def _job(url: str) -> None:
    """A job as users have them: it counts rows and says when it last succeeded."""
    rows = 0
    async with aiohttp.ClientSession() as http:
        while True:
            rows += random.randint(50, 150)
            body = (
                "# TYPE demo_rows_processed_total counter\n"
                f"demo_rows_processed_total {rows}\n"
                "# TYPE demo_last_success_timestamp_seconds gauge\n"
                f"demo_last_success_timestamp_seconds {time.time():.3f}\n"
            )
            with suppress(aiohttp.ClientError):
                await http.put(f"{url}/metrics/job/demo/instance/localhost", data=body.encode())
            await asyncio.sleep(_PUSH_EVERY_S)


async def _show(store: SampleStore, say: Callable[[str], object]) -> None:
    seen = 0
    while True:
        for sample in store.samples(seen):
            say(_line(sample))
            seen = sample.id
        await asyncio.sleep(_LOOK_EVERY_S)


def _line(sample: StoredSample) -> str:
    labels = dict(sample.labels)
    name = labels.pop("__name__")
    stamp = datetime.fromtimestamp(sample.timestamp_ms / 1000).astimezone()
    pairs = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{stamp:%H:%M:%S}.{sample.timestamp_ms % 1000:03d}  {name}{{{pairs}}} {sample.value_text}"
