"""What keeps the page to itself: the browser loads nothing from elsewhere, the server fetches nothing, and no web page
of somebody else reads it under a name of its own (DNS rebinding)."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Gradio compiles its templates in the browser ('unsafe-eval') and writes scripts and styles into the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; media-src 'self' blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


class Guarded:
    """Adds [`HEADERS`] to every answer, answers under trusted names alone, and fetches no pages of other servers.

    Args:
        app (`ASGIApp`): What is guarded.
        hosts (`frozenset[str]`, *optional*): The names under which the page is served, beside the loopback's; `None`
            for any, as where a proxy stands before it.
        any_address (`bool`, *optional*, defaults to `False`): Whether every IP address is trusted, as where the page
            listens on all: no name of somebody else can point there.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None = frozenset(), any_address: bool = False):
        self.app, self.hosts, self.any_address = app, hosts, any_address

    @classmethod
    def as_middleware(cls, hosts: frozenset[str] | None = frozenset(), any_address: bool = False) -> Middleware:
        return Middleware(cls, hosts=hosts, any_address=any_address)

    def trusts(self, authority: str) -> bool:
        """Whether `host` or `host:port` is a name under which the page is served."""
        if self.hosts is None:
            return True
        try:
            host = (urlsplit(f"//{authority}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if host in LOOPBACK or host in self.hosts:
            return True
        try:
            return self.any_address and bool(ip_address(host))
        except ValueError:
            return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"origin")}
        origin = headers.get(b"origin")
        if not self.trusts(headers.get(b"host", "")) or origin and not self.trusts(origin.partition("://")[2]):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            refusal = "This name is not one that the page is served under; start it with --allow-host to trust it."
            return await PlainTextResponse(refusal, 403)(scope, receive, send)
        if scope["type"] == "websocket":
            return await self.app(scope, receive, send)
        # Gradio serves /file=https://... and /proxy=https://... by fetching them itself.
        path = scope["path"].lower()
        if "/proxy=" in path or "/file=http" in path:
            return await PlainTextResponse("This page serves its own files alone.", 403)(scope, receive, send)

        async def add(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        await self.app(scope, receive, add)
