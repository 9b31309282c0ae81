"""Files that are written as a whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.files import replacing


def test_a_file_is_replaced_once_it_is_whole_and_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"before")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_size, path.read_bytes())))
    with replacing(path) as file:
        file.write(b"after it")
        assert path.read_bytes() == b"before"
    assert synced == [(len(b"after it"), b"before")]
    assert path.read_bytes() == b"after it"
    assert [found.name for found in tmp_path.iterdir()] == ["state.pt"]


def interrupted() -> Iterator[bytes]:
    yield b"half of it"
    raise KeyboardInterrupt


def test_an_error_keeps_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.writelines(interrupted())
    assert path.read_bytes() == b"before"
    assert [found.name for found in tmp_path.iterdir()] == ["state.pt"]
