"""What a command of ``bench`` is, what it answers with, and the arguments that several commands have."""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

OK, REGRESSION, UNUSABLE, FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


class Answer(NamedTuple):
    """What a command found, for JSON and as lines of text."""

    value: Any
    lines: Iterable[str]
    code: int = OK


class Command(NamedTuple):
    """A command: one line about it, examples, its arguments, what it does, and what its help adds to that line.

    ``run`` takes the parsed arguments and the words of the command line. Where ``starts_program``, the words behind --
    are another program's, and not parsed.
    """

    help: str
    examples: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, list[str]], int | Answer]
    more: str = ""
    starts_program: bool = False

    def own(self, words: list[str]) -> list[str]:
        """The words of the command line that are to be parsed."""
        return words[: words.index("--")] if self.starts_program and "--" in words else words


def json_argument(command: ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON alone on standard output")


def suites_argument(command: ArgumentParser) -> None:
    command.add_argument("suites", nargs="+", metavar="SUITE", help="a YAML file, or a name that `bench list` shows")


def folder_argument(command: ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")


def data_argument(command: ArgumentParser) -> None:
    command.add_argument("--data", type=Path, metavar="DIR", help="folder with data sets (default: $BENCH_DATA)")


def insecure_argument(command: ArgumentParser) -> None:
    insecure = "use addresses that other machines reach without TLS: who sees the network sees the token and all data"
    command.add_argument("--insecure", action="store_true", help=insecure)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A type of argument: a whole number from ``least`` to ``most``."""

    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return convert
