"""Pushes at a fixed rate for as long as one likes, as jobs that come when they come.

A push that has to wait for a connection is late, and its latency counts from when it was due. Runs in threads beside
what waits for something else; at a modest rate they cost next to nothing.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

from tests.bench.load import Load, Plan, sum_up


@contextmanager
def pushing(plan: Plan, per_s: float) -> Iterator[Callable[[], Load]]:
    """Push until the block ends or the callable that it is given is called, which tells what came back."""
    stopping = threading.Event()
    numbers, start_s = count(), time.perf_counter()

    def work() -> list[tuple[float, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", plan.port, timeout=60)
        found: list[tuple[float, str]] = []
        while not stopping.is_set():
            number = next(numbers)
            due_s = start_s + number / per_s
            if stopping.wait(max(0.0, due_s - time.perf_counter())):
                break
            refusal = _push(connection, plan, number)
            found.append((time.perf_counter() - due_s, refusal))
        connection.close()
        return found

    with ThreadPoolExecutor(plan.connections) as threads:
        workers = [threads.submit(work) for _ in range(plan.connections)]

        def stop() -> Load:
            stopping.set()
            found = [one for worker in workers for one in worker.result()]
            refusals = [refusal for _, refusal in found if refusal]
            return sum_up(time.perf_counter() - start_s, [latency_s for latency_s, _ in found], refusals)

        try:
            yield stop
        finally:
            stopping.set()


def _push(connection: http.client.HTTPConnection, plan: Plan, number: int) -> str:
    """Push once; gives the answer if it is not 2xx."""
    path, body = plan.paths[number % len(plan.paths)], plan.bodies[number % len(plan.bodies)]
    connection.request(plan.method, path, body, {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
    with connection.getresponse() as response:
        text = response.read()
        return "" if response.status // 100 == 2 else f"{response.status} {text[:200]!r}"
