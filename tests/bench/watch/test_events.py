"""Events of a run: who gets them, and what is kept of them in its folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import events


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / events.FILE).read_text().splitlines()]


def test_events_go_to_the_one_who_asks_and_else_nowhere() -> None:
    got: list[events.Event] = []
    events.emit("lost", n=1)
    with events.to(got.append):
        assert events.watched()
        events.emit("kept", n=2)
        with events.of_case("one"):
            events.emit("kept", n=3)
        events.forward({"kind": "other"})
    events.emit("lost", n=4)
    assert not events.watched()
    assert [(event["kind"], event.get("n"), event.get("case")) for event in got] == [
        *(("kept", 2, None), ("kept", 3, "one"), ("other", None, None)),
    ]


def test_the_file_is_appended_to_and_holds_json_alone(tmp_path: Path) -> None:
    events.EventFile(tmp_path)({"kind": "a", "at": 1.0, "loss": float("nan"), "of": {"x": (float("inf"), 2.0)}})
    events.EventFile(tmp_path)({"kind": "b", "at": 2.0})
    assert lines(tmp_path) == [
        {"kind": "a", "at": 1.0, "loss": None, "of": {"x": [None, 2.0]}},
        {"kind": "b", "at": 2.0},
    ]


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_BYTES", 100)
    for _ in range(2):  # also of a run that is resumed
        keep = events.EventFile(tmp_path)
        for n in range(50):
            keep({"kind": "a", "at": float(n)})
    kept = lines(tmp_path)
    assert [event["kind"] for event in kept] == ["a"] * 4 + ["full", "full"]  # of 25 bytes each
    assert (tmp_path / events.FILE).stat().st_size < 200


def test_a_disk_that_fails_ends_no_run(tmp_path: Path) -> None:
    keep = events.EventFile(tmp_path / "missing")
    keep({"kind": "a", "at": 1.0})
    (tmp_path / "missing").mkdir()
    keep({"kind": "a", "at": 2.0})
    assert not (tmp_path / "missing" / events.FILE).exists()  # given up at the first error
