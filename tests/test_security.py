"""What SECURITY.md promises of the source: no pickle, no remote code, no key on a command line."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "workflow" / "dllm_agents"
FORBIDDEN = {
    "pickle": r"\b(?:c?pickle|dill|joblib|shelve)\b(?=[.\s(]*(?:loads?|dumps?|import|\())|import (?:pickle|dill|joblib|shelve)",
    "torch.load": r"\btorch\.load\(",
    "remote code": r"trust_remote_code\s*=\s*True",
    "shell": r"shell\s*=\s*True|os\.system\(",
}


def test_no_forbidden_construct_in_the_package() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, pattern in FORBIDDEN.items()
        if re.search(pattern, path.read_text())
    ]
    assert not found


def test_the_patterns_find_what_they_are_for() -> None:
    examples = {
        "pickle": "import pickle",
        "torch.load": "torch.load(path)",
        "remote code": "trust_remote_code=True",
        "shell": "subprocess.run(x, shell=True)",
    }
    assert all(re.search(FORBIDDEN[name], text) for name, text in examples.items())
