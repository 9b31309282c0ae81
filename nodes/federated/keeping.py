"""State that all nodes of a federation keep at the end of a round, from which they go on if they start again.

A client keeps its state when it has sent all of its part of a round, an edge server when the round is aggregated and
nothing of that has been sent to clients, the cloud when it has answered all. So no message is on its way of which one
end's state knows and the other's does not. Clients that may rest in a round keep their state after tests too. An edge
server notes the last moment at which each client kept its state, which has not changed since. Below a cloud, edge
servers keep the rounds in which it aggregates.

Moments count up: 2n is after the training of round n (from 0), 2n + 1 after its tests.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import torch

from nodes.errors import ModelError, one_line
from nodes.federated.schemes import Scheme, scheme_of
from nodes.model.checkpoint import is_whole, write_state
from nodes.runtime.account import Account
from nodes.runtime.actions import Action, Keep
from nodes.spec.federation import CLOUD, Federation

HELLO = "client-hello"


@dataclass(frozen=True)
class KeepRound(Keep):
    """Save the state of ``node`` at ``moment``, with ``progress`` of its role; servers do once in ``period`` rounds."""

    folder: str
    node: str
    moment: int
    period: int
    progress: Any = None

    def run(self, worker: Any) -> None:
        state = {"worker": worker.everything(), "progress": self.progress, "account": msgspec.to_builtins(self.account)}
        write_state(_path(self.folder, self.node, self.moment), state, durable=False)
        for earlier in superseded(_moments(self.folder, self.node), self.period):
            _path(self.folder, self.node, earlier).unlink()


class RoundKeeping:
    """What node ``node`` of ``federation`` keeps, if the federation keeps anything."""

    def __init__(self, federation: Federation, node: str) -> None:
        self._spec, self._node, self._period = federation.keep, node, _period(federation)
        select = type(scheme_of(federation)).select
        self._some_rest = federation.participants is not None or select is not Scheme.select

    def ends_period(self, round_number: int) -> bool:
        """Whether servers keep their state after this round."""
        return self._spec is not None and (round_number + 1) % self._period == 0

    def after(self, round_number: int, progress: Any = None) -> list[Action]:
        """What to keep after the training of a round."""
        return self._at(2 * round_number, progress)

    def tested(self, round_number: int) -> list[Action]:
        """What to keep after the tests of a round."""
        return self._at(2 * round_number + 1) if self._some_rest else []

    def last_moment(self, completed: int | None, tested: int | None) -> int | None:
        """The last moment at which a client kept its state that has done these rounds; None if it never has."""
        trained_at = None if completed is None else 2 * completed
        tested_at = None if tested is None or not self._some_rest else 2 * tested + 1
        return max((one for one in (trained_at, tested_at) if one is not None), default=None)

    def _at(self, moment: int, progress: Any = None) -> list[Action]:
        if self._spec is None:
            return []
        return [KeepRound(self._spec.folder, self._node, moment, self._period, progress)]


def keepable(federation: Federation) -> bool:
    """Whether ``federation`` may go on from the end of a round.

    It may not where clients do not wait for each other, where the scheme ends rounds early or a deadline does, and
    where clients move or drop out: what a round's end leaves then depends on the time, or is on its way.
    """
    scheme = scheme_of(federation)
    ends_early = not scheme.waits or type(scheme).is_over is not Scheme.is_over
    changes = federation.moves or federation.absences or federation.round_deadline_s is not None
    return not (ends_early or changes or federation.folder is not None)


def superseded(moments: Collection[int], period: int) -> set[int]:
    """Those of a node's ``moments`` that are not its last before an end of a period which all may still go on from.

    While this node is in a period, another edge server may be at the end of the one before the last.
    """
    periods = {moment: (moment + 1) // 2 // period for moment in moments}
    last = max(periods.values())
    pairs = product(periods.items(), periods.items())
    return {one for (one, of), (other, later) in pairs if one < other and (of == later or later <= last - 2)}


def last_kept(federation: Federation, reported: Collection[tuple[int, int]]) -> int | None:
    """The last round after which all nodes can go on; None for the beginning.

    ``reported`` are edge servers and rounds whose reports the runner has: it needs those of all earlier rounds.
    """
    assert federation.keep is not None
    folder = federation.keep.folder
    servers = [name for name in federation.names if name not in federation.client_names]
    rounds = {moment // 2 for moment in set.intersection(*(_moments(folder, name) for name in servers))}
    earlier = {one for one in rounds if set(product(range(federation.edges), range(one))) <= set(reported)}
    return next((one for one in sorted(earlier, reverse=True) if _fits(federation, folder, servers, one)), None)


def _fits(federation: Federation, folder: str, servers: list[str], round_number: int) -> bool:
    """Whether the states of all nodes after a round are whole, and belong together."""
    if not all(is_whole(_path(folder, name, 2 * round_number)) for name in servers):
        return False
    for edge in set(servers) - {CLOUD}:
        for client, kept in _read(_path(folder, edge, 2 * round_number))["progress"]["clients"].items():
            name = federation.client_names[client]
            own = _last(folder, name, round_number)
            if own != kept["moment"] or (own is not None and not is_whole(_path(folder, name, own))):
                return False
    return True


def kept_state(federation: Federation, node: str) -> dict[str, Any] | None:
    """What node ``node`` goes on from, of its ``worker`` and the ``progress`` of its role; None: it begins.

    Raises ModelError for a file of anything else.
    """
    keep = federation.keep
    if keep is None or keep.round is None or (last := _last(keep.folder, node, keep.round)) is None:
        return None
    return _read(_path(keep.folder, node, last))


def kept_account(federation: Federation, node: str) -> Account | None:
    """What node ``node`` had done by then, but for the hello that it says again."""
    kept = kept_state(federation, node)
    if kept is None:
        return None
    account = msgspec.convert(kept["account"], Account)
    for sent in account.sent.values():
        sent.pop(HELLO, None)
    return account


def _period(federation: Federation) -> int:
    """Rounds from one moment to the next at which all edge servers are in the same round."""
    return federation.cloud_every if federation.edges > 1 else 1


def _path(folder: str, node: str, moment: int) -> Path:
    return Path(folder) / f"{node}-{moment}.pt"


def _moments(folder: str, node: str) -> set[int]:
    return {int(path.stem.rpartition("-")[2]) for path in Path(folder).glob(f"{node}-*.pt")}


def _last(folder: str, node: str, round_number: int) -> int | None:
    """The last moment up to the end of a round's training at which ``node`` has kept its state."""
    return max((one for one in _moments(folder, node) if one <= 2 * round_number), default=None)


def _read(path: Path) -> dict[str, Any]:
    """The state in a file; its tensors are read when they are used."""
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return {name: saved[name] for name in ("worker", "progress", "account")}
    except Exception as error:  # whatever stands in the file
        raise ModelError(f"{path} is no state of a federation's node: {one_line(error)}") from None
