# SPDX-License-Identifier: GPL-2.0-only
"""What a person sees while something runs: steps, decisions, the guest's console."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from imakexec.progress import Step

# How often a step reports in a log, where a spinner would only be noise.
_LOG_SECONDS = 20.0
_WIDTH = 80
_NOTE_INDENT = 14  # below the titles of steps


class _Line:
    """A running step: a spinner on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, title: str, status: Status | None) -> None:
        self._console = console
        self._title = escape(title)
        self._status = status
        self._started = self._spoke = time.monotonic()
        self.result = ""

    def update(self, detail: str, fraction: float | None = None) -> None:
        """Show what happens now."""
        share = "" if fraction is None else f" {fraction:.0%}"
        now = f"{self._title}{share}  [dim]{escape(detail)}[/dim]"
        if self._status is not None:
            self._status.update(now)
        elif time.monotonic() - self._spoke >= _LOG_SECONDS:
            self._spoke = time.monotonic()
            self.print("[dim]..[/dim]", now, shorten=True)

    def done(self, result: str) -> None:
        """Keep the result for the step's last line."""
        self.result = result

    def end(self, mark: str) -> None:
        """Show the step's last line."""
        result = f"  [dim]{escape(self.result)}[/dim]" if self.result else ""
        self.print(mark, f"{self._title}{result}")

    def print(self, mark: str, text: str, *, shorten: bool = False) -> None:
        """Show a line with the step's age before it.

        Args:
            shorten: leave out what does not fit into the line; else it is folded.
        """
        seconds = time.monotonic() - self._started
        line = f"[dim]{seconds:7.2f} s[/dim] {mark}  {text}"
        if shorten:
            self._console.print(
                line, highlight=False, soft_wrap=False, no_wrap=True, overflow="ellipsis"
            )
        else:
            self._console.print(line, highlight=False)


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
        # rich shows one live display at a time: steps within a step have no spinner of their own.
        status = self._console.status(escape(title)) if self._live and not self._depth else None
        line = _Line(self._console, title, status)
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
            line.end(mark)

    def note(self, text: str) -> None:
        """Show a text that stays, folded below itself."""
        # A path that is too long stays whole, to be copied.
        folded = textwrap.wrap(
            text, _WIDTH - _NOTE_INDENT, break_long_words=False, break_on_hyphens=False
        )
        shown = f"\n{'':{_NOTE_INDENT}}".join(folded)
        self._console.print(f"{'':9} [cyan]--[/cyan]  {escape(shown)}", highlight=False)


def console_printer(console: Console) -> Callable[[object], None]:
    """What prints each line of the guest's console as it comes."""
    return lambda line: console.print(str(line), markup=False, highlight=False)


def shell_command(argv: Sequence[str]) -> str:
    """A command as one can paste it into a shell, an option and its value to a line."""
    lines = [[argv[0]]]
    for word in argv[1:]:
        if word.startswith("-") or len(lines) == 1:
            lines.append([word])
        else:
            lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)
