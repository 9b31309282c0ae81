"""``bench profile`` and ``split``: the costs of a model's layers, and the best split for given costs."""
# ruff: noqa: PLC0415 - so that --help needs no torch

import argparse
from argparse import ArgumentParser, Namespace
from pathlib import Path

from bench.cli.command import Answer, Command, json_argument


def _add_profile(command: ArgumentParser) -> None:
    json_argument(command)
    command.add_argument("model", metavar="MODEL", help="a model of SplitMEC or torchvision, or module:callable")
    options = "keyword arguments of the model's constructor, as a JSON object"
    command.add_argument("--options", default="", metavar="JSON", help=options)
    shape = "shape of one input sample, and its type unless it is float32 (default: 3x224x224)"
    pictures = (3, 224, 224), "float32"
    command.add_argument("--input", type=_input, default=pictures, metavar="SHAPE[:DTYPE]", help=shape)
    layers = "a layer is a tensor operation or a leaf module (default: op)"
    command.add_argument("--granularity", choices=("op", "module"), default="op", help=layers)


def _input(text: str) -> tuple[tuple[int, ...], str]:
    shape, _, dtype = text.partition(":")
    sizes = tuple(int(size) if size.isdecimal() else 0 for size in shape.split("x"))
    if min(sizes) < 1 or dtype not in ("", "float32", "int64"):
        expected = "a shape such as 3x224x224 for pictures, or 128:int64 for tokens"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return sizes, dtype or "float32"


def _profile(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.profile import as_lines, run_profile

    shape, dtype = arguments.input
    profile = run_profile(arguments.model + arguments.options, shape, arguments.granularity, dtype)
    return Answer(profile, as_lines(profile))


def _add_split(command: ArgumentParser) -> None:
    json_argument(command)
    command.add_argument("plan", type=Path, metavar="PLAN.yaml", help="nodes, their compute times and their links")
    why = "also show the next best splits, and which rates and speeds would change the choice"
    command.add_argument("--why", action="store_true", help=why)
    figure = "as --why, and draw the least cost of each split point into a PNG file"
    command.add_argument("--figure", type=Path, metavar="FILE", help=figure)


def _split(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.split import layers_of, read_plan, run_split

    found = run_split(arguments.plan)
    lines = [f"{key}: {value}" for key, value in found.items()]
    lines += ["", *layers_of(read_plan(arguments.plan), found["splits"])]
    if arguments.why or arguments.figure:
        from bench.cli.split_reasons import as_lines, draw, reasons

        found |= reasons(arguments.plan)
        lines += as_lines(found)
        if arguments.figure:
            draw(found, arguments.figure)
            lines += ["", f"figure: {arguments.figure}"]
    return Answer(found, lines)


PROFILE = Command(
    "measure time, bytes and parameters of each layer of a model",
    """
  bench profile resnet18 --input 3x32x32 --json > ue.json    # for bench split
  bench profile mine:encoder --input 128:int64          # sequences of 128 tokens
  bench profile mine:network --granularity module   # network() in mine.py, in the current folder
  bench profile timm:create_model --options '{"model_name": "resnet10t"}' """,
    _add_profile,
    _profile,
    "\nRuns on the CPU.",
)
SPLIT = Command(
    "find the best split of a model over a chain of nodes",
    """
  bench split plan.yaml --json
  bench split plan.yaml --why                  # the next best splits, and what would change the choice

plan.yaml, for two nodes and three layers:
  nodes: [ue, edge]
  compute_s: {ue: [0.4, 0.4, 0.2], edge: [0.1, 0.1, 0.1]}   seconds per layer
  boundary_bytes: [150528, 40000, 20000, 0]                 of the input, then of each layer's result
  links: [{rate_bps: 20e6, delay_s: 0.01}]                  from each node to the next

profiles: {ue: ue.json, edge: edge.json} takes compute_s and boundary_bytes from what
bench profile MODEL --json wrote on each device. limits: {latency: 0.2} bounds a metric,
memory_bytes: {ue: 5e6} the parameters on a node; objective: throughput splits a pipeline.""",
    _add_split,
    _split,
    "\nThe costs are given.",
)
