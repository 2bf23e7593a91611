# SPDX-License-Identifier: GPL-2.0-only
"""Keylime's reader of ASCII lists beside ours, on request: pytest -m keylime.

It is installed into an environment of its own in the user's cache, from requirements-keylime.lock.
Like evmctl it is no judge: what it makes of each list is a strict table, with what it gets wrong.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from list_writer import BANKS, Entry, ascii_list, entry, naive_pcrs, pack

from imakexec import process
from imakexec.attest import MeasurementLog, Rejection, replay
from imakexec.deadline import Deadline
from imakexec.kernel.cache import Cache

pytestmark = pytest.mark.keylime

INSTALL_SECONDS = 600.0
ANSWER_SECONDS = 60.0

ACCEPTED = "accepted"
MISMATCH = "ima.pcr_mismatch"
WRONG_DIGEST = "ima.validation.ima_hash"
VIOLATION = "ima.validation.tomtou"
OTHER_PCR = "ima.validation.ima_pcr"
UNREAD = "ima.parser.entry"

Entries = list[Entry]


@pytest.fixture(scope="session")
def python(pytestconfig: pytest.Config) -> Path:
    """The interpreter of Keylime's environment, which is made if there is none for this lock."""
    lock = pytestconfig.rootpath / "requirements-keylime.lock"
    key = hashlib.sha256(f"{sys.version}\n{lock.read_text()}".encode()).hexdigest()
    cache = Cache()
    if cache.lookup("keylime", key) is None:
        deadline = Deadline.after(INSTALL_SECONDS)
        with cache.publish("keylime", key) as folder:
            process.run([sys.executable, "-m", "venv", str(folder)], deadline=deadline)
            install = [str(folder / "bin/python"), "-m", "pip", "install", "--no-deps"]
            process.run(
                [*install, "--require-hashes", "-r", str(lock)],
                deadline=deadline,
                remedy="check the network and the pip settings, then run again",
            )
    made = cache.lookup("keylime", key)
    assert made is not None
    return made / "bin/python"


def we_accept(submitted: Entries, measured: Entries, bank: str) -> bool:
    """Whether all of the list, made of what can be trusted, gives that PCR 10."""
    try:
        log = MeasurementLog.parse(pack(submitted))
    except Rejection:
        return False
    value = naive_pcrs(measured, "little", bank)[10]
    outcome = replay(log, (bank,), {bank: {value}})
    whole = outcome.matched({bank: value}) == len(log)
    return whole and outcome.contradiction is None and outcome.uncovered is None


GOOD = [entry(f"/file-{number}") for number in range(6)]
FORGED = entry("/forged")
TAMPERED = replace(GOOD[3], values=(b"sha256:\0" + bytes(32), b"/other\0"))
CONTRADICTING = replace(TAMPERED, digest=hashlib.sha1(GOOD[3].data("little")).digest())
WRITTEN = Entry("ima-ng", (b"sha256:\0" + bytes(32), b"/written-while-read\0"), violation=True)
MARKER = (b"sha256:\0" + bytes(32), b"kexec_execute\0", b"kexec_segment_size=4096;")
RELABELLED = Entry("ima-buf", MARKER, violation=True)
# It reads a signature's header and writes it anew, so that it must be one: type 3, version 2,
# SHA-256, the key's identifier, the size of what follows.
SIGNATURE = bytes.fromhex("030204 0a0b0c0d 0008") + bytes(range(8))
SIGNED = replace(GOOD[0], template="ima-sig", values=(*GOOD[0].values, SIGNATURE))


@dataclass(frozen=True)
class Row:
    """One list.

    Args:
        submitted: the list.
        measured: what the TPM has seen; the same if empty.
        keylime: what Keylime says.
        known: why it disagrees with us, if it does.
    """

    submitted: Entries
    measured: Entries
    keylime: str
    known: str = ""


READS_NO_FURTHER = "whatever follows the first match need not be in the PCR until the next poll"
VIOLATIONS_FAIL = "it fails at any violation, as no policy that ignores them was given"
FOUR_TEMPLATES = "it reads ima, ima-ng, ima-sig and ima-buf only"

ROWS: Mapping[str, Row] = {
    "honest": Row(GOOD, GOOD, ACCEPTED),
    "last record dropped": Row(GOOD[:-1], GOOD, MISMATCH),
    "record dropped in the middle": Row(GOOD[:2] + GOOD[3:], GOOD, MISMATCH),
    "two records swapped": Row([GOOD[1], GOOD[0], *GOOD[2:]], GOOD, MISMATCH),
    "template byte changed": Row(
        [*GOOD[:3], CONTRADICTING, *GOOD[4:]], GOOD, f"{WRONG_DIGEST} {MISMATCH}"
    ),
    "template byte changed, digest column fixed": Row(
        [*GOOD[:3], TAMPERED, *GOOD[4:]], GOOD, MISMATCH
    ),
    "trailing record that was never extended": Row(
        [*GOOD, FORGED], GOOD, ACCEPTED, READS_NO_FURTHER
    ),
    "record by root, extended": Row([*GOOD, FORGED], [*GOOD, FORGED], ACCEPTED),
    "violation": Row([*GOOD, WRITTEN], [*GOOD, WRITTEN], VIOLATION, VIOLATIONS_FAIL),
    "violation relabelled": Row([*GOOD, RELABELLED], [*GOOD, WRITTEN], VIOLATION, VIOLATIONS_FAIL),
    "record of another PCR": Row([*GOOD, entry(pcr=11)], [*GOOD, entry(pcr=11)], OTHER_PCR),
    "a signature": Row([SIGNED], [SIGNED], ACCEPTED),
    "empty": Row([], GOOD, MISMATCH),
    **{
        template: Row([entry(template=template)], [entry(template=template)], ACCEPTED)
        for template in ("ima", "ima-ng", "ima-buf")
    },
    **{
        template: Row(
            [entry(template=template)],
            [entry(template=template)],
            f"{UNREAD} {MISMATCH}",
            FOUR_TEMPLATES,
        )
        for template in ("ima-ngv2", "ima-sigv2", "ima-modsig", "evm-sig", "d-ng|n-ng|sig")
    },
}


@pytest.fixture(scope="session")
def answers(python: Path) -> Mapping[tuple[str, str], str]:
    """Row and bank to what Keylime says: asked at once, as it takes a second to start."""
    asked = [(name, bank) for name in ROWS for bank in BANKS]
    questions = [
        {
            "text": ascii_list(ROWS[name].submitted).decode("ascii"),
            "pcr": naive_pcrs(ROWS[name].measured, "little", bank)[10].hex(),
            "bank": bank,
        }
        for name, bank in asked
    ]
    done = subprocess.run(
        [python, Path(__file__).parent / "keylime_child.py"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=False,
        timeout=ANSWER_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("name", ROWS)
def test_keylime_beside_the_verifier(
    answers: Mapping[tuple[str, str], str], name: str, bank: str
) -> None:
    row, said = ROWS[name], answers[name, bank]
    known = f"known: {row.known}; if that is mended, take it off the table" if row.known else ""

    assert said == row.keylime, known
    agree = (said == ACCEPTED) is we_accept(row.submitted, row.measured, bank)
    assert agree is not bool(row.known), said
