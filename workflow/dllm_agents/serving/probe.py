"""The serving probe: is the backbone healthy, does it answer as the reference does, how fast is it."""

from __future__ import annotations

import argparse
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy

from dllm_agents import foreign, models
from dllm_agents.client.client import BadReply, Client, Completion, Endpoint, RequestRefused, ServerFault
from dllm_agents.commands import add_paths, say
from dllm_agents.config import Backbone, Config, load
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError
from dllm_agents.files import write_json
from dllm_agents.models.checkpoints import not_run, resolve_model
from dllm_agents.provenance import hardware, versions
from dllm_agents.records import total
from dllm_agents.serving.launch import running_server
from dllm_agents.stage_records import Probe

CANARY = "Goal: go to the red ball. You see a red ball 2 steps forward. What do you do?"
CANARY_TOKENS = 24
METRICS_BYTES = 1 << 20
# A level ends early when this many seconds are over, after one request per slot at least: slow models need no more to be timed.
LEVEL_SECONDS = 20.0


def probe(config: Config, backbone_name: str, model_dir: Path | None = None) -> Probe:
    """Probe a backbone: started here, or at its URL. A URL that does not answer gives `healthy=False` with the reason,
    and so does a checkpoint that was not trained.

    Raises StageError when a backbone that is started here does not come up.
    """
    backbone = config.backbones[backbone_name]
    record = Probe(
        backbone=backbone_name,
        model=str(backbone.model or backbone.url or model_dir),
        engine="url" if backbone.url else backbone.engine,
        healthy=False,
        canary_prompt=CANARY,
        decoding=backbone.decoding.model_dump(mode="json", exclude_none=True),
        hardware=hardware(),
        versions=versions("torch", "transformers", "numpy"),
    )
    if model_dir is not None and (reason := not_run(model_dir)) is not None:
        record.error = reason
        return record
    reference = _reference(backbone, model_dir, record)
    try:
        with running_server(backbone_name, config, model_dir) as endpoint, Client.for_backbone(endpoint, backbone) as client:
            answer = _ask(client, CANARY, canary_decoding(backbone))
            record.canary_text = answer.text
            if reference is not None:
                record.canary = "equal" if reference in (answer.token_ids, answer.text) else "different"
            record.concurrency = [
                measure(client, backbone.decoding, level, max(level, config.run.probe_requests)) for level in config.run.probe_concurrency
            ]
            record.peak_memory_mb = _peak_memory_mb(endpoint)
            record.healthy = True
    except (StageError, ServerFault, RequestRefused, BadReply) as error:
        if not backbone.url:
            raise StageError(f"probe of {backbone_name}: {error}") from None
        record.error = " ".join(str(error).split())[:500]
    return record


def canary_decoding(backbone: Backbone) -> Decoding:
    """The backbone's decoding made greedy and short; with a tool-call prefill it keeps its length, which the tags need."""
    length = backbone.decoding.max_new_tokens
    short = length if backbone.decoding.tool_prefill else min(length, CANARY_TOKENS)
    return backbone.decoding.model_copy(update={"temperature": 0.0, "seed": 0, "max_new_tokens": short})


def _reference(backbone: Backbone, model_dir: Path | None, record: Probe) -> list[int] | str | None:
    """What `generate` gives for the canary on the same checkpoint in this process: token ids for the native engine, text for others.
    Its forwards are timed into `record` on the way.

    None where there is no checkpoint to run, or where this package cannot read its family.
    """
    if backbone.url:
        return None
    directory = resolve_model(backbone, model_dir)

    from dllm_agents.decoding import generate
    from dllm_agents.serving import roofline
    from dllm_agents.serving.templates import chat_prompt

    try:
        model = models.load_model(directory, backbone.dtype)
    except StageError:
        if backbone.engine == "native":
            raise
        return None
    if backbone.engine == "native":
        record.decoding = backbone.decoding.resolved(model).model_dump(mode="json", exclude_none=True)
    record.parameters = sum(parameter.numel() for parameter in model.network.parameters())
    record.forwards, record.roof = roofline.measure(model), roofline.ceilings(model.dtype, model.device)
    prompt_ids = chat_prompt(model.tokenizer, [{"role": "user", "content": CANARY}])
    token_ids = generate(model, prompt_ids, canary_decoding(backbone)).token_ids
    return token_ids if backbone.engine == "native" else str(model.tokenizer.decode(token_ids, skip_special_tokens=True))


def measure(client: Client, decoding: Decoding, level: int, requests: int) -> dict[str, float]:
    """Kept tokens per second, latency and forwards per token of `requests` requests, `level` at a time; what the server does not count is
    left out."""
    started = time.perf_counter()
    numbers = iter(range(requests))

    def lane(_: int) -> list[Completion]:
        """One slot's requests, one after another. `next` on a range iterator is atomic, so slots never share a number."""
        answers: list[Completion] = []
        while not answers or time.perf_counter() - started < LEVEL_SECONDS:
            if (number := next(numbers, None)) is None:
                break
            answers.append(_ask(client, f"{CANARY} ({number + 1})", decoding))
        return answers

    with ThreadPoolExecutor(level) as pool:
        answers = [answer for lane_answers in pool.map(lane, range(level)) for answer in lane_answers]
    elapsed = time.perf_counter() - started
    tokens, nfe = total(answer.completion_tokens for answer in answers), total(answer.nfe for answer in answers)
    median, high = numpy.quantile([answer.seconds for answer in answers], [0.5, 0.95])
    return {
        "concurrency": level,
        "requests": len(answers),
        "p50_s": float(median),
        "p95_s": float(high),
        **({} if tokens is None else {"tokens_per_second": tokens / elapsed}),
        **({} if not tokens or nfe is None else {"nfe_per_token": nfe / tokens}),
    }


def _ask(client: Client, prompt: str, decoding: Decoding) -> Completion:
    return client.complete([{"role": "user", "content": prompt}], decoding=decoding)


def _peak_memory_mb(endpoint: Endpoint) -> float:
    """The server's largest resident memory, where it tells; 0 where it does not."""
    if not endpoint.native:
        return 0.0
    from dllm_agents.serving.metrics import PEAK_MEMORY

    address = endpoint.base_url.removesuffix("/v1") + "/metrics"
    try:
        with httpx.stream("GET", address, headers=endpoint.headers() | foreign.ACCEPTED, trust_env=False, timeout=30.0) as response:
            text = foreign.gather(foreign.body_of(response), METRICS_BYTES, 30.0).decode("utf-8", "replace")
        line = re.search(rf"^{PEAK_MEMORY} (\S+)$", text, re.MULTILINE)
        return float(line[1]) / 2**20 if line else 0.0
    except (httpx.HTTPError, foreign.TooMuch, ValueError):
        return 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--model", type=Path, metavar="DIR", help="the checkpoint trained for it")
    add_paths(parser, output="")


def run(args: argparse.Namespace) -> None:
    record = probe(load(args.config), args.backbone, args.model)
    write_json(args.output, record)
    say(f"{args.output}: {'healthy' if record.healthy else f'not healthy: {record.error}'}, canary {record.canary}")
