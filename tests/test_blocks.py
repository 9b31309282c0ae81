"""Every block of code in the documents: commands run, YAML is read, Python runs; what cannot be tested says why.

A line of a ``sh`` block is one of these:

- a command of ``bench`` that is run here: suites of ``examples/`` at scale smoke, everything that is cheap;
- one that is planned: ``bench run`` of a packaged suite, with all its options, up to the first case;
- one that is parsed, as it takes minutes or never ends, or reads what a planned command would have written;
- another program's, with ``not tested: REASON`` in its comment, unless the tests' own workflow runs it.
"""

import ast
import contextlib
import dataclasses
import functools
import io
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from bench.cli.commands import COMMANDS
from bench.cli.main import main, parser
from bench.cli.split import run_split
from bench.execution.loader import load
from bench.execution.plan import Options, RunPlan, make_plan
from bench.live.hosts.document import read_hosts
from bench.suite.schema import ExperimentSpec, SuiteFile
from nodes.data.datasets import load_dataset
from reports.claims.claim import Claim

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "reports/results/README.md")
DOCUMENTS = [*(ROOT / page for page in PAGES), *sorted((ROOT / "docs").rglob("*.md")), *sorted(EXAMPLES.rglob("*.md"))]
FENCE = re.compile(r"^ *```(\S*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"# (\w+\.(?:py|yaml))\n")  # test_examples runs the files that blocks quote
SPAN = re.compile(r"`bench (\w+)([^`\n]*)`")
LANGUAGES = {"sh", "python", "yaml", "toml", "text"}
ELSEWHERE = ("python3 -m venv", ". .venv/bin/activate", ".venv/bin/pip", ".venv-test/bin/", "export ")  # the workflow's
NOT_TESTED = re.compile(r"[#;] not tested: \w+")
PARSED = ("fit", "link", "links", "node", "watch")  # minutes, or until Ctrl-C
SMOKE = ["--scale", "smoke", "--seeds", "1", "--jobs", "1", "--allow-uncalibrated"]
# What a fragment of an experiment stands in, unless it says otherwise.
CHAIN = {"model": "small_cnn", "side": 16, "nodes": 3, "splits": [1, 2], "train_samples": 256, "test_samples": 32}
ENCODER = """

def encoder(classes, width):
    from torch import nn

    return nn.Sequential(nn.Embedding(256, width), nn.Flatten(), nn.Linear(128 * width, classes))
"""
UCC = "Timestamp,NetworkMode,DL_bitrate,UL_bitrate\n2019.12.14_10.16.30,5G,4000,1000\n2019.12.14_10.16.31,5G,8000,900\n"


def blocks(document: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return FENCE.findall(document.read_text(encoding="utf-8"))


def of(*languages: str) -> list[Any]:
    """Documents that have blocks in one of ``languages`` that quote no file, as parameters of a test."""
    having = [
        path
        for path in DOCUMENTS
        if any(language in languages and not QUOTED.match(text) for language, text in blocks(path))
    ]
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in having]


def own(document: Path, language: str) -> list[str]:
    return [text for found, text in blocks(document) if found == language and not QUOTED.match(text)]


def commands_of(line: str) -> Iterator[tuple[list[str], str]]:
    """The commands of a line of shell that are bench's: their words, and the file that their output goes to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in (";", "&&", "||", "|"):
            words.append(word)
            continue
        words = words[1:] if words[:1] == ["sudo"] else words
        cut = words.index(">") if ">" in words else len(words)
        if words and words[0].rpartition("/")[2] == "bench":
            yield words[1:cut], "".join(words[cut + 1 :])
        words = []


class Reader:
    """A person who types what a document says, in a copy of the examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unmade: set[str] = set()  # what planned commands would have written
        self.kept: dict[str, Path] = {}  # folders of runs, by all that decides them
        self.did: dict[str, list[str]] = {"run": [], "plan": [], "parse": []}

    def type(self, words: list[str], file: str = "") -> None:
        """Do one command of bench. Asserts that it is usable."""
        asked = parser(words).parse_args(COMMANDS[words[0]].own(words))
        how = "parse" if words[0] in PARSED or self.unmade & set(words) else "run"
        if words[0] in ("run", "verify") and how == "run":
            suites = [] if words[0] == "verify" else asked.suites
            how = "run" if suites and all(Path(name).exists() and "/" not in name for name in suites) else "plan"
            if how == "plan" or asked.hosts or asked.cluster or asked.watch is not None:
                self.unmade |= {str(asked.out), f"runs/{words[1]}"}
        self.did[how].append(" ".join(words))
        if how == "parse":
            return
        if words[0] == "run" and how == "run":
            self.run(words, asked.out)
            return
        self.do(words, file)

    def run(self, words: list[str], out: Path) -> None:
        """A run of the same words as an earlier one is a copy of it."""
        same = " ".join(dict.fromkeys(word for word in [*words, *SMOKE] if word not in ("--out", str(out))))
        if same not in self.kept:
            self.do([*words, *SMOKE])
            self.kept[same] = shutil.copytree(out, self.folder / "kept" / str(len(self.kept)))
        shutil.copytree(self.kept[same], out, dirs_exist_ok=True)

    def do(self, words: list[str], file: str = "") -> None:
        printed = self.profile(*words) if words[0] == "profile" else self.output(*words)
        if file:
            Path(file).write_text(printed, encoding="utf-8")

    def output(self, *words: str) -> str:
        printed, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
            code = main(words)
        assert code == 0, f"bench {' '.join(words)}: {complained.getvalue()}"
        return printed.getvalue()

    profile = functools.cache(output)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """In a folder with the examples, small data sets in DIR, and no more than one core."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "suites", folder / "suites")
    (folder / "DIR").mkdir()
    labels = {name: np.arange(256) % classes for name, classes in (("cifar10", 10), ("ham10000", 7), ("words", 10))}
    for name, y in labels.items():
        x = np.zeros((256, 128), np.int64) if name == "words" else np.zeros((256, 32, 32, 3), np.uint8)
        np.savez(folder / "DIR" / f"{name}.npz", train_images=x, train_labels=y, test_images=x, test_labels=y)
    (folder / "drive.csv").write_text(UCC, encoding="utf-8")
    cheaper(folder / "mine.yaml", "    run:", "    mode: in-process\n    run:")  # starting nodes takes seconds
    cheaper(folder / "beside.yaml", r"        (?:int8|DynSplit|top).*\n", "")  # test_examples runs all six stages
    with (folder / "mine.py").open("a", encoding="utf-8") as file:
        file.write(ENCODER)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("BENCH_TOKEN", "0123456789abcdef")
        patch.setattr("bench.execution.environment.cores", lambda: 1)
        found = Reader(folder)
        patch.setattr("bench.execution.runner.run", patched_run(found))
        patch.setattr("bench.execution.plan.load", functools.cache(load))
        yield found


def cheaper(suite: Path, pattern: str, by: str) -> None:
    """Replace a ``pattern`` that ``suite`` has."""
    text, count = re.subn(pattern, by, suite.read_text(encoding="utf-8"))
    assert count
    suite.write_text(text, encoding="utf-8")


def patched_run(reader: Reader) -> Any:
    """``bench.execution.runner.run`` that stops behind the plan where that is to be planned; packaged suites are not
    checked case by case again: test_validate does so."""
    from bench.execution.runner import run  # noqa: PLC0415 - before it is replaced

    @functools.cache
    def plan(options: Options) -> RunPlan:
        return make_plan(options, checked=True)

    def instead(options: Options, *others: Any) -> Any:
        if reader.did["plan"][-1:] != [" ".join(options.arguments[1:])]:
            return run(options, *others)
        suites = tuple(name.replace("suites/all.yaml", "all") for name in options.suites)
        elsewhere = {"out": None, "watch": None, "cluster": None, "arguments": ()}  # of no matter to a plan
        found = plan(msgspec.structs.replace(options, suites=suites, shard=None, **elsewhere))
        assert dataclasses.replace(found, options=options).selected_cases
        return SimpleNamespace(exit_code=0)

    return instead


def test_every_block_is_of_a_language_that_is_tested() -> None:
    unknown = [(path.name, language) for path in DOCUMENTS for language, _ in blocks(path) if language not in LANGUAGES]
    assert not unknown


@pytest.mark.parametrize("document", of("sh"))
def test_commands(reader: Reader, document: Path) -> None:
    shutil.rmtree("runs", ignore_errors=True)
    reader.unmade.clear()
    for text in own(document, "sh"):
        for line in text.splitlines():
            found = list(commands_of(line))
            assert found or line.startswith(ELSEWHERE) or NOT_TESTED.search(line), f"not tested, and no reason: {line}"
            for words, file in found:
                reader.type(words, file)


@pytest.mark.parametrize("document", of("text"))
def test_transcripts_hold_no_unknown_command(document: Path) -> None:
    for text in own(document, "text"):
        for line in re.findall(r"^\$ (.*?)(?:  .*)?$", text, re.MULTILINE):
            for words, _ in commands_of(line):
                assert parser(words).parse_args(words).command == words[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help(name: str) -> None:
    lines = re.findall(r"^  ((?:sudo )?bench .*)$", COMMANDS[name].examples, re.MULTILINE)
    found = [words for line in lines for words, _ in commands_of(line)]
    assert name in {words[0] for words in found}
    for words in found:
        assert parser(words).parse_args(COMMANDS[words[0]].own(words)).command == words[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_in_prose(document: Path) -> None:
    """Of ```bench COMMAND … --option``` in a sentence the command and the options exist."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for name, rest in SPAN.findall(text) if document.name != "CHANGELOG.md" else ():
        assert name in COMMANDS, f"bench {name}"
        helped = parser([name])._subparsers._group_actions[0].choices[name].format_help()  # type: ignore[union-attr, index, call-overload]  # argparse has no other way
        gone = [option for option in re.findall(r"(?<!\S)--[a-z-]+", rest.split(" -- ")[0]) if option not in helped]
        assert not gone, f"bench {name}"


@pytest.mark.parametrize("document", of("yaml"))
def test_yaml(reader: Reader, document: Path) -> None:
    for words, file in (one for text in own(document, "sh") for line in text.splitlines() for one in commands_of(line)):
        done = Path(file).exists() if file else " ".join(words) in reader.did["run"]
        if words[0] in ("profile", "certs") and not done:
            reader.type(words, file)  # writes what the documents name, if test_commands has not
    for number, text in enumerate(own(document, "yaml")):
        path = reader.folder / f"{document.stem}-{number}.yaml"
        path.write_text(text, encoding="utf-8")
        assert fits(path, yaml.safe_load(text))


def fits(path: Path, value: Any) -> bool:
    """Whether the reader of ``value``, known by its keys, takes what stands in ``path``."""
    keys = value.keys() if isinstance(value, dict) else set()
    if isinstance(value, list):
        return bool(msgspec.convert(value, list[Claim]))
    elif "jobs" in keys:
        action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
        (step,) = (one for one in value["jobs"]["gate"]["steps"] if "splitmec" in one["uses"])
        needed = {name for name, given in action["inputs"].items() if given.get("required")}
        return needed <= step["with"].keys() <= action["inputs"].keys()
    elif "nodes" in keys and isinstance(value["nodes"], list):
        return bool(run_split(path)["splits"])
    elif "nodes" in keys:
        return read_hosts(path, insecure=True).nodes.keys() == value["nodes"].keys()
    else:
        inside = keys <= {field.name for field in msgspec.structs.fields(SuiteFile)}
        spec = keys <= {field.name for field in msgspec.structs.fields(ExperimentSpec)}
        given = {} if inside else value if spec else {"parameters": value}
        parameters = CHAIN | given.get("parameters", {})
        if "input" in parameters:
            del parameters["side"]
        experiment = {"name": "one", "run": "pipeline.chain", "dataset": "digits", **given, "parameters": parameters}
        suite = {"name": "block", "experiments": [experiment]} | (value if inside else {})
        path.write_text(yaml.safe_dump(suite), encoding="utf-8")
        return bool(load([str(path)], Path("DIR")))


@pytest.mark.parametrize("document", of("toml"))
def test_entry_points_are_groups_that_are_read(document: Path) -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "bench").rglob("*.py"))
    for text in own(document, "toml"):
        for group in tomllib.loads(text)["project"]["entry-points"]:
            assert f'"{group.removeprefix("splitmec.")}"' in code


@pytest.mark.parametrize("document", of("python"))
def test_python(reader: Reader, document: Path) -> None:
    """It runs, and an expression whose comment is a value has that value."""
    del reader
    y = np.arange(40) % 10
    known: dict[str, Any] = {"np": np, "y": y, "y_test": y}
    known |= {name: np.ones((40, 8, 8), np.uint8) for name in ("x", "x_test")}
    for text in own(document, "python"):
        exec(text, known)
        for expression, comment in re.findall(r"^(\S[^#\n=]*?)  # (.+)$", text, re.MULTILINE):
            with contextlib.suppress(SyntaxError, ValueError):
                assert eval(expression, known) == ast.literal_eval(comment)
    if "savez" in text:
        assert load_dataset("cifar10", Path("DIR")).name == "cifar10-jpeg"
