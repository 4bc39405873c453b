"""Chat messages as the checkpoint's template writes them: nothing that was said is left out, and text never becomes control tokens."""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dllm_agents.tool_calls import KEPT

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None
# Special in some tokenizers, but part of what models read and write in text.
TAGS = (*KEPT, "<tool_response>", "</tool_response>", "<think>", "</think>", "<answer>", "</answer>")
MAX_STEPS = 5_000_000  # lines of a template; one that writes 10,000 messages takes a tenth of them
MAX_WRITTEN = 1 << 28  # characters; no context holds a tenth of them
ID_LENGTH = 9  # what Mistral's templates want of a call's id: so many letters and digits
# No template writes these; one that stands in no message marks where a control token's text is taken apart.
_SENTINELS = [chr(point) for point in range(0xE000, 0xE100)]


class TemplateError(ValueError):
    """The template cannot say what was asked. `param` is the request's field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def chat_prompt(
    tokenizer: Any,
    messages: Sequence[Message],
    tools: Tools = None,
    values: Mapping[str, Any] | None = None,
    control: str = "text",
) -> list[int]:
    """Prompt ids of chat messages by the checkpoint's template; without one, the contents joined by blank lines.

    `values` are further variables of the template (`enable_thinking`). Control tokens that are spelled out in a message, a call or a tool
    are encoded as plain text, or with `control="tokens"` as the tokens themselves, which is what the papers' code does. Where the template
    refuses the roles, or leaves the system message out, it stands at the head of the first user turn and turns of one role are joined.
    Raises TemplateError when the template fails on every form, has no place for tools, or leaves out calls of the history.
    """
    sentinel = None
    if control == "text":
        messages, tools, sentinel = _guarded(tokenizer, messages, tools)
    guarded = list(messages)
    if not tokenizer.chat_template:
        if tools or any(message.get("tool_calls") for message in messages):
            raise TemplateError("the checkpoint has no chat template, so tools cannot be shown to it", "tools" if tools else "messages")
        return _encode(tokenizer, "\n\n".join(str(message["content"]) for message in guarded), sentinel, add_special_tokens=True)

    def render(turns: Sequence[Message], offered: Tools) -> str:
        with _bounded():
            text = tokenizer.apply_chat_template(turns, tools=offered, tokenize=False, add_generation_prompt=True, **(values or {}))
        return str(text)

    turns, text = _first_accepted(lambda turns: render(turns, tools), guarded)
    if tools and render(turns, None) == text:
        raise TemplateError("the checkpoint's chat template has no place for tools; put them into a message with tools_in_prompt", "tools")
    calls = [call["function"]["name"] for message in turns for call in message.get("tool_calls") or []]
    if any(name not in text for name in calls) and "tool_calls" not in template_text(tokenizer):
        raise TemplateError(f"the checkpoint's chat template leaves out calls such as that of {calls[0]}", "messages")
    return _encode(tokenizer, text, sentinel, add_special_tokens=False)


def _first_accepted(render: Callable[[Sequence[Message]], str], messages: list[Message]) -> tuple[list[Message], str]:
    """The first form of the messages that the template takes, and its text. Raises TemplateError with the template's own reason."""
    reason, whole = "", None
    for form in (list, short_ids, folded, lambda turns: folded(short_ids(turns))):
        turns = form(messages)
        try:
            text = render(turns)
        except TemplateError:
            raise
        except Exception as error:  # templates come with the checkpoint and raise what they like
            reason = reason or str(error) or type(error).__name__
            continue
        whole = whole or (turns, text)
        if all(str(message["content"]).strip() in text for message in turns if message["role"] == "system"):
            return turns, text
    if whole is None:
        raise TemplateError(f"the chat template refuses these messages: {reason}", "messages")
    return whole


