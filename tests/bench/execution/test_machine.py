"""The machine under a run: a full disk, a read-only one, a folder that vanishes, and few descriptors.

A run that can record nothing more stops with one line. What it had recorded is whole, and ``--resume`` ends equal.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from promises import see

from bench.cli.main import main
from reports.record import read_records

MODULE = """
import os, resource, shutil, subprocess
from pathlib import Path
import msgspec
from bench.suite.experiment import Measurement

class Parameters(msgspec.Struct):
    n: int = 0

def measure(parameters: Parameters, context):
    if parameters.n == 2 and Path("does").exists():
        exec(Path("does").read_text())
    for part in range(9):
        yield Measurement("value", 5.0 * parameters.n + part, "1", {"part": part})
"""
SUITE = """
name: mine
experiments:
  - {name: one, run: "mine:measure", mode: in-process, grid: {n: [1, 2, 3]}}
  - {name: other, run: "mine:measure", mode: in-process, parameters: {n: 7}}
"""
RUN = ("run", "mine.yaml", "--scale", "smoke", "--jobs", "1", "--out")
STOPS = "; the run stops here, with 1 of 4 cases recorded; continue it by --resume once its folder can be written\n"
Values = list[tuple[str, str, float]]


@pytest.fixture(autouse=True)
def mine(user_folder: Callable[..., Path]) -> Path:
    return user_folder("mine", MODULE, SUITE)


@pytest.fixture(autouse=True)
def _files_of_any_size() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def values(folder: str) -> Values:
    records = read_records(Path(folder, "records.jsonl"))
    return sorted((one.experiment, str(one.case), one.value) for one in records)


def disturbed(does: str, mend: Callable[[], object]) -> str:
    """What a run into ``out`` says whose second case ``does`` this; after ``mend`` it goes on and ends equal."""
    Path("does").write_text(does)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([*RUN, "out"]) == 3
    Path("does").unlink()
    mend()
    if Path("out/records.jsonl").exists():
        assert len(values("out")) == 9
    with contextlib.redirect_stderr(io.StringIO()) as nothing:
        assert main([*RUN, "out", "--resume"]) == 0
    assert nothing.getvalue() == ""
    assert main([*RUN, "whole"]) == 0
    assert values("out") == values("whole")
    return said.getvalue()


REPLACE = "os.rename('out', 'gone'); shutil.copytree('gone', 'out')"
SMALL = "most = os.stat('out/records.jsonl').st_size + 99; resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1))"


@pytest.mark.parametrize(
    ("does", "mend", "said"),
    [
        ("os.rename('out', 'gone')", lambda: os.rename("gone", "out"), "No such file or directory"),
        ("shutil.rmtree('out')", lambda: None, "No such file or directory"),
        (REPLACE, lambda: None, "another file has taken its place"),
    ],
    ids=["moved", "deleted", "replaced"],
)
@pytest.mark.promise(
    "Machine",
    "the folder of a run is moved, deleted or replaced in mid-run",
    "one line with the file, exit code 3; no folder is made anew; `--resume` ends equal",
)
def test_a_folder_that_vanishes_stops_the_run(does: str, mend: Callable[[], object], said: str) -> None:
    line = disturbed(does, mend)
    see(line)
    assert line == f"out/records.jsonl: {said}{STOPS}"


@pytest.mark.promise(
    "Machine",
    "a file of the run may not grow (RLIMIT_FSIZE): the write of a case's records is cut short",
    "one line with the file, exit code 3; the records before are whole; `--resume` ends equal",
)
def test_records_that_are_cut_short_are_taken_back() -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    line = disturbed(SMALL, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    see(line)
    assert line == f"out/records.jsonl: File too large{STOPS}"


FULL = """
with suppress(OSError), open("out/filler", "wb", buffering=0) as file:
    while file.write(bytes(512)):
        pass
"""
READ_ONLY = """
for words in (["--bind", "out", "out"], ["-o", "remount,ro,bind", "out"]):
    subprocess.run(["mount", *words], check=True)
"""
DRIVER = f"""
import json, os, subprocess, sys
sys.path[:0] = sys.argv[1:]
import test_machine
os.mkdir("out")
subprocess.run("mount -t tmpfs -o size=256k tmpfs out", shell=True, check=True)
full = test_machine.disturbed("from contextlib import suppress\\n" + {FULL!r}, lambda: os.remove("out/filler"))
for name in os.listdir("out"):
    subprocess.run(["rm", "-r", "out/" + name], check=True)
subprocess.run(["rm", "-r", "whole"], check=True)
read_only = test_machine.disturbed({READ_ONLY!r}, lambda: subprocess.run("umount out", shell=True, check=True))
print(json.dumps([full, read_only]))
"""


@pytest.mark.promise(
    "Machine",
    "the disk is full, or becomes read-only, in mid-run (a small file system of its own)",
    "one line with the file, exit code 3; the records before are whole; `--resume` ends equal",
)
def test_a_disk_that_is_full_or_read_only_stops_the_run() -> None:
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs mount namespaces of unprivileged users")
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    words = [*apart, sys.executable, "-c", DRIVER, *paths]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    full, read_only = json.loads(ended.stdout.splitlines()[-1])
    see(full)
    see(read_only)
    assert full == f"out/records.jsonl: No space left on device{STOPS}"
    assert read_only == f"out/records.jsonl: Read-only file system{STOPS}"
