"""Analysis and reporting measured on copies of a finished run: failures of up to a million steps, every table and figure of 100,000
episodes, the manuscript, the episode browser, and how far our rules agree with BFCL's checker on answers spoilt on purpose.

python benchmarks/analysis.py --results results/demo [--only classify tables paper browser agreement] [--scratch DIR]

Copies have task ids of their own. Stages run as the workflow runs them, each in a process of its own; memory is that process' largest
resident set. `browser` needs a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from dllm_agents import benchmarks
from dllm_agents.analysis.failures import classify
from dllm_agents.analysis.stage import offered_tools
from dllm_agents.analysis.statistics import wilson_interval
from dllm_agents.benchmarks import bfcl_data
from dllm_agents.config import Config, load
from dllm_agents.provenance import hardware
from dllm_agents.records import Episode, EpisodeStep, Task
from dllm_agents.reporting.failures import FIGURE4_CLASSES, FIGURE4_SETS

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("classify", "tables", "paper", "browser", "agreement")
PROBE = """<script>
(async () => {
  while (!document.querySelector(".row")) await new Promise(done => setTimeout(done, 5));
  const opened = performance.now(), spent = [];
  for (const name of ["agent", "failure", "outcome"]) {
    const start = performance.now();
    $(name).value = $(name).options[1].value; filter();
    document.body.getBoundingClientRect();
    spent.push(performance.now() - start);
    $(name).value = "";
  }
  const start = performance.now();
  $("search").value = "ball"; filter();
  document.body.getBoundingClientRect();
  spent.push(performance.now() - start);
  location.href = "http://127.0.0.1:PORT/" + JSON.stringify({opened, spent});  // the one way out that the page's policy leaves
})();
</script>"""


class Spent(NamedTuple):
    """What a process and its own took: wall seconds, processor seconds, and the largest resident set of one of them in megabytes."""

    seconds: float
    processor: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s (processor {self.processor:.1f} s), {self.megabytes:.0f} MB"


def run(*command: str, cwd: Path = ROOT) -> Spent:
    """Run a command and measure it; ends this program when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])}: {said.strip()[-2000:]}")
    return Spent(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def stage(*arguments: str) -> Spent:
    return run(sys.executable, "-m", "dllm_agents", *arguments)


def multiply(results: Path, target: Path, copies: int) -> None:
    """A finished run with every episode, task, score and failure `copies` times, the copies under ids of their own; the rest as it is."""
    for path in sorted(results.rglob("*")):
        place = target / path.relative_to(results)
        kind = path.relative_to(results).parts[0]
        if not path.is_file() or kind in ("models", "figures", "tables", "logs", "paper") or path.suffix == ".html":
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind in ("episodes", "tasks") and path.suffix == ".jsonl":
            key = "task_id" if kind == "episodes" else "id"
            lines = path.read_text(encoding="utf-8").splitlines()
            with open(place, "w", encoding="utf-8") as handle:
                for copy in range(copies):
                    handle.writelines(re.sub(rf'("{key}":\s*"[^"]*)"', rf'\1#{copy}"', line, count=1) + "\n" for line in lines)
        elif kind in ("scores", "failures"):
            table = pq.read_table(path)
            at = table.schema.get_field_index("task_id")
            ids = table.column("task_id").to_pylist()
            many = [table.set_column(at, "task_id", pa.array([f"{name}#{copy}" for name in ids], pa.string())) for copy in range(copies)]
            pq.write_table(pa.concat_tables(many), place)
        else:
            shutil.copy(path, place)
    for path in [*results.glob("models/*/*/training.json"), *results.glob("models/*/*/not_run.json")]:
        place = target / path.relative_to(results)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def counts(results: Path) -> tuple[int, int]:
    """Episodes and steps of a run."""
    steps = [len(json.loads(line)["steps"]) for path in results.glob("episodes/*/*.jsonl") for line in path.open(encoding="utf-8")]
    return len(steps), sum(steps)


def measure_classify(results: Path, config: str, scratch: Path) -> None:
    """Failures of 10^5, 3 * 10^5 and 10^6 steps: all files of a run in one process, as a job takes them."""
    _, per_copy = counts(results)
    for wanted in (100_000, 300_000, 1_000_000):
        target = scratch / "classify"
        multiply(results, target, -(-wanted // per_copy))
        files = sorted(target.glob("episodes/*/*.jsonl"))
        parts = {
            "--episodes": files,
            "--scores": [target / "scores" / path.parent.name / f"{path.stem}.parquet" for path in files],
            "--tasks": [target / "tasks" / f"{path.parent.name}.jsonl" for path in files],
            "--output": [target / "again" / path.parent.name / f"{path.stem}.parquet" for path in files],
        }
        arguments = [str(item) for option, paths in parts.items() for item in (option, *paths)]
        spent = stage("classify-failures", "--config", config, *arguments)
        _, steps = counts(target)
        size = sum(path.stat().st_size for path in files) / 1e6
        each = 1e6 * spent.processor / steps
        print(f"classify {steps} steps ({size:.0f} MB): {spent}, {each:.1f} us of a processor a step", flush=True)
        shutil.rmtree(target)


def measure_tables(results: Path, config: str, scratch: Path) -> None:
    """Every table and figure of the configuration on 100,000 episodes."""
    per_copy, _ = counts(results)
    target = scratch / "tables"
    multiply(results, target, -(-100_000 // per_copy))
    print(f"{counts(target)[0]} episodes", flush=True)
    report = load([config]).report
    for command, folder, names in (("tabulate", "tables", report.tables), ("plot", "figures", report.figures)):
        for name in names:
            spent = stage(command, name, "--config", config, "--results", str(target), "--output", str(target / folder / name))
            print(f"{command} {name}: {spent}", flush=True)
    shutil.rmtree(target)


def measure_paper(results: Path, config: str, scratch: Path) -> None:
    """`snakemake paper` where scores, failures and everything before them are there: all tables, figures and the PDF."""
    place = scratch / "paper"
    target = place / load([config]).results
    target.parent.mkdir(parents=True)
    shutil.copytree(results, target, symlinks=True, ignore=shutil.ignore_patterns("tables", "figures", "paper", "*.html", ".snakemake"))
    command = [sys.executable, "-m", "snakemake", "paper", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(place)]
    # What is there is taken as it is, whatever made it; only what reads it is made.
    rules = ["table", "figure", "manuscript"]
    spent = run(*command, "--cores", "2", "--allowed-rules", *rules, "--rerun-triggers", "mtime", "--configfile", config)
    pages = (target / "paper" / "paper.pdf").stat().st_size
    print(f"snakemake paper, two cores: {spent} ({pages / 1e6:.1f} MB of PDF)", flush=True)
    shutil.rmtree(place)


class Told(BaseHTTPRequestHandler):
    """Hears what the probe in the page measured: it goes to an address that holds the numbers."""

    last = ""
    timeout = 10.0

    def do_GET(self) -> None:
        told = unquote(self.path[1:])
        if told.startswith("{"):
            Told.last = told
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def measure_browser(results: Path, config: str, scratch: Path) -> None:
    """The page of 5,000 episodes: size, and in Chromium the time until its list stands, and of filtering."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    per_copy, _ = counts(results)
    target = scratch / "browser"
    multiply(results, target, -(-5000 // per_copy))
    page = target / "episodes.html"
    spent = stage("browse", "--config", config, "--results", str(target), "--output", str(page))
    pages = sorted(target.glob("episodes*.html"))
    sizes = ", ".join(f"{path.stat().st_size / 1e6:.1f}" for path in pages)
    print(f"browse {counts(target)[0]} episodes: {spent}; pages of {sizes} MB", flush=True)
    if chromium is None:
        print("no Chromium: opening and filtering not measured")
        return
    with HTTPServer(("127.0.0.1", 0), Told) as server:
        server.timeout = 10.0
        probe = PROBE.replace("PORT", str(server.server_port))
        page.write_text(page.read_text(encoding="utf-8").replace("</body>", probe + "</body>"), encoding="utf-8")
        for _ in range(5):
            flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={target / 'profile'}"]
            browser = subprocess.Popen([chromium, *flags, page.as_uri()], stderr=subprocess.DEVNULL, start_new_session=True)
            Told.last = ""
            for _ in range(6):  # a browser also opens connections on which it asks nothing
                server.handle_request()
                if Told.last:
                    break
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            print(f"opened and filtered (agent, failure, outcome, text), ms: {Told.last or 'not measured'}", flush=True)
    shutil.rmtree(target)


def spoilt(task: Task, truth: str) -> Iterator[tuple[str, str]]:
    """Ways to spoil a right answer to a Python entry: (name, answer)."""
    yield "right", truth
    yield "prose before it", f"Here is the call: {truth}"
    yield "cut in half", truth[: len(truth) // 2]
    yield "nothing", ""
    name = truth.strip("[").partition("(")[0]
    yield "another function's name", truth.replace(name, f"{name}_x", 1)
    head, _, end = truth.rpartition(")")
    yield "an unknown parameter", f"{head}{'' if head.endswith('(') else ', '}no_such_parameter=1){end}"
    arguments = re.search(r"\((\w+)=([^,()\[\]{}]+)", truth)
    if arguments:
        yield "a parameter left out", re.sub(r"\(\w+=[^,()\[\]{}]+(, )?", "(", truth, count=1)
        wrong = "'no number'" if arguments[2][0] not in "'\"" else "0"
        yield "a value of another type", truth.replace(arguments[0], f"({arguments[1]}={wrong}", 1)
        if arguments[2][0] in "'\"":
            yield "another value of the type", truth.replace(arguments[0], f"({arguments[1]}='no such value'", 1)


def measure_agreement(results: Path, config: str, scratch: Path) -> None:
    """Right answers to BFCL's Python entries, spoilt in known ways, judged by the official checker and read by our rules alone."""
    options = {"categories": list(FIGURE4_SETS), "per_category": 50}
    bfcl = benchmarks.load("bfcl", Config.model_validate({"scale": "agreement", "benchmarks": {"bfcl": options}}))
    asked = [(task, name, text) for task in bfcl.tasks("test") for name, text in spoilt(task, bfcl.reference_answer(task))]
    verdicts = bfcl.judge_many([(task, text) for task, _, text in asked])
    agreed: dict[str, Counter[str]] = {}
    for (task, name, text), verdict in zip(asked, verdicts, strict=True):
        fields = {"benchmark": "bfcl", "category": task.category, "goal": "", "agent": "a", "seed": 1, "max_steps": 1, "ended": "answered"}
        step = EpisodeStep(index=0, action=text or None)
        episode = Episode(task_id=task.id, steps=[step], answer=text, success=verdict.valid, **fields)
        found = classify(episode, verdict.error_type, tools=offered_tools(task, episode))
        classes = {
            source: next((kind for kind in FIGURE4_CLASSES if (kind, source) in {(item.kind, item.source) for item in found}), "none")
            for source in ("checker", "beside checker")
        }
        ours, theirs = classes["beside checker"], classes["checker"]
        agreed.setdefault(name, Counter()).update({"n": 1, "class": ours == theirs, "refused": (ours != "none") == (theirs != "none")})
    for name, counted in agreed.items():
        shares = []
        for kind in ("class", "refused"):
            low, high = wilson_interval(counted[kind], counted["n"])
            shares.append(f"{kind} {100 * counted[kind] / counted['n']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        print(f"agreement, {name}: {', '.join(shares)}, n = {counted['n']}", flush=True)
    print(bfcl_data.version())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="a finished run")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--scratch", type=Path, help="where copies go: up to 2 GB (default: the system's temporary folder)")
    args = parser.parse_args()
    print(hardware())
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for part in args.only:
            globals()[f"measure_{part}"](args.results.resolve(), str((args.results / "config.yaml").resolve()), Path(scratch))


if __name__ == "__main__":
    main()
