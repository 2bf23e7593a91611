# SPDX-License-Identifier: GPL-2.0-only
"""The guest's first serial port, as evidence: read only, from byte 0, every line with its time.

What a line means is decided by the pure functions of `complaint`; the thread in `Console` only
reads, stamps, keeps and hands on.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TextIO

from imakexec.deadline import Deadline
from imakexec.machine.complaint import Pattern, classify, find_banner

# A line longer than this is cut: a guest that writes no newline must not fill our memory.
_LONGEST_LINE = 4096
_KEPT_LINES = 4000
_KEPT_CHARACTERS = 4 << 20  # of these lines: as escapes, each byte of one can be four
_MOST_BOOTS = 100
# A boot says some 30 KiB, a debug kernel with a thousand call traces some MiB. A guest that writes
# for ever must not fill the disk; what is wrong with it is kept all the same, up to some lines.
_MOST_BYTES = 16 << 20
_MOST_BYTES_OF_ALL = 64 << 20
_MOST_COMPLAINTS = 1000
_LAST_LINES = 200
_READ_BYTES = 4096
_PIPE_BYTES = 1 << 20  # what a user may have: /proc/sys/fs/pipe-max-size
_STOP_SECONDS = 0.5
# For what is in the pipe when QEMU has ended; one that cannot be killed may write for ever.
_LAST_WORDS_SECONDS = 10.0
# A console that says nothing for this long has said what it had to say.
_SILENCE_SECONDS = 0.2


# What would steer a terminal, or end a line for whoever reads the log; a tabulator does neither.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class ConsoleLine:
    """One line of the console.

    Attributes:
        number: 0 for the first.
        seconds: host time (monotonic) since the console was opened, at the line's end.
        text: without line end; bytes that are not UTF-8, and control characters, are shown as
            escapes.
        pattern: what it matched, if anything.
        banner: the kernel's banner, if it is one.
    """

    number: int
    seconds: float
    text: str
    pattern: Pattern | None
    banner: str | None

    @classmethod
    def read(cls, raw: bytes, *, number: int, seconds: float) -> ConsoleLine:
        """Decode and classify the bytes of one line, without its end."""
        text = _CONTROL.sub(_escaped, raw.decode(errors="backslashreplace"))
        return cls(number, seconds, text, classify(text), find_banner(text))

    def __str__(self) -> str:
        return f"{self.seconds:11.6f} {self.text}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def console_pipe() -> tuple[FileIO, FileIO]:
    """What carries the serial port's output: the end to read from, and QEMU's.

    QEMU writes each byte by itself. If there is no room, a kernel waits for 10 ms and goes on
    (wait_for_lsr, drivers/tty/serial/8250/8250_port.c), and bytes are lost. A socket has room for
    278 such writes, and the first burst of a boot is some thousand; a pipe packs them.
    """
    read, write = os.pipe()
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except PermissionError:
        pass  # the user has all the pages in pipes that are allowed: 64 KiB must do
    return FileIO(read, "r"), FileIO(write, "w")


class _Logs:
    """The files that a console is written to: one for all of it, and one for each boot.

    What comes before the first banner, a firmware's words, belongs to the first boot; what a kernel
    says until the next one's banner belongs to it. Of a boot that says too much only the complaints
    are kept from then on, and what it said last; where others were left out, a line tells how many.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._whole = _create(path)
        self._boots = 0
        self._boot: TextIO | None = _create(boot_log(path, 0))
        self._room = _MOST_BYTES
        self._room_of_all = _MOST_BYTES_OF_ALL
        self._complaints = _MOST_COMPLAINTS
        self._left_out = 0
        self._last: deque[ConsoleLine] = deque(maxlen=_LAST_LINES)

    def write(self, line: ConsoleLine) -> None:
        with self._lock:
            if line.banner is not None and self._boot is not None:
                self._put_last_words()
                self._next_boot(self._boot)
                self._room = _MOST_BYTES
            text = f"{line}\n"
            if self._has_room_for(len(text.encode()), line):
                self._put_what_was_left_out(line.seconds)
                self._put(text)
            else:
                self._left_out += 1
                self._last.append(line)

    def _has_room_for(self, size: int, line: ConsoleLine) -> bool:
        if min(self._room, self._room_of_all) > 0:
            self._room -= size
            self._room_of_all -= size
            return True
        if line.pattern is None or self._complaints == 0:
            return False
        self._complaints -= 1
        return True

    def _put_last_words(self) -> None:
        """Put the last lines of a boot that were left out, and how many were before them."""
        last = [*self._last]
        if last:
            self._left_out -= len(last)
            self._put_what_was_left_out(last[0].seconds)
            self._put("".join(f"{line}\n" for line in last))

    def _put_what_was_left_out(self, seconds: float) -> None:
        if self._left_out:
            self._put(f"{seconds:11.6f} imakexec: {self._left_out} lines are left out here\n")
        self._left_out = 0
        self._last.clear()

    def _put(self, text: str) -> None:
        self._whole.write(text)
        if self._boot is not None:
            self._boot.write(text)

    def _next_boot(self, current: TextIO) -> None:
        self._boots += 1
        # A guest that prints banners for ever must not fill the folder with files.
        if 1 < self._boots <= _MOST_BOOTS:
            current.close()
            self._boot = _create(boot_log(self._path, self._boots - 1))

    def divert(self, path: Path) -> None:
        other = _create(path)
        with self._lock:
            if self._whole.closed:  # the console has ended: there will be nothing to write
                other.close()
                return
            try:
                self._end()
            finally:  # a full disk takes no last words
                self._whole, self._boot = other, None
                self._room = self._room_of_all = _MOST_BYTES  # this matters more than the rest

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        with ExitStack() as stack:  # a full disk refuses each of them
            stack.callback(self._whole.close)
            if self._boot is not None:
                stack.callback(self._boot.close)
            self._put_last_words()


