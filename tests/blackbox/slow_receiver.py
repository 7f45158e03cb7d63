"""The embedded receiver with time added to every request, and with samples that it refuses: run with `python -m`.

A label `refuse` names the status that its sample wants; then nothing of the request is stored, as Prometheus does it.
"""

import argparse
import asyncio

import snappy
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.receiver import SampleStore, make_app


def _refused_with(body: bytes) -> int:
    """Status for the first sample that asks to be refused, 0 when there is none."""
    asked = b"refuse" in body and [
        int(label.value)
        for series in pb.WriteRequest.FromString(body).timeseries
        for label in series.labels
        if label.name == "refuse"
    ]
    return asked[0] if asked else 0


def _slow(delay_s: float) -> Middleware:
    """Add half of the delay before samples are stored and half behind it, so that a kill may come in either."""

    @web.middleware
    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "POST":
            return await handler(request)
        body = bytes(snappy.decompress(await request.read()))
        await asyncio.sleep(delay_s / 2)
        if status := _refused_with(body):
            return web.Response(status=status, text=f"refused with {status}")
        response = await handler(request)
        await asyncio.sleep(delay_s / 2)
        return response

    return wait


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen-address", required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--delay", type=float, required=True)
    options = parser.parse_args()
    host, _, port = options.listen_address.rpartition(":")
    app = make_app(SampleStore(options.file))
    app.middlewares.append(_slow(options.delay))
    web.run_app(app, host=host, port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
