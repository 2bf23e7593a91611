# SPDX-License-Identifier: GPL-2.0-only
"""What a person sees while something runs: steps, decisions, the guest's console."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from imakexec.machine.console import ConsoleLine
from imakexec.progress import Step


class _Line:
    """A running step: a spinner on a terminal, nothing until its end elsewhere."""

    def __init__(self, title: str, status: Status | None) -> None:
        self._title = title
        self._status = status
        self.result = ""

    def update(self, detail: str, fraction: float | None = None) -> None:
        if self._status is not None:
            share = "" if fraction is None else f" {fraction:4.0%}"
            self._status.update(f"{escape(self._title)}{share} [dim]{escape(detail)}[/dim]")

    def done(self, result: str) -> None:
        self.result = result


class TerminalProgress:
    """Steps on standard error, one line each when it has ended.

    Args:
        console: where to write.
        live: show running steps with a spinner; off while something else owns the terminal.
    """

    def __init__(self, console: Console, *, live: bool = True) -> None:
        self._console = console
        self._live = live and console.is_terminal
        self._depth = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while it runs, and one line of it when it has ended."""
        started = time.monotonic()
        # rich shows one live display at a time: steps within a step have no spinner of their own.
        status = self._console.status(escape(title)) if self._live and not self._depth else None
        line = _Line(title, status)
        self._depth += 1
        if status is not None:
            status.start()
        mark = "[red]failed[/red]"
        try:
            yield line
            mark = "[green]ok[/green]"
        finally:
            self._depth -= 1
            if status is not None:
                status.stop()
            seconds = time.monotonic() - started
            result = f"  [dim]{escape(line.result)}[/dim]" if line.result else ""
            self._console.print(
                f"[dim]{seconds:7.2f} s[/dim] {mark}  {escape(title)}{result}", highlight=False
            )

    def note(self, text: str) -> None:
        """Show one line that stays."""
        self._console.print(f"{'':9} [cyan]--[/cyan]  {escape(text)}", highlight=False)


def console_printer(console: Console) -> Callable[[ConsoleLine], None]:
    """What prints each line of the guest's console as it comes."""
    return lambda line: console.print(str(line), markup=False, highlight=False)
