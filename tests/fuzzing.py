# SPDX-License-Identifier: GPL-2.0-only
"""Feeds inputs from a seed to what is under test, and watches what it does with them.

Every input is made from the seed, the target's name and its own number alone, so that any of them
can be made again without those before it.
"""

from __future__ import annotations

import resource
import signal
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Generic, TypeVar

from imakexec.attest import Rejection
from imakexec.attest.structures import StructureError
from imakexec.errors import ImaKexecError

OURS = (Rejection, ImaKexecError, StructureError)
"""All that may be raised at malformed input."""

HANG_SECONDS = 10.0
"""No input takes more than milliseconds; a host under load may take a thousand times as long."""

MEASURED_EVERY = 50
"""Memory is traced for one input in so many: tracing takes longer than the input."""

_MEASUREMENTS = 3

LEAK_BYTES = 48 << 20
"""By how much a whole run may grow, however long: what Python's allocator does not give back."""

_SHOWN = 2000

T = TypeVar("T")


@dataclass(frozen=True)
class Target(Generic[T]):
    """Something that reads what somebody else has written.

    Args:
        name: of it, as the option and the messages call it.
        make: an input.
        feed: what it does with one; returns a word for what came out.
        size: of an input, in bytes.
        show: an input for people.
        factor: bytes of memory that it may use per byte of input.
        constant: bytes that it may use whatever the input.
    """

    name: str
    make: Callable[[Random], T]
    feed: Callable[[T], str]
    size: Callable[[T], int]
    show: Callable[[T], str]
    factor: int
    constant: int


class Hang(BaseException):
    """An input took too long. No `except Exception` of what is under test can hide it."""


class Defect(AssertionError):
    """What an input has brought to light."""


def fuzz(target: Target[T], *, seed: int, numbers: Iterable[int]) -> Counter[str]:
    """Feed inputs, and count what came out by its name.

    Args:
        numbers: which inputs.

    Raises:
        Defect: an exception that is not ours, a hang, or too much memory; it names the input.
    """
    outcomes: Counter[str] = Counter()
    before = _resident()
    with _watched() as watch:
        for number in numbers:
            item = target.make(Random(f"{seed} {target.name} {number}"))
            watch(HANG_SECONDS)
            try:
                if number % MEASURED_EVERY == 0:
                    outcomes[_measured(target, item)] += 1
                else:
                    outcomes[_fed(target, item)] += 1
            except (Exception, Hang) as error:
                watch(0)
                raise Defect(_story(target, seed, number, item, error)) from error
    grown = _resident() - before
    if grown > LEAK_BYTES:
        raise Defect(f"{target.name}: {grown} bytes were not given back after the last input")
    return outcomes


def table(outcomes: Counter[str]) -> str:
    """How often each came out, for people."""
    total = outcomes.total()
    return "\n".join(
        f"{count:>9} {100 * count / total:5.1f} %  {name}" for name, count in outcomes.most_common()
    )


def _fed(target: Target[T], item: T) -> str:
    try:
        return target.feed(item)
    except OURS as error:
        return str(getattr(error, "reason", type(error).__name__))


def _measured(target: Target[T], item: T) -> str:
    outcome = _fed(target, item)
    allowed = target.constant + target.factor * target.size(item)
    # More than once, as the interpreter's own tables grow now and then: that is not the input's.
    for _ in range(_MEASUREMENTS):
        peak = _peak(target, item)
        if peak <= allowed:
            return outcome
    raise AssertionError(f"{peak} bytes of memory were used, {allowed} are allowed")


def _peak(target: Target[T], item: T) -> int:
    """The most memory that an input takes, in bytes."""
    tracemalloc.start()
    try:
        _fed(target, item)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def _watched() -> Iterator[Callable[[float], object]]:
    """Lets `Hang` be raised so many seconds from now, or never again for 0."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"no end after {HANG_SECONDS:.0f} s")

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _resident() -> int:
    """What this process has in memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _story(target: Target[T], seed: int, number: int, item: T, error: BaseException) -> str:
    shown = target.show(item)
    return (
        f"{target.name}, seed {seed}, input {number}: {type(error).__name__}: {error}\n"
        f"again: pytest tests/test_fuzz.py -k '{target.name} and inputs'"
        f" --fuzz-seed={seed} --fuzz-number={number}\n"
        f"input of {target.size(item)} bytes: {shown[:_SHOWN]}{'...' * (len(shown) > _SHOWN)}"
    )
