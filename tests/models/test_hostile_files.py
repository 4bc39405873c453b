"""A checkpoint's small JSON files, damaged or hostile, are one line that names the file."""

import json

import pytest

from dllm_agents.errors import StageError
from dllm_agents.models.adapters import Adapter
from dllm_agents.models.checkpoints import ADAPTER_CONFIG, NOT_RUN, not_run

DAMAGED = ["", "{", "[" * 100_000, '"text"', "\x00"]


@pytest.mark.parametrize("text", [*DAMAGED, json.dumps({"r": 0, "lora_alpha": 1, "base_model_name_or_path": "b", "base_sha256": "c"})])
def test_an_adapter_configuration(tmp_path, text):
    (tmp_path / ADAPTER_CONFIG).write_text(text)
    with pytest.raises(StageError, match=ADAPTER_CONFIG) as caught:
        Adapter(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", DAMAGED)
def test_the_reason_why_a_training_was_not_run(tmp_path, text):
    (tmp_path / NOT_RUN).write_text(text)
    with pytest.raises(StageError, match=NOT_RUN):
        not_run(tmp_path)
