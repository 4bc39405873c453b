"""What a request may say: OpenAI's fields that mean something here, and every field of `Decoding` beside them at top level."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dllm_agents.decoding.settings import Decoding, ToolPrefill

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 8, 256


class StrictToolPrefill(ToolPrefill):
    model_config = STRICT


def _decoding_fields() -> dict[str, Any]:
    """Decoding's fields, each nullable and null by default: null leaves the backbone's own setting."""
    fields: dict[str, Any] = {}
    for name, field in Decoding.model_fields.items():
        if name == "seed":
            wide = Annotated[int, Field(ge=-(2**63), lt=2**63)]
            fields[name] = (wide | None, Field(default=None, description="seed of this request's sampling"))
            continue
        annotation: Any = StrictToolPrefill if name == "tool_prefill" else field.annotation
        kept: Any = Annotated[annotation, *field.metadata] if field.metadata else annotation
        fields[name] = (kept | None, Field(default=None, description=field.description))
    return fields


DecodingFields: type[BaseModel] = create_model("DecodingFields", __config__=STRICT, **_decoding_fields())


class BadRequest(ValueError):
    """The request cannot be answered as it is; the text says why. `param` names the field."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class TextPart(BaseModel):
    model_config = STRICT
    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    model_config = STRICT
    name: str
    arguments: str


class ToolCall(BaseModel):
    model_config = STRICT
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    model_config = STRICT
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    def template_values(self) -> dict[str, Any]:
        """The message as chat templates read it: text content, tool arguments as an object where they are one."""
        parts = self.content if isinstance(self.content, list) else []
        content = "".join(part.text for part in parts) if isinstance(self.content, list) else self.content or ""
        values: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        if self.name is not None:
            values["name"] = self.name
        if self.tool_call_id is not None:
            values["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            values["tool_calls"] = [
                {"type": "function", "function": {"name": call.function.name, "arguments": _object_or_text(call.function.arguments)}}
                for call in self.tool_calls
            ]
        return values


def _object_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class FunctionDefinition(BaseModel):
    model_config = STRICT
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    model_config = STRICT
    type: Literal["function"]
    function: FunctionDefinition


class StreamOptions(BaseModel):
    model_config = STRICT
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Request(DecodingFields):  # type: ignore[valid-type, misc]
    model_config = STRICT
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=131072)] | None = Field(default=None, description="same as max_new_tokens")
    stop: (
        Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOP_STRINGS)]
        | None
    ) = None
    n: Literal[1] | None = None
    user: str | None = None
    return_trace: bool | None = Field(
        default=None, description="adds choices[].trace: token ids, their texts, the forward that settled each, and how surely"
    )

    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def decoding(self, default: Decoding) -> Decoding:
        """The backbone's settings with what the request says on top; a request that names a strategy brings all of its settings.

        Raises BadRequest when they do not go together.
        """
        given = {name: getattr(self, name) for name in Decoding.model_fields if getattr(self, name) is not None}
        for alias in ("max_tokens", "max_completion_tokens"):
            value = getattr(self, alias, None)
            if value is not None and given.setdefault("max_new_tokens", value) != value:
                raise BadRequest(f"{alias} is {value} but max_new_tokens is {given['max_new_tokens']}; give one of them", alias)
        if isinstance(given.get("tool_prefill"), ToolPrefill):
            given["tool_prefill"] = given["tool_prefill"].model_dump()
        try:
            return Decoding.model_validate(given if "strategy" in given else {**default.model_dump(), **given})
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRequest(first["msg"], ".".join(str(part) for part in first["loc"]) or None) from None


class ChatRequest(_Request):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1, le=131072)] | None = Field(default=None, description="same as max_new_tokens")
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none"] | None = None

    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates read them; None when there are none or they may not be called."""
        if not self.tools or self.tool_choice == "none":
            return None
        return [tool.model_dump(exclude_none=True) for tool in self.tools]


class CompletionRequest(_Request):
    prompt: str | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
