"""Headers that keep the page to itself: the browser loads nothing from elsewhere, and the server fetches nothing."""

from __future__ import annotations

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


class Guarded:
    """Adds [`HEADERS`] to every answer, and refuses to fetch pages of other servers for a visitor.

    Args:
        app (`ASGIApp`): What is guarded.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    @classmethod
    def as_middleware(cls) -> Middleware:
        return Middleware(cls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
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
