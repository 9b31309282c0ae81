"""The table of docs/models.md against a new examination of its networks."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
import sweep

PAGE = Path(__file__).parents[3] / "docs/models.md"
COLUMNS = ("model", "library", "side", "layers", "result", "reason")
ROWS = [
    dict(zip(COLUMNS, (cell.strip() for cell in line.split("|")[1:-1]), strict=True))
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and ("| torchvision |" in line or "| timm |" in line) and "| not examined |" not in line
]


@pytest.mark.nightly
@pytest.mark.parametrize("row", ROWS, ids=[row["model"] for row in ROWS])
def test_a_network_is_as_the_table_says(row):
    if not importlib.util.find_spec(row["library"]):
        pytest.skip(f"needs {row['library']}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        make = sweep.timm_spec if row["library"] == "timm" else sweep.torchvision_spec
        found = sweep.examine(make(row["model"]))
    finally:
        torch.set_num_threads(before)
    assert {key: str(found[key]) for key in COLUMNS[1:5]} == {key: row[key] for key in COLUMNS[1:5]}
