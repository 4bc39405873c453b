"""The episode browser's pages, read back as a browser would unpack them. Rendering is tested in tests/browser, in a real one."""

import base64
import gzip
import json
import re

import pytest
from synthetic_run import configuration, failure, score

from dllm_agents.errors import StageError
from dllm_agents.files import write_jsonl
from dllm_agents.frames import write_frame
from dllm_agents.records import EpisodeStep, Failure, Score, Task, TracedCall, TracedEpisode
from dllm_agents.reporting import browser

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"


def write_episodes(results, agents=("tiny-ar", "tiny-block"), tasks=6, text="Thought: go. Action: turn left"):
    """Episodes, scores and failures of some agents on BabyAI; every third task is solved."""
    for agent in agents:
        episodes, scores, failures = [], [], []
        for index in range(tasks):
            row = score(agent, "babyai", "GoToObj", index, success=index % 3 == 0)
            steps = [
                EpisodeStep(
                    index=i,
                    call=("policy", i),
                    thought="go.",
                    action="turn left",
                    observation=f"see {i}",
                )
                for i in range(4)
            ]
            traced = {"reveal_step": [0, 1, 1, 2], "tokens": ["Thought", ": go.", " <b>", "turn left"], "confidence": [0.95, 0.9, 0.5, 1.0]}
            calls = tuple(TracedCall(role="policy", seed=i, text=text, nfe=3, **traced) for i in range(4))
            episodes.append(
                TracedEpisode(
                    task_id=row.task_id,
                    benchmark="babyai",
                    category="GoToObj",
                    goal=f"go to object {index}: {text}",
                    agent=agent,
                    seed=1,
                    max_steps=8,
                    steps=steps,
                    calls=calls,
                    ended="success" if row.success else "step_limit",
                    success=row.success,
                )
            )
            scores.append(row)
            failures.append(failure(row, "loop", first_step=0, last_step=3, count=4, evidence="turn left"))
        write_jsonl(results / f"episodes/babyai/{agent}.jsonl", episodes)
        write_frame(results / f"scores/babyai/{agent}.parquet", scores, Score)
        write_frame(results / f"failures/babyai/{agent}.parquet", failures, Failure)


def unpack(page, name):
    text = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page.read_text()).group(1)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_every_episode_is_indexed_and_found_in_its_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "CHUNK_EPISODES", 5)
    write_episodes(tmp_path)
    (page,) = browser.build(configuration(), tmp_path, tmp_path / "episodes.html")
    index = unpack(page, "index")
    assert len(index["episodes"]) == 12 and index["diffusion"] == ["tiny-block", "tiny-full"]
    for row in index["episodes"]:
        entry = dict(zip(index["columns"], row, strict=True))
        shown = unpack(page, f"chunk{entry['chunk']}")[entry["offset"]]
        assert shown["goal"].startswith(f"go to object {entry['task'].rpartition('/')[2]}")
        assert (entry["outcome"], entry["failures"]) == ("success" if entry["success"] else "step limit", ["loop"])
        assert shown["failures"][0]["evidence"] == "turn left" and shown["steps"][0]["reveal_step"] == [0, 1, 1, 2]


def test_a_task_shows_what_it_offers_and_what_is_right(tmp_path):
    write_episodes(tmp_path)
    row = unpack(browser.build(configuration(), tmp_path, tmp_path / "bare.html")[0], "index")["episodes"][0]
    offered = [{"name": "add", "parameters": {"type": "dict", "properties": {}}}]
    data = {"functions": offered, "truth": [{"add": {"a": [1]}}]}
    task = Task(id=row[0], benchmark="babyai", split="test", category="GoToObj", seed=1, version="1", goal="go", data=data)
    write_jsonl(tmp_path / "tasks/babyai.jsonl", [task])
    tasks = unpack(browser.build(configuration(), tmp_path, tmp_path / "episodes.html")[0], "index")["tasks"]
    assert {name: json.loads(text) for name, text in tasks[row[0]].items()} == {"functions": offered, "right answer": data["truth"]}


def test_the_right_calls_of_an_installed_entry_are_those_of_its_file():
    task = Task(
        id="bfcl/simple/simple_12",
        benchmark="bfcl",
        split="test",
        category="simple",
        seed=1,
        version="1",
        goal="",
        data={"id": "simple_12", "functions": [{}]},
    )
    assert "geometry.circumference" in browser._facts(task)["right answer"]


def test_text_of_models_is_never_markup(tmp_path):
    write_episodes(tmp_path, text=HOSTILE)
    (page,) = browser.build(configuration(), tmp_path, tmp_path / "episodes.html")
    assert "alert(" not in page.read_text()
    assert "innerHTML" not in page.read_text() and "Content-Security-Policy" in page.read_text()
    assert HOSTILE in unpack(page, "chunk0")[0]["goal"]


def test_a_page_refers_to_nothing_outside_itself(tmp_path):
    write_episodes(tmp_path)
    (page,) = browser.build(configuration(), tmp_path, tmp_path / "episodes.html")
    assert not re.search(r'(?:src|href)="(?!#)', page.read_text()) and "http" not in page.read_text().replace("http-equiv", "")


def test_large_runs_are_split_over_linked_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "CHUNK_EPISODES", 2)
    monkeypatch.setattr(browser, "PAGE_EPISODES", 4)
    write_episodes(tmp_path)
    pages = browser.build(configuration(), tmp_path, tmp_path / "episodes.html")
    assert [page.name for page in pages] == ["episodes.html", "episodes-2.html", "episodes-3.html"]
    assert [len(unpack(page, "index")["episodes"]) for page in pages] == [4, 4, 4]
    links = unpack(pages[0], "index")["pages"]
    assert [link["file"] for link in links] == [page.name for page in pages] and unpack(pages[1], "index")["here"] == "episodes-2.html"
    assert links[0]["holds"] == [["babyai", "tiny-ar"]] and ["babyai", "tiny-block"] in links[1]["holds"]


def test_equal_episodes_give_equal_bytes(tmp_path):
    write_episodes(tmp_path)
    first = browser.build(configuration(), tmp_path, tmp_path / "a.html")[0].read_bytes()
    assert first == browser.build(configuration(), tmp_path, tmp_path / "b.html")[0].read_bytes()


def test_a_run_without_episodes_is_an_empty_page(tmp_path):
    (page,) = browser.build(configuration(), tmp_path / "none", tmp_path / "episodes.html")
    assert unpack(page, "index")["episodes"] == []


def test_a_truncated_episode_file_is_named_with_its_line(tmp_path):
    write_episodes(tmp_path, tasks=2)
    path = tmp_path / "episodes/babyai/tiny-ar.jsonl"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(StageError, match=r"tiny-ar.jsonl:2: not an Episode record"):
        browser.build(configuration(), tmp_path, tmp_path / "episodes.html")
