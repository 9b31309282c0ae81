"""Suites: what is wrong with one is found before anything runs; what is right expands to cases."""
# ruff: noqa: E501 - a case a line

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from bench.execution.loader import load
from bench.suite.document import InputError
from bench.suite.find import packaged

pytestmark = pytest.mark.usefixtures("folder")
HEAD = "name: own\nexperiments:\n- name: one\n  run: toy:measure\n"  # lines 1 to 4
NO_FILE = os.strerror(errno.ENOENT)
CLAIM = "claim: c, source: s, statement: n, needs_data: false"


def errors(text: str, data: Path | None = None) -> list[str]:
    """The errors of the suite ``text``, without the file's name."""
    Path("own.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load(["own.yaml"], data)
    return [line.removeprefix("own.yaml:") for line in caught.value.lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nam: own", ["1: nam: unknown key (did you mean 'name'?)", "1: name: this key is required"]),
        ("name: ../own", ["1: name: "]),
        (HEAD + "  parameters: {rte: 1}", ["5: experiments[0].parameters.rte: no parameter of toy:measure (did you mean 'rate'?)"]),
        (HEAD + "  parameters: {q: 1}", ["5: experiments[0].parameters.q: no parameter of toy:measure; it takes n, rate, model, data, inner"]),
        (HEAD + "  parameters: {n: 1e-3}", ["5: experiments[0].parameters.n: "]),
        (HEAD + "  parameters:\n    inner:\n      a: [1]\n      b: [c]", ["8: experiments[0].parameters.inner.b[0]: "]),
        (HEAD + "  parameters: {model: resnet19}", ["5: experiments[0].parameters.model: no model 'resnet19' (did you mean 'resnet18'?); there are small_cnn, "]),
        (HEAD + "  parameters: {model: 'toy:nothin'}", ["5: experiments[0].parameters.model: toy has no 'nothin' (did you mean 'nothing'?)"]),
        (HEAD + "  grid: {n: [1, x]}", ["5: experiments[0].grid.n[1]: "]),
        (HEAD + "  grid: {m: [1, 2]}", ["5: experiments[0].grid.m: no parameter of toy:measure; it takes n, rate, model, data, inner"]),
        (HEAD + "  grid: {n: []}", ["5: experiments[0].grid.n: needs one value or more, each once"]),
        (HEAD + "  grid: {n: [1, 1]}", ["5: experiments[0].grid.n: needs one value or more, each once"]),
        (HEAD + "  scales:\n    smoke:\n      parameters: {n: a}", ["7: experiments[0].scales.smoke.parameters.n: "]),
        (HEAD + "  scales: {smok: {}}", ["5: experiments[0].scales.smok: 'smok' is none of smoke, laptop, paper (did you mean 'smoke'?)"]),
        (HEAD + "  mode: virtul", ["5: experiments[0].mode: 'virtul' is none of live, in-process, virtual (did you mean 'virtual'?)"]),
        (HEAD + "  seeds: 0", ["5: experiments[0].seeds: "]),
        (HEAD + "- {name: one, run: 'toy:measure'}", ["5: experiments[1].name: there is another experiment 'one'"]),
        (HEAD + "- {name: two, run: toy.measure}", ["5: experiments[1].run: no file 'toy' in bench.experiments; functions of one's own are module:function"]),
        (HEAD + "- {name: two, run: 'ty:measure'}", ["5: experiments[1].run: ty cannot be imported: ModuleNotFoundError: "]),
        (HEAD + "- {name: two, run: 'toy:mesure'}", ["5: experiments[1].run: toy has no 'mesure' (did you mean 'measure'?)"]),
        (HEAD + "- {name: two, run: 'toy:untyped'}", ["5: experiments[1].run: toy:untyped: the first argument must be annotated with a msgspec.Struct of parameters"]),
        (HEAD + "- {name: two, run: 'toy:pair'}", ["5: experiments[1].parameters: "]),
        (HEAD + "- {name: two, run: 'toy:pair', parameters: {low: 3}, grid: {high: [5, 2]}}", ["5: experiments[1].parameters: low is above high (at scale smoke, high 2)"]),
        (HEAD + "- {name: two, run: edge_placement.tree, mode: virtual, parameters: {workload: resnet-88}}", [f"5: experiments[1].parameters.workload: no workload 'resnet-88': {NO_FILE} (did you mean 'resnet18-88'?); kept are faster_rcnn-120, resnet18-88, vgg11-88"]),
        (HEAD + "- {name: two, run: edge_sl.course, parameters: {links: [wi-fi]}}", ["5: experiments[1].parameters.links[0]: 'wi-fi' is none of unlimited, wifi, 5g (did you mean 'wifi'?)"]),
        (HEAD + "  dataset: cifra10", ["5: experiments[0].dataset: no data set 'cifra10'; expected "]),
        ("dataset: cifar10\n" + HEAD, ["1: dataset: cifar10: needs a folder with its files; "]),
        (HEAD + "  parameters: {data: stl10}", ["5: experiments[0].parameters.data: stl10: needs a folder with its files; "]),
        (HEAD + "  figures: [{metrics: []}]", ["5: experiments[0].figures[0]: metrics: a figure needs at least one, got none"]),
        (HEAD + "gate: [{metrc: n}]", ["5: gate[0].metrc: unknown key (did you mean 'metric'?)", "5: gate[0].metric: this key is required"]),
        (HEAD + f"claims:\n- {{{CLAIM}, bound: {{of: {{experiment: on, metric: n}}, at_least: 1}}}}", ["6: claims[0]: no experiment 'on' in this suite (did you mean 'one'?)"]),
        (HEAD + f"  grid: {{n: [1]}}\nclaims:\n- {{{CLAIM}, bound: {{of: {{experiment: one, metric: n, case: {{n: 2}}}}, at_least: 1}}}}", ["7: claims[0]: no case of one has n 2"]),
        (HEAD + f"claims:\n- {{{CLAIM}}}", ["6: claims[0]: claim c: give exactly one of value, bound, ratio, difference, order; none given"]),
        (HEAD + "fronts:\n- {title: t, cost: c, worth: w, methods: [{name: m, experiment: two, cost: b, worth: a, key: k}]}", ["6: fronts[0].methods[0].experiment: no experiment 'two' in this suite"]),
        (HEAD + "include: [nosuch]", ["5: include[0]: no file and no packaged suite 'nosuch'"]),
        (HEAD + "include: [own.yaml]", ["5: include[0]: 'own.yaml' includes this file again"]),
    ],
)  # fmt: skip
def test_an_error_has_its_line_and_key(text: str, expected: list[str]) -> None:
    found = errors(text)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


