# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 11: violations are carried as violations, and the next kernel counts them.

A file that is written while somebody reads it (ToMToU), or read while somebody writes it
(open_writers), has no digest: its record has zeros where others have one, and extends the PCR with
0xff. One of them comes between load and execute.
"""

from __future__ import annotations

import pytest

from imakexec.attest.log import DIGEST_SIZES
from imakexec.scenario import Session
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(11), pytest.mark.under_debug]

WRITE_WHILE_READING = """
echo 1 >"$1"
exec 3<"$1"
exec 4>>"$1"
"""

READ_WHILE_WRITING = """
exec 4>"$1"
exec 3<"$1"
"""


def violate(session: Session, script: str, path: str) -> str:
    """Have a file violated, which no other violation was about; its path."""
    session.guest.run(["sh", "-ec", script, "violate", path], session.budget())
    return path


def test_violations(trial: Trial) -> None:
    with trial.running() as session:
        early = [
            violate(session, WRITE_WHILE_READING, "/tomtou"),
            violate(session, READ_WHILE_WRITING, "/writers-1"),
            violate(session, READ_WHILE_WRITING, "/writers-2"),
        ]
        loaded = trial.load()
        late = violate(session, WRITE_WHILE_READING, "/late")
        trial.execute(loaded)

    before = [record for record in trial.records("before-execute-0") if record.is_violation]
    assert {record.name for record in before} == {*early, late}
    after = [record for record in trial.records() if record.is_violation]
    trial.claim(
        "violations carried",
        [record.name for record in after] == [record.name for record in before],
        f"{len(after)} of {len(before)} carried",
    )
    for record in after:
        digest = record.file_digest
        assert digest is not None
        right = len(digest.value) == DIGEST_SIZES[digest.algorithm]
        trial.claim("length of the digest", right, f"{digest.algorithm}: {digest.value.hex()}")
