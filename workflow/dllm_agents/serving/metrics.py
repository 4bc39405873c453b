"""Prometheus metrics of an engine and its server."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dllm_agents.decoding.constraints import CACHE
from dllm_agents.engine.engine import Engine, Stats

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAUGES: dict[str, tuple[str, Callable[[Stats], float]]] = {
    "requests_waiting": ("Requests in the queue", lambda stats: stats.waiting),
    "requests_running": ("Requests being decoded", lambda stats: stats.running),
}
_COUNTERS: dict[str, tuple[str, Callable[[Stats], float]]] = {
    "requests_finished": ("Requests answered", lambda stats: stats.finished),
    "requests_failed": ("Requests that ended in an error", lambda stats: stats.failed),
    "requests_cancelled": ("Requests whose client went away", lambda stats: stats.cancelled),
    "prompt_tokens": ("Prompt tokens of answered requests", lambda stats: stats.prompt_tokens),
    "completion_tokens": ("Kept completion tokens of answered requests", lambda stats: stats.completion_tokens),
    "forwards": ("Forward evaluations (NFE) of answered requests", lambda stats: stats.forwards),
    "repaired_tokens": ("Tokens that stand where a constraint ruled the model's own out", lambda stats: stats.repaired_tokens),
    "deferred_tokens": ("Times a token waited for a later forward because of a constraint", lambda stats: stats.deferred_tokens),
    "constraint_compile_seconds": ("Processor seconds spent compiling constraints", lambda _: CACHE.seconds),
    "constraint_compilations": ("Constraints compiled", lambda _: CACHE.misses),
    "constraint_cache_hits": ("Constraints that were compiled already", lambda _: CACHE.hits),
    "busy_seconds": ("Seconds the engine was decoding", lambda stats: stats.busy_seconds),
}

PEAK_MEMORY = "dllm_agents_peak_memory_bytes"


def peak_memory_bytes() -> int:
    """The largest resident memory this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> list[Metric]:
        stats = self.engine.stats()
        gauges: list[Metric] = [GaugeMetricFamily(f"dllm_agents_{name}", text, read(stats)) for name, (text, read) in _GAUGES.items()]
        gauges.append(GaugeMetricFamily(PEAK_MEMORY, "Largest resident memory of this process so far", peak_memory_bytes()))
        return gauges + [CounterMetricFamily(f"dllm_agents_{name}", text, read(stats)) for name, (text, read) in _COUNTERS.items()]


class Metrics:
    """One server's registry: the engine's counters, read when asked, and the latency of every request."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        self._latency = Histogram(
            "dllm_agents_request_seconds",
            "From submission to the last token, or to the client's leaving",
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )

    def observe(self, seconds: float) -> None:
        self._latency.observe(seconds)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)
