"""The server's doorkeeper: bearer key and body size are checked before a byte is parsed."""

from __future__ import annotations

import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllm_agents.serving.forms import error_body

MAX_BODY_BYTES = 4 << 20


class Gate:
    """ASGI middleware. /health stays open so that launchers need no key to wait for it."""

    def __init__(self, app: ASGIApp, api_key: str | None = None, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes
        self._expected = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self.app(scope, receive, send)
        elif self._expected and not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._expected):
            refusal = JSONResponse(error_body(401, "a bearer key is required"), 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body here, so that one of unknown length is refused before it fills the memory."""
        parts, size, more = [], 0, scope["method"] in ("POST", "PUT", "PATCH")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.max_body_bytes:
                await JSONResponse(error_body(413, f"the body is over {self.max_body_bytes} bytes"), 413)(scope, receive, send)
                return
        answered = False

        async def replay() -> Message:
            nonlocal answered
            if answered or scope["method"] not in ("POST", "PUT", "PATCH"):
                return await receive()
            answered = True
            return {"type": "http.request", "body": b"".join(parts), "more_body": False}

        await self.app(scope, replay, send)
