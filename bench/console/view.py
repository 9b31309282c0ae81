"""Progress of a run for people: in a terminal a line for each case that runs, elsewhere plain lines."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from nodes.errors import printable

QUIET_S = 10.0  # least time between two progress lines of a case outside a terminal


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Terminal(Console):
    """A console that the run outlives, as in ``bench run … | head``."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:  # a full disk
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass
class RunningCase:
    title: str
    head: str
    started: float
    text: str = ""
    printed_at: float = field(default_factory=time.monotonic)


class LiveView:
    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total, self._begun, self._ended = total, 0, 0
        self._running: dict[str, RunningCase] = {}
        self._left = ""  # time left of the run, as estimated when a case last started
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def line(self, text: str, style: str = "") -> None:
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def start(self, key: str, title: str, left_s: float | None) -> None:
        """Show that the case of ``key``, called ``title``, starts when about ``left_s`` seconds of the run remain."""
        self._begun += 1
        self._left = "" if left_s is None else f"about {duration(left_s)} left"
        title = printable(title)
        shown = RunningCase(title, f"[{self._begun}/{self._total}] {title}", time.monotonic())
        self._running = self._running | {key: shown}  # a new dict, as another thread may be drawing the old one
        if not self._console.is_terminal:
            self.line(", ".join(filter(None, (shown.head, self._left))))

    def say(self, key: str, text: str) -> None:
        """Show one line about a case, such as its accuracy and bytes so far. Callable from any thread."""
        shown = self._running.get(key)
        if shown is None:
            return  # from a thread or a finalizer that outlived its case
        shown.text = printable(text)
        if not self._console.is_terminal and time.monotonic() - shown.printed_at >= QUIET_S:
            shown.printed_at = time.monotonic()
            self.line(f"    {f'{shown.title}: ' if len(self._running) > 1 else ''}{shown.text}")

    def end(self, key: str) -> None:
        self._running = {other: shown for other, shown in self._running.items() if other != key}
        self._ended += 1

    def _render(self) -> Group:
        lines = []
        for shown in self._running.values():
            elapsed = duration(time.monotonic() - shown.started)
            lines.append(Text(f"{shown.head}  {elapsed}", no_wrap=True, overflow="ellipsis"))
            if shown.text:
                lines.append(Text(f"    {shown.text}", style="dim", no_wrap=True, overflow="ellipsis"))
        if self._left:
            lines.append(Text(self._left, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines, ProgressBar(total=max(self._total, 1), completed=self._ended))


def plan_lines(rows: Sequence[tuple[str, list[float | None], str]]) -> list[str]:
    """Lines of the plan: one for each (experiment, estimates of its cases in seconds, remark), then the total."""
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
