"""BrowseComp-ZH from a file of the published layout that the test encrypts itself, with a local stand-in for search, crawler and judge."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from itertools import cycle
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_server import Handler, local_servers

from dllm_agents import benchmarks
from dllm_agents.agents.deepdiver import episode as deepdiver
from dllm_agents.agents.deepdiver.teacher import done
from dllm_agents.analysis.stage import score_file
from dllm_agents.analysis.statistics import calibration_error
from dllm_agents.benchmarks import browsecomp_zh, web_pages, xlsx
from dllm_agents.client.judge import Grade, parse_grade
from dllm_agents.config import Config, TeamBudget
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.frames import read_frame
from dllm_agents.records import Call, Episode, Score, Task
from dllm_agents.tool_calls import call_text

CANARY = "BrowseComp-ZH"
COUNT = 130
QUESTIONS = [("影视" if n % 2 else "音乐", f"第{n}个问题：谁写了《甲{n}》 ？", f"乙{n}") for n in range(1, COUNT + 1)]
SPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def encrypted(text, canary=CANARY):
    key = cycle(hashlib.sha256(canary.encode()).digest())
    return base64.b64encode(bytes(byte ^ other for byte, other in zip(text.encode(), key, strict=False))).decode()


def workbook(rows, head=("Topic", "Question", "Answer", "canary"), preamble=""):
    """Shared strings and one sheet, as spreadsheet programs write them; the first string in two runs with a phonetic one between."""
    cells = [list(head), *rows]
    texts = list(dict.fromkeys(text for row in cells for text in row))
    items = [f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in texts]
    items[0] = f"<si><r><t>{texts[0][:2]}</t></r><rPh><t>noise</t></rPh><r><t>{texts[0][2:]}</t></r></si>"
    lines = [
        f'<row r="{number}">'
        + "".join(f'<c r="{letter}{number}" t="s"><v>{texts.index(text)}</v></c>' for letter, text in zip("ABCD", row, strict=False))
        + "</row>"
        for number, row in enumerate(cells, 1)
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", f"{preamble}<sst {SPACE}>{''.join(items)}</sst>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {SPACE}><sheetData>{''.join(lines)}</sheetData></worksheet>")
    return buffer.getvalue()


def rows_of(questions, canary=CANARY):
    return [[*(encrypted(text) for text in row), canary] for row in questions]


PUBLISHED = workbook(rows_of(QUESTIONS))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "browsecomp-zh-encrypted.xlsx").write_bytes(PUBLISHED)
    return str(tmp_path / "browsecomp-zh-encrypted.xlsx")


def tasks(path, **options):
    return benchmarks.load("browsecomp_zh", {"data": path, **options}).tasks("test")


def test_every_row_decrypts_and_a_draw_is_by_seed_with_its_ids(path):
    assert browsecomp_zh.read_questions(PUBLISHED, "x") == QUESTIONS
    drawn, again, other = tasks(path), tasks(path), tasks(path, seed=7)
    assert len({task.id for task in drawn}) == 110 and drawn == again
    assert {task.id for task in drawn} != {task.id for task in other} and drawn[0].version.endswith("seed 42; web top 10")
    for task in drawn:
        topic, question, answer = QUESTIONS[int(task.id.rpartition("/")[2]) - 1]
        assert (task.category, task.data["question"], task.data["answers"]) == (topic, question, [answer])
        assert task.goal.startswith(question) and "置信度" in task.goal
    assert len(tasks(path, tasks=None)) == len(tasks(path, tasks=500)) == COUNT
    assert benchmarks.load("browsecomp_zh", {"data": path}).tasks("train") == []


def test_the_file_may_lie_on_the_web(tmp_path):
    class Files(Handler):
        def do_GET(self):
            self.reply(200 if self.path == "/x.xlsx" else 404, PUBLISHED)

    with local_servers() as serve:
        url = serve(Files)
        assert [task.goal for task in tasks(f"{url}/x.xlsx")] and not list(tmp_path.rglob("*"))
        with pytest.raises(StageError, match="cannot be read"):
            tasks(f"{url}/nowhere")


def test_answers_may_be_the_revised_ones(path, tmp_path):
    revised = tmp_path / "revised.jsonl"
    revised.write_text(
        json.dumps({"problem": QUESTIONS[2][1].replace(" ", ""), "answer": "丙", "raw_answer": "乙3"}) + "\n", encoding="utf-8"
    )
    changed = tasks(path, revised=str(revised), tasks=None)
    assert [task.data["answers"][0] for task in changed[:4]] == ["乙1", "乙2", "丙", "乙4"] and "revised" in changed[0].version
    revised.write_text(json.dumps({"problem": "不在", "answer": "丙"}), encoding="utf-8")
    with pytest.raises(StageError, match=r"revised.jsonl:1: its problem is no question"):
        tasks(path, revised=str(revised))
    revised.write_text('\n{"problem": 3}', encoding="utf-8")
    with pytest.raises(StageError, match=r"revised.jsonl:2: is not an object with the texts"):
        tasks(path, revised=str(revised))


def archive(sheet, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as parts:
        parts.writestr("xl/worksheets/sheet1.xml", sheet)
    return buffer.getvalue()


def spoilt(method):
    content = archive("<a>" * 900, method)
    middle = content.index(b"sheet1.xml") + 30
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 12]) + content[middle + 12 :]


ENTITIES = f'<!DOCTYPE x [<!ENTITY a "b">]><worksheet {SPACE}><sheetData>&a;</sheetData></worksheet>'
NESTED = f"<worksheet {SPACE}><sheetData>" + "<row>" * 200_000 + "</row>" * 200_000 + "</sheetData></worksheet>"
BAD = {
    "not there": (None, "No such file"),
    "empty": (b"", "not a whole zip archive"),
    "truncated": (PUBLISHED[: len(PUBLISHED) // 2], "not a whole zip archive"),
    "text": (b"Topic,Question", "not a whole zip archive"),
    "wrong canary": (workbook(rows_of(QUESTIONS[:3]) + rows_of(QUESTIONS[3:4], "BrowseComp")), "row 4: its canary is not BrowseComp-ZH"),
    "other key": (workbook([[*(encrypted(t, "z") for t in QUESTIONS[0]), CANARY]]), "row 1: does not decrypt"),
    "not encrypted": (workbook([[*QUESTIONS[0], CANARY]]), "row 1: does not decrypt"),
    "no column": (workbook(rows_of(QUESTIONS[:1]), head=("Topic", "Question", "Reply", "canary")), "has no column Answer"),
    "no rows": (workbook([]), "holds no question"),
    "entities": (workbook(rows_of(QUESTIONS[:1]), preamble='<!DOCTYPE x [<!ENTITY a "b">]>'), "declares entities"),
    "entities in UTF-16": (archive(ENTITIES.encode("utf-16")), "not laid out as a workbook"),
    "entities in EBCDIC": (archive(b"<?xml version='1.0' encoding='cp037'?>" + ENTITIES.encode("cp037")), "not laid out as a workbook"),
    "rows in rows": (archive(NESTED), "has no column Topic"),
    "many tags": (archive(b"<a/>" * 5_000_001), "more than 5,000,000 tags"),
    "spoilt LZMA": (spoilt(zipfile.ZIP_LZMA), "not a whole zip archive"),
    "spoilt bzip2": (spoilt(zipfile.ZIP_BZIP2), "not a whole zip archive"),
    "bomb": (workbook([["a" * (xlsx.MAX_PART_BYTES + 1), "b", "c", CANARY]]), "unpacks to more than 50 MB"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line_without_a_question(tmp_path, content, message):
    path = tmp_path / "x.xlsx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match=message) as caught:
        tasks(str(path))
    assert "\n" not in str(caught.value) and "问题" not in str(caught.value) and str(path) in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(PUBLISHED) - 1), st.binary(min_size=1, max_size=8))
def test_no_damage_to_the_file_is_more_than_a_refusal(place, noise):
    damaged = PUBLISHED[:place] + noise + PUBLISHED[place + len(noise) :]
    try:
        assert browsecomp_zh.read_questions(damaged, "x")
    except StageError as error:
        assert "\n" not in str(error)


class Web(Handler):
    """A search API whose one result leads to a page, and a judge that finds the second answer wrong and the third unreadable."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        page = "<p>《甲》的作者是乙。</p>".encode()
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        asked = self.body()
        if "q" in asked:
            link = f"http://{self.headers['Host']}/page"
            self.reply(200, {"organic": [{"title": "甲", "snippet": "《甲》", "link": link}]})
            return
        prompt = asked["messages"][-1]["content"]
        assert asked["temperature"] == 0.6 and asked["top_p"] == 0.95 and "标准答案：" in prompt
        said = "不知道" if "丁" in prompt else f"最终答案：x\n理由：x\n是否正确：{'否' if '丙' in prompt else '是'}\n置信度：80%"
        self.reply(200, {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})


