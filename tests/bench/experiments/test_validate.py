"""What a run would refuse is refused before it: all of it at once, with file, line and key."""

import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from trials import TRIALS

from bench.cli.main import main
from bench.execution.loader import resolve_run
from bench.experiments import modes_of
from bench.experiments.common import learning
from bench.suite.experiment import Checked, Setting
from bench.suite.parameter_types import decoder
from nodes.model.factory import build_model
from nodes.model.pretrained import published_file
from nodes.spec.job import InputSpec

HEADS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, width)

    def forward(self, x):
        return self.head(self.body(x))

def by_classes(classes=1000): return Net(classes)
def by_num_classes(num_classes=1000): return Net(num_classes)
def by_n_classes(n_classes=1000): return Net(n_classes)
def by_num_labels(num_labels=1000): return Net(num_labels)
def by_any(**settings): return Net(settings.get("num_classes", 1000))
def seven(**settings): return Net(7)
def ten(): return Net(10)

class Sequence(Net):
    def forward(self, x):
        return super().forward(x)[:, None, :]

def sequence(): return Sequence(10)

class Doubles(nn.Module):
    def forward(self, x):
        return 2 * x if x.mean() > 0 else x  # no graph shows both

def flat(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 10))

def doubling(): return nn.Sequential(Doubles(), Net(10))

def frozen(): return Net(10).requires_grad_(False)

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = __import__("numpy").random.default_rng(0)

    def forward(self, x):
        calls.append(len(x))
        return x * float(self.generator.uniform())  # draws that leave no trace

calls = []

def odd(): return nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(3, 3, 1), Odd()), Net(10))

class Counting(nn.Module):
    def forward(self, x):
        if str(x.shape[0]).isdigit():  # while it is traced the size has no one value
            calls.append(self.training)
        return 2 * x

def counting(): return nn.Sequential(nn.Conv2d(3, 3, 1), Counting(), Net(10))

def normed():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 10))
    return nn.Sequential(nn.Identity(), *head)
