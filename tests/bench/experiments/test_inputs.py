"""Models that take other inputs than square pictures, by name in suites: tokens, and blank samples of any shape."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli.main import main

MODEL = "{name: 'user_models:encoder', options: {width: 8}}"
TOKENS = "{shape: [12], dtype: int64}"
SMALL = "batch_size: 8, train_samples: 32, test_samples: 8, threads: 1"


def suite(folder: Path, **experiments: str) -> str:
    """A suite of ``experiments``, each the rest of its YAML after its name."""
    text = "".join(f"  - {{name: {name}, {rest}}}\n" for name, rest in experiments.items())
    (folder / "mine.yaml").write_text(f"name: mine\nexperiments:\n{text}")
    return str(folder / "mine.yaml")


def chain(mode: str, more: str = "", dataset: str = "tokens", given: str = TOKENS) -> str:
    parameters = f"{{model: {MODEL}, input: {given}, nodes: 2, splits: [2], {SMALL}{more}}}"
    return f"run: pipeline.chain, mode: {mode}, dataset: {dataset}, parameters: {parameters}"


def records(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in (folder / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault((record["experiment"], record["metric"]), []).append(record)
    return found


def test_a_suite_trains_and_serves_tokens_live_in_process_and_in_virtual_time(tmp_path: Path) -> None:
    clients = f"{{model: {MODEL}, input: {TOKENS}, cut: 2, clients: 2, {SMALL}"
    route = f"{{model: {MODEL}, input: {TOKENS}, tasks: 2, granularity: op, before: [ue, mec], "
    route += "model_compute_s: {ue: 0.02, mec: 0.01}, links: {ue-mec: {rate_bps: 1.0e+8, delay_s: 0.001}}}"
    experiments = {
        "live": chain("live", ", unsplit: true"),
        "here": chain("in-process", ", unsplit: true"),
        "shapes": f"run: edge_sl.course, mode: virtual, dataset: none, parameters: {clients}, learn: false}}",
        "joint": f"run: edge_sl.course, mode: in-process, dataset: tokens, parameters: {clients}}}",
        "service": f"run: live_route.steady, mode: live, parameters: {route}",
    }
    path, out = suite(tmp_path, **experiments), tmp_path / "out"
    assert main(["run", path, "--out", str(out), "--shaping", "none", "--scale", "smoke"]) == 0
    found = records(out)
    for name in ("live", "here"):
        (difference,) = found[name, "largest_loss_difference_nats"]
        assert difference["value"] == 0
        assert difference["dataset"] == "tokens"
    assert {name for name, _ in found} == experiments.keys()


@pytest.mark.parametrize(
    ("dataset", "given", "words"),
    [
        ("npz:words", "{shape: [10], dtype: int64}", "npz:words holds sequences of tokens, which need {shape: [12],"),
        ("npz:words", "{shape: [3, 8, 8]}", "holds sequences of tokens, which need {shape: [12], dtype: int64}"),
        ("npz:words", "null", "npz:words holds sequences of tokens; give input: {shape: [12], dtype: int64}"),
        ("digits", TOKENS, "digits holds pictures, which need {shape: [3, SIDE, SIDE], dtype: float32}"),
        ("digits", "{shape: [1, 8, 8]}", "digits holds pictures, which need"),
        ("none", "{shape: [0], dtype: int64}", "input.shape[0]: Expected `int` >= 1"),
        ("none", "{shape: [3], dtype: int8}", "input.dtype: "),
    ],
)
def test_an_input_that_the_samples_do_not_fit_is_refused(
    dataset: str, given: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(40) % 10
    np.savez(
        tmp_path / "words.npz",
        x_train=np.ones((40, 12), int),
        y_train=labels,
        x_test=np.ones((40, 12), int),
        y_test=labels,
    )
    path = suite(tmp_path, one=chain("in-process", dataset=dataset, given=given))
    assert main(["validate", path, "--data", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{path}:3: experiments[0].parameters") and words in line for line in lines), lines


@pytest.mark.parametrize("token", [-1, 256])
def test_tokens_that_the_embedding_does_not_hold_are_refused(
    token: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(40) % 10
    tokens = np.full((40, 12), 7)
    tokens[39, 11] = token
    np.savez(tmp_path / "words.npz", x_train=tokens[:, ::-1], y_train=labels, x_test=tokens, y_test=labels)
    path = suite(tmp_path, one=chain("in-process", dataset="npz:words"))
    assert main(["validate", path, "--data", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}:3: experiments[0].parameters.model: npz:words has tokens from {min(token, 7)} to ")
    assert f" to {max(token, 7)}; the embedding 0 takes 0 to 255" in line


def test_tokens_of_a_file_are_trained_on(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    parts = {f"x_{part}": draw.integers(0, 256, (count, 12)) for part, count in (("train", 40), ("test", 10))}
    labels = {f"y_{part}": np.arange(count) % 3 for part, count in (("train", 40), ("test", 10))}
    np.savez(tmp_path / "words.npz", **parts, **labels)
    path, out = suite(tmp_path, here=chain("in-process", ", unsplit: true", "npz:words")), tmp_path / "out"
    assert main(["run", path, "--data", str(tmp_path), "--out", str(out)]) == 0
    found = records(out)
    assert found["here", "largest_loss_difference_nats"][0]["value"] == 0
    assert found["here", "test_accuracy"][0]["dataset"] == "words"


def test_blank_samples_may_have_any_shape(tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n\ndef net(classes):\n"
        "    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 7, classes))\n"
    )
    parameters = f"{{model: 'flat:net', input: {{shape: [2, 9]}}, nodes: 2, splits: [1], {SMALL}, unsplit: true}}"
    path = suite(tmp_path, one=f"run: pipeline.chain, mode: in-process, parameters: {parameters}")
    assert main(["run", path, "--out", str(tmp_path / "out")]) == 0
    assert records(tmp_path / "out")["one", "largest_loss_difference_nats"][0]["value"] == 0
