"""What does a person see of a run? A line for each case that runs, in a terminal; plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

QUIET_S = 10.0  # between two lines of progress where there is no terminal


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Terminal(Console):
    """A console whose end (``bench run … | head``) does not end the run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass
class Shown:
    """A case that runs."""

    title: str
    head: str
    started: float
    said: str = ""
    said_at: float = field(default_factory=time.monotonic)


class LiveView:
    """Shows a run of ``total`` cases; used as a context manager around them."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total, self._begun, self._ended = total, 0, 0
        self._running: dict[str, Shown] = {}
        self._left = ""  # of the run, when a case last started
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def line(self, text: str, style: str = "") -> None:
        """Show a line that stays."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def start(self, key: str, title: str, left_s: float | None) -> None:
        """The case of ``key``, called ``title``, starts when about ``left_s`` seconds of the run remain."""
        self._begun += 1
        self._left = "" if left_s is None else f"about {duration(left_s)} left"
        shown = Shown(title, f"[{self._begun}/{self._total}] {title}", time.monotonic())
        self._running = self._running | {key: shown}  # anew, as another thread may draw it
        if not self._console.is_terminal:
            self.line(", ".join(filter(None, (shown.head, self._left))))

    def say(self, key: str, text: str) -> None:
        """One line of progress of a case: accuracy and bytes so far. May be called from any thread."""
        shown = self._running.get(key)
        if shown is None:
            return  # a thread or a finalizer that has outlived its case
        shown.said = text
        if not self._console.is_terminal and time.monotonic() - shown.said_at >= QUIET_S:
            shown.said_at = time.monotonic()
            self.line(f"    {f'{shown.title}: ' if len(self._running) > 1 else ''}{shown.said}")

    def end(self, key: str) -> None:
        """The case of ``key`` has ended."""
        self._running = {other: shown for other, shown in self._running.items() if other != key}
        self._ended += 1

    def _render(self) -> Group:
        lines = []
        for shown in self._running.values():
            elapsed = duration(time.monotonic() - shown.started)
            lines.append(Text(f"{shown.head}  {elapsed}", no_wrap=True, overflow="ellipsis"))
            if shown.said:
                lines.append(Text(f"    {shown.said}", style="dim", no_wrap=True, overflow="ellipsis"))
        if self._left:
            lines.append(Text(self._left, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines, ProgressBar(total=max(self._total, 1), completed=self._ended))


def plan_lines(rows: Sequence[tuple[str, list[float | None], str]]) -> list[str]:
    """The plan: a line for each (experiment, estimate of each case in seconds, remark), then the whole."""
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name:<{width}}  {remark or _amount(estimates)}" for name, estimates, remark in rows]
    return [*lines, f"{_amount([estimate for _, estimates, _ in rows for estimate in estimates])} in all"]


def _amount(estimates: Sequence[float | None]) -> str:
    cases = f"{len(estimates)} case{'s' * (len(estimates) != 1)}"
    known = [estimate for estimate in estimates if estimate is not None]
    unknown = len(estimates) - len(known)
    if not known:
        return f"{cases}, time unknown" if unknown else cases
    return f"{cases}, about {duration(sum(known))}" + (f" and {unknown} of unknown time" if unknown else "")
