"""What the commands of stages share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dllm_agents.foreign import visible


def say(line: str) -> None:
    """Tell whoever started a stage what came of it, in one line that a terminal takes for nothing but text."""
    print(visible(line), file=sys.stderr, flush=True)


def named_directory(text: str) -> tuple[str, Path]:
    """`BACKBONE=DIR`, the type of an argument that names the checkpoint trained for a backbone."""
    name, equals, directory = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write BACKBONE=DIR")
    return name, Path(directory)


def add_results(parser: argparse.ArgumentParser) -> None:
    """The results folder that a command reads."""
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="results/<scale>")


def add_result(parser: argparse.ArgumentParser) -> None:
    """A table or figure by name, the results it is made from, and where it goes."""
    parser.add_argument("name")
    add_results(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="BASE", help="path without ending")


def add_paths(parser: argparse.ArgumentParser, **helps: str) -> None:
    """A required path for each name."""
    for name, text in helps.items():
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=text)
