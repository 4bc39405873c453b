"""ACC_L: an LLM judges whether a prediction answers the question (DLLM-Searcher section 5.1.2)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from dllm_agents import prompts
from dllm_agents.client.client import BadReply, Client, Endpoint, RequestRefused, ServerFault
from dllm_agents.config import BrowseCompOptions, MultiHopQAOptions
from dllm_agents.decoding.settings import Decoding
from dllm_agents.errors import StageError

JUDGE_PROMPTS = "judge"
MAX_JUDGED_CHARACTERS = 2_000
_LABELLED = r"^[^\w\n]{0,40}(?:%s)\W{0,40}[:：]\W{0,40}"  # bounded: any number of line ends would be tried from each of them
_CORRECT = re.compile(_LABELLED % "是否正确|correct" + r"(是|否|yes|no)\b", re.IGNORECASE | re.MULTILINE)
_CONFIDENCE = re.compile(_LABELLED % "置信度|confidence" + r"(\d{1,3})(?:\.\d+)?\s*[%％]?", re.IGNORECASE | re.MULTILINE)
_VERDICT = re.compile(r"(?:verdict:\s*)?(correct|incorrect)\.?", re.IGNORECASE)

JudgeVerdict = Literal["correct", "incorrect", "unparsable"]


class LLMJudge:
    """ACC_L: a model behind an OpenAI-compatible URL says whether a prediction answers the question as the gold answer does.

    `url` is the base URL with its version path (`http://host:port/v1`). The key is read from the environment variable
    JUDGE_API_KEY and is never part of a message. Temperature 0; faults of the server are retried with back-off.
    """

    decoding = Decoding(temperature=0.0, max_new_tokens=512)

    def __init__(self, url: str, model: str, backoff: float = 0.5) -> None:
        self.url = url
        endpoint = Endpoint(url, model, native=False, api_key=os.environ.get("JUDGE_API_KEY"))
        self._client = Client(endpoint, timeout=120.0, backoff=backoff)

    def verdict(self, question: str, answers: Sequence[str], prediction: str) -> JudgeVerdict:
        """The judge's verdict; an empty prediction is incorrect without asking. Raises StageError when no answer can be had."""
        if not prediction.strip():
            return "incorrect"
        return parse_verdict(self._reply("verdict.j2", question=question, answers=list(answers), prediction=_quoted(prediction)))

    def _reply(self, template: str, **values: Any) -> str:
        """What the judge says to a prompt; nothing where its reply is no completion."""
        messages = prompts.request(JUDGE_PROMPTS, template, **values)
        try:
            return self._client.complete(messages, decoding=self.decoding).text
        except BadReply:
            return ""
        except (ServerFault, RequestRefused) as error:
            # The server's own words could repeat the key.
            raise StageError(f"{self.url}: the judge gives no answer ({type(error).__name__}); check its URL, model and key") from None


class Grade(NamedTuple):
    """What the judge of BrowseComp-ZH says of a response, and how sure the response is of itself, in percent."""

    verdict: JudgeVerdict
    confidence: float


class ChineseJudge(LLMJudge):
    """The judge of BrowseComp-ZH: does the final answer of a response agree with the gold one, and which confidence does it state
    (arXiv 2504.19314; prompted in words of our own)? Published with gpt-4o at temperature 0.6 and top-p 0.95."""

    decoding = Decoding(temperature=0.6, top_p=0.95, max_new_tokens=1024)

    def grade(self, question: str, answer: str, response: str) -> Grade:
        """The judge's grade; an empty response is incorrect without asking. Raises StageError when no answer can be had."""
        if not response.strip():
            return Grade("incorrect", 0.0)
        return parse_grade(self._reply("browsecomp_zh.j2", question=question, answer=answer, response=_quoted(response)))


def parse_grade(reply: str) -> Grade:
    """The last verdict and confidence of a reply, as the benchmark counts them: a confidence that cannot be read is 0."""
    verdicts, sure = _CORRECT.findall(reply), _CONFIDENCE.findall(reply)
    confidence = float(min(int(sure[-1]), 100)) if sure else 0.0
    if not verdicts:
        return Grade("unparsable", confidence)
    return Grade("correct" if verdicts[-1].lower() in ("是", "yes") else "incorrect", confidence)


def _quoted(text: str) -> str:
    return text[:MAX_JUDGED_CHARACTERS].replace("```", "'''")


def parse_verdict(reply: str) -> JudgeVerdict:
    """The verdict on the reply's last line, which must hold "correct" or "incorrect" and nothing else but "Verdict:"."""
    lines = reply.strip().splitlines()
    match = _VERDICT.fullmatch(lines[-1].strip().strip("*").strip()) if lines else None
    if match is None:
        return "unparsable"
    return "correct" if match[1].lower() == "correct" else "incorrect"


class Agreement(NamedTuple):
    """How far two judges agree on the answers that both gave a verdict on."""

    n: int
    agreement: float | None
    kappa: float | None


def judge_agreement(first: Sequence[JudgeVerdict], second: Sequence[JudgeVerdict]) -> Agreement:
    """Raw agreement and Cohen's kappa of two judges over the same answers, in the same order. Raises ValueError on unequal lengths;
    kappa is None where chance agreement is certain."""
    pairs = [pair for pair in zip(first, second, strict=True) if "unparsable" not in pair]
    if not pairs:
        return Agreement(0, None, None)
    observed = sum(a == b for a, b in pairs) / len(pairs)
    share_a, share_b = (sum(pair[side] == "correct" for pair in pairs) / len(pairs) for side in (0, 1))
    chance = share_a * share_b + (1 - share_a) * (1 - share_b)
    return Agreement(len(pairs), observed, (observed - chance) / (1 - chance) if chance < 1 else None)


def chinese_judge(options: BrowseCompOptions) -> ChineseJudge | None:
    """The judge of BrowseComp-ZH that the configuration names. Raises StageError for a URL without a model."""
    if options.judge_url is None:
        return None
    if not options.judge_model:
        raise StageError("benchmarks.browsecomp_zh.judge_model: missing; name the model that judge_url serves")
    return ChineseJudge(options.judge_url, options.judge_model)


def judges(options: MultiHopQAOptions) -> list[LLMJudge]:
    """The judges of ACC_L that the configuration names: none, one, or two whose agreement can be reported.
    Raises StageError for a URL without a model."""
    named = {"judge": (options.judge_url, options.judge_model), "second_judge": (options.second_judge_url, options.second_judge_model)}
    panel = []
    for role, (url, model) in named.items():
        if url and not model:
            raise StageError(f"benchmarks.multihop_qa.{role}_model: missing; name the model that {role}_url serves")
        if url and model:
            panel.append(LLMJudge(url, model))
    return panel
