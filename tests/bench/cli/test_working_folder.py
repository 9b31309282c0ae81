"""Modules of the working folder that no suite names: Python and installed packages do not run them by accident."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BY_ACCIDENT = ("sitecustomize", "usercustomize", "numexpr", "bottleneck")  # pandas looks for the last two
SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from bench.suite.parameter_types import make_importable
make_importable(Path())
import pandas
import importlib.util
from bench.child_process import Child, EndedError
import mine
print(mine.VALUE)
child = Child("mine")
try:
    while True:
        child.events()
except EndedError:
    pass
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


def test_helpers_that_packages_look_for_are_not_taken_from_the_working_folder(tmp_path: Path) -> None:
    for name in BY_ACCIDENT:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    ran = f"open({str(tmp_path / 'child')!r}, 'w').write(repr([pandas.__name__, OWN]))"
    (tmp_path / "own.py").write_text("OWN = 1\n")
    (tmp_path / "mine.py").write_text(
        f"import pandas\nfrom own import OWN\nVALUE = 7\nif __name__ == '__main__':\n    {ran}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", SCRIPT, str(ROOT), *BY_ACCIDENT[2:]]
    told = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["7"]
    assert (tmp_path / "child").read_text() == "['pandas', 1]"
    assert not (tmp_path / "ran").exists()