def _create(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", buffering=1)


def boot_log(console: Path, boot: int) -> Path:
    """Where the part of a console lies that is of one boot: "console-1.log"."""
    return console.with_name(f"{console.stem}-{boot}{console.suffix}")


class Console:
    """Reads the serial port in a thread until its end of file.

    The thread goes on until QEMU closes the port, so that the pipe is never full and the log also
    holds what a dying guest said last.

    Args:
        port: our end of `console_pipe`; owned from now on.
        log: the file to create: one line each, "seconds text". Each boot has one of its own beside
            it, see `boot_log`.
        began: when the times begin, time.monotonic(); now if it is left out.
    """

    def __init__(self, port: FileIO, log: Path, *, began: float | None = None) -> None:
        self._port = port
        self._log = log
        self._logs: _Logs | None = None
        self._began = time.monotonic() if began is None else began
        self._last = 0.0
        self._tail: deque[ConsoleLine] = deque()
        self._changed = threading.Condition()
        self._kept = 0
        self._count = 0
        self._ended = False
        self._stopping: Deadline | None = None
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        """The log file."""
        return self._log

    def start(
        self, on_line: Callable[[ConsoleLine], None], on_failure: Callable[[OSError], None]
    ) -> None:
        """Start reading.

        Args:
            on_line: called in the reading thread with each line, after it was logged.
            on_failure: called, as the thread's last act, if the log cannot be written.
        """
        self._logs = _Logs(self._log)
        self._thread = threading.Thread(
            target=self._run, args=(self._logs, on_line, on_failure), name="console", daemon=True
        )
        self._thread.start()

    def divert(self, log: Path) -> None:
        """Write what comes from now on to another file: it is no part of the run any more.

        Raises:
            OSError: it cannot be created.
        """
        if self._logs is not None:
            self._logs.divert(log)

    def close(self) -> None:
        """Stop reading, even if QEMU still holds the port, and wait for the thread."""
        if self._thread is not None:
            self.drain(_SILENCE_SECONDS)
            self._stopping = Deadline.after(_LAST_WORDS_SECONDS)
            self._thread.join()
        self._port.close()

    def tail(self, lines: int = 40) -> str:
        """The last lines, each with its time."""
        with self._changed:
            kept = list(self._tail)
        return "\n".join(map(str, kept[-lines:]))

    @property
    def count(self) -> int:
        """How many lines there were so far: the number of the next one."""
        return self._count

    def lines(self, since: int = 0) -> tuple[ConsoleLine, ...]:
        """The lines from number `since` on, as far back as they are kept (some thousands)."""
        with self._changed:
            return tuple(line for line in self._tail if line.number >= since)

    @property
    def silent_for(self) -> float:
        """Seconds since the last line."""
        return time.monotonic() - self._began - self._last

    def drain(self, seconds: float) -> None:
        """Return when the console is silent or at its end, at the latest after `seconds`."""
        deadline = Deadline.after(seconds)
        with self._changed:
            while not self._ended and not deadline.expired:
                count = self._count
                self._changed.wait(min(_SILENCE_SECONDS, deadline.remaining))
                if self._count == count:
                    return

    def _run(
        self,
        log: _Logs,
        on_line: Callable[[ConsoleLine], None],
        on_failure: Callable[[OSError], None],
    ) -> None:
        try:
            with closing(log):
                self._read(log, on_line)
        except OSError as error:
            on_failure(error)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read(self, log: _Logs, on_line: Callable[[ConsoleLine], None]) -> None:
        # While QEMU starts: it takes longer than all of our set-up.
        import pexpect  # noqa: PLC0415  # see above
        from pexpect.fdpexpect import fdspawn  # noqa: PLC0415  # see above

        class Port(fdspawn):  # type: ignore[type-arg]  # it takes none when it runs
            def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
                # pexpect has it from the wall clock, which may be set back by hours meanwhile.
                within = _STOP_SECONDS if timeout is None else min(timeout, _STOP_SECONDS)
                data: bytes = super().read_nonblocking(size, within)
                return data

        port = Port(self._port, timeout=_STOP_SECONDS, maxread=_READ_BYTES, use_poll=True)
        # Anchored and bounded, a line at a time: pexpect's search and its buffer are then never
        # larger than a line and a read, where a growing buffer costs quadratic time.
        line = re.compile(rb"\A(?:[^\n]{0,%d}\n|[^\n]{%d})" % ((_LONGEST_LINE,) * 2))
        patterns = port.compile_pattern_list([line, pexpect.TIMEOUT, pexpect.EOF])
        while port.expect_list(patterns) < 2 and not (self._stopping and self._stopping.expired):
            if isinstance(port.match, re.Match):
                self._take(port.match[0].rstrip(b"\r\n"), log, on_line)
            elif self._stopping:
                break
        if port.before:
            self._take(port.before, log, on_line)

    def _take(self, raw: bytes, log: _Logs, on_line: Callable[[ConsoleLine], None]) -> None:
        line = ConsoleLine.read(raw, number=self._count, seconds=time.monotonic() - self._began)
        log.write(line)
        with self._changed:
            self._last = line.seconds
            self._keep(line)
            self._count += 1
            self._changed.notify_all()
        on_line(line)

    def _keep(self, line: ConsoleLine) -> None:
        self._tail.append(line)
        self._kept += len(line.text)
        while self._kept > _KEPT_CHARACTERS or len(self._tail) > _KEPT_LINES:
            self._kept -= len(self._tail.popleft().text)
