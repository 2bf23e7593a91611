# SPDX-License-Identifier: GPL-2.0-only
"""A signal becomes one exception, and is not forgotten if that gets lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from imakexec import interruption
from imakexec.interruption import Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interruption, "_signals", interruption._Signals())
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, lambda *_: None)  # a broken test must not end the test run
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "the terminal was closed"),
    ],
)
def test_a_signal_is_raised(number: signal.Signals, code: int, word: str) -> None:
    interruption.catch()
    with pytest.raises(Interrupted, match=word) as caught:
        send(number)
    assert caught.value.exit_code == code


def test_it_is_no_exception_that_others_catch() -> None:
    assert not issubclass(Interrupted, (Exception, KeyboardInterrupt))


def test_a_second_one_does_not_break_the_clean_up_of_the_first() -> None:
    interruption.catch()
    with pytest.raises(Interrupted):
        send(signal.SIGINT)
    send(signal.SIGINT)
    send(signal.SIGTERM)


def test_a_later_one_counts_if_the_first_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_CLEANUP_SECONDS", 0.0)
    interruption.catch()
    for _ in range(2):
        with pytest.raises(Interrupted):
            send(signal.SIGINT)


def test_one_that_came_is_found_behind_the_error_that_it_caused() -> None:
    interruption.catch()
    interruption.check()
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)
    with pytest.raises(Interrupted, match="terminated"):
        interruption.check()


def test_what_was_ignored_from_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruption.catch()
    send(signal.SIGHUP)


def test_at_the_end_nothing_is_left_to_be_interrupted() -> None:
    interruption.catch()
    interruption.ignore()
    for number in ENDING:
        send(number)
