# SPDX-License-Identifier: GPL-2.0-only
"""Work is shared among processes that answer or are missed, and that leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imakexec.attest.forked import share
from imakexec.errors import InfraError, UserError

_SECONDS = 20

# Prints the ids of this process's copy, and stays until it is ended, as its copy does.
_BUSY = """
import os, signal, sys
from imakexec.attest.forked import share

class Ended(BaseException):
    pass

def end(number, frame):
    raise Ended

signal.signal(signal.SIGTERM, end)
said = os.dup(1)

def work():
    os.write(said, b"%d\\n" % os.getpid())
    while True:
        pass

def own():
    os.close(said)
    while True:
        pass

try:
    share([own, work, work])
except Ended:
    sys.exit(3)
"""


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture
def leaves_none() -> Iterator[None]:
    """The test leaves no child behind; another one may have."""
    before = children()
    yield
    assert children() <= before


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.usefixtures("leaves_none")
def test_answers_come_in_order_and_from_other_processes() -> None:
    answers = share([os.getpid] * 4)
    assert answers[0] == os.getpid()
    assert len(set(answers)) == 4
    assert share([lambda: 7]) == [7]
    assert share([]) == []


def test_a_long_answer_fits_the_pipe() -> None:
    assert share([lambda: b"", lambda: bytes(1 << 20)]) == [b"", bytes(1 << 20)]


def test_an_error_there_is_an_error_here() -> None:
    def fail() -> int:
        raise UserError("what", where="where", remedy="remedy")

    with pytest.raises(UserError) as caught:
        share([lambda: 1, lambda: 2, fail])
    assert (caught.value.what, caught.value.where) == ("what", "where")
    assert caught.value.remedy == "remedy"


@pytest.mark.usefixtures("leaves_none")
def test_an_error_here_leaves_no_process() -> None:
    def fail() -> None:
        raise UserError("what")

    def stay() -> None:
        signal.pause()

    with pytest.raises(UserError):
        share([fail, stay, stay])


@pytest.mark.usefixtures("leaves_none")
@pytest.mark.parametrize(
    ("end", "said"),
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), "signal 9"), (lambda: os._exit(0), "status 0")],
)
def test_a_process_that_dies_is_missed(end: Callable[[], None], said: str) -> None:
    with pytest.raises(InfraError, match=said):
        share([lambda: 1, end])


def test_what_cannot_be_handed_back_is_an_error() -> None:
    with pytest.raises(InfraError, match="status 1"):
        share([lambda: None, lambda: lambda: None])


def test_a_process_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = descriptors()
    with pytest.raises(InfraError, match="Resource temporarily unavailable"):
        share([lambda: 1, lambda: 2])
    assert descriptors() == before


def test_no_signal_goes_the_caller_s_way_in_a_copy() -> None:
    _, held = share([set, lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [])])
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= held


def test_the_caller_s_signals_are_as_they_were() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    share([lambda: 1, lambda: 2])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_one_that_shares(number: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        copies = [os.pidfd_open(pid) for pid in pids]
        try:
            parent.send_signal(number)
            assert parent.wait(_SECONDS) == status
            for copy in copies:
                assert select.select([copy], [], [], _SECONDS)[0]
            assert parent.stderr.read() == b""
        finally:
            parent.kill()
            for pid, copy in zip(pids, copies, strict=True):
                if not select.select([copy], [], [], 0)[0]:
                    os.kill(pid, signal.SIGKILL)
                os.close(copy)
