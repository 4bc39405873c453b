"""The episode browser in headless Chromium. Runs only with DLLM_AGENTS_BROWSER=<chromium executable>, as `make test-browser` does;
screenshots are left in DLLM_AGENTS_SCREENSHOTS when it is set."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reporting"))

CHROMIUM = os.environ.get("DLLM_AGENTS_BROWSER")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="set DLLM_AGENTS_BROWSER to a Chromium executable")
TASK = "babyai/GoToObj/1"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from synthetic_run import configuration
    from test_browser import HOSTILE, write_episodes

    from dllm_agents.reporting import browser

    folder = tmp_path_factory.mktemp("browser")
    write_episodes(folder, tasks=300, text=HOSTILE)
    return browser.build(configuration(), folder, folder / "episodes.html")[0]


def chromium(page, *arguments, **fragment):
    url = page.as_uri() + ("#" + urlencode({name.rstrip("_"): value for name, value in fragment.items()}) if fragment else "")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,900"]
    command += ["--virtual-time-budget=20000", f"--user-data-dir={page.parent / 'profile'}", *arguments, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def rendered(page, **fragment):
    return re.sub(r'<script type="text/plain".*?</script>', "", chromium(page, "--dump-dom", **fragment), flags=re.DOTALL)


def test_it_opens_from_a_file_and_lists_what_is_in_view_only(page):
    dom = rendered(page)
    assert "600 of 600 episodes" in dom
    assert 10 < dom.count('class="row"') < 60
    assert dom.count("<article>") == 1


def test_a_deep_link_opens_its_episode_with_its_failures(page):
    dom = rendered(page, task=TASK, agent="tiny-block")
    assert f'class="mute">{TASK}<' in dom and "loop" in dom and "unmasking" in dom and "step 4" in dom


def test_the_unmasking_shows_tokens_and_how_sure_they_were(page):
    dom = rendered(page, task=TASK, agent="tiny-block")
    assert "confidence 0.950" in dom and ": go.</i>" in dom and "&lt;b&gt;</i>" in dom
    assert "unmasked at forward 3" in dom and "border-bottom" in dom


def test_a_link_of_a_table_opens_filtered_and_one_to_another_page_goes_there(page, tmp_path, monkeypatch):
    from synthetic_run import configuration
    from test_browser import write_episodes

    from dllm_agents.reporting import browser

    assert "300 of 600 episodes" in rendered(page, agent="tiny-block", benchmark="babyai")
    monkeypatch.setattr(browser, "CHUNK_EPISODES", 2)
    monkeypatch.setattr(browser, "PAGE_EPISODES", 6)
    write_episodes(tmp_path)
    first, _ = browser.build(configuration(), tmp_path, tmp_path / "episodes.html")
    dom = rendered(first, task=TASK, agent="tiny-block", benchmark="babyai")
    assert "6 of 6 episodes" in dom and '<h2 class="bad">tiny-block</h2>' in dom


def test_two_agents_stand_side_by_side_on_the_same_task(page):
    dom = rendered(page, task=TASK, agent="tiny-block", with_="tiny-ar")
    assert dom.count("<article>") == 2


def test_filters_come_from_the_link_too(page):
    assert "200 of 600 episodes" in rendered(page, outcome="success")
    assert "300 of 600 episodes" in rendered(page, agent="tiny-ar")


def test_text_of_models_is_shown_and_never_runs(page):
    dom = rendered(page, task=TASK, agent="tiny-ar")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom
    assert "<img" not in dom


def test_screenshots(page, tmp_path):
    folder = Path(os.environ.get("DLLM_AGENTS_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    for name, fragment in {"one": {}, "two": {"task": TASK, "agent": "tiny-block", "with_": "tiny-ar"}}.items():
        shot = folder / f"{name}.png"
        chromium(page, f"--screenshot={shot}", **fragment)
        assert shot.stat().st_size > 20_000
    shutil.rmtree(page.parent / "profile", ignore_errors=True)
