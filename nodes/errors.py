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


def traceback_of(error: BaseException, most_characters: int | None = None) -> str:
    """The traceback of ``error``, as text that UTF-8 can encode; the middle of a longer one is left out."""
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace").decode()
    if most_characters is None or len(text) <= most_characters:
        return text
    half = (most_characters - len(GAP)) // 2
    return text[:half] + GAP + text[-half:]


class NodeError(RuntimeError):
    """The job cannot go on at this node; says why."""


class PeerLostError(NodeError):
    """It cannot go on because the channel to ``peer`` ended before the job did."""

    def __init__(self, peer: str, why: object) -> None:
        super().__init__(str(why))
        self.peer = peer


class ProtocolError(ValueError):
    """A message that does not fit what its receiver holds."""
