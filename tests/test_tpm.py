# SPDX-License-Identifier: GPL-2.0-only
"""TPM operations against a real software TPM, with no guest in between."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError
from imakexec.machine.tpm import AttestationKey, Tpm

pytestmark = pytest.mark.skipif(shutil.which("swtpm") is None, reason="needs swtpm")

NONCE = bytes(range(20))
PCR_EXTEND_10 = bytes.fromhex(
    "8002 00000041 00000182 0000000a"  # TPM_ST_SESSIONS, size, TPM2_PCR_Extend, PCR 10
    "00000009 40000009 0000 00 0000"  # the empty password
    "00000001 000b" + "11" * 32  # one SHA-256 digest
)


class SoftwareTpm:
    """Carries commands to swtpm, and fails when the test wants it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.failure: BaseException | None = None
        self.response: bytes | None = None
        self.before_each = b""
        self.closes = 0

    def tpm(self, command: bytes, deadline: Deadline) -> bytes:
        assert not deadline.expired
        if self.failure is not None:
            raise self.failure
        if self.before_each:
            self._exchange(self.before_each)
        return self._exchange(command) if self.response is None else self.response

    def tpm_close(self, deadline: Deadline) -> None:
        assert not deadline.expired
        self.closes += 1

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        return failure

    def _exchange(self, command: bytes) -> bytes:
        self._connection.sendall(command)
        return self._connection.recv(4096)


@pytest.fixture(scope="module")
def manufactured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a TPM as the harness makes them."""
    state = tmp_path_factory.mktemp("swtpm")
    argv = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha1,sha256"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return state


@pytest.fixture
def software_tpm(manufactured: Path, tmp_path: Path) -> Iterator[SoftwareTpm]:
    shutil.copytree(manufactured, tmp_path / "state")
    ours, theirs = socket.socketpair()
    argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path / 'state'}"]
    argv += ["--server", f"type=tcp,fd={theirs.fileno()}"]
    argv += ["--flags", "not-need-init,startup-clear"]
    with ours, theirs, subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.settimeout(10)
        yield SoftwareTpm(ours)
        process.kill()


@pytest.fixture
def tpm(software_tpm: SoftwareTpm) -> Tpm:
    return Tpm(software_tpm)


def soon() -> Deadline:
    return Deadline.after(10)


def test_the_key_is_the_same_each_time_and_restricted(tpm: Tpm) -> None:
    ak = tpm.create_ak(soon())
    assert ak == tpm.create_ak(soon())
    # TPM2B size, type ECC, name algorithm SHA-256, then TPMA_OBJECT: fixedTPM, fixedParent,
    # sensitiveDataOrigin, userWithAuth, restricted, sign.
    assert ak.public[2:10] == bytes.fromhex("0023 000b 00050072")


def test_a_quote_verifies_and_covers_its_pcrs(tpm: Tpm) -> None:
    ak = tpm.create_ak(soon())
    quote = tpm.quote(ak, NONCE, soon(), banks=["sha1", "sha256"])
    assert quote.attest[:6] == b"\xffTCG\x80\x18"
    assert NONCE in quote.attest
    assert {bank: sorted(pcrs) for bank, pcrs in quote.pcrs.items()} == {
        "sha1": list(range(11)),
        "sha256": list(range(11)),
    }
    verify(ak, quote.attest, quote.signature)


def verify(ak: AttestationKey, attest: bytes, signature: bytes) -> None:
    # TPMT_SIGNATURE: ECDSA, SHA-256, then r and s with a size each.
    assert signature[:4] == bytes.fromhex("0018 000b")
    size = int.from_bytes(signature[4:6], "big")
    r, s = signature[6 : 6 + size], signature[8 + size :]
    key = load_pem_public_key(ak.pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    key.verify(der, attest, ec.ECDSA(SHA256()))


def test_nothing_stays_loaded(tpm: Tpm) -> None:
    ak = tpm.create_ak(soon())
    for _ in range(5):  # the TPM has three slots
        tpm.quote(ak, NONCE, soon(), banks=["sha256"])


def test_pcrs_that_move_during_every_quote_are_an_error(
    tpm: Tpm, software_tpm: SoftwareTpm
) -> None:
    ak = tpm.create_ak(soon())
    software_tpm.before_each = PCR_EXTEND_10
    with pytest.raises(GuestFailure, match="PCRs changed during each of 5 quotes"):
        tpm.quote(ak, NONCE, soon(), banks=["sha256"])


def test_another_tpms_key_is_refused(tpm: Tpm) -> None:
    with pytest.raises(GuestFailure, match="not the one of before"):
        tpm.quote(AttestationKey(b"", ""), NONCE, soon(), banks=["sha256"])


def test_banks_are_named_and_a_missing_one_is_an_error(tpm: Tpm) -> None:
    assert tpm.allocated_banks(soon()) == ("sha1", "sha256")
    with pytest.raises(GuestFailure, match="no PCRs in the bank sha384"):
        tpm.quote(tpm.create_ak(soon()), NONCE, soon(), banks=["sha384"])


@pytest.mark.parametrize("failure", [GuestFailure("kernel panic"), KeyboardInterrupt("^C")])
def test_what_ends_the_transport_reaches_the_caller(
    tpm: Tpm, software_tpm: SoftwareTpm, failure: BaseException
) -> None:
    software_tpm.failure = failure
    with pytest.raises(type(failure)) as caught:
        tpm.create_ak(soon())
    assert caught.value is failure
    software_tpm.failure = None
    assert tpm.create_ak(soon()).pem, "the next operation works again"


@pytest.mark.parametrize("response", [b"", b"\x80\x01", bytes.fromhex("8001 0000000b 00000000")])
def test_a_response_of_the_wrong_length_is_not_decoded(
    tpm: Tpm, software_tpm: SoftwareTpm, response: bytes
) -> None:
    software_tpm.response = response
    with pytest.raises(GuestFailure, match=f"has {len(response)} bytes"):
        tpm.create_ak(soon())


def test_a_refusal_names_the_operation(tpm: Tpm, software_tpm: SoftwareTpm) -> None:
    software_tpm.response = bytes.fromhex("8001 0000000a 00000101")  # TPM_RC_FAILURE
    with pytest.raises(GuestFailure, match="refused to create the attestation key"):
        tpm.create_ak(soon())


def test_every_operation_starts_from_a_fresh_device(tpm: Tpm, software_tpm: SoftwareTpm) -> None:
    tpm.create_ak(soon())
    tpm.allocated_banks(soon())
    assert software_tpm.closes == 2
