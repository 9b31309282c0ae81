"""Files that are written as a whole or not at all."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nodes.files import append, replacing


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


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may be larger than 1 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_write_that_is_cut_short_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"before")
    for write in (lambda file: file.write(bytes(2000)), lambda file: torch.save(torch.zeros(2000), file)):
        with pytest.raises(OSError, match=r"state\.pt") as raised, replacing(path) as file:
            write(file)
        assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
        assert path.read_bytes() == b"before"
    with pytest.raises(OSError, match=r"state\.pt"):
        append(path, bytes(2000))
    assert [found.name for found in tmp_path.iterdir()] == ["state.pt"]


def test_what_is_no_error_of_writing_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of the model"), replacing(tmp_path / "state.pt"):
        raise RuntimeError("of the model")
    with pytest.raises(FileNotFoundError, match="another"), replacing(tmp_path / "state.pt"):
        (tmp_path / "another").read_bytes()