"""
TAKES = ("by_classes", "by_num_classes", "by_n_classes", "by_num_labels", "by_any")


@pytest.fixture(autouse=True)
def _heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads.py").write_text(HEADS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("BENCH_DATA", raising=False)


def problems_of(run: str, mode: str = "in-process", dataset: str = "digits", **given: Any) -> dict[tuple, str]:
    parameters = msgspec.convert(given, resolve_run(run)[1], dec_hook=decoder(None))
    found = parameters.problems(Setting(mode, dataset)) if isinstance(parameters, Checked) else ()
    return {one.key: one.message for one in found if not one.unused}


CHAIN = {"nodes": 2, "splits": [1], "side": 8, "batch_size": 8}


def test_a_module_that_stays_one_layer_is_told() -> None:
    ((key, words),) = problems_of("pipeline.chain", model="heads:doubling", **CHAIN).items()
    assert key == ("model",)
    assert words.startswith("one layer, as it cannot be traced: 0: ")
    assert words.endswith("heads.py:29)")


@pytest.mark.parametrize("name", TAKES)
def test_a_network_is_told_the_number_of_classes_in_its_own_word(name: str) -> None:
    model = build_model(f"heads:{name}", 13, (3, 8, 8))
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 13)
    assert not problems_of("pipeline.chain", model=f"heads:{name}", **CHAIN)


@pytest.mark.parametrize(("name", "shape"), [("seven", "(N, 7)"), ("sequence", "(N, 1, 10)")])
@pytest.mark.parametrize("run", ["pipeline.chain", "edge_sl.course", "dynsplit.single", "edge_placement.migration"])
def test_a_result_that_is_no_number_a_class_is_refused(run: str, name: str, shape: str) -> None:
    given = CHAIN if run == "pipeline.chain" else {"cut": 1} if run == "edge_sl.course" else {}
    found = problems_of(run, model=f"heads:{name}", **given)
    assert f"its result has shape {shape}; expected (N, 10), one number for each class of digits" in found["model",]


@pytest.mark.parametrize("run", ["pipeline.chain", "edge_sl.course"])
def test_a_network_that_trains_nothing_is_refused(run: str) -> None:
    given = CHAIN if run == "pipeline.chain" else {"cut": 1}
    told = problems_of(run, model="heads:frozen", **given)
    assert told == {("model",): "none of its parameters is trained; set requires_grad of some"}
    if run == "pipeline.chain":
        assert problems_of(run, model="heads:frozen", epochs=0, **given) == {}


def test_a_network_of_one_width_is_right_for_as_many_classes() -> None:
    assert not problems_of("pipeline.chain", model="heads:ten", **CHAIN)
    virtual = {
        "devices": {name: {"timing": {"forward_s": 0.1}} for name in ("ue", "cloud")},
        "epochs": 0,
        "test_samples": 1,
    }
    assert not problems_of("pipeline.chain", "virtual", "none", model="heads:seven", **CHAIN | virtual)


SMALL = {"model": "small_cnn", "side": 8}
ROOMY = SMALL | {"batch_size": 16, "train_samples": 1437}  # all of the digits


@pytest.mark.parametrize(
    ("run", "given", "key", "words"),
    [
        ("pipeline.chain", {"batch_size": 64, "train_samples": 10}, "train_samples", "got 10; give at least 64"),
        ("pipeline.chain", {"batch_size": 2000}, "train_samples", "digits has 1437; needed are at least 2000"),
        ("dynsplit.single", {"cut": "3", "batch_size": 16, "train_samples": 15}, "train_samples", "at least 16"),
        (
            *(
                "edge_privacy.privacy",
                {
                    "cut": "3",
                    "cuts": ["3"],
                    "batch_size": 16,
                    "auxiliary_samples": 1430,
                    "attacked_samples": 10,
                    "train_samples": 1440,
                    "side": 16,
                },
            ),
            *("train_samples", "got 1440; give at least 1446, a batch of 16 and 1430 held out"),
        ),
        (
            "edge_sl.course",
            {"batch_size": 8, "train_samples": 39},
            "train_samples",
            "a batch of 8 for each of 5 clients",
        ),
        (
            *("edge_sl.course", {"batch_size": 8, "train_samples": 44, "partition": {"kind": "shards", "shards": 3}}),
            *("train_samples", "got 44; give at least 45"),
        ),
        (
            "edge_sl.course",
            {"clients": 400, "batch_size": 1},
            "test_samples",
            "digits has 360; needed are at least 400",
        ),
        ("edge_placement.migration", {"batches": 90, "batch_size": 16}, "batches", "needed are 1440"),
        (
            "pipeline.chain",
            {"batch_size": 4, "microbatches": 4, "model": "heads:normed"},
            "microbatches",
            "one picture",
        ),
        ("edge_sl.course", {"batch_size": 1, "model": "heads:normed", "cut": 1}, "batch_size", "one picture at a time"),
    ],
)
def test_too_few_pictures_are_refused(run: str, given: dict[str, Any], key: str, words: str) -> None:
    places = {"nodes": 2, "splits": [1]} if run == "pipeline.chain" else {}
    found = problems_of(run, **SMALL | places | given)
    assert list(found) == [(key,)]
    assert words in found[key,]


@pytest.mark.parametrize("kind", ["iid", "shards", "dirichlet"])
def test_as_many_pictures_as_all_clients_need_are_enough_for_a_run(kind: str, context: Any) -> None:
    """At the least number every client fills a batch, whatever the seed; 17 pictures leave one beside two batches."""
    from nodes.data.partitioning import partition  # noqa: PLC0415
    from nodes.spec.federation import Partition  # noqa: PLC0415

    given = {"batch_size": 8, "clients": 3, "partition": {"kind": kind}, "cut": 5}
    assert not problems_of("edge_sl.course", **SMALL | given | {"train_samples": 24})
    assert ("train_samples",) in problems_of("edge_sl.course", **SMALL | given | {"train_samples": 23})
    labels = torch.arange(24).numpy() % 10
    for seed in range(20):
        parts = partition(labels, msgspec.convert({"kind": kind}, Partition), 3, seed, 8)
        assert min(map(len, parts)) >= 8


FAULTS = {  # twelve files, each with its faults and where they are
    "one.yaml": ("pipeline.chain", ["{model: heads:seven, nodes: 2, splits: [1]}"], ["parameters.model: its result"]),
    "two.yaml": (
        "pipeline.chain",
        ["{model: small_cnn, nodes: 2, splits: [4], batch_size: 64, train_samples: 10, weights: no.pt, side: 8}"],
        ["parameters.train_samples: got 10", "parameters.weights: no file 'no.pt'"],
    ),
    "three.yaml": (
        "edge_sl.course",
        ["{method: {scheme: pls}, side: 8}", "{cut: 99, side: 8}", "{clients: many}"],
        ["parameters.method: scheme: no scheme 'pls'", "parameters.cut: got 99", "parameters.clients: "],
    ),
    "four.yaml": (
        "pipeline.chain",
        [
            "{model: small_cnn, nodes: 2, splits: [99], side: 8, stage: int9, link: {trace: nowhere}}",
            "{model: rsenet18}",
        ],
        [
            "parameters.splits: ",
            "parameters.link: only used in mode live",
            "parameters.model: no model 'rsenet18'",
            "parameters.stage: no stage 'int9'",
            "parameters.link.trace: ",
        ],
    ),
    "five.yaml": (
        "hivemind_inference.handover",
        ["{entering: iab9}"],
        [
            "mode: got in-process; hivemind_inference.handover runs in mode virtual",
            "parameters.entering: no handover from",
        ],
    ),
    "six.yaml": (
        "dynsplit.sweep",
        ["{model: small_cnn, cut: '3', side: 8, batch_size: 8, targets: [0.5], steer: 0.4}", "{targets: [2]}"],
        ["parameters.steer: got 0.4", "parameters.targets[0]: "],
    ),
    "seven.yaml": ("edge_placement.migration", ["{device_layers: 90}"], ["parameters.device_layers: 90 of 16 layers"]),
    "eight.yaml": ("dynsplit.rationale", ["{targets: [0.2, 0.5]}"], ["parameters.targets: "]),
    "nine.yaml": (
        "pipeline.chain",
        ["{model: 'heads:odd', nodes: 2, splits: [1], side: 8, batch_size: 8, input: {shape: [3, 8]}}"],
        ["parameters.input: got {shape: [3, 8]"],
    ),
    "eleven.yaml": (
        "pipeline.chain",
        ["{model: 'heads:odd', nodes: 2, splits: [1], side: 8, batch_size: 8}", "{nodes: 0}"],
        ["parameters.model: the layers do not compute what the model does", "parameters.nodes: "],
    ),
    "twelve.yaml": ("pipeline.chian", ["{}"], ["run: "]),
    "ten.yaml": (
        "hivemind_inference.latency",
        ["{tsaks: 3}", "{load: lots}"],
        ["[0].mode: got in-process", "[1].mode: got in-process", "parameters.tsaks: ", "parameters.load: "],
    ),
}


def test_all_faults_of_twelve_files_are_found_in_one_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, (run, experiments, _) in FAULTS.items():
        text = "".join(
            f"  - name: e{number}\n    run: {run}\n    mode: in-process\n    parameters: {parameters}\n"
            for number, parameters in enumerate(experiments)
        )
        (tmp_path / file).write_text(f"name: {file.removesuffix('.yaml')}\ndataset: digits\nexperiments:\n{text}")
    assert main(["validate", *(str(tmp_path / file) for file in FAULTS)]) == 2
    lines = capsys.readouterr().err.splitlines()
    for file, (_, _, faults) in FAULTS.items():
        own = [line.partition(f"{file}:")[2] for line in lines if f"{file}:" in line]
        assert all(line.split(":")[0].isdigit() for line in own)
        for fault in faults:
            assert any(fault in line for line in own), (file, fault, own)
        assert len(own) == len(faults), (file, own)


def test_layers_that_differ_from_the_model_are_refused_with_the_module_in_which_that_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = (
        "{nodes: 2, splits: [1], side: 8, batch_size: 8, train_samples: 16, test_samples: 8, model: 'heads:odd'}"
    )
    text = "name: mine\ndataset: digits\nexperiments:\n  - name: one\n    run: pipeline.chain\n    mode: in-process\n"
    (tmp_path / "mine.yaml").write_text(f"{text}    parameters: {parameters}\n")
    for command in ("validate", "run"):
        assert main([command, str(tmp_path / "mine.yaml")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{tmp_path}/mine.yaml:7: experiments[0].parameters.model: the layers do not compute")
        assert "begins in 1.1 (heads.Odd); a module with `whole = True`" in line


def test_a_model_runs_once_a_process_to_be_compared() -> None:
    """Two steps and an evaluation, however often its parameters are checked; its layers do without its forward."""
    import heads  # noqa: PLC0415  (of the folder above)

    for batch_size in (8, 16, 24):
        assert not problems_of("pipeline.chain", model="heads:counting", **CHAIN | {"batch_size": batch_size})
    assert heads.calls == [True, True, False]


@pytest.mark.parametrize("model", ["heads:odd", "heads:ten"])
def test_an_expensive_model_is_compared_on_smaller_inputs(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "FLOPS", 5000)  # as if a side of 16 were expensive, one of 8 not
    ((key, words),) = problems_of("pipeline.chain", model=model, **CHAIN | {"side": 16}).items()
    assert key == ("model",)
    if model == "heads:odd":
        assert words.startswith("on inputs {shape: [3, 8, 8], dtype: float32}: the layers do not compute")
    else:
        assert words.startswith("compared with its layers on inputs {shape: [3, 8, 8], dtype: float32} alone: one of")


def test_a_model_too_expensive_at_any_side_it_takes_is_said_not_to_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "FLOPS", 5000)
    ((_, words),) = problems_of("pipeline.chain", model="heads:flat", **CHAIN | {"side": 16}).items()
    assert words.startswith("not compared with its layers, on smaller inputs neither: one of")


@pytest.mark.parametrize(
    ("run", "given", "key"),
    [
        ("dynsplit.size", {"model": "squeezenet1_1", "cut": "nowhere"}, "cut"),
        ("dynsplit.size", {"model": "squeezenet1_1", "cut": "features.2", "options": {"bits": 9}}, "options"),
        ("dynsplit.size", {"model": "squeezenet1_1", "cut": "features.2", "options": {"pahts": [4]}}, "options"),
        ("dynsplit.size", {"model": "squeezenet1_1", "input": {"shape": [3, 4, 4]}}, "model"),
        ("deprune_traffic.coders", {"cut": 1}, "cut"),
        ("deprune_traffic.coders", {"cut": 99}, "cut"),
    ],
)
def test_what_is_only_counted_is_checked_too(run: str, given: dict[str, Any], key: str) -> None:
    assert [one[0] for one in problems_of(run, **given)] == [key]
    assert not problems_of("dynsplit.size", model="squeezenet1_1", cut="features.2", options={"paths": [4, 2]})
    assert not problems_of("deprune_traffic.coders")


def test_inputs_become_smaller_until_they_are_cheap() -> None:
    picture, tokens = InputSpec(shape=(3, 224, 160)), InputSpec(shape=(64,), dtype="int64")
    shapes = [one.shape for one in learning.smaller_inputs(picture, 20 * learning.FLOPS)]
    assert shapes == [(3, 28, 20), (3, 14, 10)]
    assert [one.shape for one in learning.smaller_inputs(tokens, 3 * learning.FLOPS)] == [(16,), (8,)]


def test_published_weights_are_judged_by_the_file_that_is_there_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    given = {"model": "squeezenet1_1", "side": 32, "cut": "features.3", "weights": "torchvision", "batch_size": 8}
    path = published_file("squeezenet1_1")
    assert path.is_relative_to(tmp_path)
    absent = problems_of("dynsplit.single", **given)["weights",]
    assert str(path) in absent
    assert "a run first downloads it from https://" in absent
    path.parent.mkdir()
    network = build_model("squeezenet1_1", 1000, (3, 32, 32)).state_dict()
    torch.save(network, path)
    assert "50 of 52 tensors taken" in problems_of("dynsplit.single", **given)["weights",]
    torch.save({name: one for name, one in network.items() if not name.startswith("features.0")}, path)
    assert "lack 2 layers of squeezenet1_1" in problems_of("dynsplit.single", **given)["weights",]


def test_modes_are_those_of_the_trials() -> None:
    for run, trial in TRIALS.items():
        assert set(trial.modes) <= set(modes_of(run) or ())


def test_a_stand_in_with_too_few_pictures_to_hold_out_is_noted_and_refused_by_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = "{model: small_cnn, side: 16, cut: '3', cuts: ['3'], batch_size: 16, auxiliary_samples: 1422}"
    words = "parameters.train_samples: digits has 1437; needed are at least 1438, a batch of 16 and 1422 held out"
    for dataset, code in (("auto(cifar10)", 0), ("digits", 2)):
        text = f"name: mine\ndataset: {dataset}\nexperiments:\n  - name: one\n    run: edge_privacy.privacy\n"
        (tmp_path / "mine.yaml").write_text(f"{text}    mode: in-process\n    parameters: {parameters}\n")
        assert main(["validate", str(tmp_path / "mine.yaml")]) == code
        told = capsys.readouterr()
        assert words in (told.err if code else told.out)
        assert main(["run", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")]) == 2
        assert f"mine.yaml:7: experiments[0].{words}" in capsys.readouterr().err


@pytest.mark.parametrize("run", TRIALS)
def test_parameters_check_what_they_inherit(run: str) -> None:
    """An experiment whose parameters have problems of their own has those of what it extends too."""
    owners = [kind for kind in resolve_run(run)[1].__mro__ if "problems" in vars(kind)]
    for own in owners[: -1 if owners else None]:
        assert "super(" in inspect.getsource(vars(own)["problems"]), own