CHAIN = "name: own\ndataset: digits\nexperiments:\n- name: one\n  run: pipeline.chain\n"  # lines 1 to 5
PARAMETERS = "experiments[0].parameters"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  parameters: {stage: flaot16}", f"6: {PARAMETERS}.stage: no stage 'flaot16' (did you mean 'float16'?); there are identity, float16, int8, noise, topk, c3sl, pruned, picture, dynsplit and module:callable"),
        ("  parameters:\n    stage:\n    - int8\n    - {name: int8, options: {bits: 4}}", f"9: {PARAMETERS}.stage[1]: stage int8 cannot be built: TypeError: "),
        ("  parameters: {stage: {nam: int8}}", f"6: {PARAMETERS}.stage.nam: unknown key (did you mean 'name'?)"),
        ("  parameters: {stage: [int8]}", f"6: {PARAMETERS}.stage: expected 2 stages, one a link, got 1 (at scale smoke)"),
        ("  parameters: {stage: ['toy:Nosuch', int8]}", f"6: {PARAMETERS}.stage[0]: toy has no 'Nosuch'"),
        ("  grid: {stage: {one: [int8, int8],\n    two: [int8, 'toy:nothing']}}", "7: experiments[0].grid.stage.two[1]: stage toy:nothing cannot be built: TypeError: "),
        ("  parameters: {splits: [3]}", f"6: {PARAMETERS}.splits: 3 nodes need 2 splits, got 1"),
        ("  parameters: {splits: [3, 70]}", f"6: {PARAMETERS}.splits: splits [3, 70] must not decrease nor exceed the model's 69 layers"),
        ("  parameters: {splits: [3, 17], model: 'nodes.zoo.small_cnn:small_cnn'}", f"6: {PARAMETERS}.splits: splits [3, 17] must not decrease nor exceed the model's 16 layers"),
        ("  parameters: {splits: [5, 3]}", f"6: {PARAMETERS}.splits: splits [5, 3] must not decrease"),
        ("  scales:\n    paper:\n      parameters: {splits: [3, 70]}", "8: experiments[0].scales.paper.parameters.splits: splits [3, 70] must not"),
        ("  parameters: {splits: [3]}\n  grid:\n    nodes:\n    - 2\n    - 5", f"6: {PARAMETERS}.splits: 5 nodes need 4 splits, got 1 (at scale smoke, nodes 5)"),
        ("  grid:\n    microbatches:\n    - 2\n    - 3", "9: experiments[0].grid.microbatches[1]: 3 do not divide a batch of 128 (at scale smoke, microbatches 3)"),
        ("  parameters: {model: vgg11, side: 8}", f"6: {PARAMETERS}.model: the model does not take pictures of shape (3, 8, 8): RuntimeError: "),
        ("  parameters: {model: 'toy:broken'}", f"6: {PARAMETERS}.model: toy:broken cannot be built for 10 classes of pictures (3, 32, 32): KeyError: 'no such setting'"),
        ("  parameters: {model: 'toy:Branches'}", f"6: {PARAMETERS}.model: the model's own forward cannot be traced: "),
        ("  parameters: {model: 'toy:Tied', splits: [2, 3]}", f"6: {PARAMETERS}.splits: layers 0 to 2 share trained parameters with other layers"),
    ],
)  # fmt: skip
def test_a_chain_that_cannot_be_is_found_before_anything_runs(text: str, expected: str) -> None:
    Path("toy.py").write_text(MODELS)
    (found,) = errors(CHAIN + text)
    assert found.startswith(expected)
    assert len(found) < 400