@contextmanager
def _bounded() -> Iterator[None]:
    """Raises TemplateError where the template runs on, or writes on: templates come with the checkpoint, and one that loops would hold this
    thread, or take the machine's memory."""
    steps = written = 0

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps, written
        if frame.f_code.co_filename != "<template>":
            return None
        steps += 1
        written += len(argument) if event == "return" and isinstance(argument, str) else 0
        if steps > MAX_STEPS:
            raise TemplateError(f"the chat template does not end within {MAX_STEPS:,} steps", "messages")
        if written > MAX_WRITTEN:
            raise TemplateError(f"the chat template writes over {MAX_WRITTEN:,} characters", "messages")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def folded(messages: Sequence[Message]) -> list[Message]:
    """Messages without a system role and with alternating turns: what the system says heads the first user turn."""
    system = [str(message["content"]) for message in messages if message["role"] == "system"]
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if (
            turns
            and message["role"] == turns[-1]["role"] in ("user", "assistant")
            and not (message.keys() | turns[-1].keys()) & {"tool_calls"}
        ):
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{message['content']}"
        else:
            turns.append(dict(message))
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if system and first is None:
        turns.insert(0, {"role": "user", "content": "\n\n".join(system)})
    elif system and first is not None:
        first["content"] = "\n\n".join([*system, str(first["content"])])
    return list(turns)


def short_ids(messages: Sequence[Message]) -> list[Message]:
    """Messages whose call ids are of the one form that no template refuses; equal ids stay equal."""
    return [
        {
            **message,
            **({"tool_call_id": _short(message["tool_call_id"])} if message.get("tool_call_id") else {}),
            **(
                {"tool_calls": [{**call, "id": _short(str(call.get("id")))} for call in message["tool_calls"]]}
                if message.get("tool_calls")
                else {}
            ),
        }
        for message in messages
    ]


def _short(name: str) -> str:
    return (
        name
        if re.fullmatch(rf"[A-Za-z0-9]{{{ID_LENGTH}}}", name)
        else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:ID_LENGTH]
    )


def control_texts(tokenizer: Any) -> list[str]:
    """The texts of the tokenizer's control tokens, longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*added, *map(str, tokenizer.all_special_tokens)} - {*TAGS, ""}, key=len, reverse=True)


def control_pattern(tokenizer: Any) -> re.Pattern[str]:
    """What finds a control token that is spelled out in a text."""
    return re.compile("|".join(map(re.escape, control_texts(tokenizer))) or "(?!)")


def _guarded(tokenizer: Any, messages: Sequence[Message], tools: Tools) -> tuple[Sequence[Message], Tools, str | None]:
    """Messages and tools with a sentinel inside every control token that is spelled out in one, and the sentinel."""
    pattern, texts = control_pattern(tokenizer), list(_texts([messages, tools]))
    if not any(map(pattern.search, texts)):
        return messages, tools, None
    sentinel = next((mark for mark in _SENTINELS if not any(mark in text for text in texts)), None)
    if sentinel is None:
        raise TemplateError("the messages spell out control tokens beside every private character", "messages")

    def apart(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: f"{match[0][:1]}{sentinel}{match[0][1:]}", value)
        if isinstance(value, Mapping):
            return {apart(key): apart(item) for key, item in value.items()}
        return [apart(item) for item in value] if isinstance(value, (list, tuple)) else value

    return apart(messages), apart(tools), sentinel


def _texts(value: Any) -> Iterator[str]:
    """Every text of nested lists and mappings, names among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for item in itertools.chain.from_iterable(value.items()) if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _encode(tokenizer: Any, text: str, sentinel: str | None, add_special_tokens: bool) -> list[int]:
    """Token ids; what stands on either side of a sentinel is encoded apart."""
    first, *rest = [text] if sentinel is None else text.split(sentinel)
    ids = list(tokenizer(first, add_special_tokens=add_special_tokens)["input_ids"])
    for part in rest:
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def writes_bare_calls(tokenizer: Any) -> bool:
    """Whether the checkpoint's template has calls written as nothing but JSON (Llama 3): it names parameters and no mark of a call."""
    text = template_text(tokenizer)
    return '"parameters":' in text and "tool" in text and not any(mark in text for mark in KEPT if mark != "<|python_tag|>")


def template_text(tokenizer: Any) -> str:
    """The source of the checkpoint's chat template, or of all that it has."""
    template = tokenizer.chat_template
    return template if isinstance(template, str) else " ".join(map(str, (template or {}).values()))
