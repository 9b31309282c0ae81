"""``bench trace convert``: a trace in any format that is read, as our CSV."""

from pathlib import Path

from bench.suite.document import InputError
from netem.trace import TraceError, csv_text, known_format, read
from netem.traces.formats import Direction, Format

DOWNLINK_ALONE: tuple[Format, ...] = ("lumos5g", "fcc")


def convert(path: Path, form: Format | None, to: Path | None, direction: Direction | None) -> str:
    """Write the trace in ``path`` to ``to``; return what to print: the CSV itself without ``to``. Raises InputError."""
    try:
        form = form or known_format(path)
        if direction == "uplink" and form in DOWNLINK_ALONE:
            raise InputError([f"{path}: {form} holds downlink rates alone; leave --direction out"])
        trace = read(path, form, direction or "downlink")
        text = csv_text(trace)
        if to is not None:
            to.write_text(text, encoding="ascii", newline="\n")
    except TraceError as error:
        raise InputError([str(error)]) from None
    except OSError as error:
        raise InputError([f"{to}: {error.strerror}"]) from None
    return text.rstrip() if to is None else f"{to}: {len(trace.changes)} changes in {trace.period_s:g} s"