ONE_EDGE = "only used with several edge servers; edges is 1"
SIDE = "  mode: virtual\n  parameters: {side: 8, cut: 5, backhaul: wifi}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIDE + "  dataset: digits", [f"7: {PARAMETERS}.backhaul: {ONE_EDGE}"]),
        (SIDE + "  dataset: digits\n  grid:\n    cloud_every: [1, 2]", [f"7: {PARAMETERS}.backhaul: {ONE_EDGE}", f"10: experiments[0].grid.cloud_every: {ONE_EDGE}"]),
        (SIDE + "  grid: {edges: [1, 2]}", [f"7: {PARAMETERS}.{name}_samples: without a data set, give the number of blank pictures: " for name in ("train", "test")]),
        (SIDE + "  dataset: nosuch\n  grid: {edges: [1, 2]}", ["8: experiments[0].dataset: no data set 'nosuch'"]),
    ],
)  # fmt: skip
def test_what_clients_need_or_make_no_use_of_is_found_before_anything_runs(text: str, expected: list[str]) -> None:
    found = errors("name: own\ndataset: none\nexperiments:\n- name: one\n  run: edge_sl.course\n" + text)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


MODELS = """
import torch
from torch import nn

class Branches(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return nn.functional.pad(self.linear(torch.relu(self.linear(x.mean((2, 3))))), (0, 7))

def broken():
    raise KeyError("no such setting")

def nothing():
    pass
"""


def test_one_error_does_not_hide_those_that_later_checks_find() -> None:
    text = HEAD + "  mod: live\n  parameters: {n: x}\n- {name: two, run: 'toy:nosuch'}\nclaims: [3]\nglaims: []\n"
    keys = ["experiments[0].mod", "experiments[0].parameters.n", "experiments[1].run", "claims[0]", "glaims"]
    assert [line.split(": ")[1] for line in errors(text)] == keys


def test_errors_of_all_suites_are_found_and_a_cycle_of_includes_where_it_closes(folder: Path) -> None:
    (folder / "a.yaml").write_text("name: a\ninclude: [b.yaml]")
    (folder / "b.yaml").write_text("name: b\ntitle: ''\ninclude: [a.yaml]")
    with pytest.raises(InputError, match=r"b.yaml:3: include\[0\]: 'a.yaml' includes this file again"):
        load(["a.yaml"])
    (folder / "a.yaml").write_text("name: a\ninclude: [b.yaml]\nq: 1")
    (folder / "b.yaml").write_text("name: b\nr: 1")
    with pytest.raises(InputError) as caught:
        load(["a.yaml", "nosuch", "toy.yaml"])
    assert [line.split(":")[:2] for line in caught.value.lines] == [["b.yaml", "2"], ["a.yaml", "3"], ["nosuch", "1"]]


