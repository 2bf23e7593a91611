# SPDX-License-Identifier: GPL-2.0-only
"""Work shared among processes: copies of this one, which hand back over pipes what they found.

`multiprocessing` would do, but to import it takes as long as thousands of records do, and a copy
made by it goes on with the caller's signal handlers. A copy made here does its work and no more.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar, cast

from imakexec.errors import InfraError

Found = TypeVar("Found")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS = 0.5


def share(works: Sequence[Callable[[], Found]]) -> list[Found]:
    """Do the first piece of work here and each other one in a copy of this process.

    No copy is left when this ends, by a signal's exception too. If this process is killed, its
    copies end by themselves within a second.

    A process with threads should not call it: a copy has the calling thread alone, and every lock
    as it was.

    Returns:
        What each piece of work gave, in their order.

    Raises:
        InfraError: a copy could not be made, or ended without an answer.
        Exception: what a piece of work raised, in a copy too.
    """
    with ExitStack() as stack:
        with _signals_held():
            copies = [stack.enter_context(_Copy(work)) for work in works[1:]]
        own = [work() for work in works[:1]]
        return own + [copy.answer() for copy in copies]


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let no signal come between a copy and its clean-up. In the copies they are held for good."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


class _Copy(Generic[Found]):
    """A copy of this process, at work as long as the context lasts."""

    def __init__(self, work: Callable[[], Found]) -> None:
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading, "rb")
        self._status: int | None = None
        parent = os.getpid()
        try:
            self._pid = os.fork()
            if not self._pid:
                _do_alone(work, writing, parent)
        except OSError as error:
            self._answers.close()
            raise InfraError.refused("the work cannot be shared among processes", error) from error
        finally:
            os.close(writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._wait()
        self._answers.close()

    def answer(self) -> Found:
        """Wait for the end of the work.

        Raises:
            InfraError: there is no answer.
            Exception: the work raised it.
        """
        answer = self._answers.read()
        status = self._wait()
        if status or not answer:
            end = f"signal {-status}" if status < 0 else f"status {status}"
            raise InfraError(
                f"a process that shared the work ended with {end} and gave no answer",
                remedy="run again, and look for what kills processes on this host (OOM?)",
            )
        found, error = pickle.loads(answer)
        if error is not None:
            raise error
        return cast(Found, found)

    def _wait(self) -> int:
        """Its exit status, negative for a signal; 0 if somebody else has asked for it before."""
        self._status = 0
        with suppress(ChildProcessError):
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status


def _do_alone(work: Callable[[], object], writing: int, parent: int) -> NoReturn:
    """In the copy: do the work, answer, and end without any of the caller's clean-up."""
    status = 1
    try:
        _end_without(parent)
        found: tuple[object, Exception | None]
        try:
            found = (work(), None)
        except Exception as error:
            found = (None, error)
        with os.fdopen(writing, "wb") as answers:
            pickle.dump(found, answers)
        status = 0
    finally:
        os._exit(status)


def _end_without(parent: int) -> None:
    """End this process soon after its parent: nobody is left to read the answer."""

    def look(_number: int, _frame: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
