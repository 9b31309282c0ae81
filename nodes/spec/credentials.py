"""Credentials of nodes, derived from the secret of their runner; imports no torch.

The runner has a key at each node of its own, the nodes of a secret share one among themselves. Tokens are made of a key
for one peer in one run. So what a node holds, or hears in a run, lets nobody act as the runner of another node, or take
part in another run.
"""

import hmac
from typing import NamedTuple

RUNNER = "runner"  # the runner's name as a peer
NODE = "node"  # begins the text of a node's credentials
KEY_CHARACTERS = 64


class Credentials(NamedTuple):
    """What one node checks tokens by: the key of runners at this node, and that of all peers in its runs."""

    runner: str
    peers: str

    @classmethod
    def of(cls, secret: str, node: str) -> "Credentials":
        """The credentials of ``node``, derived from the runner's ``secret``."""
        return cls(_derived(secret, f"{RUNNER} of {node}"), _derived(secret, "peers"))

    @classmethod
    def read(cls, text: str) -> "Credentials":
        """The credentials that ``text`` gives. Raises ValueError."""
        first, *keys = text.split(".")
        if first != NODE or [len(key) for key in keys] != [KEY_CHARACTERS] * 2:
            raise ValueError(f"expected {NODE}.KEY.KEY as bench certs token prints it")
        return cls(*keys)

    @property
    def text(self) -> str:
        return ".".join((NODE, *self))

    def token(self, peer: str) -> str:
        """The token with which ``peer``, a name and a run, opens a connection."""
        return _derived(self.runner if peer.partition("/")[0] == RUNNER else self.peers, peer)

    def __repr__(self) -> str:
        return "Credentials(...)"  # so that no log shows them


def is_of_node(text: str) -> bool:
    """Whether ``text`` gives the credentials of one node, not a runner's secret."""
    return text.startswith(f"{NODE}.")


def _derived(key: str, use: str) -> str:
    return hmac.new(key.encode(), use.encode(errors="surrogateescape"), "sha256").hexdigest()
