"""Short forms of suites: what they expand to, and where an error in one is told to stand."""
# ruff: noqa: E501 - a case a line

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.execution.loader import load
from bench.suite.document import InputError

pytestmark = pytest.mark.usefixtures("folder")


def expanded(text: str) -> dict[str, Any]:
    """The expanded form of the suite ``text``, which is right."""
    Path("own.yaml").write_text(text)
    return load(["own.yaml"])[0].expanded


def errors(text: str) -> list[str]:
    """The errors of the suite ``text``; those in its own file without the file's name."""
    Path("own.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load(["own.yaml"])
    return [line.removeprefix("own.yaml:") for line in caught.value.lines]


SUITE = """name: own
defaults:
  mode: in-process
  parameters: {rate: 0.1}
groups:
  twice:
    run: toy:measure
    parameters: {n: 2, inner: {a: [1]}}
    grid: {n: [1, 2]}
    scales: {smoke: {parameters: {n: 5}, seeds: 2}, paper: {seeds: 3}}
experiments:
  - {name: plain, run: "toy:measure", parameters: {n: 9}}
  - {name: group, group: twice}
  - name: own
    group: twice
    mode: virtual
    parameters: {inner: {b: [2]}}
    grid: {rate: [0.5]}
    scales: {smoke: {parameters: {rate: 0.3}}, paper: null}
"""


def test_defaults_stand_under_groups_and_both_under_an_experiment() -> None:
    assert expanded(SUITE)["experiments"] == yaml.safe_load("""
- {name: plain, run: "toy:measure", mode: in-process, parameters: {rate: 0.1, n: 9}}
- {name: group, run: "toy:measure", mode: in-process, parameters: {rate: 0.1, n: 2, inner: {a: [1]}}, grid: {n: [1, 2]},
   scales: {smoke: {parameters: {n: 5}, seeds: 2}, paper: {seeds: 3}}}
- {name: own, run: "toy:measure", mode: virtual, parameters: {rate: 0.1, n: 2, inner: {b: [2]}},
   grid: {n: [1, 2], rate: [0.5]}, scales: {smoke: {parameters: {n: 5, rate: 0.3}, seeds: 2}}}
""")


HEAD = "name: own\nexperiments: [{name: one, run: 'toy:measure', grid: {n: [1, 2]}}]\n"  # lines 1 and 2
TABLE = """claims:
- claim: c-$n
  source: Table I
  value: {of: {experiment: one, metric: n, case: {n: $n}}, tolerance: 0.5}
  columns: [n, statement, paper]
  rows:
  - [1, The first., 1.5]
  - [2, The second., 2.5, {inconsistent: It is not., source: Table II}]
"""


def test_each_row_of_a_table_is_a_claim() -> None:
    assert expanded(HEAD + TABLE)["claims"] == yaml.safe_load("""
- {claim: c-1, source: Table I, statement: The first., paper: 1.5,
   value: {of: {experiment: one, metric: n, case: {n: 1}}, tolerance: 0.5}}
- {claim: c-2, source: Table II, statement: The second., paper: 2.5, inconsistent: It is not.,
   value: {of: {experiment: one, metric: n, case: {n: 2}}, tolerance: 0.5}}
""")


def test_a_table_without_columns_holds_what_its_claims_share() -> None:
    row = "claim: a, statement: At $5 it is n, bound: {of: {experiment: one, metric: n}, at_most: 1}"
    (claim,) = expanded(HEAD + f"claims:\n- source: s\n  needs_data: false\n  rows:\n  - {{{row}}}\n")["claims"]
    assert claim == yaml.safe_load(f"{{source: s, needs_data: false, {row}}}")


@pytest.mark.parametrize(
    ("form", "full"),
    [
        ("order: {of: {experiment: one, metric: n, case: {n: [1, 2], part: a}}, direction: increasing}",
         {"order": {"of": [{"experiment": "one", "metric": "n", "case": {"n": n, "part": "a"}} for n in (1, 2)], "direction": "increasing"}}),
        ("order: {of: {experiment: one, metric: [n, m]}, direction: increasing}",
         {"order": {"of": [{"experiment": "one", "metric": metric} for metric in ("n", "m")], "direction": "increasing"}}),
        ("ratio: {of: {experiment: one, metric: n, case: {n: 1}}, over: {case: {n: 2}}, at_most: 1}",
         {"ratio": {"of": {"experiment": "one", "metric": "n", "case": {"n": 1}}, "over": {"experiment": "one", "metric": "n", "case": {"n": 2}}, "at_most": 1}}),
        ("difference: {of: {experiment: one, metric: n, case: {n: 1}}, minus: {metric: m}, at_most: 1}",
         {"difference": {"of": {"experiment": "one", "metric": "n", "case": {"n": 1}}, "minus": {"experiment": "one", "metric": "m"}, "at_most": 1}}),
    ],
)  # fmt: skip
def test_a_selector_says_once_what_is_the_same_in_all(form: str, full: dict[str, Any]) -> None:
    (claim,) = expanded(HEAD + f"claims: [{{claim: c, source: s, says: n, {form}}}]\n")["claims"]
    assert claim == {"claim": "c", "source": "s", "statement": "n", **full}  # `says` is the former `statement`


@pytest.fixture
def base(folder: Path) -> Path:
    (folder / "deep").mkdir()
    base = SUITE.replace("name: own", "name: base", 1) + "claims: claims.yaml\ngate: [{metric: n}]\n"
    (folder / "deep/base.yaml").write_text(base)
    claims = TABLE.partition("\n")[2].replace("experiment: one", "experiment: $of").replace("[n, s", "[of, n, s")
    rows = "  - [plain, 1, The first., 1.5]\n  - [group, 2, The second., 2.5]\n  - [own, 3, The third., 3]\n"
    (folder / "deep/claims.yaml").write_text(claims.partition("  - [1,")[0] + rows)
    return folder / "deep"


EXTENDS = """name: own
extends: {suite: deep/base.yaml, experiments: [plain, group], without: [c-1], replace: {n: m}}
groups: {twice: {grid: {n: [2, 3]}, parameters: {n: 4}}}
experiments:
  - {name: plain, mode: live}
  - {name: more, run: "toy:measure"}
claims:
  - {claim: c-2, source: Table II}
  - {claim: c-4, source: s, statement: n, bound: {of: {experiment: more, metric: n}, at_most: 1}}
"""


@pytest.mark.usefixtures("base")
def test_a_suite_that_extends_another_has_its_own_over_it() -> None:
    found = expanded(EXTENDS)
    assert "gate" not in found  # a suite's own
    assert [(one["name"], one["mode"], one["parameters"]) for one in found["experiments"]] == [
        ("plain", "live", {"rate": 0.1, "n": 9}),
        ("group", "in-process", {"rate": 0.1, "n": 4, "inner": {"a": [1]}}),
        ("more", "in-process", {"rate": 0.1}),
    ]
    assert found["experiments"][1]["grid"] == {"n": [2, 3]}
    assert [(claim["claim"], claim["source"]) for claim in found["claims"]] == [("c-2", "Table II"), ("c-4", "s")]
    assert found["claims"][0]["value"]["of"] == {"experiment": "group", "metric": "m", "case": {"n": 2}}
    assert found["claims"][1]["bound"]["of"]["metric"] == "n"


@pytest.mark.usefixtures("base")
def test_a_form_takes_the_place_of_the_one_that_is_extended() -> None:
    bound = "bound: {of: {experiment: group, metric: n}, at_most: 1}"
    found = expanded(EXTENDS.replace("{claim: c-2, source: Table II}", f"{{claim: c-2, paper: null, {bound}}}"))
    wanted = f"{{claim: c-2, source: Table I, statement: The second., {bound}}}"
    assert found["claims"][0] == yaml.safe_load(wanted)


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{rate: 0.1}", "{rate: x}", ["4: defaults.parameters.rate: "]),
        ("{rate: 0.1}", "{rte: 0.1}", ["4: defaults.parameters.rte: no parameter of toy:measure (did you mean 'rate'?)"]),
        ("  mode: in-process", "  mode: in-process\n  colour: red", ["4: defaults.colour: unknown key"]),
        ("{rate: 0.1}", "{rate: 0.1, rate: 0.2}", ["4: defaults.parameters.rate: duplicate key, first given on line 4"]),
        ("{rate: 0.1}", "{rate: .inf}", ["4: defaults.parameters.rate: a number must be finite, got .inf"]),
        ("{name: plain, run: \"toy:measure\", parameters: {n: 9}}", "{name: plain, group: twise}", ["12: experiments[0].group: no group 'twise' (did you mean 'twice'?)", "12: experiments[0].run: this key is required"]),
        ("  mode: in-process", "  mode: in-process\n  group: twice", ["4: defaults.group: a group is given by an experiment, not by its defaults"]),
        ("grid: {n: [1, 2]}", "grid: {n: [1, 1]}", ["9: groups.twice.grid.n: needs one value or more, each once"]),
        ("scales: {smoke:", "scales: {smok:", ["10: groups.twice.scales.smok: 'smok' is none of smoke, laptop, paper (did you mean 'smoke'?)"]),
        ("parameters: {n: 9}}", "parameters: {n: 9}}\n  - {name: late, run: 'toy:pair', parameters: {low: 10}}", ["4: defaults.parameters.rate: no parameter of toy:pair; it takes low, high"]),
    ],
)  # fmt: skip
def test_an_error_in_a_default_is_told_of_the_default_once(old: str, new: str, expected: list[str]) -> None:
    text = SUITE.replace(old, new, 1)
    assert text != SUITE
    found = errors(text)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_a_default_of_no_use_is_an_error() -> None:
    text = SUITE
    for old, new in (
        ("parameters: {rate: 0.1}", "parameters: {rate: 0.1, n: 3}\n  title: t"),
        ("{name: plain,", "{name: plain, title: z,"),
        ("group: twice}", "group: twice, title: x}"),
        ("  - name: own\n", "  - name: own\n    title: y\n"),
        ("groups:\n", "groups:\n  none: {mode: live}\n"),
    ):
        text = text.replace(old, new)
    assert errors(text) == [
        "4: defaults.parameters.n: no experiment uses this default",
        "5: defaults.title: no experiment uses this default",
        "7: groups.none: no experiment is of this group",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("experiment: one", "experiment: on", ["9: claims[0].rows[0]: no experiment 'on' in this suite (did you mean 'one'?)", "10: claims[0].rows[1]: no experiment 'on' in this suite (did you mean 'one'?)"]),
        ("tolerance: 0.5", "tolerance: x", ["6: claims[0].value.tolerance: "]),
        ("tolerance: 0.5", "tolerence: 0.5", ["6: claims[0].value.tolerence: unknown key (did you mean 'tolerance'?)"]),
        ("[1, The first., 1.5]", "[1, The first., x]", ["9: claims[0].rows[0][2]: "]),
        ("[1, The first., 1.5]", "[1, The first.]", ["9: claims[0].rows[0]: expected a cell for each column (n, statement, paper), got 2"]),
        ("[1, The first., 1.5]", "[1, The first., 1.5, {inconsistnt: x}]", ["9: claims[0].rows[0][3].inconsistnt: unknown key (did you mean 'inconsistent'?)"]),
        ("[1, The first., 1.5]", "[7, The first., 1.5]", ["9: claims[0].rows[0]: no case of one has n 7"]),
        ("[2, The second., 2.5", "[1, The second., 2.5", ["10: claims[0].rows[1]: there is another claim 'c-1'"]),
        ("c-$n", "c-$m", ["4: claims[0].claim: the table has no column 'm'", "10: claims[0].rows[1]: there is another claim 'c-$m'"]),
        ("[n, statement, paper]", "[n, statement, paper, other]", ["7: claims[0].columns[3]: nothing in the table is $other", "9: claims[0].rows[0]: expected a cell"]),
        ("[n, statement, paper]", "[n, statement, n]", ["7: claims[0].columns[2]: a column needs a name"]),
        ("  rows:\n", "  rows: []\n  more:\n", ["8: claims[0].rows: a table needs one row or more"]),
        ("  source: Table I\n", "  source: Table I\n  says: twice\n", ["6: claims[0].says: unknown key"]),
        ("  source: Table I\n", "", ["8: claims[0].rows[0].source: this key is required"]),
        ("metric: n, case: {n: $n}}", "metric: [n, m], case: {n: [1, 2]}}", ["6: claims[0].value.of.case.n: ", "6: claims[0].value.of.metric: "]),
        ("value: {of: {experiment: one, metric: n, case: {n: $n}}, tolerance: 0.5}", "order: {of: {experiment: one, metric: [n, m], case: {n: [$n, 2]}}, direction: increasing}", ["6: claims[0].order.of: expected one list, whose values are compared, got 2"]),
    ],
)  # fmt: skip
def test_an_error_in_a_table_is_told_of_its_row_or_of_what_rows_share(old: str, new: str, expected: list[str]) -> None:
    text = HEAD + TABLE.replace(old, new, 1)
    assert text != HEAD + TABLE
    found = errors(text)
    assert all(any(line.startswith(start) for line in found) for start in expected), found
    assert len(found) >= len(expected)


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("own.yaml", "deep/base.yaml", "deep/bas.yaml", ["2: extends.suite: no file and no packaged suite 'deep/bas.yaml'"]),
        ("own.yaml", "deep/base.yaml", "own.yaml", ["2: extends.suite: 'own.yaml' extends this file again"]),
        ("own.yaml", "[plain, group]", "[plain, grup]", ["2: extends.experiments[1]: no experiment 'grup' in the suite that is extended (did you mean 'group'?)"]),
        ("own.yaml", "without: [c-1]", "without: [c-3]", ["2: extends.without[0]: no claim is called 'c-3' (did you mean 'c-2'?)"]),
        ("own.yaml", "{n: m}", "{q: m}", ["2: extends.replace.q: no claim that is taken over has 'q'"]),
        ("own.yaml", "{suite:", "{siute:", ["2: extends.siute: unknown key (did you mean 'suite'?)", "2: extends.suite: this key is required"]),
        ("own.yaml", "groups: {twice: {", "groups: {twice: {title: t, description: d}, other: {", ["3: groups.other: no experiment is of this group"]),
        ("deep/base.yaml", "n: 9", "n: x", ["deep/base.yaml:12: experiments[0].parameters.n: "]),
        ("deep/base.yaml", "claims.yaml", "claim.yaml", ["deep/claim.yaml:1: document: cannot be read: No such file or directory"]),
        ("deep/claims.yaml", "0.5", "x", ["deep/claims.yaml:3: [0].value.tolerance: "]),
        ("deep/claims.yaml", "[group, 2", "[group, 2, 3", ["deep/claims.yaml:7: [0].rows[1]: expected a cell for each column (of, n, statement, paper), got 5"]),
        ("deep/claims.yaml", "- claim: c-$n\n", "- claim: c-$n\n  source: s\n", ["deep/claims.yaml:3: [0].source: duplicate key, first given on line 2"]),
    ],
)  # fmt: skip
def test_an_error_in_a_suite_that_is_extended_is_told_of_its_file(
    base: Path, file: str, old: str, new: str, expected: list[str]
) -> None:
    text = EXTENDS
    if file == "own.yaml":
        text = EXTENDS.replace(old, new, 1)
    else:
        path = base.parent / file
        path.write_text(path.read_text().replace(old, new, 1))
    found = errors(text)
    assert all(any(line.startswith(start) for line in found) for start in expected), found


@pytest.mark.usefixtures("base")
def test_the_expanded_form_is_a_suite_that_expands_to_itself(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    tricky = 'claims:\n  - {claim: c-9, source: "1e3", statement: "no: $1", bound: {of: {experiment: more, metric: "07"}, at_most: 1e-7}}'
    Path("own.yaml").write_text(EXTENDS.replace("claims:", tricky))
    assert command("validate", "own.yaml", "--expand") == 0
    printed = capsys.readouterr().out
    assert command("validate", "own.yaml", "--expand", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is True
    (suite,) = answer["suites"]
    assert not suite.keys() & {"defaults", "groups", "extends"}
    assert suite["claims"][1]["bound"]["of"]["metric"] == "07"
    (Path("again") / "x").parent.mkdir()
    Path("again/own.yaml").write_text(printed)
    assert load(["again/own.yaml"])[0].expanded == suite
    assert yaml.safe_load(printed)["name"] == "own"
