# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 15: any set of PCR banks, and any hash of files, on either side of a kexec.

A kernel extends all banks that the TPM has, also those whose hash it lacks: these get padded SHA-1
digests. A bank whose hash the next kernel lacks must not go on to verify what was before.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from conftest import Kernels, Subject
from imakexec import scenario
from imakexec.scenario import Session
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(15)

ALL = ("sha1", "sha256", "sha384", "sha512")
WITH_SHA512 = ("sha1", "sha256", "sha512")
WITHOUT_HASH = ("# CONFIG_CRYPTO_SHA512 is not set",)
BY_DAY = [("sha1", "sha384")]
RECORDS = 5


def hop(
    trial: Trial, session: Session, *, append: str = "", without: str = ""
) -> tuple[list[str], list[str]]:
    """Measure, load, measure what the kernel means to carry, execute, measure.

    Returns:
        What was measured before and after the kexec.
    """
    before = [*scenario.generate_activity(session, RECORDS)]
    loaded = trial.load(append=append, without=without)
    if trial.kernel.carries_events_after_load:
        before += scenario.generate_activity(session, RECORDS)
    trial.execute(loaded)
    return before, [*scenario.generate_activity(session, RECORDS)]


@pytest.mark.parametrize(
    "banks",
    [
        ALL,
        ("sha1",),
        pytest.param(("sha256",), marks=pytest.mark.nightly),
        pytest.param(("sha384", "sha512"), marks=pytest.mark.nightly),
    ],
    ids="+".join,
)
def test_banks_with_another_hash_of_files_in_the_next_kernel(
    trial: Trial, banks: tuple[str, ...]
) -> None:
    if not {"sha1", "sha256"} & set(banks):
        trial.has_no_bank_for_boot_aggregate(0)  # the next kernel's hash is one of them
    with trial.running(banks=banks) as session:
        before, after = hop(trial, session, append="ima_hash=sha512")

    assert tuple(sorted(bank.bank for bank in trial.judgement.banks)) == banks
    hashes = {item.name: item.file_digest.algorithm for item in trial.records() if item.file_digest}
    assert {hashes[name] for name in before} == {"sha256"}
    assert {hashes[name] for name in after} == {"sha512"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(first, second, marks=() if (first, second) in BY_DAY else pytest.mark.nightly)
        for first, second in permutations(ALL, 2)
    ],
)
def test_hash_of_files_on_either_side(trial: Trial, first: str, second: str) -> None:
    """boot_aggregate has that hash too, and is of the bank that goes with it."""
    with trial.running(cmdline=f"ima_hash={first}", banks=ALL) as session:
        before, after = hop(
            trial, session, without=f"ima_hash={first}", append=f"ima_hash={second}"
        )

    records = [item for item in trial.records() if item.file_digest]
    hashes = {item.name: item.file_digest.algorithm for item in records if item.file_digest}
    assert {hashes[name] for name in before} == {first}
    assert {hashes[name] for name in after} == {second}
    boots = [item.file_digest for item in records if item.name == "boot_aggregate"]
    assert [digest.algorithm for digest in boots if digest] == [first, second]


def test_bank_that_no_kernel_has_the_hash_of(trial: Trial, subject: Subject) -> None:
    trial.extends_padded("sha512")
    kernel = subject.request(symbols=WITHOUT_HASH)
    with trial.running(kernel=kernel, banks=WITH_SHA512) as session:
        hop(trial, session)


def test_bank_that_the_next_kernel_has_no_hash_of(
    trial: Trial, subject: Subject, kernels: Kernels
) -> None:
    trial.extends_padded("sha512", since=1)
    lacking = kernels.build(subject.request(symbols=WITHOUT_HASH))
    with trial.running(banks=WITH_SHA512, next_kernel=lacking.image) as session:
        hop(trial, session)
