"""A case's identity: the content of the code and files that decide it, and nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.execution.loader import load
from bench.suite import identity
from nodes.user_modules import user_modules

Cases = Callable[[], dict[str, str]]
MODULE = """
import msgspec
from bench.suite.experiment import Measurement
from bench.suite.parameter_types import DatasetName, ModelName

class Parameters(msgspec.Struct):
    files: list[str] = []
    nested: dict[str, list[str]] = {}
    data: DatasetName | None = None
    model: str = ""

def measure(parameters: Parameters, context):
    import late
"""
SUITE = """
name: own
experiments:
  - {name: file, run: "mine:measure", parameters: {files: [numbers.txt], nested: {a: [folder/inner]}}}
  - {name: model, run: "mine:measure", parameters: {model: "nets:build"}}
  - {name: data, run: "mine:measure", parameters: {data: "npz:blank"}}
"""


@pytest.fixture
def cases(user_folder: Callable[..., Path]) -> Cases:
    """The identities of the suite's cases, read anew."""
    folder = user_folder("mine", MODULE, SUITE)
    (folder / "folder/inner").mkdir(parents=True)
    (folder / "folder/inner/a.txt").write_text("a")
    for name in ("numbers.txt", "late.py", "nets.py", "unused.py", "other.txt"):
        (folder / name).write_text("def build(): pass\n")
    pictures, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    parts = {"train_images": pictures, "train_labels": labels, "test_images": pictures, "test_labels": labels}
    np.savez(folder / "blank.npz", **parts)

    def read() -> dict[str, str]:
        experiments = load(["mine.yaml"], Path())[0].experiments
        return {case.experiment.spec.name: case.sha256 for one in experiments for case in one.cases("smoke", 0, Path())}

    return read


ALL = {"file", "model", "data"}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("mine.py", ALL),
        ("late.py", ALL),  # imported by a function
        ("nets.py", {"model"}),
        ("numbers.txt", {"file"}),
        ("folder/inner/a.txt", {"file"}),
        ("folder/inner/b.txt", {"file"}),
        ("blank.npz", {"data"}),
        ("unused.py", set()),
        ("other.txt", set()),
        ("folder/c.txt", set()),
    ],
)
def test_a_file_decides_the_cases_that_name_it(cases: Cases, file: str, changed: set[str]) -> None:
    before = cases()
    path = Path(file)
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b"\n# more\n")
    assert {name for name, sha256 in cases().items() if sha256 != before[name]} == changed


def test_a_file_rewritten_as_it_was_and_a_folder_copied_elsewhere_change_nothing(
    cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cases()
    Path("numbers.txt").write_text(Path("numbers.txt").read_text())
    copied = shutil.copytree(tmp_path, tmp_path / "elsewhere")
    monkeypatch.chdir(copied)
    assert cases() == before


def test_the_results_version_is_part_of_every_identity(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cases()
    monkeypatch.setattr(identity, "RESULTS_VERSION", identity.RESULTS_VERSION + 1)
    assert not set(before.values()) & set(cases().values())


def test_a_text_that_is_no_name_of_a_file_harms_nothing(user_folder: Callable[..., Path]) -> None:
    user_folder("mine", MODULE)
    texts = ["x" * 5000, "a\0b", "", ".", "/", "..", "./", "no:such"]
    assert identity.sources(texts, user_modules([]), None, identity.content) == ()
