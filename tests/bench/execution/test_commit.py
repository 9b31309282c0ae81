"""The commit that a run notes: that of the checkout, without failing where there is none, or no git."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.execution import environment
from bench.execution.environment import ROOT, commit


def test_a_folder_without_a_checkout_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) is None


def test_without_git_no_commit_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="runs from no checkout")
def test_the_commit_of_this_checkout_is_a_digest() -> None:
    found = commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{12,40}(-dirty)?", found)


def test_a_run_notes_its_commit_and_those_that_it_resumes(
    folder: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in (("first", ()), ("second", ("--resume",))):
        monkeypatch.setattr(environment, "commit", lambda name=name: name)
        assert command("run", "toy.yaml", "--scale", "smoke", "--out", "out", *words) == 0
    found = json.loads((folder / "out/environment.json").read_text())
    assert (found["commit"], [one["commit"] for one in found["earlier"]]) == ("second", ["first"])
    assert "commit second" in (folder / "out/report.md").read_text()
