"""Folders of runs with records made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reports.record import Record


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., Path]:
    """A folder of a run with these records, and this ``environment.json``."""

    def write(name: str, records: list[Record], environment: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(records))
        (folder / "environment.json").write_bytes(msgspec.json.encode(environment or {}))
        return folder

    return write
