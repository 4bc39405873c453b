"""Other people's servers, wrong in every way we could think of: a rollout ends with one line, or with all of its episodes; what was said is
kept, what was not counted is unknown, and no table shows zeros for what was never answered."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from local_server import Handler, local_servers
from small_run import Run

from dllm_agents.client import client, reading
from dllm_agents.client.client import Client
from dllm_agents.config import Config
from dllm_agents.errors import StageError
from dllm_agents.records import Episode

TASKS = 4
SAID = {"babyai": "Thought: on.\nAction: move forward", "multihop_qa": "<think>t</think>\n<answer>Zora</answer>"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
CALL = {"type": "function", "function": {"name": "search", "arguments": '{"query": "a"}'}}


class Reply(NamedTuple):
    """What goes over the wire. `length`: the Content-Length that is claimed, where it is not the body's; `pause`: seconds a byte."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = {}
    length: int | None = None
    pause: float = 0.0


def whole(message: Any, finish_reason: Any = "stop", **fields: Any) -> Reply:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": USAGE} | fields
    return Reply(json.dumps(body).encode())


def content(said: Any, **fields: Any) -> Reply:
    return whole({"role": "assistant", "content": said}, **fields)


def calls(said: str, *calls: dict[str, Any]) -> Reply:
    return whole({"role": "assistant", "content": said, "tool_calls": list(calls)})


