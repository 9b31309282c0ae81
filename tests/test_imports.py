"""Who may import whom, by the source alone; and what a run in one process has loaded when it ends."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

OURS = {"bench", "nodes", "netem", "reports", "suites"}
MAY_IMPORT = {
    "netem": {"netem"},
    "reports": {"reports"},
    "nodes": {"nodes", "netem"},
    "bench": OURS,
    "suites": {"suites"},
}


def sources(package: str) -> list[Path]:
    found = find_spec(package)
    assert found is not None
    return [path for folder in found.submodule_search_locations or () for path in sorted(Path(folder).rglob("*.py"))]


def imported(source: str) -> set[str]:
    """Top-level names of all modules that ``source`` imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_imports_are_found_in_functions_too():
    assert imported("import a.b\ndef f():\n    from c.d import e\n") == {"a", "c"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_they_may(package):
    paths = sources(package)
    for path in paths:
        assert imported(path.read_text()) & OURS <= MAY_IMPORT[package], path
    assert package == "suites" or len(paths) > 3


def test_algorithms_need_torch_and_the_standard_library():
    paths = [path for path in sources("nodes") if path.parent.name == "algorithms"]
    assert len(paths) > 1
    for path in paths:
        assert imported(path.read_text()) <= sys.stdlib_module_names | {"torch", "nodes"}, path


def test_a_run_in_one_process_loads_no_transport():
    program = """
import sys
from nodes.chain import run_in_process
from nodes.job import DataSpec, Job, StageSpec
job = Job(model="user_models:Plain", input_shape=(3, 16, 16), classes=10, nodes=("a", "b"), splits=(3,),
          stages=(StageSpec(),), data=DataSpec(train_samples=8, test_samples=8), batch_size=8, threads=1)
assert len(run_in_process(job).losses) == 1
print(sorted({"aiohttp", "uvloop", "pyroute2"} & sys.modules.keys()))
"""
    support = Path(__file__).parent / "nodes" / "support"
    path = [str(support), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
