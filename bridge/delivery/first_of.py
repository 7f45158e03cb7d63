"""Several things awaited at once, and left when the first of them is there. Whatever they are does not belong here."""

import asyncio
from collections.abc import Coroutine


async def first_of(*waiting: Coroutine[None, None, object]) -> None:
    """Await the first of several things and cancel the others; what the first raises is raised."""
    tasks = [asyncio.create_task(one) for one in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
