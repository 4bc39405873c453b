"""Hostile tool calls against the isolated BFCL checker: every one must be refused or contained within 5 s, and change nothing.

Run as `python benchmarks/attacks.py`; prints one line per attack and exits with 1 when one got through. `{w}` in an attack is a
folder outside the scratch folder that must stay as it is.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dllm_agents.benchmarks.bfcl_checker import Checker, unique_name
from dllm_agents.benchmarks.worker import WorkerLost

SECONDS = 5.0


class Attack(NamedTuple):
    name: str
    text: str
    target: str = "simple"  # category of a single answer, or "calls" for the multi-turn simulators


class Outcome(NamedTuple):
    attack: Attack
    result: str
    seconds: float
    changed: list[str]
    goes_on: bool

    @property
    def contained(self) -> bool:
        return self.seconds <= SECONDS and not self.changed and self.goes_on and self.result != "valid"


def _argument(name: str, value: str) -> Attack:
    return Attack(name, f"[calculate_triangle_area(base={value}, height=5)]")


ARGUMENTS = {
    "import os and run": "__import__('os').system('touch {w}/1') + 0",
    "import subprocess": "__import__('subprocess').run(['touch', '{w}/2']) + 0",
    "exec": "exec('import os; os.mkdir(\"{w}/3\")') + 1",
    "eval in eval": "eval('__import__(\"os\").getpid()') + 1",
    "compile": "compile('import os', 'x', 'exec') + 1",
    "write a file": "open('{w}/6', 'w').write('x') + 1",
    "read a file": "open('/etc/passwd').read() + ''",
    "delete a file": "__import__('os').unlink('{w}/kept') + 1",
    "dunder subclasses": "().__class__.__base__.__subclasses__() + []",
    "dunder mro": "''.__class__.__mro__[1].__subclasses__() + []",
    "dunder globals": "(lambda: 0).__globals__['__builtins__'] + 1",
    "comprehension": "[c for c in ().__class__.__base__.__subclasses__()] + []",
    "getattr of builtins": "getattr(__builtins__, 'ev' + 'al')('1') + 1",
    "globals": "globals()['json'].__loader__ + 1",
    "format string walk": "'{0.__class__.__mro__}'.format(1) + ''",
    "f-string call": "'' + f'{open(\"{w}/f\", \"w\")}'",
    "walrus": "(x := __import__('os').getpid()) + 1",
    "breakpoint": "breakpoint() + 1",
    "wait for input": "input() + ''",
    "leave": "exit() + 1",
    "fork": "__import__('os').fork() + 1",
    "fork bomb": "[__import__('os').fork() for _ in range(10**6)] + []",
    "kill the parent": "__import__('os').kill(__import__('os').getppid(), 9) + 1",
    "network": "__import__('socket').create_connection(('127.0.0.1', 80)) + 1",
    "download": "__import__('urllib.request').request.urlopen('http://127.0.0.1') + b''",
    "sleep": "__import__('time').sleep(3600) + 1",
    "infinite loop": "all(x == x for x in iter(int, 1)) + 1",
    "tower of powers": "9**9**9",
    "large power": "2**(10**9)",
    "large shift": "1 << 10**10",
    "repeated string, 1 GB": "'a' * 10**9",
    "repeated list, 8 GB": "[0] * 10**9",
    "nested repetition": "[[[0] * 1000] * 1000] * 1000",
    "wide format": "'%1000000000d' % 1",
}
STRUCTURES = [
    Attack("10,000 nested brackets", "[" * 10_000 + "]" * 10_000),
    Attack("10,000 open parentheses", "[f(x=" + "(" * 10_000),
    Attack("100,000 signs", "[f(x=" + "-" * 100_000 + "1)]"),
    Attack("100,000 attributes", "[a" + ".a" * 100_000 + "(x=1)]"),
    Attack("sum of 100,000 terms", "[f(x=" + "1+" * 100_000 + "1)]"),
    Attack("5,000 nested calls", "[" + "f(x=" * 5_000 + "1" + ")" * 5_000 + "]"),
    Attack("5 MB of text", "[f(x='" + "a" * 5_000_000 + "')]"),
    Attack("null byte and lone surrogate", "[f(x='\x00\ud800')]"),
    Attack("integer of 1,000,000 digits", "[calculate_triangle_area(base=" + "9" * 1_000_000 + ", height=5)]"),
    Attack("Java, 50,000 nested calls", "[" + "new A(" * 50_000 + ")" * 50_000 + "]", "java"),
    Attack("Java, 50,000 nested braces", "[f(x=new int[]" + "{" * 50_000 + "}" * 50_000 + ")]", "java"),
    Attack("JavaScript, 50,000 nested brackets", "[f(x=" + "[" * 50_000 + "]" * 50_000 + ")]", "javascript"),
    Attack(
        "JavaScript, exponential regular expression",
        '[submitAtCoordinate(action="submit", formId="loginForm", coordinates="[[' + "],[" * 40 + '")]',
        "javascript",
    ),
    Attack("simulator, code as a dictionary's key", "[cd(folder={'__import__(\"os\").system(\"touch {w}/k\")#': {'a': 1}})]", "calls"),
    Attack("simulator, code in a quoted key", "[cd(folder={\"a': open('{w}/q', 'w'), 'b\": 1})]", "calls"),
    Attack("simulator, built-in open", "[open(file='{w}/o', mode='w')]", "calls"),
    Attack("simulator, built-in exec", "[exec(object='import os')]", "calls"),
    Attack("simulator, a module of the executor", "[importlib.import_module(name='os')]", "calls"),
    Attack("simulator, private attribute", "[cd.__func__.__globals__(x=1)]", "calls"),
    Attack("simulator, endless precision", "[logarithm(value=2, base=10, precision=10000000000)]", "calls"),
    Attack("simulator, huge power", "[power(base=9, exponent=999999999)]", "calls"),
]
ATTACKS = [_argument(name, value) for name, value in ARGUMENTS.items()] + STRUCTURES


def run(checker: Checker, watched: Path, attacks: list[Attack] = ATTACKS) -> Iterator[Outcome]:
    """Each attack's outcome: what came back, wall seconds, what changed in `watched`, and whether a good answer still passes."""
    (watched / "kept").write_text("as it was")
    identifier = {"simple": "simple_0", "java": "java_0", "javascript": "javascript_3"}
    before = _state(watched)
    for attack in attacks:
        text = attack.text.replace("{w}", str(watched))
        started = time.monotonic()
        if attack.target == "calls":
            result = _play(checker, text)
        else:
            (verdict,) = checker.judge_many([(attack.target, identifier[attack.target], text)])
            result = verdict.error_type or "valid"
        seconds = time.monotonic() - started
        (after,) = checker.judge_many([("simple", "simple_0", "[calculate_triangle_area(base=10, height=5)]")])
        changed = sorted(set(_state(watched).items()) ^ set(before.items()))
        yield Outcome(attack, result, seconds, [name for name, _ in changed], after.valid)


def _play(checker: Checker, text: str) -> str:
    try:
        reply = checker.play(unique_name(), MATH_AND_FILES, [], text)
    except WorkerLost as loss:
        return f"isolation:{loss}"
    if reply is None:
        return "no call"
    return str(reply.get("refused") or reply["observation"])


MATH_AND_FILES = "multi_turn_base_15"


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def main() -> int:
    with tempfile.TemporaryDirectory() as watched:
        checker = Checker()
        outcomes = []
        for outcome in run(checker, Path(watched)):
            outcomes.append(outcome)
            mark = "ok " if outcome.contained else "BAD"
            print(f"{mark} {outcome.seconds:6.3f} s  {outcome.attack.name:40s} {outcome.result[:90]}", flush=True)
        print(f"isolation: {', '.join(checker.worker.ready['layers'])}; blocked: {checker.worker.ready['blocked']}")
        print(f"{sum(outcome.contained for outcome in outcomes)} of {len(outcomes)} contained, {checker.worker.restarts} restarts")
        checker.close()
    return int(not all(outcome.contained for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
