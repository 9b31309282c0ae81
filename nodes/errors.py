"""Errors of the library, and an exception as one line of text or as its whole traceback."""

import re
import traceback

TRACEBACK_CHARACTERS = 16 * 1024  # the most that a node sends of one
GAP = "\n[...]\n"
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class DataError(ValueError):
    """Unusable data. The message names the data set, the file, what is wrong and what was expected, on one line."""


class ModelError(ValueError):
    """A model that does not exist, cannot be traced as a chain, or cannot be cut where it was asked."""


def utf8(text: str) -> str:
    """``text`` as UTF-8 can encode it: a name of a file may be no text."""
    return text.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """``text`` with the control characters spelt out that terminals obey and XML forbids; tabs and line ends stay."""
    return UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(error: BaseException) -> str:
    """The type and message of ``error`` on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def traceback_of(error: BaseException, most_characters: int | None = None) -> str:
    """The traceback of ``error``, as text that UTF-8 can encode; the middle of a longer one is left out."""
    text = utf8("".join(traceback.format_exception(error)))
    if most_characters is None or len(text) <= most_characters:
        return text
    half = (most_characters - len(GAP)) // 2
    return text[:half] + GAP + text[-half:]


class NodeError(RuntimeError):
    """The job cannot continue at this node."""


class PeerLostError(NodeError):
    """The channel to ``peer`` closed before the job was done."""

    def __init__(self, peer: str, why: object) -> None:
        super().__init__(str(why))
        self.peer = peer


class ProtocolError(ValueError):
    """A message that its receiver cannot use in its present state."""


def unexpected(message: object, sender: str) -> ProtocolError:
    """The error of a ``message`` that fits no state of its receiver."""
    return ProtocolError(f"unexpected {type(message).__name__} from {sender}")
