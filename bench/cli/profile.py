"""``bench profile``: the cost of each layer of a model, measured on this machine, ready for JSON.

``bench split`` reads these files: a plan may name one for each node in place of the costs themselves.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.suite.document import Document, InputError, Node, read_or_note
from bench.suite.parameter_types import check_model
from nodes.costs.profile import measure_profile
from nodes.imports import load_callable
from nodes.model.factory import CLASSES, build_model, import_path
from nodes.spec.job import Granularity, InputType, ModelSpec
from nodes.user_modules import user_modules

COLUMNS = ("layers", "boundary_bytes", "forward_s", "backward_s", "parameters")
PUBLISHED_CLASSES = 1000  # of torchvision's classifiers
FLOAT_BYTES = 4


def run_profile(
    model: str, input_shape: tuple[int, ...], granularity: Granularity = "op", dtype: InputType = "float32"
) -> dict[str, list[Any]]:
    """Profile ``model`` (its name, or a ModelSpec's text) for one sample, such as a picture (C, H, W), on the CPU.

    Returns L names, L+1 bytes at boundaries (0 the input, L the result; float32), L times forward and backward in
    seconds, L parameter counts. A user's model has the number of classes that its callable defaults to. Raises
    InputError, one line, for a model that cannot be made or run on such samples, whatever its code raises.
    """
    modules = user_modules([Path()])
    modules.forget_changed()
    with modules.in_use():
        try:
            check_model(model)
        except ValueError as error:
            raise InputError([f"MODEL: {error}"]) from None
        try:
            network = build_model(model, _classes(model), input_shape)
            profile = measure_profile(network, input_shape, granularity, dtype=dtype)
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise InputError([f"MODEL: {model}: {message.removeprefix(model).lstrip(': ')}"]) from error
    return {column: getattr(profile, column) for column in COLUMNS}


def place_profiles(document: Document) -> None:
    """Put the costs in the files of a split plan's ``profiles`` {node: path from the plan's folder} in their place.

    ``training: true`` adds backward passes and gradients, which have the size of their boundary, none of the input.
    ``deliver: true`` sends the result on to the last node. Errors are noted with the file, line and key.
    """
    plan = document.root.parts
    if "profiles" not in plan:
        return
    if not isinstance(plan["profiles"].value, dict) or not plan["profiles"].value:
        document.problem(("profiles",), "expected the path of a profile for each node")
    document.check()
    files = {name: _profile_of(document, name, node) for name, node in plan["profiles"].parts.items()}
    document.check()
    sound = {name: parts for name, parts in files.items() if parts}
    (first, kept), *others = sound.items()
    for name, parts in others:
        if any(parts[column].plain != kept[column].plain for column in ("layers", "boundary_bytes")):
            same = "profile the same model, input and granularity on every device"
            document.problem(("profiles", name), f"other layers or sizes than {first!r} has; {same}")
    given = {key: plan[key].plain for key in ("training", "deliver") if key in plan}
    for key, value in given.items():
        if not isinstance(value, bool):
            document.problem((key,), f"expected true or false, got {value!r}")
    placed = _placed(document, sound, kept, given)
    for key in placed.keys() & plan.keys():
        document.problem((key,), "comes from profiles; leave one of both out")
    document.check()
    others_given = {key: node for key, node in plan.items() if key not in ("profiles", *given)}
    document.place(replace(document.root, value=others_given | placed))


def _profile_of(document: Document, name: str, node: Node) -> dict[str, Node] | None:
    """The columns in the profile at the path ``node``; None where problems were noted."""
    if not isinstance(node.value, str):
        document.problem(("profiles", name), f"expected the path of a profile, got {node.plain!r}")
        return None
    profile = read_or_note(document.path.parent / node.value)
    document.absorb(profile)
    if profile.problems:
        return None
    parts = profile.root.parts
    wrong = [column for column in COLUMNS if not isinstance(parts.get(column, node).value, list)]
    if wrong:
        document.problem(("profiles", name), f"{node.value} has no list {wrong[0]}; write it by bench profile --json")
    return None if wrong else parts


def _placed(
    document: Document, profiles: Mapping[str, Mapping[str, Node]], kept: Mapping[str, Node], given: Mapping[str, bool]
) -> dict[str, Node]:
    """The plan's values that follow from ``profiles``, of which ``kept`` is the first."""

    def node(value: Any) -> Node:
        return replace(document.root.parts["profiles"], value=value)

    boundaries = kept["boundary_bytes"].value
    placed = {
        "compute_s": node({name: parts["forward_s"] for name, parts in profiles.items()}),
        "boundary_bytes": node(boundaries if given.get("deliver") else [*boundaries[:-1], node(0)]),
    }
    if given.get("training"):
        placed["backward_s"] = node({name: parts["backward_s"] for name, parts in profiles.items()})
        placed["gradient_bytes"] = node([node(0), *boundaries[1:-1], node(0)])
    if document.root.parts.keys() & {"memory_bytes", "current_splits"}:
        counts = [count for count in kept["parameters"].value if isinstance(count.value, int)]
        placed["parameter_bytes"] = node([replace(count, value=FLOAT_BYTES * count.value) for count in counts])
    return placed


def as_lines(profile: dict[str, list[Any]]) -> list[str]:
    layers, boundary_bytes, *columns = (profile[column] for column in COLUMNS)
    lines = [f"{'layer':<40}{'forward':>12}{'backward':>12}{'bytes out':>12}{'parameters':>12}"]
    for name, sent, forward_s, backward_s, count in zip(layers, boundary_bytes[1:], *columns, strict=True):
        lines.append(f"{name:<40}{forward_s * 1e3:>9.3f} ms{backward_s * 1e3:>9.3f} ms{sent:>12}{count:>12}")
    return lines


def _classes(model: str) -> int:
    if path := import_path(ModelSpec.read(model).name):
        parameters = inspect.signature(load_callable(path)).parameters
        for parameter in (parameters[name] for name in CLASSES if name in parameters):
            if isinstance(parameter.default, int):
                return parameter.default
    return PUBLISHED_CLASSES
