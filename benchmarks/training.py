"""The training loop measured: against a bare PyTorch loop, its data loading, its memory, and what shared masks do for VRPO.

python benchmarks/training.py

Speed is read in seconds of processor time on a CPU (other load does not count) and of wall time on a GPU, where the loop also prints its
model FLOP utilisation at 1.5B random weights.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from dllm_agents.config import Training
from dllm_agents.provenance import hardware, versions
from dllm_agents.training import objectives, preference
from dllm_agents.training.forward import logits_of, mask_for
from dllm_agents.training.loop import fit
from dllm_agents.training.objectives import Batch, Example
from dllm_agents.training.optimiser import make_optimisers, newton_schulz, orthogonalise, rate_fraction
from dllm_agents.training.start import attention_form

PAD, END, MASK, WORDS = 0, 1, 2, 400
SETTINGS = {"learning_rate": 5e-3, "muon_learning_rate": 0.02, "warmup": 0.1, "clip": 1.0}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
H200_BF16_FLOPS = 989e12


def new_model(hidden: int = 128, layers: int = 4, words: int = WORDS):
    """The demo's shape by default, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = max(4, hidden // 64)
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "vocab_size": words}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    form = attention_form(Training.model_validate({"objective": "block_diffusion"}), hidden // heads)
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True, attn_implementation=form))


def example(index: int, prompt: int = 110, reply: int = 16) -> Example:
    generator = torch.Generator().manual_seed(index)
    ids = torch.randint(3, WORDS, (prompt + reply,), generator=generator).tolist()
    return Example.exchange(ids[:prompt], [*ids[prompt:-1], END])


def batch_at(index: int, size: int = 32) -> Batch:
    """A batch as the demo's block diffusion has them."""
    generator = torch.Generator().manual_seed(index)
    rows = [objectives.block_diffusion(example(index * size + at), MASK, END, 8, generator) for at in range(size)]
    return objectives.collate(rows, "block_causal", PAD).normalised()


def clock() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started


def bare(model, batches: list[Batch]) -> float:
    """Seconds of the least that trains: forward, backward, clip, step."""
    optimisers = make_optimisers(model, SETTINGS["learning_rate"], SETTINGS["muon_learning_rate"])
    started = clock()
    for at, batch in enumerate(batches):
        batch = batch.to(DEVICE)
        logits = logits_of(model, batch)
        objectives.token_losses(logits, batch).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip"])
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] *= rate_fraction(at / len(batches), 0.1) or 1.0
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    return clock() - started


def ours(model, batches: list[Batch]) -> float:
    """Seconds of the loop over the same batches, made beforehand."""
    budget = sum(batch.supervised for batch in batches)
    return timed(lambda: fit(model, lambda index: batches[index], budget, **SETTINGS))


def speed(steps: int, repeats: int) -> None:
    """Our seconds over the bare loop's, alternating, so that both meet the same machine."""
    batches = [batch_at(index) for index in range(steps)]
    tokens = sum(batch.input_ids.numel() for batch in batches)
    ours(new_model().to(DEVICE), batches[:2]), bare(new_model().to(DEVICE), batches[:2])
    pairs = [(ours(new_model().to(DEVICE), batches), bare(new_model().to(DEVICE), batches)) for _ in range(repeats)]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    mine, theirs = (tokens / statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"tokens a second: {mine:,.0f} ours, {theirs:,.0f} bare; seconds ours / bare {statistics.median(ratios):.3f}", end=" ")
    print(f"[{ratios[0]:.3f}, {ratios[-1]:.3f}], {repeats} runs of {steps} steps, {tokens // steps:,} tokens a step")


def whole_loss(model, batch: Batch) -> torch.Tensor:
    """A batch's loss by transformers' own forward of every place."""
    seen = mask_for(model, batch)
    states = model.model(input_ids=batch.input_ids, attention_mask=seen, position_ids=batch.position_ids, use_cache=False).last_hidden_state
    return objectives.token_losses(model.lm_head(states.flatten(0, 1)[batch.supervised_places()]), batch).sum()


def shortened(rounds: int) -> None:
    """Time of a step's gradients over those by a forward of every place, and of Muon over its published form: in turns, medians of the
    rounds' ratios with 95 % intervals."""
    model = new_model().to(DEVICE)
    causal = objectives.collate([objectives.next_token(example(at)) for at in range(32)], "causal", PAD)
    wide = torch.randn(8, 128, 384, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    cases: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        (
            f"{name}, {batch.supervised} of {batch.input_ids.numel():,} places scored",
            lambda batch=batch: batch.loss(model).backward(),
            lambda batch=batch: whole_loss(model, batch).backward(),
        )
        for name, batch in (("AR", causal.to(DEVICE)), ("block diffusion", batch_at(0).to(DEVICE)))
    ]
    for name, ours, whole in [
        *cases,
        ("Muon, 8 of 128 x 384", lambda: orthogonalise(wide), lambda: newton_schulz(wide / wide.norm(dim=(1, 2), keepdim=True))),
    ]:
        ratios = [timed(ours) / timed(whole) for _ in range(rounds + 1)][1:]
        low, high = np.quantile(np.median(np.random.default_rng(0).choice(ratios, (2000, rounds)), axis=1), [0.025, 0.975])
        print(f"{name}: ours / whole {np.median(ratios):.3f} [{low:.3f}, {high:.3f}], {rounds} rounds")


