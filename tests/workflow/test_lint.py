"""Snakemake's own advice on the rules."""

import re
import subprocess
from pathlib import Path

from pipeline import TEST_SCALE, snakemake_command


def test_only_one_piece_of_advice_is_left_out(tmp_path: Path) -> None:
    """The path of the frozen configuration is in every command, so that a printed one can be pasted. As the parameter that Snakemake
    advises it would rerun everything after any change of a setting."""
    command = snakemake_command(tmp_path, "--lint", config=[TEST_SCALE.with_name("demo.yaml")])
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    advice = re.findall(r"^    \* (.*):$", said.stdout + said.stderr, re.MULTILINE)
    assert set(advice) == {"Shell command directly uses variable FROZEN from outside of the rule"}, said.stdout + said.stderr
