"""A tiny random checkpoint with a real tokenizer, and a scripted engine whose answers a test writes itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllm_agents.decoding.settings import Decoding
from dllm_agents.engine.engine import Busy, Failed, Finished, Stats, Unmasked

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCE = "the action goes to the red ball and the thought is to search it"


def make_tokenizer(texts: Sequence[str] = (SENTENCE,) * 4, vocabulary: int = 320) -> Any:
    """Byte-level BPE with chat, mask and tool-call tokens; every byte sequence can be written with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|im_start|>", "<|im_end|>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", mask_token="<mask>", pad_token="<|im_end|>")
    fast.add_tokens(["<tool_call>", "</tool_call>"])
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


def save_checkpoint(folder: Path, tokenizer: Any, diffusion: bool, seed: int = 0) -> Path:
    """A random Llama checkpoint; with `diffusion` one with full attention and a mask token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    if diffusion:
        config.mask_token_id = tokenizer.mask_token_id
        config.dllm = {"attention": "full", "mask_token_id": tokenizer.mask_token_id, "logit_shift": False}
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
