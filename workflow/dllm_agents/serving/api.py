"""What a request may say: OpenAI's fields as its clients send them, and every field of `Decoding` beside them at top level.

What cannot change an answer is accepted and left unread: nulls, notes on the request, and what clients echo of earlier answers. A field
that this server does not carry out is accepted at the value that asks for nothing, and refused by name at any other.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from dllm_agents.decoding.settings import Decoding, ToolPrefill

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 8, 256
MAX_CHOICES = 64
MAX_MESSAGES, MAX_TOOLS = 4096, 512
MAX_TOP_LOGPROBS = 20
MAX_KEYS = 256

T = TypeVar("T")
# A list is left at its first bad item, and an object of too many keys unread: a million faults would take half a minute to list.
Items = Annotated[list[T], Field(fail_fast=True)]


class _Bounded(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_KEYS:
            raise PydanticCustomError("too_many_keys", "over {most} keys", {"most": MAX_KEYS})
        return value


class _Open(_Bounded):
    """Unknown fields are accepted when they are null, and refused otherwise."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, None] = Field(init=False)


class StrictToolPrefill(_Bounded, ToolPrefill):
    model_config = STRICT


def _decoding_fields() -> dict[str, Any]:
    """Decoding's fields, each nullable and null by default: null leaves the backbone's own setting."""
    fields: dict[str, Any] = {}
    for name, field in Decoding.model_fields.items():
        if name == "seed":
            wide = Annotated[int, Field(ge=-(2**63), lt=2**64)]
            text = "seed of this request's sampling; without one, a sampled answer differs from time to time"
            fields[name] = (wide | None, Field(default=None, description=text))
            continue
        annotation: Any = {"tool_prefill": StrictToolPrefill, "stop_ids": Items[int]}.get(name, field.annotation)
        kept: Any = Annotated[annotation, *field.metadata] if field.metadata else annotation
        fields[name] = (kept | None, Field(default=None, description=field.description))
    return fields


def _unread(*names: str) -> dict[str, Any]:
    return {name: (Any, Field(default=None, description="accepted and not read")) for name in names}


def _only(**values: Any) -> dict[str, Any]:
    """Fields that are not carried out, each with the values that ask for nothing."""
    return {name: (Literal[value] | None, Field(default=None, description="nothing else is carried out")) for name, value in values.items()}


