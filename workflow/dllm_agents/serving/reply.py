"""One answer while it is decoded: settled tokens in, pieces of text and tool calls out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dllm_agents.engine.engine import Unmasked
from dllm_agents.serving.text import Decode, Splitter, TokenText
from dllm_agents.tool_calls import Call, Piece


@dataclass
class Reply:
    """The state of one answer.

    Text is given out when everything before it is settled. With `tags` (the ids of <tool_call> and </tool_call>, for requests with
    `tool_prefill`) an opening tag ends the text in front of it, and what stands between it and the next closing tag is read on its
    own: when the two were set together, it is given out as soon as it is decoded, before the thinking in front of it. Stop ids in
    front of a settled closing tag are padding. What is given out does not depend on the order in which tokens settled.

    `token_ids`, `reveal_step`, `nfe` and `finish_reason` are final once `done`; `confidence` stays empty when a stop string ended
    the answer before `generate` had returned.
    """

    decode: Decode
    splitter: Splitter
    stop_ids: frozenset[int] = frozenset()
    tags: tuple[int, int] | None = None
    done: bool = False
    nfe: int = 0
    finish_reason: str = "stop"
    token_ids: list[int] = field(default_factory=list)
    reveal_step: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    generation: Any = None

    def __post_init__(self) -> None:
        self._text = TokenText(self.decode)
        self._sent = 0
        self._ahead: dict[int, tuple[int, int]] = {}
        self._tried: set[int] = set()
        self._given_early: list[Call] = []
        self._between: list[int] | None = None
        self._held = ""
        self._next = 0
        self._called = False
        self._at_stop = False

    def settle(self, event: Unmasked) -> list[Piece]:
        """The pieces that became certain with these tokens."""
        self.nfe = max(self.nfe, event.step + 1)
        for position, token in zip(event.positions, event.token_ids, strict=True):
            self._ahead[position] = (token, event.step)
        pieces: list[Piece] = []
        while not self.done and not self._at_stop and self._next in self._ahead:
            token, step = self._ahead.pop(self._next)
            self._next += 1
            if token not in self.stop_ids:
                pieces += self._append(token, step)
            elif not self._before_closing_tag():
                self._at_stop = True
        if self.tags and self.splitter.early and not self.done and not self._at_stop:
            pieces += self._early_calls(*self.tags)
        return self._note(pieces)

    def finish(self, generation: Any) -> list[Piece]:
        """The rest of the answer, once `generate` has returned."""
        pieces: list[Piece] = []
        here = len(self.token_ids)
        for token, step in zip(generation.token_ids[here:], generation.reveal_step[here:], strict=True):
            if not self.done:
                pieces += self._append(token, step)
        if not self.done:
            rest = self._held + self.decode(self.token_ids)[self._sent :]
            pieces += self.splitter.push(rest) + self.splitter.finish()
            self.nfe = generation.nfe
            self.confidence = generation.confidence
            self.finish_reason = generation.finish_reason
            self.generation = generation
            self.done = True
        return self._note(pieces)

    def _append(self, token: int, step: int) -> list[Piece]:
        self.token_ids.append(token)
        self.reveal_step.append(step)
        text = self._text.push(token)
        self._sent += len(text)
        pieces = self.splitter.push(text) if self.tags is None else self._by_tags(token, text, *self.tags)
        self.done = self.splitter.stopped
        return pieces

    def _by_tags(self, token: int, text: str, opening: int, closing: int) -> list[Piece]:
        """The pieces of one more token where tags are tokens; text behind an opening tag is held until its closing tag."""
        if token == opening:
            tag = self.decode([opening])
            front = text.removesuffix(tag)
            pieces = self.splitter.push(self._held + front)
            self._held, self._between = text[len(front) :], []
            return pieces
        if self._between is None:
            return self.splitter.push(text)
        self._held += text
        if token != closing:
            self._between.append(token)
            return []
        calls = self.splitter.calls_between_tags(self.decode(self._between))
        held, self._held, self._between = self._held, "", None
        return self.splitter.give([call for call in calls if not self._was_given(call)]) if calls else self.splitter.push(held)

    def _was_given(self, call: Call) -> bool:
        if call not in self._given_early:
            return False
        self._given_early.remove(call)
        return True

    def _before_closing_tag(self) -> bool:
        return self.tags is not None and any(token == self.tags[1] for token, _ in self._ahead.values())

    def _early_calls(self, opening: int, closing: int) -> list[Piece]:
        """Calls between two tags that were set in one step, complete ahead of the settled prefix; each is given once."""
        pieces: list[Piece] = []
        starts = [place for place, (token, _) in self._ahead.items() if token == opening and place not in self._tried]
        for start in sorted(starts):
            span: list[int] = []
            while (settled := self._ahead.get(start + 1 + len(span))) and settled[0] not in (opening, closing):
                span.append(settled[0])
            if settled:
                self._tried.add(start)
                if settled == (closing, self._ahead[start][1]):
                    calls = self.splitter.calls_between_tags(self.decode([token for token in span if token not in self.stop_ids]))
                    self._given_early += calls
                    pieces += calls
        return pieces

    def _note(self, pieces: list[Piece]) -> list[Piece]:
        self._called = self._called or any(isinstance(piece, dict) for piece in pieces)
        if self.done and self._called:
            self.finish_reason = "tool_calls"
        return pieces