def piece(said: Any = None, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": said, **delta}, "finish_reason": finish_reason}]}


def stream(*events: Any, end: str = "\n\n", done: bool = True) -> Reply:
    texts = [event if isinstance(event, str) else f"data: {json.dumps(event)}" for event in [*events, *["data: [DONE]"] * done]]
    return Reply("".join(text + end for text in texts).encode())


def at_times(wrong: Reply, said: str) -> Callable[[int], Reply]:
    """Wrong on every eleventh request from the second on, as after a first answer that is right."""
    return lambda number: wrong if number % 11 == 1 else content(said)


NEVER: dict[str, Callable[[str], Reply]] = {
    "always 500": lambda said: Reply(b"", 500),
    "HTML with 200": lambda said: Reply(b"<html><body>It works!</body></html>"),
    "HTML with 404": lambda said: Reply(b"<html>Not Found</html>", 404),
    "HTML with 502": lambda said: Reply(b"<html>Bad Gateway</html>", 502),
    "plain text": lambda said: Reply(said.encode()),
    "a list": lambda said: Reply(b"[]"),
    "nothing": lambda said: Reply(b""),
    "204": lambda said: Reply(b"", 204),
    "payment required": lambda said: Reply(b'{"error": "no credit"}', 402),
    "no such key": lambda said: Reply(b'{"error": {"message": "key"}}', 401),
    "a cut body": lambda said: content(said)._replace(length=10_000),
    "gzip that is none": lambda said: content(said)._replace(headers={"Content-Encoding": "gzip"}),
    "null choices": lambda said: whole(None, choices=None),
    "empty choices": lambda said: whole(None, choices=[]),
    "a choice without a message": lambda said: whole(None, choices=[{"index": 0}]),
    "content that is a number": lambda said: content(7),
    "an error with 200": lambda said: Reply(b'{"error": {"message": "overloaded"}}'),
    "roles refused": lambda said: Reply(b'{"error": {"message": "no system role", "param": "messages"}}', 400),
    "429 without an end": lambda said: Reply(b"", 429, {"Retry-After": "0"}),
    "a redirect": lambda said: Reply(b"", 307, {"Location": "/elsewhere"}),
    "a huge body": lambda said: Reply(b" " * (reading.MAX_REPLY_BYTES + 1)),
    "a slow drip": lambda said: content(said)._replace(pause=0.02),
    "deep JSON": lambda said: Reply(b"[" * 100_000),
}
READ: dict[str, Callable[[str], Reply]] = {
    "no usage": lambda said: content(said, usage=None),
    "usage of zeros": lambda said: content(said, usage=dict.fromkeys(USAGE, 0)),
    "negative usage": lambda said: content(said, usage=dict.fromkeys(USAGE, -1)),
    "usage that is NaN": lambda said: content(said, usage=dict.fromkeys(USAGE, float("nan"))),
    "usage as text": lambda said: content(said, usage=dict.fromkeys(USAGE, "2")),
    "content in parts": lambda said: content([{"type": "text", "text": said[:5]}, {"type": "text", "text": said[5:]}]),
    "a byte-order mark": lambda said: Reply(b"\xef\xbb\xbf" + content(said).body),
    "compressed": lambda said: Reply(gzip.compress(content(said).body), headers={"Content-Encoding": "gzip"}),
    "a finish reason of its own": lambda said: content(said, finish_reason="banana"),
    "a finish reason that is a number": lambda said: content(said, finish_reason=3),
    "bytes that are no UTF-8": lambda said: Reply(content(f"{said}@").body.replace(b"@", b"\xff")),
    "half a surrogate pair": lambda said: content(f"\ud800{said}"),
    "a call without an id": lambda said: calls(said, CALL),
    "calls with one id": lambda said: calls(said, CALL | {"id": "1"}, CALL | {"id": "1"}),
    "arguments as an object": lambda said: calls(said, {"id": "1", "function": {"name": "search", "arguments": {"query": "\udc00"}}}),
    "arguments that are NaN": lambda said: calls(said, {"id": "1", "function": {"name": "search", "arguments": '{"a": NaN}'}}),
}
STREAMS_NEVER: dict[str, Callable[[str], Reply]] = {
    "HTML in place of a stream": lambda said: Reply(b"<html>"),
    "a stream cut before its end": lambda said: stream(piece(said[:4]), done=False),
    "an error in the stream": lambda said: stream(piece(said[:4]), {"error": {"message": "boom"}}),
    "an event that is no JSON": lambda said: stream('data: {"choices": ['),
    "comments without an end": lambda said: Reply(b":\n\n" * 500, pause=0.02),
    "nothing but the end": lambda said: Reply(b"", 503),
}
STREAMS_READ: dict[str, Callable[[str], Reply]] = {
    "no end mark, no usage": lambda said: stream(piece(said), piece(finish_reason="stop"), done=False),
    "CR LF and comments": lambda said: stream(": hello", piece(said), "event: x\r\nid: 1", piece(finish_reason="stop"), end="\r\n\r\n"),
    "separators of Unicode": lambda said: stream(piece(f"\u2028{said}"), piece(finish_reason="stop")),
    "a character in two halves": lambda said: stream(piece(f"{said}\ud83d"), piece("\ude00"), piece(finish_reason="stop")),
    "a whole answer": lambda said: content(said),
    "null choices between": lambda said: stream({"choices": None}, piece(said), {"choices": []}, piece(finish_reason="stop")),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """`run(answer, **agent)`: a small run against a server that gives `answer(number of the request)` to all."""
    monkeypatch.setattr(Client, "for_backbone", classmethod(lambda cls, endpoint, backbone: cls(endpoint, attempts=2, backoff=0.01)))
    monkeypatch.setattr(client, "REPLY_SECONDS", 0.5)
    with local_servers() as serve:

        def start(answer: Callable[[int], Reply], **agent: Any) -> Run:
            numbers = count()

            class Wrong(Handler):
                def do_GET(self) -> None:
                    self.reply(200, {"object": "list", "data": [{"id": "mine", "object": "model"}]})

                def do_POST(self) -> None:
                    self.body()
                    said = answer(next(numbers))
                    self.send_response(said.status)
                    for name, value in said.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(said.body) if said.length is None else said.length))
                    self.end_headers()
                    for block in [said.body] if not said.pause else [said.body[at : at + 1] for at in range(len(said.body))]:
                        time.sleep(said.pause)
                        self.wfile.write(block)
                        self.wfile.flush()

                def handle(self) -> None:
                    with suppress(OSError):  # the client has had enough
                        super().handle()

            return Run(configuration(f"{serve(Wrong)}/v1", **agent), tmp_path / "results")

        yield start


