"""A short run of the fuzz targets; ``tests/fuzz/fuzz.py`` runs them for longer."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from fuzz import FindingError, Target, drawn, fuzz
from targets import targets

INPUTS = {"suites": 15, "roles": 80, "checkpoints": 40, "npz": 40, "requests": 60}  # slow ones; of each other target:
MOST_INPUTS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


NAMES = [
    "frames",
    "frames-with-checksum",
    "headers",
    "roles",
    "views",
    "reports",
    "host-control",
    "requests",
    "credentials",
    "suites",
    "plans",
    "hosts",
    "traces",
    "npz",
    "archives",
    "checkpoints",
    "records",
    "environments",
]


@pytest.mark.parametrize("name", NAMES)
def test_mutated_inputs_raise_our_errors_alone(name: str, folder: Path) -> None:
    (target,) = [one for one in targets(folder) if one.name == name]
    outcome = fuzz(target, drawn(target, seed=0, count=INPUTS.get(name, MOST_INPUTS), seconds=None))
    assert outcome.inputs > INPUTS.get(name, MOST_INPUTS)
    assert outcome.refused or not target.errors


def test_every_target_is_run(folder: Path) -> None:
    assert [one.name for one in targets(folder)] == NAMES


@settings(max_examples=50)
@given(st.sampled_from([name for name in NAMES if name not in INPUTS]), st.binary(max_size=200))
def test_any_bytes_raise_our_errors_alone(folder: Path, name: str, data: bytes) -> None:
    (target,) = [one for one in targets(folder) if one.name == name]
    assert fuzz(target, iter([data])).inputs == 1


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda data: {}[data], "KeyError"),
        (lambda data: len(bytearray(3 << 20)), "allocated"),
        (lambda data: (_ for _ in ()).throw(ValueError), "without a word"),
    ],
)
def test_what_does_more_than_it_may_is_found(read, why: str) -> None:
    with pytest.raises(FindingError, match=why):
        fuzz(Target("one", [b"x"], read, (ValueError,), most_bytes=1 << 20), iter([b"x"]))
