"""What does a person see of a run? One line that lives, in a terminal; plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Sequence
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


class LiveView:
    """Shows the run; used as a context manager around its cases."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title, self._said = "", ""
        self._done, self._total = 0, 0
        self._left: float | None = None
        self._started = self._said_at = time.monotonic()
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

    def start(self, title: str, done: int, total: int, left: float | None) -> None:
        """A case starts: ``done`` of ``total`` are over, about ``left`` seconds remain."""
        self._title, self._done, self._total, self._left, self._said = title, done, total, left, ""
        self._started = self._said_at = time.monotonic()
        if not self._console.is_terminal:
            self.line(self._head())

    def say(self, text: str) -> None:
        """One line of progress of the case: accuracy and bytes so far. May be called from any thread."""
        self._said = " ".join(text.split())
        if not self._console.is_terminal and time.monotonic() - self._said_at >= QUIET_S:
            self._said_at = time.monotonic()
            self.line(f"    {self._said}")

    def _head(self) -> str:
        left = "" if self._left is None else f", about {duration(self._left)} left"
        return f"[{self._done + 1}/{self._total}] {self._title}{left}"

    def _render(self) -> Group:
        elapsed = time.monotonic() - self._started
        lines = [Text(f"{self._head()}  {duration(elapsed)}", no_wrap=True, overflow="ellipsis")]
        if self._said:
            lines.append(Text(f"    {self._said}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines, ProgressBar(total=max(self._total, 1), completed=self._done))


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
