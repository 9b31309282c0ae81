"""The reference as Markdown, from the code that it describes."""

import argparse
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench.cli.commands import COMMANDS
from bench.describe.answer import KINDS, describe, experiments
from bench.describe.parameters import parameters_of
from bench.suite import schema
from nodes.wire import messages as wire
from reports.claims.claim import Claim
from reports.record import Record

WIDTH = 100  # characters of a line of help
MOST = 90  # characters of a cell


def command_pages() -> Iterator[str]:
    """Every command with its help, as the command line prints it."""
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser(
            prog=f"bench {name}", formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=WIDTH)
        )
        command.add_arguments(parser)
        about = f"{command.help[0].upper()}{command.help[1:]}.\n\n{command.more.strip()}"
        yield f"## bench {name}\n\n{about}\n\n{fenced('text', parser.format_help())}\n\n"
        yield fenced("sh", inspect.cleandoc(command.examples))


def suite_keys() -> Iterator[str]:
    """The keys of a suite file."""
    for part in (schema.SuiteFile, schema.ExperimentSpec, schema.Override, schema.Extends, Claim):
        yield f"## {part.__name__}\n\n{struct(part)}"


def experiment_parameters() -> Iterator[str]:
    """The experiments of the package with their parameters and metrics."""
    for name in experiments():
        found = describe(name)
        about = "\n\n".join([found["about"], *found["notes"], f"Modes: {', '.join(found['modes'])}."])
        metrics = ", ".join(f"`{metric}`" + (f" ({unit})" if unit else "") for metric, unit in found["metrics"].items())
        yield f"## {name}\n\n{about}\n\n{table(found['parameters'])}\n\nMetrics: {metrics}.\n"


def components(*kinds: str) -> Iterator[str]:
    """The built-in components of ``kinds`` with their options."""
    for kind in kinds:
        yield f"## {kind.capitalize()}s"
        for name in KINDS[kind].names():
            found = describe(f"{kind}:{name}")
            yield f"### {name}\n\n{found['about']}\n\n{table(found['parameters'])}"


def messages() -> Iterator[str]:
    """What nodes and the runner send each other."""
    yield "Frozen structs in one closed union; a tag names a message on the wire (`nodes.wire.codec`)."
    for one in vars(wire).values():
        if inspect.isclass(one) and issubclass(one, wire.Message) and one is not wire.Message:
            yield f"## {one.__name__}\n\nTag `{one.__struct_config__.tag}`. {struct(one)}"


def record_fields() -> Iterator[str]:
    """The fields of a line of records.jsonl."""
    yield f"One line of `records.jsonl` is one record.\n\n{struct(Record)}"


def struct(kind: type[msgspec.Struct]) -> str:
    """Documentation and fields of ``kind``."""
    own = [one.plain for one in parameters_of(kind) if "." not in one.key]
    return f"{inspect.getdoc(kind) or ''}\n\n{table(own)}"


def table(parameters: list[dict[str, Any]]) -> str:
    """A row for each parameter, as ``bench describe --json`` gives them."""
    if not parameters:
        return ""
    rows = ["| name | type | default | |", "|---|---|---|---|"]
    for one in parameters:
        default = "required" if one["required"] else f"`{shortened(msgspec.json.encode(one['default']).decode())}`"
        unit = f" [{one['unit']}]" if one["unit"] else ""
        cells = (f"`{one['key']}`", shortened(one["type"] + unit), default, one["comment"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(rows)


def shortened(text: str) -> str:
    """``text``, or its beginning and an ellipsis; ``bench describe --json`` has the whole."""
    return text if len(text) <= MOST else f"{text[: MOST - 2]} …"


def fenced(language: str, text: str) -> str:
    """``text`` as a block of code."""
    return f"```{language}\n{text.strip()}\n```"


PAGES: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "commands": ("Commands", command_pages),
    "suites": ("Suites", suite_keys),
    "experiments": ("Experiments", experiment_parameters),
    "components": ("Stages, models and schemes", lambda: components("stage", "model", "scheme")),
    "messages": ("Messages", messages),
    "records": ("Records", record_fields),
}


def page(name: str) -> str:
    """The page ``name`` of ``PAGES``."""
    title, write = PAGES[name]
    return "\n\n".join([f"# {title}", *write()]) + "\n"
