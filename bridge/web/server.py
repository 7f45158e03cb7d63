"""The push API and its neighbours over HTTP: routes, methods and limits as Pushgateway has them.

Owns the mapping of paths to operations (protocol.md section 5.2). What a push does is
`bridge.pipeline`; what an error means in HTTP is `responses`.
"""

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from time import perf_counter

import structlog
from aiohttp import web

from bridge import __version__
from bridge.errors import PushRefusedError, TooLargeError
from bridge.exposition.write import write_text
from bridge.ingress.path import needs_redirect, parse_grouping_path
from bridge.ingress.terms import HEADERS, check_repeated, read_terms
from bridge.journal.committer import Committer
from bridge.pipeline import Push, Receipt, accept, end_all, end_group
from bridge.settings import Settings
from bridge.telemetry import Telemetry
from bridge.web import groups, responses
from bridge.web.dead_letters import DeadLetters
from bridge.web.lane import PlainPush
from bridge.web.receipts import Receipts
from bridge.web.responses import ABORTED, ENDED, Answer
from bridge.web.runs import RunList
from bridge.web.views import group_families, groups_json, own_families

_log = structlog.get_logger(__name__)
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PUSH_METHODS = ("PUT", "POST", "DELETE")
_WIPE = "/api/v1/admin/wipe"
_PUSH_BY_ID, _LETTER_BY_ID = "/api/v1/pushes/", "/api/v1/dead-letters/"
_BY_ID = (_PUSH_BY_ID, _LETTER_BY_ID)
_READ_BYTES = 1 << 16
_ABSOLUTE = re.compile(r"^https?://[^/?]*", re.IGNORECASE)
_SCRAPE_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


