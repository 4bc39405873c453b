"""What README and docs say works: pages build, links lead somewhere, commands parse, configurations load, code runs as pasted."""

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from dllm_agents import catalogue, cli
from dllm_agents.config import load

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "config/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLUSTER = "needs a cluster"


def blocks(language):
    """(page, info string, text) of every code block in that language."""
    return [
        (path.relative_to(ROOT).as_posix(), info, text)
        for path in PAGES
        for written_in, info, text in FENCE.findall(path.read_text(encoding="utf-8"))
        if written_in == language
    ]


def commands():
    """Every command in a block, and every one of ours between backticks."""
    for page, info, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            if CLUSTER not in info and line.strip() and not line.startswith("#"):
                yield pytest.param(line, id=f"{page}: {line[:60]}")
    for path in PAGES:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        for line in re.findall(r"`((?:make|dllm-agents|snakemake) [^`]+)`", text):
            yield pytest.param(line, id=f"{path.name}: {line[:60]}")


def make_targets():
    return set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())


def rules():
    texts = [path.read_text() for path in (ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk")))]
    return {name for text in texts for name in re.findall(r"^(?:rule|checkpoint) (\w+):", text, re.MULTILINE)}


@pytest.mark.parametrize("line", commands())
def test_a_command_exists_and_takes_its_arguments(line):
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    program, arguments = words[0], words[1:]
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= make_targets()
    elif program == "dllm-agents":
        if arguments[0] in ("STAGE", "COMMAND") or "--help" in arguments:
            return
        assert arguments[0] in cli.COMMANDS
        if len(arguments) > 1:  # a name alone stands for the command
            cli.parser(arguments[0]).parse_args(arguments)
    else:
        assert program == "snakemake"
        check_snakemake(arguments)


def check_snakemake(arguments):
    """Options that name files name some that are there; targets are rules, or files that some rule makes."""
    flags, valued = {"-n", "--unlock"}, {"--workflow-profile", "--configfile", "--report", "--cores", "-R", "--forcerun"}
    while arguments:
        word = arguments.pop(0)
        if word.startswith("-"):
            assert word in flags | valued
            value = arguments.pop(0) if word in valued else ""
            assert word not in ("--configfile", "--workflow-profile") or value.isupper() or (ROOT / value).exists(), value
        elif word.startswith("results/"):
            name = Path(word)
            assert (ROOT / f"config/{name.parts[1]}.yaml").is_file()
            assert name.parent.name != "tables" or name.stem in {*catalogue.TABLES, "solved"}
        else:
            assert word in rules() | {"<target>"}


@pytest.mark.parametrize(("page", "text"), [pytest.param(page, text, id=page) for page, _, text in blocks("yaml") if "extends:" in text])
def test_a_configuration_loads(page, text, tmp_path, monkeypatch, checkpoints):
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(re.sub(r"path/to/\w+", str(checkpoints / "tiny-diffusion"), text))
    load(["mine.yaml"])


def test_every_page_builds_and_every_link_leads_somewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cli_page = (tmp_path / "reference/cli.html").read_text()
    assert all(f'id="{name}"' in cli_page for name in cli.COMMANDS)
    outside = {
        address
        for page in tmp_path.rglob("*.html")
        for address in re.findall(r'(?:src|<link[^>]* href)="(https?:[^"]+)"', page.read_text())
    }
    assert not outside, "a page would ask another host"


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(((?!https?:)[^)]+)\)", text) + re.findall(r'srcset="([^"]+)"|src="([^"]+)"', text)
    targets = [link if isinstance(link, str) else "".join(link) for link in links]
    assert targets and not [target for target in targets if not (ROOT / target).exists()]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Small random checkpoints of an AR and a block-diffusion model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    subprocess.run([sys.executable, ROOT / "tests/clients/checkpoints.py", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def address(checkpoints):
    """A server of one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "dllm_agents", "serve", "--model", str(checkpoints / "tiny-diffusion"), "--port", str(port)]
    process = subprocess.Popen(program, env={**os.environ, "PYTHONPATH": str(ROOT / "workflow")})
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("text", [pytest.param(text, id=page) for page, _, text in blocks("python") if "reporting" not in text])
def test_code_runs_as_pasted(text, checkpoints, request):
    if "openai" in text:
        text = text.replace("http://127.0.0.1:8000/v1", request.getfixturevalue("address"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text.replace("path/to/checkpoint", str(checkpoints / "tiny-diffusion")), "page", "exec"), {})
    assert printed.getvalue().strip()


def test_the_table_of_the_guide_is_made(tmp_path, monkeypatch):
    [code] = [text for _, _, text in blocks("python") if "reporting" in text]
    [entry] = [text for _, _, text in blocks("yaml") if "solved:" in text]
    mine = ModuleType("dllm_agents.reporting.mine")
    exec(compile(code, "mine.py", "exec"), vars(mine))
    monkeypatch.setitem(sys.modules, mine.__name__, mine)
    monkeypatch.setitem(catalogue.TABLES, "solved", catalogue.read(entry + "figures: {}\n")[0]["solved"])
    from dllm_agents.reporting.tables import tabulate

    paths = tabulate("solved", load([ROOT / "config/test.yaml"]), tmp_path, tmp_path / "solved")
    assert "tiny-ar" in paths[0].read_text()
