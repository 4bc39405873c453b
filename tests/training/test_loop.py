"""The loop: going on after a kill, and the same step whoever shares the work."""

import os
import signal
import socket

import pytest
import torch

from dllm_agents.training import objectives
from dllm_agents.training.loop import fit
from dllm_agents.training.objectives import Example
from dllm_agents.training.optimiser import Muon, orthogonalise, rate_fraction

SETTINGS = {"learning_rate": 1e-2, "muon_learning_rate": 0.02, "warmup": 0.1, "clip": 1.0}


def new_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, tie_word_embeddings=True, **heads))


def batch_at(index: int):
    generator = torch.Generator().manual_seed(index)
    ids = torch.randint(3, 40, (2, 10), generator=generator).tolist()
    rows = [objectives.block_diffusion(Example.exchange(row[:4], [*row[4:], 1]), 2, 1, 4, generator) for row in ids]
    return objectives.collate(rows, "block_causal", 0).normalised()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("dllm_agents.training.loop.SAVE_EVERY", 5)
    state = tmp_path / "state"
    whole = new_model()
    uninterrupted = fit(whole, batch_at, 400, **SETTINGS)
    killed_at = uninterrupted.steps - 3

    child = os.fork()
    if child == 0:
        fit(new_model(), lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == killed_at else batch_at(i), 400, state=state, **SETTINGS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert state.is_dir(), "the last saved state is what the kill leaves"

    asked = []
    model = new_model()
    run = fit(model, lambda i: asked.append(i) or batch_at(i), 400, state=state, **SETTINGS)
    assert min(asked) >= 5, "saved steps are not run again"
    assert torch.equal(weights(model), weights(whole))
    assert (run.steps, run.supervised_tokens, run.loss_curve) == (uninterrupted.steps, 400, uninterrupted.loss_curve)
    assert not state.exists()


def test_a_state_of_other_settings_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr("dllm_agents.training.loop.SAVE_EVERY", 2)

    def stop(index):
        if index == 5:
            raise KeyboardInterrupt
        return batch_at(index)

    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), stop, 400, state=tmp_path / "state", fingerprint="one", **SETTINGS)
    asked = []
    fit(new_model(), lambda i: asked.append(i) or batch_at(i), 100, state=tmp_path / "state", fingerprint="other", **SETTINGS)
    assert min(asked) == 0


def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path):
    alone = new_model()
    fit(alone, batch_at, 150, accumulate=2, **SETTINGS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [fork_worker(rank, port, tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    for rank in (0, 1):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt"), weights(alone), atol=1e-5)


def fork_worker(rank: int, port: int, path) -> int:
    """A process of a gloo group of two that trains and leaves its weights. Forked, so that it imports nothing again."""
    child = os.fork()
    if child:
        return child
    failed = 1
    try:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({key: str(value) for key, value in group.items()}, ACCELERATE_USE_CPU="true")
        model = new_model()
        fit(model, batch_at, 150, **SETTINGS)
        torch.save(weights(model), path)
        failed = 0
    finally:
        os._exit(failed)


def test_muon_updates_are_nearly_orthogonal():
    for shape in ((3, 8, 8), (2, 4, 16), (2, 16, 4)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert (values > 0.3).all() and (values < 1.3).all()
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    parameter.grad = torch.eye(4)
    Muon([parameter], lr=0.1).step()
    assert torch.allclose(parameter.diag(), torch.full((4,), -0.1), atol=0.04)


def test_the_rate_warms_up_and_falls_to_zero():
    assert rate_fraction(0.0, 0.1) == pytest.approx(1 / 11)
    assert rate_fraction(0.1, 0.1) == pytest.approx(1.0)
    assert rate_fraction(0.55, 0.1) == pytest.approx(0.5)
    assert rate_fraction(1.0, 0.1) == pytest.approx(0.0)