def test_a_suite_included_twice_is_there_once_and_only_includers_are_left_out(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/a.yaml").write_text("name: a\ninclude: [../toy.yaml]")
    (folder / "all.yaml").write_text("name: every\ninclude: [deep/a.yaml, toy.yaml]")
    assert [suite.file.name for suite in load(["all.yaml", "toy.yaml"])] == ["toy"]


PLAIN = """
name: a
title: A title
experiments:
  - {name: one, run: "toy:measure", parameters: {n: 7, rate: 0.1}, grid: {n: [1, 2], inner: {few: {a: [1]}, none: {}}}}
  - {name: two, run: "toy:measure", parameters: {n: 7}, scales: {smoke: {parameters: {n: 8}}}, seeds: 2}
gate: [{metric: n}]
"""


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (PLAIN.replace("A title", "Another") + "# a comment\n", True),
        (PLAIN.replace("gate: [{metric: n}]", "gate: [{metric: n, tolerance: 1}]"), True),
        (PLAIN.replace("n: [1, 2], inner: {few: {a: [1]}, none: {}}", "inner: {none: {}, few: {a: [1]}}, n: [2, 1]"), True),
        (PLAIN.replace("experiments:", "defaults: {parameters: {n: 7}}\nexperiments:").replace("parameters: {n: 7}, ", ""), True),
        (PLAIN.replace("smoke: {parameters: {n: 8}}", "smoke: {parameters: {n: 9}}"), True),  # laptop's are the same
        (PLAIN.replace("rate: 0.1", "rate: 0.2"), False),
        (PLAIN.replace("few", "a few"), False),
        (PLAIN.replace("seeds: 2", "seeds: 3"), False),
        (PLAIN.replace("seeds: 2", "seeds: 2, mode: virtual"), False),
        (PLAIN.replace("parameters: {n: 7}, scales", "parameters: {n: 6}, scales"), False),
    ],
)  # fmt: skip
def test_the_hash_covers_what_decides_the_numbers_of_a_scale(folder: Path, text: str, same: bool) -> None:
    def hashes(yaml: str) -> tuple[str, dict[str, str]]:
        (folder / "a.yaml").write_text(yaml)
        (suite,) = load(["a.yaml"])
        cases = [case for experiment in suite.experiments for case in experiment.cases("laptop", 0)]
        return suite.sha256("laptop"), {case.key: case.sha256 for case in cases}

    before, after = hashes(PLAIN), hashes(text)
    assert text != PLAIN
    assert (before[0] == after[0]) == same
    assert (before[1] == after[1]) == same  # by which a run is resumed


def test_a_suite_expands_to_its_grid_times_its_seeds() -> None:
    Path("own.yaml").write_text(
        HEAD + "  parameters: {rate: 0.1}\n  grid: {n: [1, 2], inner: {few: {a: [1]}, none: {}}}\n  seeds: 2\n"
        "  estimate_s: 5\n  scales:\n    smoke: {seeds: 1, grid: {n: [3]}, parameters: {rate: 0.2}, estimate_s: 1}\n"
        "    paper: {skip: too long}\n"
    )
    (one,) = load(["own.yaml"])[0].experiments
    laptop = [(case.case, case.parameters.n, case.parameters.inner, case.seed) for case in one.cases("laptop", 5)]
    cells = product((1, 2), (("few", {"a": [1]}), ("none", {})), (5, 6))
    assert laptop == [({"n": n, "inner": label}, n, inner, seed) for n, (label, inner), seed in cells]
    smoke = [(case.case["n"], case.parameters.rate, case.estimate_s) for case in one.cases("smoke", 0)]
    assert smoke == [(3, 0.2, 1.0), (3, 0.2, 1.0)]
    assert list(one.cases("paper", 0)) == []
    assert one.skipped("paper") == "not at scale paper: too long"


def test_data_sets_are_resolved() -> None:
    Path("own.yaml").write_text(HEAD + "  dataset: auto(cifar10)\n  parameters: {data: auto(stl10)}\n")
    (one,) = load(["own.yaml"])[0].experiments
    assert one.dataset == "digits"
    assert next(iter(one.cases("smoke", 0))).parameters.data == "digits"
    with pytest.raises(InputError, match=r"own.yaml:5: experiments\[0\].dataset: cifar10: not found in \."):
        load(["own.yaml"], Path())


def test_a_path_goes_before_a_packaged_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packaged()["all"].read_text().count("- name") == 0  # it includes alone
    (folder / "packaged.yaml").write_text("name: other\nclaims: []\nexperiments: [{name: a, run: 'toy:measure'}]")
    known = {"toy.yaml": folder / "packaged.yaml", "named": folder / "packaged.yaml"}
    monkeypatch.setattr("bench.suite.find.packaged", lambda: known)
    assert load(["toy.yaml"])[0].file.name == "toy"
    assert load(["named"])[0].file.name == "other"


def test_a_suite_that_names_no_model_needs_no_torch(folder: Path, command: Callable[..., int]) -> None:
    assert command("validate", "toy.yaml") == 0
    code = "import sys; from bench.cli.main import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""}
    for words in (["validate", "toy.yaml"], ["list"], ["run", "--help"]):
        subprocess.run([sys.executable, "-c", code, *words], cwd=folder, env=environment, check=True, timeout=300)
