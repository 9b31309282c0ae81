"""Events of a run that was not watched, from its log: cases and messages, without links, splits and curves."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG = "run.log"
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([A-Z]+) [\w.]+: (.*)")
RUN = re.compile(r"run (\S+) started, (\d+) cases to run, ")
STARTED = re.compile(r"case started: (.*)")
ENDED = re.compile(r"case ended: (.*), (\d+\.\d) s")
END = re.compile(r"run ended with exit code (\d+)")


def lines_of_log(folder: Path) -> bytes:
    """The events of the run in ``folder`` as lines of JSON. Raises OSError if there is no log."""
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    found = (
        event for line in text.splitlines() if (match := LINE.fullmatch(line)) for event in _events(*match.groups())
    )
    return b"".join(json.dumps(event).encode() + b"\n" for event in found)


def _events(time: str, level: str, text: str) -> Iterator[dict[str, Any]]:
    at = datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    if match := RUN.match(text):
        yield {"kind": "run", "at": at, "name": match[1], "cases": int(match[2]), "unwatched": True}
    yield {"kind": "log", "at": at, "level": level.lower(), "text": text}
    if match := STARTED.fullmatch(text):
        yield {"kind": "started", "at": at, "case": match[1], "title": match[1]}
    elif match := ENDED.fullmatch(text):
        yield {"kind": "ended", "at": at, "case": match[1], "seconds": float(match[2])}
    elif match := END.fullmatch(text):
        yield {"kind": "end", "at": at, "exit_code": int(match[1])}
