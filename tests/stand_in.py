"""A stand-in for any OpenAI-compatible server, which says what a function of the prompt tells it to."""

import json
from collections.abc import Callable, Iterator

import pytest
from local_server import Handler, local_servers

Says = Callable[[str], str | int | tuple[int, dict[str, str]]]


@pytest.fixture
def said_by_prompt() -> Iterator[Callable[[Says], str]]:
    """Start a server whose answer to the last message is `says(message)`: text, an HTTP status to fail with, or a status
    and the error that OpenAI's servers explain it by. Gives its URL."""
    with local_servers() as serve:

        def start(says: Says) -> str:
            class Answering(Handler):
                def do_GET(self) -> None:
                    self.reply(200, {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "someone"}]})

                def do_POST(self) -> None:
                    asked = self.body()
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

            return f"{serve(Answering)}/v1"

        yield start