@dataclass(frozen=True, slots=True)
class Site:
    """What the handlers need; joined in `bridge.app`."""

    settings: Settings
    committer: Committer
    receipts: Receipts
    runs: RunList
    dead_letters: DeadLetters
    telemetry: Telemetry
    now_ms: Callable[[], int]
    started_ms: int
    ready: Callable[[], str | None]
    """Why the agent is not ready, None when it is."""
    quit: Callable[[], None]
    reload: Callable[[], Awaitable[str]]
    """Puts the configuration file in force again; gives why not, nothing when it did."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path, question, query = _ABSOLUTE.sub("", request.raw_path).partition("?")
        grouping_path = push_path(path, self.settings.config.web.prefix)
        if grouping_path is not None:
            if request.method not in _PUSH_METHODS:
                allow = {"Allow": "DELETE, OPTIONS, POST, PUT"}
                return web.Response(headers=allow) if request.method == "OPTIONS" else _not_allowed(allow)
            answer = await self._push(request.method, grouping_path, query, request.headers, request)
            return answer.response()
        cleaned = needs_redirect(path)
        if cleaned is not None:
            return web.Response(status=301, headers={"Location": f"{cleaned}{question}{query}"})
        if not path.startswith(self.settings.config.web.prefix):
            return responses.text(404, "404 page not found")
        return await self._route(request, path[len(self.settings.config.web.prefix) :], question + query)

    def plain_push(self, push: PlainPush) -> Coroutine[None, None, Answer] | None:
        """Answer a push that came the short way, None when its path is no push path."""
        path = push_path(push.path, self.settings.config.web.prefix)
        if path is None:
            return None
        return self._push(push.method, path, push.query, push.headers, push.body)

    async def _route(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        if path == _WIPE and not self.settings.config.web.enable_admin_api and request.method != "OPTIONS":
            return responses.text(404, "404 page not found")
        if request.method == "OPTIONS" and path.startswith("/api/v1/"):
            return responses.api_options()
        route = _ROUTES.get(path) or next((_ROUTES[by_id] for by_id in _BY_ID if path.startswith(by_id)), None)
        if route is None and path.removesuffix("/") in _ROUTES:
            bare = f"{self.settings.config.web.prefix}{path.removesuffix('/')}{query}"
            return web.Response(status=301 if request.method == "GET" else 307, headers={"Location": bare})
        if route is None:
            return responses.text(404, "404 page not found")
        handler = route.get(request.method)
        if handler is not None:
            return await handler(self, request)
        allow = {"Allow": ", ".join(sorted({*route, "OPTIONS"}))}
        return web.Response(headers=allow) if request.method == "OPTIONS" else _not_allowed(allow)

    async def _push(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes | web.BaseRequest
    ) -> Answer:
        taken = await self._take(method, path, query, headers, body)
        if isinstance(taken, Answer):
            return taken
        receipt, wait_s = taken
        return await self.receipts.answer(202 if method == "DELETE" else 200, receipt, wait_s)

    async def _take(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes | web.BaseRequest
    ) -> Answer | tuple[Receipt, float | None]:
        """Put a push on disk; gives its receipt and how long its sender waits, or the answer to one that is refused."""
        started = perf_counter()
        outcome, reason = "accepted", ""
        try:
            grouping = parse_grouping_path(path, utf8_names=self.settings.push.flatten.utf8_names)
            if isinstance(body, web.BaseRequest):
                # The short way hands over what has a header twice.
                check_repeated({name: body.headers.getall(name, ()) for name in HEADERS})
            terms = read_terms(query, headers)
            if method == "DELETE":
                return await end_group(grouping, self.committer, terms), terms.wait_s
            limit_bytes = self.settings.push.max_body_bytes
            data = body if isinstance(body, bytes) else await _read(body, limit_bytes)
            if len(data) > limit_bytes:
                raise _too_large(len(data), limit_bytes)
            content_type, content_encoding = headers.get("Content-Type", ""), headers.get("Content-Encoding", "")
            push = Push(grouping, method == "PUT", data, content_type, content_encoding, terms)
            receipt = await accept(push, self.committer, self.settings.push, self.now_ms())
        except (ConnectionError, web.RequestPayloadError) as error:
            outcome, reason = "refused", "aborted"
            _log.debug("push_aborted", path=path, error=str(error))
            return ABORTED
        except PushRefusedError as error:
            outcome, reason = "refused", error.reason
            _log.debug("push_refused", path=path, reason=reason, error=str(error))
            return responses.refusal(error)
        else:
            for family, here, elsewhere in receipt.type_conflicts:
                self.telemetry.type_conflicts.inc()
                _log.warning("type_conflict", family=family, type=here, other_type=elsewhere, grouping=dict(grouping))
            return receipt, terms.wait_s
        finally:
            self.telemetry.pushes_of(method.lower(), outcome, reason).inc()
            self.telemetry.push_seconds.observe(perf_counter() - started)

    async def metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        """Own metrics, and the pushed groups when they are exposed."""
        families = list(own_families(self.telemetry.registry))
        if self.settings.config.exposes_groups:
            if self.settings.config.remote_write and _SCRAPE_HEADER in request.headers:
                self.telemetry.groups_scraped()
            external = self.settings.config.global_.external_labels
            for group in self.committer.groups.live():
                families.extend(group_families(group, external))
        return web.Response(body=write_text(families).encode(), headers={"Content-Type": _TEXT})

    async def groups(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /api/v1/metrics."""
        return responses.api(groups_json(self.committer.groups.live(), self.settings.config.global_.external_labels))

    async def status(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /api/v1/status."""
        flags = {
            f"{section}.{key.replace('_', '-')}": str(value).lower() if isinstance(value, bool) else str(value)
            for section in ("web", "storage", "push", "log")
            for key, value in getattr(self.settings.config, section).model_dump().items()
        }
        start = datetime.fromtimestamp(self.started_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
        return responses.api({"flags": flags, "start_time": start, "build_information": {"version": __version__}})

    async def wipe(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /api/v1/admin/wipe."""
        try:
            await end_all(self.committer)
        except PushRefusedError as error:
            return responses.refusal(error).response()
        return ENDED.response()

    async def healthy(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /-/healthy: the process is there."""
        return web.Response(text="OK")

    async def is_ready(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /-/ready: pushes can be written to disk."""
        fault = self.ready()
        return web.Response(text="OK") if fault is None else responses.text(503, fault)

    async def stop(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /-/quit."""
        if not self.settings.config.web.enable_lifecycle:
            return responses.text(403, "Lifecycle API is not enabled.")
        self.quit()
        return web.Response(text="Requesting termination... Goodbye!")

    async def read_again(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer /-/reload."""
        if not self.settings.config.web.enable_lifecycle:
            return responses.text(403, "Lifecycle API is not enabled.")
        fault = await self.reload()
        return web.Response() if not fault else responses.text(500, f"failed to reload config: {fault}")

    async def stop_by_get(self, _: web.BaseRequest) -> web.StreamResponse:
        """Answer GET /-/quit and /-/reload."""
        return responses.text(405, "Only POST or PUT requests allowed.")


_Handler = Callable[[Site, web.BaseRequest], Awaitable[web.StreamResponse]]
_ROUTES: dict[str, dict[str, _Handler]] = {
    "/metrics": {"GET": Site.metrics},
    "/-/healthy": {"GET": Site.healthy},
    "/-/ready": {"GET": Site.is_ready},
    "/-/quit": {"PUT": Site.stop, "POST": Site.stop, "GET": Site.stop_by_get},
    "/-/reload": {"PUT": Site.read_again, "POST": Site.read_again, "GET": Site.stop_by_get},
    "/api/v1/status": {"GET": Site.status},
    "/api/v1/metrics": {"GET": Site.groups},
    "/api/v1/groups": {
        "GET": lambda site, request: groups.find(site.committer, request),
        "DELETE": lambda site, request: groups.end(site.committer, request),
    },
    "/api/v1/pushes": {"GET": lambda site, request: site.receipts.newest(_query(request))},
    "/api/v1/runs": {"GET": lambda site, request: site.runs.answer(_query(request))},
    _PUSH_BY_ID: {"GET": lambda site, request: site.receipts.show(_id(request, _PUSH_BY_ID))},
    "/api/v1/dead-letters": {
        "GET": lambda site, request: site.dead_letters.newest(_query(request)),
        "DELETE": lambda site, request: site.dead_letters.delete(_query(request)),
    },
    "/api/v1/dead-letters/replay": {"POST": lambda site, request: site.dead_letters.replay(_query(request))},
    _LETTER_BY_ID: {"GET": lambda site, request: site.dead_letters.show(_id(request, _LETTER_BY_ID))},
    _WIPE: {"PUT": Site.wipe},
}


@lru_cache(1 << 14)
def push_path(path: str, prefix: str) -> str | None:
    """What a push URL's path has behind `/metrics/`, None for any other URL."""
    if needs_redirect(path) is not None or not path.startswith(prefix):
        return None
    path = path[len(prefix) :]
    if not path.replace("%40", "@").startswith(("/metrics/job/", "/metrics/job@base64/")):
        return None
    return path.removeprefix("/metrics/")


def _query(request: web.BaseRequest) -> str:
    return request.raw_path.partition("?")[2]


def _id(request: web.BaseRequest, before: str) -> str:
    return request.raw_path.partition("?")[0].partition(before)[2]


def _not_allowed(allow: dict[str, str]) -> web.Response:
    return responses.text(405, "Method Not Allowed", allow)


async def _read(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """Read the body as sent, at most `limit_bytes` and a little."""
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise _too_large(declared, limit_bytes)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.content.is_eof():
        return request.content.read_nowait()
    pieces: list[bytes] = []
    size = 0
    while size <= limit_bytes and (piece := await request.content.read(_READ_BYTES)):
        size += len(piece)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(size_bytes: int, limit_bytes: int) -> TooLargeError:
    return TooLargeError(
        "body_too_large", f"body has {size_bytes} bytes or more, want at most push.max_body_bytes = {limit_bytes}"
    )
