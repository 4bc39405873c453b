"""What a run is told before its first job: mistakes that only this machine shows, and what is played in place of published data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dllm_agents import prompts
from dllm_agents.config import Config
from dllm_agents.config.roles import MODULES
from dllm_agents.config.section import Mistake
from dllm_agents.decoding.settings import DecodingError
from dllm_agents.errors import StageError
from dllm_agents.models.checkpoints import checked_directory
from dllm_agents.models.families import SMOLLM2, is_hub_name

HUB = "hf://"


def check(config: Config) -> None:
    """Raise Mistake for a checkpoint or a data file of the run that is not there, and for a strategy that cannot decode its checkpoint."""
    for name in config.used_backbones():
        backbone = config.backbones[name]
        if backbone.url is None and backbone.model is not None:
            _check_directory(backbone.model, f"{config.origin_key(name)}.model")
        base = backbone.training.base if backbone.training is not None else None
        if base is not None and base not in config.backbones:
            _check_directory(base, f"{config.origin_key(name)}.training.base")
    for benchmark in config.run.benchmarks:
        for key, path in config.benchmark_options(benchmark).files.items():
            if not path.startswith(HUB) and not Path(path).expanduser().exists():
                raise Mistake(f"benchmarks.{benchmark}.{key}", f"{path}: no such file or folder; correct the path")
    _check_strategies(config)
    _check_prompts(config)


def _check_prompts(config: Config) -> None:
    """The prompts of every policy and module have their slots, and room."""
    for agent in config.run.agents:
        backbone = config.backbones.get(config.agents[agent].policy)
        for benchmark in config.agent_benchmarks(agent) if backbone is not None else []:
            assert backbone is not None
            try:
                prompts.check(backbone.prompt, config.workflow(agent, benchmark), benchmark, backbone.context_on(benchmark))
            except StageError as error:
                raise Mistake(f"{config.origin_key(config.agents[agent].policy)}.prompt", str(error)) from None
            for role in set(MODULES) & set(config.agent_backbones(agent, benchmark)):
                try:
                    prompts.check(prompts.MODULE_STYLE, role, benchmark, backbone.context)
                except StageError as error:
                    raise Mistake(f"agents.{agent}.{role}", str(error)) from None


def _check_strategies(config: Config) -> None:
    """Every role can be decoded as it is told to. Costs an import of the decoding room only where a strategy is not the weights' own."""
    for agent in config.run.agents:
        for benchmark in config.agent_benchmarks(agent):
            for role, backbone in config.agent_backbones(agent, benchmark).items():
                weights, strategy = config.weights(backbone), config.decoding(agent, role, benchmark).strategy
                if weights is None or strategy is None or strategy == weights.strategy:
                    continue
                from dllm_agents.decoding.resolve import check_model
                from dllm_agents.decoding.strategies import strategy_of

                try:
                    check_model(strategy, strategy_of(strategy), weights)
                except DecodingError as error:
                    own = "strategy" in config.agents[agent].decoding
                    where = f"agents.{agent}" if own else config.origin_key(backbone)
                    raise Mistake(f"{where}.decoding.strategy", str(error).removeprefix("strategy: ")) from None


def notes(config: Config) -> Iterator[str]:
    """What is no mistake and yet not what the papers, or whoever wrote the configuration, may think."""
    for benchmark in config.run.benchmarks:
        if (stand_in := config.benchmark_options(benchmark).stand_in) is not None:
            yield f"{benchmark}: {stand_in}"
    for name in config.used_backbones():
        if config.backbones[name].paradigm is None:
            yield f"{config.origin_key(name)}.paradigm: not known; say ar or diffusion to have it compared"
    entries = [(f"agents.{name}", config.agents[name].tasks, config.agent_benchmarks(name)) for name in config.run.agents]
    entries += [(config.origin_key(name), config.backbones[name].tasks, config.run.benchmarks) for name in config.used_backbones()]
    for where, tasks, played in entries:
        for benchmark in [name for name in played if name in tasks]:
            most = config.benchmark_options(benchmark).most_tasks
            if most is not None and tasks[benchmark] > most:
                yield f"{where}.tasks.{benchmark}: {tasks[benchmark]}, of at most {most} tasks; all are played"


def _check_directory(model: str, key: str) -> None:
    if model == SMOLLM2 or is_hub_name(model):
        return
    try:
        checked_directory(Path(model).expanduser())
    except StageError as error:
        raise Mistake(key, str(error)) from None
