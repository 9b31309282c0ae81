"""Errors of the library, and an exception as one line of text or as its whole traceback."""

import traceback

TRACEBACK_CHARACTERS = 16 * 1024  # the most that a node sends of one
GAP = "\n[...]\n"


class DataError(ValueError):
    """Data that cannot be used; one line: the set, the file or folder, what was wrong, what was expected."""


class ModelError(ValueError):
    """A model that does not exist or cannot be made a chain, or parts that cannot be cut from one."""


def one_line(error: Exception) -> str:
    """What ``error`` says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def traceback_of(error: BaseException) -> str:
    """The traceback of ``error``; of one longer than TRACEBACK_CHARACTERS the beginning and the end."""
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace").decode()
    half = (TRACEBACK_CHARACTERS - len(GAP)) // 2
    return text if len(text) <= TRACEBACK_CHARACTERS else text[:half] + GAP + text[-half:]


class NodeError(RuntimeError):
    """The job cannot go on at this node; says why."""


class PeerLostError(NodeError):
    """It cannot go on because the channel to ``peer`` ended before the job did."""

    def __init__(self, peer: str, why: object) -> None:
        super().__init__(str(why))
        self.peer = peer


class ProtocolError(ValueError):
    """A message that does not fit what its receiver holds."""