DecodingFields: type[BaseModel] = create_model("DecodingFields", __base__=_Open, **_decoding_fields())
NoNumber = Annotated[float, Field(ge=0, le=0)]
Neutral: type[BaseModel] = create_model(
    "Neutral",
    __base__=DecodingFields,
    **_unread("metadata", "store", "service_tier", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction"),
    **_only(
        use_beam_search=False,
        ignore_eos=False,
        skip_special_tokens=True,
        spaces_between_special_tokens=True,
        include_stop_str_in_output=False,
    ),
    frequency_penalty=(NoNumber | None, None),
    presence_penalty=(NoNumber | None, None),
    min_p=(NoNumber | None, None),
    min_tokens=(Literal[0] | None, None),
    repetition_penalty=(Annotated[float, Field(ge=1, le=1)] | None, None),
    top_k=(Literal[-1, 0] | None, None),
    logit_bias=(Annotated[dict[str, Any], Field(max_length=0)] | None, None),
)


class BadRequest(ValueError):
    """The request cannot be answered as it is; the text says why. `param` names the field."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class TextPart(_Open):
    type: Literal["text"]
    text: str
    cache_control: Any = None
    annotations: Any = None


class RefusalPart(_Open):
    type: Literal["refusal"]
    refusal: str


class FunctionCall(_Open):
    name: str
    arguments: str
    parsed_arguments: Any = None


class ToolCall(_Open):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Any = None


class ChatMessage(_Open):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Items[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: Items[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    # What clients' own records of a message hold beside it.
    id: Any = None
    annotations: Any = None
    parsed: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    provider_specific_fields: Any = None
    cache_control: Any = None

    def template_values(self) -> dict[str, Any]:
        """The message as chat templates read it: text content, tool arguments as an object where they are one."""
        if isinstance(self.content, list):
            content = "".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)
        else:
            content = self.content or self.refusal or ""
        values: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        for key in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, key)) is not None:
                values[key] = value
        if self.tool_calls:
            values["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": _object_or_text(call.function.arguments)},
                }
                for call in self.tool_calls
            ]
        return values


def _object_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class FunctionDefinition(_Open):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Open):
    type: Literal["function"]
    function: FunctionDefinition
    cache_control: Any = None


class StreamOptions(_Open):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class TextFormat(_Open):
    type: Literal["text"]


class JsonObjectFormat(_Open):
    type: Literal["json_object"]


class JsonSchema(_Open):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(_Open):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class StructuredOutputs(_Open):
    """vLLM's way to say what an answer must match; one of them."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Items[str] | None = None
    json_object: bool | None = None


class FunctionName(_Open):
    name: str


class NamedTool(_Open):
    type: Literal["function"]
    function: FunctionName


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class _Request(Neutral):  # type: ignore[valid-type, misc]
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0, le=131072)] | None = Field(default=None, description="same as max_new_tokens")
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = Field(
        default=None, description="json_object or json_schema: the whole answer is JSON that satisfies the schema"
    )
    structured_outputs: StructuredOutputs | None = Field(default=None, description="vLLM's spelling: json, regex, choice or json_object")
    guided_json: dict[str, Any] | str | None = Field(default=None, description="same as structured_outputs.json")
    guided_regex: str | None = Field(default=None, description="same as structured_outputs.regex")
    guided_choice: Items[str] | None = Field(default=None, description="same as structured_outputs.choice")
    stop: StopString | Annotated[Items[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        default=None, description="answers to each prompt, with seeds that follow each other"
    )
    return_trace: bool | None = Field(
        default=None,
        description="adds choices[].trace: token ids, their texts, the forward that unmasked each, how surely, and its "
        "settings with every default filled in; with `dynamics` what happened forward by forward",
    )

    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def names_length(self) -> bool:
        """Whether the request says how many tokens it wants at most."""
        return any(getattr(self, name, None) for name in ("max_tokens", "max_completion_tokens", "max_new_tokens"))

    def decoding(self, default: Decoding) -> Decoding:
        """The backbone's settings with what the request says on top; a request that names a strategy brings all of its settings.

        Raises BadRequest when they do not go together.
        """
        fields = {name: getattr(self, name) for name in Decoding.model_fields if getattr(self, name) is not None}
        for alias in ("max_tokens", "max_completion_tokens"):
            value = getattr(self, alias, None)
            if value and fields.setdefault("max_new_tokens", value) != value:
                raise BadRequest(f"{alias} is {value} but max_new_tokens is {fields['max_new_tokens']}; give one of them", alias)
        if isinstance(fields.get("tool_prefill"), ToolPrefill):
            fields["tool_prefill"] = fields["tool_prefill"].model_dump()
        try:
            return Decoding.model_validate(fields if "strategy" in fields else {**default.model_dump(exclude_unset=True), **fields})
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(first["msg"], ".".join(str(part) for part in first["loc"]) or None) from None


class ChatRequest(_Request):
    messages: Items[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Annotated[int, Field(ge=1, le=131072)] | None = Field(default=None, description="same as max_new_tokens")
    max_tokens: Annotated[int, Field(ge=1, le=131072)] | None = Field(default=None, description="same as max_new_tokens")
    tools: Annotated[Items[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="false: the answer ends behind its first call")
    tools_in_prompt: bool | None = Field(default=None, description="the messages describe the tools already; calls are read all the same")
    modalities: Items[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    reasoning_effort: str | None = Field(
        default=None, description="a variable of the chat template; none also sets enable_thinking to false"
    )
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, description="variables of the chat template, as enable_thinking")
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Literal[False] | None = None
    logprobs: bool | None = Field(default=None, description="adds the probability of every token at the forward that unmasked it")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates read them; None when there are none or they may not be called."""
        if not self.tools or self.tool_choice == "none":
            return None
        return [tool.model_dump(exclude_none=True, exclude={"cache_control"}) for tool in self.tools]

    def template_variables(self, default: dict[str, Any]) -> dict[str, Any]:
        """The chat template's variables: the backbone's, with the request's on top."""
        values = dict(default)
        if self.reasoning_effort is not None:
            values["reasoning_effort"] = self.reasoning_effort
            if self.reasoning_effort == "none":
                values["enable_thinking"] = False
        return values | (self.chat_template_kwargs or {})

    def logprobs_wanted(self) -> int | None:
        """Alternatives to report for each token; None when no probability was asked for. Raises BadRequest for top_logprobs alone."""
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[Items[TokenId], Field(min_length=1)]


class CompletionRequest(_Request):
    prompt: str | TokenIds | Annotated[Items[str] | Items[TokenIds], Field(min_length=1, max_length=2048)]
    echo: bool | None = Field(
        default=None, description="gives the prompt back before the answer, with its likelihoods where logprobs are asked for"
    )
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    add_special_tokens: Literal[True] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None, description="adds the probability of every token at the forward that unmasked it, and that many alternatives"
    )
    likelihood_draws: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="diffusion models: random maskings that the likelihoods of an echoed prompt are estimated from"
    )
    context_tokens: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="first tokens of an echoed prompt that are never masked, so that the rest is scored given them"
    )

    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or more."""
        whole: Any = self.prompt
        return list(whole) if isinstance(whole, list) and not isinstance(whole[0], int) else [whole]

    def logprobs_wanted(self) -> int | None:
        """Alternatives to report for each token; None when no probability was asked for."""
        if self.max_tokens == 0 and not self.echo:
            raise BadRequest("max_tokens: 0 asks for nothing; it goes with echo", "max_tokens")
        return self.logprobs
