"""The ``bench`` command: its parser, streams and exit codes; ``bench.cli.commands`` has what each command does.

Exit codes: 0 success, also with failed claims; 1 ``check`` found a regression, and nothing else; 2 unusable input; 3 an
experiment, a node or the command itself failed; 130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import json
import os
import shutil
import sys
import textwrap
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from bench.cli import streams
from bench.cli.command import FAILED, INTERRUPTED, UNUSABLE
from bench.cli.commands import COMMANDS
from bench.execution.limits.supervisor import supervised
from nodes.errors import printable

MAIN_EPILOG = """examples:
  bench doctor                         # what this machine can run
  bench run pipeline --scale smoke     # the first run
  bench report runs/DIR                # its report again
  bench COMMAND --help                 # options and examples of a command

exit codes:
  0 success, also if claims failed; 1 bench check found a regression; 2 unusable input;
  3 an experiment failed, the records of the others are kept; 130 Ctrl-C; 143 SIGTERM"""


def main(argv: Sequence[str] | None = None) -> int:
    streams.mend()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv is None and words[:1] in (["run"], ["verify"]):
            return supervised(lambda: _main(words, for_good=True))
        return _main(words, for_good=argv is None)
    except streams.OutputError as error:
        streams.complain(str(error))
        return FAILED


def _main(words: list[str], for_good: bool) -> int:
    try:
        own = COMMANDS[words[0]].own(words) if words and words[0] in COMMANDS else words
        arguments = parser(words).parse_args(own)
    except SystemExit as stop:  # --help is 0, a wrong argument 2
        streams.write("", sys.stdout)  # the help
        return int(stop.code or 0)
    as_json = getattr(arguments, "json", False)
    output = streams.Output(apart=as_json)
    try:
        return _do(arguments, words, output, as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except streams.OutputError:
        raise
    except BaseException as error:  # 1 means a regression and nothing else
        streams.complain("".join(traceback.format_exception(error)).rstrip())
        return FAILED
    finally:
        output.close(for_good)


def _do(arguments: Namespace, words: list[str], output: streams.Output, as_json: bool) -> int:
    from bench.suite.document import InputError  # noqa: PLC0415  (so that --help needs no YAML)
    from bench.suite.parameter_types import make_importable  # noqa: PLC0415
    from nodes.user_code import UserExitError, contained  # noqa: PLC0415

    make_importable(Path())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow other processes
    try:
        with contained():
            found = COMMANDS[arguments.command].run(arguments, words)
        if isinstance(found, int):
            return found
        output.show(json.dumps(found.value, indent=2) if as_json else printable("\n".join(found.lines)))
        return found.code
    except InputError as error:
        if as_json and arguments.command == "validate":
            output.show(json.dumps({"valid": False, "errors": error.lines}, indent=2))
        streams.complain(*error.lines)
        return UNUSABLE
    except UserExitError as error:
        streams.complain(str(error))
        return FAILED


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command line ``words``; ``command`` is the command's name, the first of them.

    Only that command gets its arguments, so that ``bench --help`` imports nothing else.
    """
    main = argparse.ArgumentParser(
        prog="bench",
        description="The reference benchmark for split learning over a 5G edge.",
        epilog=MAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.help,
            description=_wrapped(f"{command.help[0].upper()}{command.help[1:]}.{command.more}"),
            epilog=f"examples:{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in words[:1]:
            command.add_arguments(added)
    return main


def _wrapped(text: str) -> str:
    """``text`` in lines of the terminal's width; indented lines stay as they are."""
    width = max(shutil.get_terminal_size().columns - 2, 40)
    lines = (
        textwrap.wrap(line, width, break_on_hyphens=False) if line[:1].strip() else [line] for line in _joined(text)
    )
    return "\n".join(line for wrapped in lines for line in wrapped)


def _joined(text: str) -> list[str]:
    """Lines of ``text``, of which each sentence that goes on in the next line is one."""
    found: list[str] = []
    for line in text.split("\n"):
        goes_on = found and found[-1][:1].strip() and found[-1][-1] not in ".:;" and line[:1].strip()
        found[-1:] = [f"{found[-1]} {line}"] if goes_on else [*found[-1:], line]
    return found


if __name__ == "__main__":
    sys.exit(main())
