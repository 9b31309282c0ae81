"""Split execution of recurrent networks and of agents that learn together by messages (HiveMind, section VI)."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Literal

import msgspec
import torch

from bench.experiments.common.threads import one_thread
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Count
from nodes.agents.messaging import learn_together
from nodes.agents.qmix import parameter_bytes
from nodes.model.boundary import boundary_bytes, pack, unpack
from nodes.model.chain import Chain
from nodes.zoo.small_cnn import SequenceLabeller
from reports.record import CaseValue


class LabellerParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GRU sequence labeller of ``steps``, cut at ``nodes`` - 1 random places, ``draws`` times."""

    steps: Count = 200
    features: Count = 64
    hidden: Count = 64
    cells: Count = 1
    classes: Count = 10
    nodes: Count = 5
    draws: Count = 3
    boundaries: Count = 21  # whose bytes are recorded, at equal distances


def labeller(parameters: LabellerParameters, context: Context) -> Iterator[Measurement]:
    """The largest difference between scores of the split and the unsplit model, and bytes along the chain."""
    with one_thread():
        torch.manual_seed(context.seed)
        model = SequenceLabeller(
            parameters.steps, parameters.features, parameters.hidden, parameters.cells, parameters.classes
        ).eval()
        shape = (1, parameters.steps, parameters.features)
        sequences = torch.randn(1, *shape)
        whole = model(sequences)
        chain = Chain(model, shape)
        random = Random(context.seed)
        differences = []
        for _ in range(parameters.draws):
            ends = sorted(random.sample(range(1, len(chain)), parameters.nodes - 1))
            differences.append((_in_parts(chain, [0, *ends, len(chain)], sequences) - whole).abs().max())
    yield Measurement("layers", len(chain), "layers")
    yield Measurement("largest_difference", float(torch.stack(differences).max()), "1")
    for place in range(parameters.boundaries):
        index = round(place * len(chain) / max(1, parameters.boundaries - 1))
        case: dict[str, CaseValue] = {"boundary": index}
        yield Measurement("boundary_bytes", boundary_bytes(chain.shapes(index)), "B", case)


class GameParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mixing of agents' values, and ``updates`` of their networks, merged every ``merge_every``."""

    mixing: Literal["qmix", "vdn"] = "qmix"
    updates: Count = 300
    merge_every: Count = 50


def two_step_game(parameters: GameParameters, context: Context) -> Iterator[Measurement]:
    """The agents' joint return, and whole frames between each agent and the cloud."""
    with one_thread():
        learned = learn_together(parameters.mixing, context.seed, parameters.updates, parameters.merge_every)
    yield Measurement("joint_return", learned.joint_return, "1")
    for name, module in (("agent", learned.agents[0]), ("mixer", learned.mixer)):
        yield Measurement("parameter_bytes", parameter_bytes(module), "B", {"of": name})
    for index, ends in enumerate(learned.channels):
        for direction, end in zip(("uplink", "downlink"), ends, strict=True):
            for kind, traffic in end.sent.items():
                case: dict[str, CaseValue] = {"agent": index, "direction": direction, "kind": kind}
                yield Measurement("messages", traffic.messages, "messages", case)
                yield Measurement("sent_bytes", traffic.header_bytes + traffic.payload_bytes, "B", case)


def _in_parts(chain: Chain, ends: list[int], sequences: torch.Tensor) -> torch.Tensor:
    """The output for ``sequences`` when each part receives only the tensors of its boundary."""
    values = {chain.input: sequences}
    for start, stop in pairwise(ends):
        tensors, views, integers = pack(values)
        sent = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        values = chain.part(start, stop)(unpack(sent, views, integers))
    result: torch.Tensor = values[chain.output]
    return result