def loading(steps: int) -> None:
    """The share of a training's seconds in which batches are made."""
    model = new_model().to(DEVICE)
    budget = sum(batch_at(index).supervised for index in range(steps))
    run = fit(model, batch_at, budget, **SETTINGS)
    print(f"making batches: {100 * run.data_seconds / run.seconds:.1f} % of the loop's seconds, {run.steps} steps")


def memory(hidden: int, layers: int, size: int) -> None:
    """Peak memory of a step over what must be there: weights, gradients, optimiser state and the activations that autograd saves."""
    batch = batch_at(0, size)
    model = new_model(hidden, layers).to(DEVICE)
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = batch.to(DEVICE).loss(model)
    activations = sum(count for place, count in saved.items() if place not in weights)
    del loss
    gc.collect()
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    needed = parameters * 4 + activations  # weights, gradients, two moments
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = 0
    else:
        before = resident() - parameters
    settings = {**SETTINGS, "muon_learning_rate": None}
    fit(model, lambda index: batch, 3 * batch.supervised, **settings)
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else peak_resident() - before
    print(f"memory: peak {peak / 2**20:,.0f} MiB, weights + gradients + optimiser + activations {needed / 2**20:,.0f} MiB", end=" ")
    print(f"({parameters / 2**20:,.0f} weights, {activations / 2**20:,.0f} activations): {peak / needed:.2f} times")


def resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def vrpo(draws: int) -> None:
    """Variance of the VRPO loss and of its gradient with masks shared between policy and reference, over that without, with a bootstrap
    interval. The policy is the reference after a few steps of training."""
    base, policy = new_model(64, 2), new_model(64, 2)
    fit(base, batch_at, 6 * batch_at(0).supervised, **SETTINGS)
    policy.load_state_dict(base.state_dict())
    fit(policy, lambda index: batch_at(index + 100, 8), 2 * batch_at(100, 8).supervised, **{**SETTINGS, "learning_rate": 1e-3})
    pair = ([example(1)], [example(2)])

    def elbos(model, seed: int, sides=pair) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        draw: Callable = lambda item: preference.draw(item, MASK, END, 8, 2, generator)  # noqa: E731
        batch = preference.pair_batch([sides], draw, PAD, base, 0.1, False)
        return preference.elbo(model, batch, batch.owner, 2).view(1, 2)

    def loss_and_gradient(seed: int, reference_seed: int) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            reference = elbos(base, reference_seed)
        policy.zero_grad()
        value = preference.vrpo_loss(elbos(policy, seed), reference, 0.1)
        value.backward()
        return value.item(), policy.model.layers[0].self_attn.q_proj.weight.grad.flatten().numpy().copy()

    shared = [loss_and_gradient(seed, seed) for seed in range(draws)]
    apart = [loss_and_gradient(seed, 10_000 + seed) for seed in range(draws)]
    for name, place in (("loss", 0), ("gradient", 1)):
        values = [np.array([np.atleast_1d(item[place]) for item in items]) for items in (shared, apart)]
        generator = np.random.default_rng(0)
        ratios = []
        for _ in range(500):
            chosen = [value[generator.integers(0, draws, draws)] for value in values]
            ratios.append(chosen[0].var(0).sum() / chosen[1].var(0).sum())
        ratio = values[0].var(0).sum() / values[1].var(0).sum()
        low, high = np.quantile(ratios, [0.025, 0.975])
        print(f"VRPO {name} variance, shared masks / separate masks: {ratio:.2g} [{low:.2g}, {high:.2g}], {draws} draws of 2 samples each")


def utilisation() -> None:
    """Model FLOP utilisation of a 1.5B model with random weights in bf16 (6 FLOPs a parameter and token, attention apart)."""
    model = new_model(2048, 30, 32_000).to(DEVICE)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    batches = [batch_at(index, 64) for index in range(12)]
    settings = {**SETTINGS, "muon_learning_rate": None}
    fit(model, lambda index: batches[index], sum(batch.supervised for batch in batches[:2]), precision="bf16", **settings)
    run = fit(model, lambda index: batches[index], sum(batch.supervised for batch in batches), precision="bf16", **settings)
    share = 6 * parameters * run.tokens_per_second / H200_BF16_FLOPS
    print(
        f"MFU: {100 * share:.1f} % of {H200_BF16_FLOPS / 1e12:.0f} TFLOP/s, {parameters / 1e9:.2f}B, {run.tokens_per_second:,.0f} tokens/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--draws", type=int, default=64)
    arguments = parser.parse_args()
    found = ", ".join(f"{name} {number}" for name, number in versions("torch", "transformers", "accelerate").items())
    print(f"{hardware()}; {found}; {torch.get_num_threads()} threads")
    shortened(arguments.rounds)
    speed(arguments.steps, arguments.repeats)
    loading(arguments.steps)
    memory(512, 8, 16)
    vrpo(arguments.draws)
    if DEVICE.type == "cuda":
        utilisation()


if __name__ == "__main__":
    main()
