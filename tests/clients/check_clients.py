"""The clients that people use, against the real server: `make test-clients` runs this in an environment of theirs.

The server and its checkpoints come from the project's own interpreter, $DLLM_AGENTS_PYTHON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

PYTHON = os.environ.get("DLLM_AGENTS_PYTHON", "python")
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds two numbers.", "parameters": ADD}}
USER = [{"role": "user", "content": "What is 2 and 2?"}]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    subprocess.run([PYTHON, Path(__file__).with_name("checkpoints.py"), folder], check=True)
    return folder


@pytest.fixture(scope="session")
def served(checkpoints):
    """`served(name)`: base URL of a server of that checkpoint, started on first use."""
    running = {}

    def start(name):
        if name not in running:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            command = [PYTHON, "-m", "dllm_agents", "serve", "--model", str(checkpoints / name), "--port", str(port)]
            process = subprocess.Popen(command)
            running[name] = process, port
            wait(process, port)
        return f"http://127.0.0.1:{running[name][1]}/v1"

    yield start
    for process, _ in running.values():
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def wait(process, port):
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.2)
    raise AssertionError("the server did not start")


@pytest.fixture
def url(served):
    return served("scripted")


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as ours:
        yield ours


@pytest.mark.parametrize("name", ["tiny-ar", "tiny-diffusion"])
def test_openai_chat_stream_and_completions(served, name):
    with openai.OpenAI(base_url=served(name), api_key="none", max_retries=0) as ours:
        assert ours.models.retrieve(name).id == [model.id for model in ours.models.list()][0] == name
        whole = ours.chat.completions.create(model=name, messages=USER, max_tokens=12, logprobs=True, top_logprobs=2)
        message = whole.choices[0].message
        scores = whole.choices[0].logprobs.content
        assert len(scores) == whole.usage.completion_tokens and all(score.logprob <= 0 for score in scores)
        assert all(any(other.token == score.token for other in score.top_logprobs) for score in scores)
        chunks = list(
            ours.chat.completions.create(model=name, messages=USER, max_tokens=12, stream=True, stream_options={"include_usage": True})
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == message.content
        assert chunks[-1].usage == whole.usage
        history = [*USER, message.model_dump(), {"role": "user", "content": "And?"}]
        assert ours.chat.completions.create(model=name, messages=history, max_tokens=4).choices
        two = ours.completions.create(model=name, prompt=["a", "b"], n=2, max_tokens=4, temperature=1.0, logprobs=1)
        assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
        scored = ours.completions.create(model=name, prompt="the red ball", echo=True, logprobs=2, max_tokens=0).choices[0]
        assert scored.text == "the red ball" and "".join(scored.logprobs.tokens) == scored.text


def test_openai_helpers_run_tools(client):
    answer = client.chat.completions.create(model="scripted", messages=USER, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 2, "b": 2})
    result = [*USER, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "4"}]
    assert client.chat.completions.create(model="scripted", messages=result, tools=[TOOL]).choices[0].message.content == "It is 4."
    with client.chat.completions.stream(model="scripted", messages=USER, tools=[TOOL]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments is None or final.choices[0].finish_reason == "tool_calls"
    parsed = client.chat.completions.parse(
        model="scripted", messages=USER, tools=[{**TOOL, "function": {**TOOL["function"], "strict": True}}]
    )
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == {"a": 2, "b": 2}


def test_langchain(url):
    from langchain_openai import ChatOpenAI, OpenAI

    chat = ChatOpenAI(model="scripted", base_url=url, api_key="none", max_retries=0)
    assert chat.bind_tools([TOOL]).invoke("What is 2 and 2?").tool_calls[0]["args"] == {"a": 2, "b": 2}
    assert [call for chunk in chat.bind_tools([TOOL]).stream("What is 2 and 2?") for call in chunk.tool_call_chunks]
    assert isinstance(OpenAI(model="scripted", base_url=url, api_key="none", max_retries=0, max_tokens=4).invoke("x"), str)


def test_litellm(url):
    import litellm

    options = {"model": "openai/scripted", "api_base": url, "api_key": "none", "num_retries": 0}
    answer = litellm.completion(messages=USER, tools=[TOOL], **options).choices[0].message
    assert json.loads(answer.tool_calls[0].function.arguments) == {"a": 2, "b": 2}
    history = [*USER, answer.model_dump(), {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "4"}]
    assert litellm.completion(messages=history, tools=[TOOL], **options).choices[0].message.content == "It is 4."
    assert litellm.text_completion(prompt=["x", "y"], max_tokens=4, **{**options, "model": "text-completion-openai/scripted"}).choices


class Weather(BaseModel):
    city: Literal["Rome", "Oslo"]
    days: int


@pytest.mark.parametrize("name", ["tiny-ar", "tiny-diffusion"])
def test_random_models_answer_what_a_class_wants(served, name):
    """Only a constraint makes random weights obey."""
    import litellm

    options = {"model": f"openai/{name}", "api_base": served(name), "api_key": "none", "num_retries": 0, "max_tokens": 96}
    answer = litellm.completion(messages=USER, temperature=1.0, response_format=Weather, **options)
    assert Weather.model_validate_json(answer.choices[0].message.content)


def test_smolagents(url):
    from smolagents import OpenAIModel, ToolCallingAgent

    agent = ToolCallingAgent(tools=[], model=OpenAIModel("scripted", api_base=url, api_key="none"), max_steps=2, verbosity_level=0)
    assert agent.run("What is 2 and 2?") == "It is 4."


def test_openai_agents(url):
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)

    @function_tool
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    async def answers():
        model = OpenAIChatCompletionsModel("scripted", openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0))
        agent = Agent(name="adder", instructions="Add.", model=model, tools=[add])
        whole = await Runner.run(agent, "What is 2 and 2?")
        streamed = Runner.run_streamed(agent, "What is 2 and 2?")
        async for _ in streamed.stream_events():
            pass
        return whole.final_output, streamed.final_output

    assert asyncio.run(answers()) == ("It is 4.", "It is 4.")


def test_inspect_ai(url, tmp_path):
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import tool

    @tool
    def add():
        async def execute(a: int, b: int):
            """Adds two numbers.

            Args:
                a: the first
                b: the second
            """
            return a + b

        return execute

    model = get_model("openai-api/ours/scripted", base_url=url, api_key="none")
    task = Task(dataset=[Sample("What is 2 and 2?", target="4")], solver=[use_tools(add()), generate()], scorer=includes())
    (log,) = eval(task, model=model, display="none", log_dir=str(tmp_path))
    assert log.status == "success" and log.results.scores[0].metrics["accuracy"].value == 1.0


@pytest.mark.parametrize("name", ["tiny-ar", "tiny-diffusion"])
@pytest.mark.parametrize("interface", ["local-completions", "local-chat-completions"])
def test_lm_evaluation_harness(served, checkpoints, tmp_path, name, interface):
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"q": "the red ball", "choices": ["and the thought", "is to search"], "gold": 0}, {"q": "go", "choices": ["a", "b"], "gold": 1}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\ntest_split: test\ndoc_to_text: '{{{{q}}}}'\n"
    )
    until = "generation_kwargs: {until: ['\\n'], max_gen_toks: 8}"
    generation = f"task: says\n{common}output_type: generate_until\ndoc_to_target: '{{{{choices[gold]}}}}'\n{until}\n"
    choice = f"task: picks\n{common}output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: gold\n"
    (tmp_path / "says.yaml").write_text(generation + "metric_list: [{metric: exact_match}]\n")
    (tmp_path / "picks.yaml").write_text(choice + "metric_list: [{metric: acc}]\n")
    chat = interface == "local-chat-completions"
    endpoint = f"{served(name)}/{'chat/' if chat else ''}completions"
    options = {"model": name, "base_url": endpoint, "num_concurrent": 1, "max_retries": 1, "tokenizer": str(checkpoints / name)}
    if not chat:
        options |= {"tokenizer_backend": "huggingface", "tokenized_requests": True}
    result = lm_eval.simple_evaluate(
        model=interface,
        model_args=options,
        tasks=["says"] if chat else ["says", "picks"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        apply_chat_template=chat,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert len(result["samples"]["says"]) == 2
    if not chat:
        scores = [value for sample in result["samples"]["picks"] for (value, _), *_ in sample["resps"]]
        assert len(scores) == 4 and all(float(value) < 0 for value in scores)
