"""A tiny random checkpoint with a real tokenizer, and a scripted engine whose answers a test writes itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_checkpoints import make_tokenizer, save_checkpoint

from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Busy, Failed, Finished, Stats, Unmasked


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Any) -> Callable[[Path, bool], Path]:
    """`checkpoint(folder, diffusion)`: a random one, written there."""
    return lambda folder, diffusion: save_checkpoint(folder, tokenizer, diffusion)


@pytest.fixture(scope="session")
def ar_checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("ar") / "tiny-ar", tokenizer, diffusion=False)


@pytest.fixture(scope="session")
def diffusion_checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("diffusion") / "tiny-diffusion", tokenizer, diffusion=True)


Script = Callable[[Sequence[int], Decoding], list[Unmasked | Finished | Failed]]


class ScriptedEngine:
    """The engine's interface over a script of events, so that a test decides what is settled when.

    `gate`, when given, is waited for before every event but the first.
    """

    def __init__(self, script: Script, vocab_size: int, stop_ids: Sequence[int], capacity: int = 1000) -> None:
        self.model = SimpleNamespace(vocab_size=vocab_size, stop_ids=tuple(stop_ids))
        self.script, self.capacity = script, capacity
        self.gate: threading.Semaphore | None = None
        self.seen: list[Decoding] = []
        self.cancelled = threading.Event()  # a request was cancelled before its last event
        self.running = 0

    def submit(self, prompt_ids: Sequence[int], decoding: Decoding, listener: Callable[[Any], None], top: int | None = None) -> Any:
        if self.running >= self.capacity:
            raise Busy(f"{self.capacity} requests are waiting")
        self.running += 1
        self.seen.append(decoding)
        events = self.script(prompt_ids, decoding)
        gone = threading.Event()

        def play() -> None:
            for number, event in enumerate(events):
                if number and self.gate is not None:
                    self.gate.acquire(timeout=10)
                if gone.is_set():
                    self.cancelled.set()
                    break
                listener(event)
            self.running -= 1

        threading.Thread(target=play, daemon=True).start()
        return SimpleNamespace(cancel=gone.set)

    def stats(self) -> Stats:
        return Stats(running=self.running)


def answer_with(tokenizer: Any, text: str, at_once: int = 1) -> Script:
    """A script that settles `text` left to right, `at_once` tokens a forward."""

    def script(prompt_ids: Sequence[int], decoding: Decoding) -> list[Unmasked | Finished | Failed]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][: decoding.max_new_tokens]
        ended = "length" if len(ids) == decoding.max_new_tokens else "stop"
        starts = range(0, len(ids), at_once)
        events: list[Unmasked | Finished | Failed] = [
            Unmasked(list(range(start, min(start + at_once, len(ids)))), ids[start : start + at_once], step)
            for step, start in enumerate(starts)
        ]
        steps = [index // at_once for index in range(len(ids))]
        return [
            *events,
            Finished(
                SimpleNamespace(token_ids=ids, nfe=len(starts), reveal_step=steps, confidence=[1.0] * len(steps), finish_reason=ended),
                [(0.0, {token: 0.0}) for token in ids],
            ),
        ]

    return script


@pytest.fixture
def scripted(tokenizer: Any) -> Callable[..., ScriptedEngine]:
    def make(script: Script | str, **options: Any) -> ScriptedEngine:
        chosen = answer_with(tokenizer, script) if isinstance(script, str) else script
        return ScriptedEngine(chosen, len(tokenizer), [tokenizer.eos_token_id], **options)

    return make


@pytest.fixture
def serving() -> Iterator[Callable[[Any], str]]:
    """Runs ASGI applications on real sockets in this process; gives the base URL."""
    import uvicorn

    from dllm_agents.serving.server import claim_port

    running: list[tuple[Any, threading.Thread]] = []

    def start(app: Any) -> str:
        listener = claim_port("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
