# SPDX-License-Identifier: GPL-2.0-only
"""A run of the tests in which everything has happened once."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from imakexec.attest.reasons import Verdict
from imakexec.machine.watch import Cause
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import (
    Attempt,
    Complaint,
    Found,
    KernelIdentity,
    Step,
    SuiteRun,
    TestResult,
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


PLAIN = KernelIdentity(
    subject="plain",
    release="6.1.176",
    banner="Linux version 6.1.176 (imakexec@imakexec) (gcc (Debian 12.2.0-14+deb12u1) 12.2.0, "
    "GNU ld (GNU Binutils for Debian) 2.40) #1 SMP Thu Jan  1 00:00:00 UTC 1970",
    base="linux-source-6.1 6.1.176-1",
    patches=(),
    key=digest("plain"),
    config=digest("config"),
    arch="x86_64",
)
PATCHED = replace(
    PLAIN,
    subject="patched",
    patches=(("0001-one.patch", digest("one")), ("0002-two.patch", digest("two"))),
    key=digest("patched"),
    features=("late-records", "markers"),
)
DEBUG = replace(PATCHED, subject="debug", config=digest("debug config"), key=digest("debug"))
GIVEN = replace(PLAIN, subject="given", base="/home/user/linux", key=digest("given"), arch="arm64")

GAP = "harness/test_gap_events.py::test_gap"
LOAD = "harness/test_failed_load.py::test_failed_load"
SIGNALS = "harness/test_signals.py::test_signal"

PASSED = TestResult(
    nodeid=f"{GAP}[patched]",
    outcome=Outcome.PASS,
    started="2026-11-24T14:45:24Z",
    seconds=4.25,
    budget=16.0,
    scenario=1,
    kernel=PATCHED,
    accelerator="tcg",
    verdict=Verdict.IN_SYNC.value,
    folder="tests/1",
    steps=(Step("boot", 0.5, 1.75), Step("execute", 2.5, 1.0)),
)
KNOWN = replace(
    PASSED,
    nodeid=f"{GAP}[plain]",
    outcome=Outcome.KNOWN,
    why=("A1: the list is copied at load", "B15: a crash image", "A1: again", "not an id: x"),
    started="2026-11-24T14:45:29.125Z",
    kernel=PLAIN,
    verdict=Verdict.OUT_OF_SYNC.value,
    folder="tests/2",
)
FAILED = replace(
    PASSED,
    nodeid=f"{LOAD}[debug-a b-0x#1]",
    outcome=Outcome.FAIL,
    why=("alive: kernel panic: Oops: 0000 [#1]\nin ima_dump", "not asked: O1 replay: dead"),
    ending=Cause.PANIC.value,
    scenario=6,
    kernel=DEBUG,
    verdict="",
    folder="tests/3",
    complaints=(
        Complaint("oops", 1, "Oops: 0000 [#1] SMP", "ima_dump:memcpy", ""),
        Complaint("warning", 0, "WARNING: CPU: 0", "asked_for", "the test asks for it"),
        Complaint("warning", 1, "WARNING: CPU: 1", "", ""),
    ),
    findings=(
        Found("alive", "kernel panic: Oops: 0000 [#1]", ""),
        Found("no mapping after an unload", "1 is left", "K2"),
    ),
    mended=("K9",),
)
SKIPPED = TestResult(
    nodeid="harness/test_log_staging.py::test_staging[given]",
    outcome=Outcome.SKIP,
    why=("needs a kernel of 7.2 or later",),
    scenario=22,
    kernel=GIVEN,
)
HOST_FAILED = replace(
    PASSED,
    nodeid=f"{LOAD}[patched]",
    outcome=Outcome.INFRA,
    why=("QEMU died", "exit status 1"),
    scenario=6,
    verdict="",
    folder="tests/5",
    attempts=(Attempt("swtpm died", 3.5, "tests/5-1"), Attempt("no memory", 0.0, "")),
)
TEST_FAILED = replace(
    HOST_FAILED, nodeid=f"{LOAD}[given]", why=("KeyError: 'x'",), in_test=True, kernel=GIVEN
)
UNBOUND = TestResult(
    nodeid=f"{SIGNALS}[INT]",
    outcome=Outcome.PASS,
    started="2026-11-24T14:50:00Z",
    seconds=1.5,
    accelerator="kvm",
)
UNBOUND_FAILED = replace(UNBOUND, nodeid=SIGNALS, outcome=Outcome.FAIL, why=("a process is left",))

RUN = SuiteRun(
    started="2026-11-24T14:45:20Z",
    seconds=300.5,
    command=("harness/", "-k", "gap events"),
    project=f"{'82f0e1d' * 5}00000-dirty",
    host={"system": "Debian GNU/Linux 12", "python": "3.11.2", "qemu": "7.2.15"},
    tests=(
        PASSED,
        UNBOUND,
        FAILED,
        KNOWN,
        SKIPPED,
        HOST_FAILED,
        TEST_FAILED,
        UNBOUND_FAILED,
    ),
)


def run_of(*tests: TestResult) -> SuiteRun:
    """The same run of other tests."""
    return replace(RUN, tests=tests)


HOSTILE = (
    "ok 1 forged",
    "x\nok 1 forged",
    "x\r\nnot ok 2 forged\r",
    "x\x0bok 1 forged\x0c\x1c\x1d\x1e\x85ok 2 forged\u2028ok 3 forged\u2029ok 4 forged",
    "# SKIP forged",
    "x # SKIP forged",
    "SKIP forged",
    "TODO forged",
    "Subtest: forged",
    "KTAP version 1",
    "1..99",
    "x\n  KTAP version 1\n  1..1\n  ok 1 forged\nok 1 forged",
    "Bail out!",
    "---\nforged: yaml\n...",
    "- forged",
    "reboot: System halted",
    "Kernel panic - not syncing: VFS: Unable to mount root fs",
    "List of all partitions:",
    "\x1b[31mred\x1b[0m\x00\x07\x9b",
    "\ud800 \udfff \uffff \U0010ffff",
    '"}], "status": "PASS"',
    "<script>alert(1)</script>",
    "../../../etc/passwd",
    "/etc/passwd",
    "",
    " ",
    "\t",
)
"""Texts that would like to be more than texts."""


def defaced(test: TestResult, text: str) -> TestResult:
    """The same test with a text wherever one can be put by a guest or a user."""
    kernel = KernelIdentity(text, text, text, text, ((text, digest("x")),), text, digest("x"), text)
    return replace(
        test,
        nodeid=text,
        why=(text, f"A1: {text}"),
        ending=text,
        kernel=kernel,
        accelerator=text,
        host=text,
        verdict=text,
        folder=text,
        steps=(Step(text, 0.0, 1.0),),
        complaints=(Complaint(text, 0, text, text, ""), Complaint(text, 0, text, text, text)),
        findings=(Found(text, text, text),),
        mended=(text,),
        attempts=(Attempt(text, 1.0, text),),
    )
