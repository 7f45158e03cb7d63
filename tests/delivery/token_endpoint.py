"""An OAuth 2.0 token endpoint and the server that wants its tokens, for the tests of signing in."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class TokenEndpoint:
    """Gives numbered tokens to whoever knows the secret, in the one place that it looks at."""

    client_id: str = "id"
    client_secret: str = "s3cret/+"  # noqa: S105 - nobody's
    life_s: object = 3600
    looks_in_body: bool = False
    down: bool = False
    forms: list[dict[str, str]] = field(default_factory=list)
    given: int = 0
    valid: set[str] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer as RFC 6749 sections 5.1 and 5.2 have it."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        if self.down:
            return web.Response(status=503, text="down")
        if self._knows(request, form) != (self.client_id, self.client_secret):
            said = f"not {form.get('client_secret', self.client_secret)}"
            return web.json_response({"error": "invalid_client", "error_description": said}, status=401)
        self.given += 1
        self.valid = {f"token-{self.given}"}
        answer = {"access_token": f"token-{self.given}", "token_type": "bearer", "expires_in": self.life_s}
        return web.json_response({name: value for name, value in answer.items() if value is not None})

    def _knows(self, request: web.Request, form: dict[str, str]) -> tuple[str, str]:
        if self.looks_in_body:
            return form.get("client_id", ""), form.get("client_secret", "")
        pair = base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        user, _, password = pair.partition(":")
        return unquote_plus(user), unquote_plus(password)

    async def guard(self, request: web.Request) -> web.StreamResponse:
        """Let in who has a token that is good now."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        return web.Response(status=204 if kind == "Bearer" and token in self.valid else 401, text=None)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve until the block ends; give the URL."""
        app = web.Application()
        app.router.add_post("/token", self.handle)
        server = TestServer(app)
        await server.start_server()
        try:
            yield str(server.make_url("/token"))
        finally:
            await server.close()
