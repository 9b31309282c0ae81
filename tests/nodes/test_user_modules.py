"""Modules of users' folders: each folder's own, as its files are now."""

import sys
from pathlib import Path

import pytest

from nodes.imports import load_callable
from nodes.user_modules import cached_by_modules, user_modules

MINE = """
import helper

def who():
    import late
    from pack.inner import WHO
    return helper.WHO + late.WHO + WHO
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders with modules of the same names, and the current one, with another such module, on the path."""
    for name in "abc":
        (tmp_path / name / "pack").mkdir(parents=True)
        (tmp_path / name / "mine.py").write_text(MINE)
        (tmp_path / name / "pack/inner.py").write_text("from .. import none\n" if name == "c" else "WHO = __name__\n")
        (tmp_path / name / "pack/__init__.py").write_text("")
        for module in ("helper", "late"):
            (tmp_path / name / f"{module}.py").write_text(f"WHO = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "c")
    for name in ("helper", "late", "mine", "pack", "pack.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "a", tmp_path / "b"


def who() -> str:
    return str(load_callable("mine:who")())


def test_each_folder_has_its_own_modules_and_the_path_its_own(folders: tuple[Path, Path]) -> None:
    import helper  # noqa: PLC0415

    a, b = map(user_modules, ([folders[0]], [folders[1]]))
    for modules, name in [(a, "a"), (b, "b"), (a, "a")]:
        with modules.in_use():
            first = load_callable("mine:who")
            assert who() == f"{name}{name}pack.inner"
            assert sys.modules["mine"].__name__ == "mine"
            with (b if modules is a else a).in_use():
                assert load_callable("mine:who") is not first
            assert load_callable("mine:who") is first
    assert sys.modules["helper"] is helper
    assert helper.WHO == "c"
    assert "mine" not in sys.modules
    assert not {str(folder) for folder in folders} & set(sys.path)


def test_a_folder_has_not_what_another_folder_has(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[0] / "alone.py").write_text("def it(): pass\n")
    (tmp_path / "d").mkdir()
    with user_modules([folders[0]]).in_use():
        load_callable("alone:it")
        with user_modules([tmp_path / "d"]).in_use(), pytest.raises(ValueError, match="alone cannot be imported"):
            load_callable("alone:it")


def test_what_a_file_holds_now_is_what_runs_however_soon_it_was_changed(folders: tuple[Path, Path]) -> None:
    modules = user_modules([folders[0]])
    calls: list[str] = []
    kept = cached_by_modules()(calls.append)
    for text in ("x", "y"):
        (folders[0] / "late.py").write_text(f"WHO = {text!r}\n")  # of the same length, in the same second
        modules.forget_changed()
        with modules.in_use():
            assert who() == f"a{text}pack.inner"
            kept("mine:who")
            kept("mine:who")
    assert calls == ["mine:who"] * 2  # once for each text


def test_no_user_s_module_hides_an_installed_one(folders: tuple[Path, Path]) -> None:
    for name in ("msgspec", "random", "nodes"):
        (folders[0] / f"{name}.py").write_text("raise ImportError\n")
    modules = user_modules([folders[0]])
    with modules.in_use():
        for name in ("msgspec", "random", "nodes.imports"):
            sys.modules.pop("random", None)
            load_callable({"msgspec": "msgspec:convert", "random": "random:Random"}.get(name, f"{name}:load_callable"))
            assert modules.files(name) == []


def test_the_files_of_a_module_are_all_that_it_imports_in_its_folder(folders: tuple[Path, Path]) -> None:
    folder = folders[1]
    (folder / "pack/inner.py").write_text("from . import sibling\nfrom .deep import thing\nimport torch\n")
    (folder / "pack/sibling.py").write_text("import mine\n")
    (folder / "pack/deep.py").write_text("import nothing_there\n")
    (folder / "unused.py").write_text("")
    found = {path.relative_to(folder).as_posix() for path in user_modules([folder]).files("mine")}
    inner = {"pack/__init__.py", "pack/inner.py", "pack/sibling.py", "pack/deep.py"}
    assert found == {"mine.py", "helper.py", "late.py"} | inner
