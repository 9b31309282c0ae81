"""Errors of the library, and an exception as one line of text."""


class DataError(ValueError):
    """Data that cannot be used; one line: the set, the file or folder, what was wrong, what was expected."""


class ModelError(ValueError):
    """A model that does not exist or cannot be made a chain, or parts that cannot be cut from one."""


def one_line(error: Exception) -> str:
    """What ``error`` says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class NodeError(RuntimeError):
    """The job cannot go on at this node; says why."""


class PeerLostError(NodeError):
    """It cannot go on because the channel to ``peer`` ended before the job did."""

    def __init__(self, peer: str, why: object) -> None:
        super().__init__(str(why))
        self.peer = peer


class ProtocolError(ValueError):
    """A message that does not fit what its receiver holds."""
