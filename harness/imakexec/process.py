# SPDX-License-Identifier: GPL-2.0-only
"""Child processes that never outlive the harness, whatever ends it.

A child runs in a session of its own, so that Ctrl-C reaches the harness alone and the harness
decides the order of the clean-up. Orderly ends (return, exception, Ctrl-C) kill the child's
process group from a context manager. A SIGKILL of the harness leaves nobody to do that, so a
guardian process holds the list: its standard input is a pipe from the harness, and when the
pipe breaks it kills every group and removes every scratch path that is still registered. Unlike
PR_SET_PDEATHSIG this covers grandchildren (a make and its compilers) and does not depend on
which thread forked.
"""

from __future__ import annotations

import errno
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imakexec.deadline import Deadline
from imakexec.errors import InfraError

_GUARDIAN = r"""
trap '' INT TERM HUP
groups=; paths=
while IFS= read -r line; do
    value=${line#* }
    case $line in
    +group*) groups="$groups $value" ;;
    -group*) kept=; for g in $groups; do [ "$g" = "$value" ] || kept="$kept $g"; done
             groups=$kept ;;
    +path*) paths="$paths$value
" ;;
    esac
done
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
printf %s "$paths" | while IFS= read -r path; do rm -rf -- "$path"; done
"""

# A child tells the guardian of itself before it becomes the program, so that there is no moment in
# which it runs and nobody knows it. If its parent was killed just before, the pipe cannot be
# opened, and the program is not started.
_INTRODUCED = 'echo "+group $$" >"$0" && exec "$@"'

_TAIL_LINES = 40


class _Guardian:
    """The one guardian of this process, started when the first child is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = None
        self._owner = 0

    def tell(self, line: str) -> None:
        with self._lock:
            try:
                os.write(self._listening(), line.encode() + b"\n")
            except BrokenPipeError:
                raise InfraError(
                    "the guardian process that cleans up after the harness was killed",
                    remedy="run again, and look for what kills processes on this host (OOM?)",
                ) from None

    @property
    def path(self) -> str:
        """Where a child of this process can open the pipe to the guardian."""
        with self._lock:
            return f"/proc/{os.getpid()}/fd/{self._listening()}"

    def _listening(self) -> int:
        """The pipe to the guardian, which is started if there is none.

        It stays open as long as this process lives: its end is what the guardian waits for.
        """
        # A forked copy of this process must not speak for its parent.
        if self._pipe is None or self._owner != os.getpid():
            self._pipe = self._start()
            self._owner = os.getpid()
        return self._pipe

    @staticmethod
    def _start() -> int:
        theirs, ours = os.pipe()
        child = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(theirs)
        # It ends by itself when the pipe closes; nobody waits for it, and it must not be
        # reported as a leaked child at interpreter exit.
        child.returncode = 0
        return ours


_guardian = _Guardian()


def remove_at_death(path: Path) -> None:
    """Have `path` (scratch, which need not exist yet) removed when this process is gone.

    Raises:
        ValueError: the path holds a newline.
    """
    if "\n" in str(path):
        raise ValueError(f"a scratch path cannot hold a newline: {path!r}")
    _guardian.tell(f"+path {path.absolute()}")


def kill_group(child: subprocess.Popen[bytes], *, grace: float = 0.0) -> None:
    """End the child's process group and reap the child.

    Args:
        child: a child started by `spawn`.
        grace: seconds to wait for it to end after SIGTERM; 0 goes straight to SIGKILL.
    """
    if grace > 0 and child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            pass
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()
    _guardian.tell(f"-group {child.pid}")


def _signal_group(pgid: int, number: int) -> None:
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        pass  # the whole group is gone already


@contextmanager
def spawn(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.STDOUT,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child in a session of its own for as long as the context lasts.

    Leaving the context, or the death of this process, ends the child's whole group.

    Raises:
        InfraError: the program is missing or cannot be started.
    """
    _guardian.tell("")  # finds out whether it lives: a child without one is not started
    try:
        child = subprocess.Popen(
            ["/bin/sh", "-c", _INTRODUCED, _guardian.path, _program(argv, env), *argv[1:]],
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise InfraError(
            f"cannot start {argv[0]}: {error.strerror or error}",
            where=shlex.join(argv),
            remedy="run ./run_qemu.sh doctor: it names the packages this host lacks",
        ) from error
    try:
        yield child
    finally:
        kill_group(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _program(argv: Sequence[str], env: Mapping[str, str] | None) -> str:
    """Where the program is, in the PATH that it will have.

    Raises:
        FileNotFoundError: nowhere.
    """
    found = shutil.which(argv[0], path=(os.environ if env is None else env).get("PATH"))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such program in PATH", argv[0])
    return found


@dataclass(frozen=True)
class Completed:
    """A finished child.

    Attributes:
        returncode: exit status, negative for a signal.
        output: what it wrote to stdout and stderr, decoded as UTF-8 with replacement.
    """

    returncode: int
    output: str


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    check: bool = True,
    remedy: str = "",
) -> Completed:
    """Run a child to its end and return its output.

    Args:
        deadline: when to give up; the whole process group is killed then.
        log: a file that receives the output as it comes.
        on_line: called with each line of output, for progress.
        check: whether a non-zero exit is an error.
        remedy: what the error message tells the reader to do.

    Raises:
        InfraError: not started, deadline passed, or (with `check`) a non-zero exit; the message
            shows the command and the last lines of its output.
    """
    lines: deque[str] = deque(maxlen=_TAIL_LINES)
    chunks: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        chunks.append(line + "\n")
        if on_line is not None:
            on_line(line)

    with spawn(argv, cwd=cwd, env=env) as child:
        assert child.stdout is not None
        expired = not _pump(child.stdout, deadline, log, take)
        if not expired:
            try:
                child.wait(deadline.remaining)
            except subprocess.TimeoutExpired:
                expired = True
        if expired:
            raise InfraError(
                f"no end after {deadline.budget:.0f} s: {shlex.join(argv)}",
                where=str(log or ""),
                remedy=remedy or "see the last lines; a loaded host may only need another try",
                tail="\n".join(lines),
            )
        returncode = child.returncode
    if check and returncode != 0:
        raise InfraError(
            f"exit status {returncode}: {shlex.join(argv)}",
            where=str(log or ""),
            remedy=remedy,
            tail="\n".join(lines),
        )
    return Completed(returncode, "".join(chunks))


def _pump(
    stream: IO[bytes], deadline: Deadline, log: Path | None, take: Callable[[str], None]
) -> bool:
    """Read lines until end of file; False if the deadline came first."""
    rest = b""
    with (
        selectors.DefaultSelector() as selector,
        (log or Path(os.devnull)).open("ab", buffering=0) as sink,
    ):
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(deadline.remaining):
                return False
            data = os.read(stream.fileno(), 65536)
            if not data:
                break
            sink.write(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                take(line.decode(errors="replace"))
            if deadline.expired:
                return False
    if rest:
        take(rest.decode(errors="replace"))
    return True
