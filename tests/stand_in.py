"""A stand-in for any OpenAI-compatible server, which says what a function of the prompt tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Says = Callable[[str], str | int | tuple[int, dict[str, str]]]


@pytest.fixture
def said_by_prompt() -> Iterator[Callable[[Says], str]]:
    """Start a server whose answer to the last message is `says(message)`: text, an HTTP status to fail with, or a status
    and the error that OpenAI's servers explain it by. Gives its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(says: Says) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "someone"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = says(asked["messages"][-1]["content"])
                if isinstance(said, int):
                    said = said, {"message": "maximum context length exceeded" if said == 400 else "no"}
                if isinstance(said, tuple):
                    self.reply(said[0], {"error": said[1]})
                    return
                usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
                if asked.get("stream"):
                    self.stream([{"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}], "usage": usage}])
                    return
                message = {"role": "assistant", "content": said}
                body = {"id": "1", "object": "chat.completion", "model": "m", "created": 0, "usage": usage}
                self.reply(200, body | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

            def stream(self, events: list[dict[str, object]]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in events:
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

            def reply(self, status: int, body: dict[str, object]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
