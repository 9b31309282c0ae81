"""The import rule, by the source alone; and what a run in one process has loaded when it ends."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

MAY_IMPORT = {
    "netem": {"netem"},
    "reports": {"reports"},
    "nodes": {"nodes", "netem"},
    "bench": {"bench", "nodes", "netem", "reports"},
}
# A wing imports itself and what stands before it.
WINGS = {
    "nodes": (
        *("errors", "files", "user_modules", "user_code", "imports", "seeds"),
        *("spec", "model", "zoo", "data", "splitting", "stages", "costs", "wire"),
        *("runtime", "training", "inference", "federated", "agents", "process"),
    ),
    "bench": (
        "child_process",
        "events",
        "gate",
        "suite",
        "planning",
        "live",
        "experiments",
        "console",
        "watch",
        "execution",
        "describe",
        "fitting",
        "results",
        "cli",
    ),
}
FILES = 12  # in one folder, at most


def sources() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package in MAY_IMPORT:
        spec = find_spec(package)
        assert spec is not None
        for folder in spec.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(Path(folder).parent).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(source: str, modules: set[str]) -> set[str]:
    """All that ``source`` imports, wherever in it: a module of ``modules`` where it is one, else as written."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in modules else node.module or "" for name in whole}
    return names


SOURCES = sources()
IMPORTS = {name: imported(path.read_text(), set(SOURCES)) for name, path in SOURCES.items()}
OURS = {name: {one for one in names if one.partition(".")[0] in MAY_IMPORT} for name, names in IMPORTS.items()}


def wing(module: str) -> tuple[str, str]:
    """(package, wing) of a module."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def test_imports_are_found_in_functions_too():
    source = "import a.b\ndef f():\n    from c.d import e\n    from c import d\n"
    assert imported(source, {"c", "c.d"}) == {"a.b", "c.d"}


def test_all_of_the_project_is_looked_at():
    assert {wing(module)[1] for module in SOURCES if module.startswith("nodes.")} == set(WINGS["nodes"])
    assert {wing(module)[1] for module in SOURCES if module.startswith("bench.")} == set(WINGS["bench"])
    assert all(names <= SOURCES.keys() for names in OURS.values())


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_they_may(package):
    for module, names in OURS.items():
        if module.partition(".")[0] == package:
            assert {name.partition(".")[0] for name in names} <= MAY_IMPORT[package], module


@pytest.mark.parametrize("package", WINGS)
def test_wings_import_only_what_stands_before_them(package):
    order = WINGS[package]
    for module, names in OURS.items():
        here, own = wing(module)
        if here == package and own:
            later = {
                name for name in names if wing(name)[0] == package and order.index(wing(name)[1]) > order.index(own)
            }
            assert not later, module


def test_no_module_imports_itself_by_way_of_others():
    assert len(tuple(TopologicalSorter(OURS).static_order())) == len(SOURCES)


def loaded_by(program: str, *packages: str) -> str:
    """Which of ``packages`` are loaded after ``program``, as a list in text."""
    path = [str(Path(__file__).parent / "nodes" / "support"), *sys.path]
    words = f"import sys; sys.path[:0] = {path!r}\n{program}\nprint(sorted({{*{packages!r}}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip()


def test_a_specification_loads_no_torch():
    modules = [module for module in SOURCES if wing(module) == ("nodes", "spec")]
    assert loaded_by(f"import sys, {', '.join(modules)}\n", "torch") == "[]"


def test_no_folder_is_crowded():
    crowded = {
        folder: count for folder, count in Counter(path.parent for path in SOURCES.values()).items() if count > FILES
    }
    assert not crowded


def test_a_run_in_one_process_loads_no_transport():
    program = """
from nodes.training.in_process import run_in_process
from nodes.spec.job import DataSpec, Job, StageSpec
job = Job(model="user_models:Plain", input_shape=(3, 16, 16), classes=10, nodes=("a", "b"), splits=(3,),
          stages=(StageSpec(),), data=DataSpec(train_samples=8, test_samples=8), batch_size=8, threads=1)
assert len(run_in_process(job).losses) == 1
"""
    assert loaded_by(program, "aiohttp", "uvloop", "pyroute2") == "[]"
