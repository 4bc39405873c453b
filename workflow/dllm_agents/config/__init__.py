"""The configuration, typed in one place.

`workflow/schemas/config.schema.json` and the table of defaults in `config/README.md` are generated from these classes
(`dllm-agents schema`); a test fails when they drift. Loading reports the first mistake as one line naming file and key.
"""

from dllm_agents.config.agents import SCRIPTED, Agent, Editor, Memory, TeamBudget
from dllm_agents.config.backbones import Backbone
from dllm_agents.config.benchmarks import (
    BENCHMARKS,
    BFCL_MULTI_TURN,
    BFCL_SINGLE_TURN,
    EMBODIED,
    QUESTIONS,
    TITLES,
    ALFWorldOptions,
    BabyAIOptions,
    Benchmarks,
    BFCLOptions,
    BrowseCompOptions,
    MultiHopQAOptions,
    ScienceWorldOptions,
    TrainingBudget,
)
from dllm_agents.config.configuration import Config
from dllm_agents.config.loading import load
from dllm_agents.config.run import STAGES, Resources
from dllm_agents.config.section import Section
from dllm_agents.config.training import MIXTURE, PREFERENCE, Lora, Training