def configuration(url: str, **agent: Any) -> Config:
    return Config.model_validate(
        {
            "benchmarks": {
                "babyai": {"levels": ["GoToObj"], "seeds": list(range(TASKS)), "max_steps": 3},
                "multihop_qa": {"tasks": TASKS, "tool_delay": [0.0, 0.0]},
            },
            "backbones": {"mine": {"url": url}},
            "agents": {"mine": {"policy": "mine", "concurrency": 2, **agent}},
            "run": {"agents": ["mine"], "benchmarks": list(SAID)},
        }
    )


def rates(run: Run, benchmark: str) -> list[tuple[str, str]]:
    table, metric = ("diffuagent_table1", "success_rate") if benchmark == "babyai" else ("searcher_table1", "acc_r")
    return run.cells(table, agent="mine", benchmark=benchmark, metric=metric)


WAYS = [("babyai", name) for name in NEVER] + [("multihop_qa", name) for name in STREAMS_NEVER]


@pytest.mark.parametrize(("benchmark", "name"), WAYS)
def test_a_server_that_never_answers_ends_the_rollout_with_one_line(run: Callable[..., Run], benchmark: str, name: str) -> None:
    wrong = (NEVER if benchmark == "babyai" else STREAMS_NEVER)[name](SAID[benchmark])
    small = run(lambda number: wrong)
    with pytest.raises(StageError) as caught:
        small.play("mine", benchmark)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600 and "127.0.0.1" in line
    assert not small.path("episodes", benchmark, "mine").exists()
    assert all(value == "not run" for _, value in rates(small, benchmark))


def answers(episodes: list[Episode]) -> set[str]:
    return {call.text for episode in episodes for call in episode.calls}


@pytest.mark.parametrize(("benchmark", "name"), [("babyai", name) for name in READ] + [("multihop_qa", name) for name in STREAMS_READ])
def test_what_can_be_read_is_kept_and_what_is_not_counted_is_unknown(run: Callable[..., Run], benchmark: str, name: str) -> None:
    said = SAID[benchmark]
    wrong = (READ if benchmark == "babyai" else STREAMS_READ)[name](said)
    small = run(lambda number: wrong)
    episodes = small.play("mine", benchmark)
    assert len(episodes) == TASKS and all(episode.ended != "error" for episode in episodes)
    (text,) = answers(episodes)
    assert said in text and text.encode() and len(text) <= len(said) + 1
    unknown = "usage" in name
    counts = {call.completion_tokens for episode in episodes for call in episode.calls}
    if benchmark == "babyai":
        assert counts == ({None} if unknown else {2})
        cells = {value for _, value in small.cells("dllm_agent_efficiency", agent="mine", benchmark=benchmark, metric="tokens_per_step")}
        assert cells == ({"unknown"} if unknown else {"2"}) and [n for n, _ in rates(small, benchmark)] == [str(TASKS)]
    else:
        assert counts == ({2} if name == "a whole answer" else {None})


def test_a_limit_of_tokens_needs_a_server_that_counts_them(run: Callable[..., Run]) -> None:
    with pytest.raises(StageError, match="does not say how many tokens"):
        run(lambda number: READ["no usage"](SAID["babyai"]), max_tokens=100).play("mine", "babyai")


@pytest.mark.parametrize("name", ["HTML with 200", "roles refused", "empty choices", "content that is a number"])
def test_an_answer_that_is_wrong_at_times_costs_its_episode(run: Callable[..., Run], name: str) -> None:
    small = run(at_times(NEVER[name](""), SAID["babyai"]), concurrency=1)
    episodes = small.play("mine", "babyai")
    errors = [episode for episode in episodes if episode.ended == "error"]
    assert len(episodes) == TASKS and len(errors) == 1 and errors[0].error
    assert rates(small, "babyai") == [("0", f"1 of {TASKS} errors")]


def test_a_server_that_is_busy_is_asked_again_when_it_says(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("dllm_agents.client.client.time.sleep", pauses.append)
    small = run(lambda number: content(SAID["babyai"]) if number else Reply(b"", 429, {"Retry-After": "7"}), concurrency=1)
    assert {episode.ended for episode in small.play("mine", "babyai")} == {"step_limit"}
    assert [seconds for seconds in pauses if seconds] == [7.0]