def agents(answer):
    """A planner that hands out one task, and a seeker that searches, crawls and reports."""

    def call(name, **arguments):
        return call_text({"name": name, "arguments": arguments})

    planner = [
        call(deepdiver.tools.ASSIGN, tasks=[{"task_content": "找作者"}]),
        call_text(done(deepdiver.tools.PLANNER_DONE, "", final_answer=answer)),
    ]
    seeker = [
        call("batch_web_search", queries=["甲 作者"]),
        "crawl",
        call("file_read", file_path="research/a.txt"),
        call_text(done(deepdiver.tools.SEEKER_DONE, "乙")),
    ]

    def play(replies):
        said = iter(replies)

        def complete(messages, *, seed, constraint=None):
            text = next(said)
            if text == "crawl":
                link = messages[-1]["content"].partition('"link": "')[2].partition('"')[0]
                text = call("url_crawler", documents=[{"url": link, "file_path": "research/a.txt"}])
            return Call(role="r", seed=seed, text=text)

        return complete

    return play(planner), play(seeker)


def test_a_question_is_played_on_a_web_of_our_own_and_graded_by_a_judge(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_SEARCH_API_KEY", "k")
    monkeypatch.setattr(web_pages, "_is_public", lambda url: True)
    with local_servers() as serve:
        url = serve(Web)
        options = {"data": path, "tasks": 3, "web_search_url": f"{url}/search", "judge_url": f"{url}/v1", "judge_model": "m"}
        benchmark = benchmarks.load("browsecomp_zh", options)
        questions, episodes = benchmark.tasks("test"), []
        for task, answer in zip(questions, ("乙", "丙", "丁"), strict=True):
            planner, seeker = agents(f"解释：无\n答案：{answer}\n置信度：80%")
            with benchmark.environment(task) as environment:
                outcome = deepdiver.play(environment, task, planner, seeker, style="react", budget=TeamBudget(), seed=42)
            assert outcome.answer.endswith("80%") and "《甲》的作者是乙。" in outcome.team.files["research/a.txt"]
            fields = {"task_id": task.id, "benchmark": task.benchmark, "category": task.category, "goal": task.goal, "agent": "team"}
            episodes.append(Episode(**fields, seed=42, max_steps=15, **dict(outcome)))
        write_jsonl(tmp_path / "tasks.jsonl", questions)
        write_jsonl(tmp_path / "episodes.jsonl", episodes)
        config = Config.model_validate({"scale": "test", "benchmarks": {"browsecomp_zh": options}})
        score_file(config, tmp_path / "episodes.jsonl", tmp_path / "tasks.jsonl", tmp_path / "scores.parquet")
    frame = read_frame(tmp_path / "scores.parquet", Score)
    assert frame["judge"].tolist() == ["correct", "incorrect", "unparsable"] and frame["success"].tolist() == [True, False, False]
    assert [row["confidence"] for row in frame["measures"]] == [80.0, 80.0, 0.0]


def test_the_search_key_and_the_judges_model_are_asked_for_by_name(path, monkeypatch):
    monkeypatch.delenv("WEB_SEARCH_API_KEY", raising=False)
    benchmark = benchmarks.load("browsecomp_zh", {"data": path, "tasks": 1})
    with pytest.raises(StageError, match="WEB_SEARCH_API_KEY"):
        benchmark.environment(benchmark.tasks("test")[0])
    with pytest.raises(StageError, match=r"browsecomp_zh.data: missing"):
        benchmarks.load("browsecomp_zh", {}).tasks("test")


def test_a_grade_is_the_last_that_a_judge_writes():
    assert parse_grade("最终答案：甲\n理由：同\n是否正确：是\n置信度：73%") == Grade("correct", 73)
    assert parse_grade("**correct:** no\nconfidence: 140") == Grade("incorrect", 100)
    assert parse_grade("是否正确：是\n**是否正确：** 否\n置信度：7") == Grade("incorrect", 7)
    assert parse_grade("也许是正确") == Grade("unparsable", 0) == parse_grade("")


def test_calibration_error_is_the_hand_sum():
    """Two bins: (0, 10) right 1 of 2, mean confidence 5; (100, 90, 85) right 2 of 3, mean 91.67."""
    right, sure = [True, False, True, True, False], [0.0, 10.0, 100.0, 90.0, 85.0]
    assert calibration_error(right, sure) == pytest.approx(2 / 5 * 45 + 3 / 5 * abs(200 / 3 - 275 / 3))
    assert calibration_error([True], [100.0]) == 0 and calibration_error([], []) == 0


def test_what_is_decrypted_stands_in_the_results_alone(path, tmp_path):
    """Tasks are written there and nowhere else, nothing of them is printed, and they are not exported."""
    config, out = tmp_path / "run.yaml", tmp_path / "results/tasks/browsecomp_zh.jsonl"
    section = {"scale": "test", "benchmarks": {"browsecomp_zh": {"data": path, "tasks": 5}}}
    config.write_text(json.dumps(section | {"run": {"benchmarks": ["browsecomp_zh"], "agents": ["empty"]}}))

    def stage(*arguments):
        homes = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "dllm_agents", *map(str, arguments), "--config", str(config)]
        return subprocess.run(command, env=os.environ | homes, capture_output=True, text=True, encoding="utf-8")

    sampled = stage("sample-tasks", "--benchmark", "browsecomp_zh", "--output", out)
    assert sampled.returncode == 0 and len(read_jsonl(out, Task)) == 5, sampled.stderr
    holders = [file for file in tmp_path.rglob("*") if file.is_file() and "个问题".encode() in file.read_bytes()]
    assert holders == [out] and "个问题" not in sampled.stdout + sampled.stderr
    (tmp_path / "results/episodes/browsecomp_zh").mkdir(parents=True)
    (tmp_path / "results/episodes/browsecomp_zh/empty.jsonl").write_text("{}")
    exported = stage("export", "--format", "datasets", "--results", tmp_path / "results", "--output", tmp_path / "out")
    assert exported.returncode == 1 and "browsecomp_zh" in exported.stderr and not (tmp_path / "out").exists()
