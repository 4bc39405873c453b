"""Multi-hop question answering with a search tool (DLLM-Searcher section 5.1; HotpotQA, 2WikiMultiHopQA, MuSiQue, Bamboogle).

Question sets come from files, or are generated: a seeded world of facts and questions that chain 2 to 4 of them. Scores on
generated questions are not comparable with published ones, and every task of that set says so in its category.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

from dllm_agents.benchmarks import multihop_corpus, qa_files
from dllm_agents.benchmarks.base import Benchmark, Environment, Split, Step, Verdict
from dllm_agents.benchmarks.multihop_corpus import GENERATOR_VERSION, HOPS, RELATIONS, TEST_WORLD, Question
from dllm_agents.benchmarks.qa_accuracy import contains_answer, normalise
from dllm_agents.benchmarks.qa_files import QuestionRow
from dllm_agents.benchmarks.search import BM25, Hybrid, Passage, SearchEngine, WebSearch, plain, web_engine
from dllm_agents.benchmarks.search_reply import MAX_QUERY_CHARACTERS, Reply, answer_text, format_failure, parse_reply, reply_text, tool_call
from dllm_agents.config import MultiHopQAOptions
from dllm_agents.errors import StageError
from dllm_agents.layout import cache_folder
from dllm_agents.records import EpisodeStep, Task

__all__ = ["BENCHMARK", "MultiHopQA", "SearchEnvironment", "format_failure", "parse_reply", "reply_text"]

GENERATED = "generated"
GENERATED_TEST_QUESTIONS = 500
QUESTIONS_PER_TRAINING_WORLD = 48
GENERATION_TOP_K = 10
MAX_PASSAGE_CHARACTERS = 500
MAX_TITLE_CHARACTERS = 100
NOTHING_FOUND = "No results."
MAX_TOOL_DELAY = 600


class SearchEnvironment(Environment):
    """One question. Actions are replies with a search call or an answer; progress is hop recall, the share of gold passages
    that some search has shown (the answer's correctness where gold passages are unknown); success is ACC_R of the answer. Searches
    may come from several threads at once."""

    def __init__(self, task: Task, engine: SearchEngine, top_k: int, tool_delay: float = 0.0, long_thoughts: bool = False) -> None:
        self.task = task
        self._lock = threading.Lock()
        if not 0 <= tool_delay <= MAX_TOOL_DELAY:
            raise StageError(f"task {task.id}: tool_delay {tool_delay} is not from 0 to {MAX_TOOL_DELAY} seconds; run sample-tasks again")
        self._engine, self.top_k, self._delay, self._long_thoughts = engine, top_k, tool_delay, long_thoughts
        self.present: Callable[[Sequence[str], Sequence[Sequence[Passage]]], str] = searched_text
        """How the results of a call's queries are written to the agent."""
        self._start()

    def _start(self) -> None:
        self.success = False
        self.answer: str | None = None
        self._seen: set[int] = set()
        self._tried: set[int] = set()
        self._entities = [hop["title"] for hop in self._hops[:1]]
        self._done = False

    @property
    def _hops(self) -> list[dict[str, str]]:
        return self.task.data["hops"]

    @property
    def _progress(self) -> float:
        return len(self._seen) / len(self._hops) if self._hops else float(self.success)

    def reset(self) -> str:
        self._start()
        return self.task.goal

    def step(self, action: str) -> Step:
        if self._done:
            return Step("The question is already answered.", self._progress, True, False)
        reply = parse_reply(action)
        if isinstance(reply, str):
            return Step(f"Format error: {reply}.", self._progress, False, False)
        if reply.answer is not None:
            self.answer, self._done = reply.answer, True
            self.success = contains_answer(reply.answer, self.task.data["answers"])
            return Step("", self._progress, True, True)
        return Step(self._search(reply), self._progress, False, True)

    def search(self, query: str, count: int) -> list[Passage]:
        """The best passages for a query. May be called from several threads at once."""
        started = time.perf_counter()
        passages = self._engine.search(query, count)
        self._note(query, passages)
        self._wait(started)
        return passages

    def _wait(self, started: float) -> None:
        """Let a search take as long as it is to take; a sleep of no time would give the processor away."""
        if (rest := self._delay - (time.perf_counter() - started)) > 0:
            time.sleep(rest)

    def document(self, link: str) -> str | None:
        """The whole text behind a result's link; None when there is none."""
        return self._engine.document(link)

    @property
    def progress(self) -> float:
        """Hop recall so far."""
        return self._progress

    def _search(self, reply: Reply) -> str:
        started = time.perf_counter()
        hits = [self._engine.search(query, self.top_k) for query in reply.queries]
        for query, passages in zip(reply.queries, hits, strict=True):
            self._note(query, passages)
        self._wait(started)
        return self.present(reply.queries, hits)

    def _note(self, query: str, passages: Sequence[Passage]) -> None:
        shown = {(passage.title, passage.text) for passage in passages}
        titles = {normalise(passage.title) for passage in passages}
        with self._lock:
            for index, hop in enumerate(self._hops):
                if (hop["title"], hop["text"]) in shown if hop["text"] else normalise(hop["title"]) in titles:
                    self._seen.add(index)
                if query == hop["query"]:
                    self._tried.add(index)
            self._entities += [passage.text.rstrip(".").rpartition(" ")[2] for passage in passages]

    def valid_actions(self) -> list[str]:
        """Searches for, and answers with, what has been met so far; for generated questions, whose names are a closed list."""
        if self.task.data["set"] != GENERATED:
            return []
        kinds = {name: kind for kind, names in multihop_corpus.ENTITIES.items() for name in names}
        met = [name for name in dict.fromkeys(self._entities) if name in kinds]
        searches = [tool_call([f"{relation} of {name}"]) for name in met for relation in RELATIONS if RELATIONS[relation][0] == kinds[name]]
        return sorted(searches + [answer_text(name) for name in met])

    def expert_action(self) -> tuple[str, str] | None:
        """The oracle searcher: looks up the first gold passage it has not seen, then gives the gold answer."""
        if self._done:
            return None
        for index, hop in enumerate(self._hops):
            if index not in self._seen | self._tried:
                return self._think(index), tool_call([hop["query"]])
        if not self._hops and not self._entities:
            return "I look the question up.", tool_call([self.task.goal[:MAX_QUERY_CHARACTERS]])
        return self._think(len(self._hops)), answer_text(self.task.data["answers"][0])

    def _think(self, index: int) -> str:
        """The oracle's thought before hop `index`: what it has just learnt, and what it needs next."""
        missing = self._hops[index]["query"] if index < len(self._hops) else None
        if self.task.data["set"] != GENERATED:
            return f"I need to read about {missing}." if missing else "That is the answer."
        learnt = self._hops[index - 1]["text"] if index else ""
        if self._long_thoughts:
            return long_thought(index, len(self._hops), learnt, missing)
        return f"{learnt} {f'I need the {missing}.' if missing else 'That is the answer.'}".strip()


def long_thought(hop: int, hops: int, learnt: str, missing: str | None) -> str:
    """A thought of 48 to 64 words and marks, of the same length in every turn that calls, so that a call stands where P-ReAct sets its
    tags: what it has to decode behind the call."""
    head = f"I read the question again and count its hops. There are {hops} and I know {hop} of them."
    if learnt:
        news = f"The last thing that I have learnt is this. {learnt}"
    else:
        news = "I have not searched yet, so nothing but the question is known to me."
    if missing is None:
        return f"{head} {news} No hop is missing any more, so the last name is the answer and I write it down."
    return f"{head} {news} What is missing now is the {missing}, so I search for that with one short query."


class MultiHopQA(Benchmark):
    """Multi-hop QA. Same options and seed, same tasks; no question of training or of pairs stands in the evaluated sets."""

    name = "multihop_qa"
    options: MultiHopQAOptions

    def __init__(self, options: MultiHopQAOptions, seed: int = 42) -> None:
        super().__init__(options, seed)
        self._engines: dict[int | None, SearchEngine] = {}
        self._lock = threading.Lock()

    @cached_property
    def version(self) -> str:
        """Question sources with their fingerprints, the corpus, and the search engine: what a score depends on."""
        named = {f"{split}/{name}".removeprefix("test/"): path for split, sets in self._sets.items() for name, path in sets.items()}
        paths = {**named, "corpus": self.options.corpus}
        parts = [f"{name} {qa_files.fingerprint(path)}" for name, path in paths.items() if path]
        if GENERATED in self.options.sets:
            names = f" names {self.options.names}" if self.options.names else ""
            hops = "" if tuple(self.options.hops) == HOPS else f" hops {self.options.hops}"
            parts.append(f"{GENERATOR_VERSION} seed {self.seed}{names}{hops}")
        engine = self.options.search if self.options.search == "web" else f"{self.options.search} bm25s {_bm25s_version()}"
        return "; ".join([*parts, f"{engine} top {self.options.top_k}"])

    def tasks(self, split: Split) -> list[Task]:
        """Test: every question of every set, or `tasks` of them; train: `train_tasks` questions; pairs: every question of the sets for
        them. A number is spread evenly over the sets and drawn by seed: 6,144 over three training sets is the published draw of 2,048 each.
        Raises StageError for questions of training or pairs that are evaluated too."""
        if split != "train":
            names, count = list(self._sets[split]), self.options.tasks if split == "test" else None
        else:
            names, count = list(self.options.train_sets) + [GENERATED] * self._trains_on_generated, self.options.train_tasks
            if count and not names:
                raise StageError("benchmarks.multihop_qa.train_sets: empty; name a training question file, or set train_tasks: 0")
        shares = [None] * len(names) if count is None else even_shares(count, len(names))
        tasks = [task for name, share in zip(names, shares, strict=True) for task in self._set_tasks(name, split, share)]
        if split == "test":
            for task, delay in zip(tasks, itertools.cycle(self.options.tool_delays), strict=False):
                task.data |= {"tool_delay": delay} if delay else {}
        return tasks

    @property
    def _trains_on_generated(self) -> bool:
        return GENERATED in self.options.sets and not self.options.train_sets

    def _set_tasks(self, name: str, split: Split, share: int | None) -> list[Task]:
        if name == GENERATED:
            return self._generated_tasks(split, GENERATED_TEST_QUESTIONS if share is None else share)
        rows = self._rows[split, name]
        if split != "test":
            self._check_apart(f"{split.removesuffix('s')}_sets.{name}", rows)
        if share is not None and share < len(rows):
            kept = sorted(random.Random(f"{self.seed}/{split}/{name}").sample(range(len(rows)), share))
            rows = [rows[index] for index in kept]
        return [self._file_task(name, split, row) for row in rows]

    def _file_task(self, name: str, split: Split, row: QuestionRow) -> Task:
        hops = [{"title": title, "text": "", "query": title[:MAX_QUERY_CHARACTERS]} for title in row.supporting]
        category = name if split == "test" else f"{split}-{name}"
        return self.task(f"{category}/{row.id}", split, category, row.question, {"set": name, "answers": list(row.answers), "hops": hops})

    def _generated_tasks(self, split: Split, count: int) -> list[Task]:
        tasks: list[Task] = []
        answers: Counter[str] = Counter()
        world = TEST_WORLD if split == "test" else TEST_WORLD + 1
        while len(tasks) < count:
            number = count if split == "test" else min(QUESTIONS_PER_TRAINING_WORLD, count - len(tasks))
            drawn = self._questions(world, number, answers)
            tasks += [self._generated_task(split, world, index, question) for index, question in enumerate(drawn)]
            world += 1
        return tasks

    def _generated_task(self, split: Split, world: int, index: int, question: Question) -> Task:
        hops = [{"title": hop.subject, "text": hop.text, "query": hop.query} for hop in question.hops]
        data = {"set": GENERATED, "world": world, "answers": [question.answer], "hops": hops}
        return self.task(f"{GENERATED}/w{world}-q{index}", split, GENERATED, question.text, data)

    def _questions(self, world: int, count: int, answers: Counter[str]) -> list[Question]:
        engine = BM25(self._world(world))

        def search(query: str) -> list[str]:
            return [passage.text for passage in engine.search(query, GENERATION_TOP_K)]

        try:
            return multihop_corpus.questions(self.seed, world, count, search, self.options.names, self.options.hops, answers)
        except ValueError as error:
            raise StageError(f"benchmarks.multihop_qa.tasks: {error}; ask for fewer") from None

    def _world(self, world: int) -> list[Passage]:
        return [Passage(*paragraph) for paragraph in multihop_corpus.paragraphs(self.seed, world, self.options.names)]

    @cached_property
    def _rows(self) -> dict[tuple[str, str], list[QuestionRow]]:
        """(split, set) -> questions of the sets that are files."""
        rows: dict[tuple[str, str], list[QuestionRow]] = {}
        for split, sets in self._sets.items():
            for name, path in sets.items():
                if path is not None:
                    rows[split, name] = qa_files.read_questions(path)
                elif name != GENERATED:
                    raise StageError(f"benchmarks.multihop_qa.sets.{name}: needs the path of a question file; only {GENERATED!r} has none")
        return rows

    @property
    def _sets(self) -> dict[Split, Mapping[str, str | None]]:
        """Split -> question set -> its file."""
        return {"test": self.options.sets, "train": self.options.train_sets, "pairs": self.options.pair_sets}

    def _check_apart(self, key: str, rows: Sequence[QuestionRow]) -> None:
        evaluated = {normalise(row.question): name for (split, name), part in self._rows.items() if split == "test" for row in part}
        shared = [(row.question, evaluated[text]) for row in rows if (text := normalise(row.question)) in evaluated]
        if shared:
            question, name = shared[0]
            raise StageError(
                f"benchmarks.multihop_qa.{key}: {len(shared)} of its questions are evaluated too, the first {question[:100]!r} "
                f"(sets.{name}); take them out of the file"
            )

    def environment(self, task: Task) -> SearchEnvironment:
        options = self.options
        return SearchEnvironment(task, self._engine(task), options.top_k, task.data.get("tool_delay", 0.0), options.thoughts == "long")

    def judge(self, task: Task, completion: str) -> Verdict:
        """ACC_R of a completion that ends in an answer; the error type is its format failure, "no answer" or "wrong answer"."""
        reply = parse_reply(completion)
        if isinstance(reply, str):
            return Verdict(False, reply)
        if reply.answer is None:
            return Verdict(False, "no answer")
        return Verdict(True) if contains_answer(reply.answer, task.data["answers"]) else Verdict(False, "wrong answer")

    def check_trajectory(self, steps: Sequence[EpisodeStep]) -> str | None:
        """Complete reasoning and strictly valid format in every step (DLLM-Searcher section 4.2.1)."""
        for step in steps:
            if not step.thought:
                return "no reasoning"
            if step.action is None or format_failure(reply_text(step.thought, step.action), require_thought=True):
                return "format"
        return None

    def _engine(self, task: Task) -> SearchEngine:
        """The engine that a task's searches go to; built once, shared by all its episodes."""
        world = task.data.get("world")
        with self._lock:
            if world not in self._engines:
                self._engines[world] = self._build_engine(world)
            return self._engines[world]

    def _build_engine(self, world: int | None) -> SearchEngine:
        if self.options.search == "web":
            return self._web_engine(world)
        corpus = self._file_corpus() if world is None else self._world(world)
        return Hybrid(corpus, self.options.cache or cache_folder()) if self.options.search == "hybrid" else BM25(corpus)

    def _web_engine(self, world: int | None) -> WebSearch:
        if world is not None:
            raise StageError("benchmarks.multihop_qa.search: the web knows nothing of generated questions; use bm25 or hybrid")
        return web_engine(self.options.web_search_url, "benchmarks.multihop_qa")

    def _file_corpus(self) -> list[Passage]:
        if self.options.corpus:
            return qa_files.read_corpus(self.options.corpus)
        own = dict.fromkeys(passage for rows in self._rows.values() for row in rows for passage in row.paragraphs)
        if not own:
            raise StageError("benchmarks.multihop_qa.corpus: the question files hold no paragraphs; give a corpus, or use search: web")
        return list(own)


def _bm25s_version() -> str:
    try:
        return package_version("bm25s")
    except PackageNotFoundError:
        raise StageError("benchmarks.multihop_qa: needs the package bm25s; install the 'benchmarks' extra, or use search: web") from None


def even_shares(total: int, parts: int) -> list[int]:
    """`total` split into `parts` as evenly as it goes, the larger shares first."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def results_text(passages: Sequence[Passage]) -> str:
    """Search results as the agent reads them: one numbered line each."""
    rows = [(plain(passage.title, MAX_TITLE_CHARACTERS), plain(passage.text, MAX_PASSAGE_CHARACTERS)) for passage in passages]
    return "\n".join(f"{rank}. {title}: {text}" for rank, (title, text) in enumerate(rows, 1)) or NOTHING_FOUND


def searched_text(queries: Sequence[str], hits: Sequence[Sequence[Passage]]) -> str:
    """The results of a call as the agent reads them: each query's under its name where there are several."""
    if len(hits) == 1:
        return results_text(hits[0])
    lists = zip(queries, map(results_text, hits), strict=True)
    return "\n".join(f"Query: {plain(query, MAX_QUERY_CHARACTERS)}\n{results}" for query, results in lists)


BENCHMARK = MultiHopQA
