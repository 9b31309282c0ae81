"""The page in headless Chromium, by Playwright; skipped where either is missing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import events
from bench.watch.process import watching

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

LINK = {"rate_bps": 20e6, "delay_s": 0.005}
CHAIN = [
    {"upper": upper, "lower": lower, "up": LINK, "down": LINK, "trace": False}
    for upper, lower in (("ue", "mec"), ("mec", "cloud"))
]
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of a run of two cases, one of which serves tasks on three nodes; no error on its console."""
    errors: list[str] = []
    with watching(tmp_path, 0) as address:
        page = browser.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        events.emit("run", name="toy-1", cases=2, scale="smoke", seed=0, device="cpu", shaping="emulated")
        events.emit("started", case="a", title=f"toy/a {MARKUP}", experiment="toy/a", left_s=None)
        with events.of_case("a"):
            events.emit("chain", links=CHAIN)
            events.emit("route", nodes=["ue", "mec", "cloud"])
            split(1, 3)
        yield page
        page.close()
    assert not errors


def split(ue: int, mec: int) -> None:
    """Emit a task for which the UE stops after layer ``ue`` and the MEC server after ``mec``, of 8."""
    done = {"ue": ue, "mec": mec, "cloud": 8}
    events.emit("layers", done=done, total=8, task=0, latency_s=0.1, restarts=0)


def test_a_re_split_shows_within_a_second(page: Any) -> None:
    shown = []
    for ue in range(2, 6):
        split(ue, 6)
        page.get_by_text(f"ue layers 1–{ue},").wait_for()
        shown.append(float(page.locator("#splits li").first.get_attribute("data-shown-s")))
    assert 0 <= min(shown) < 1, "the quickest, as other programs may be busy"
    assert page.locator(".node").all_inner_texts() == [
        "ue\nlayers 1–5 of 8",
        "mec\nlayer 6 of 8",
        "cloud\nlayers 7–8 of 8",
    ]


def test_text_of_a_run_is_no_markup(page: Any) -> None:
    events.emit("log", level="info", text=MARKUP)
    page.locator("#log", has_text=MARKUP).wait_for()
    assert MARKUP in page.locator("#cases").inner_text()
    assert page.locator("img").count() == 0


def test_an_earlier_time_is_shown_again(page: Any) -> None:
    split(4, 6)
    page.get_by_text("ue layers 1–4,").wait_for()
    page.locator("#time").fill(page.locator("#time").get_attribute("min"))
    page.get_by_text("ue layers 1–4,").wait_for(state="detached")
    assert page.locator("#state").inner_text() == "running"
    page.locator("#live").click()
    page.get_by_text("ue layers 1–4,").wait_for()


def test_curves_of_several_cases_are_told_apart(page: Any) -> None:
    events.emit("started", case="b", title="toy/b", experiment="toy/b", left_s=None)
    for case in ("a", "b"):
        events.emit("learned", curve="split, 2 nodes", at_epoch=1, loss=1.0, case=case)
    page.locator("#curves", has_text="toy/b").wait_for()
    names = page.locator(".curve-name").all_inner_texts()
    assert [name.split()[0] for name in names] == ["toy/a", "toy/b"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_tells_of_the_end(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    events.emit("learned", curve="mine", at_epoch=1, loss=None, test_accuracy=0.5, case="a")
    events.emit("traffic", link=0, up_bytes=1, down_bytes=2, up_bps=20e6, down_bps=20e6)
    events.emit("ended", case="a", seconds=2.0)
    events.emit("end", exit_code=3)
    page.get_by_text("ended with exit code 3").wait_for()
    assert page.locator("#count").inner_text() == "1 of 2 cases done · 1 left"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
