# SPDX-License-Identifier: GPL-2.0-only
"""The guest's TPM, driven from the host through the guest kernel's own driver.

tpm2-pytss speaks the TPM's language, a TCTI in Python carries every command to the agent's
/dev/tpmrm0. So a quote proves something about the path that the guest kernel uses, and the guest
needs no TPM software.

Each operation makes an ESAPI context of its own: after a transport error, and after a kexec, an
old one answers "called in the wrong order" for ever. No operation leaves an object behind, and
none opens a session: the resource manager dies with the kernel, and sessions that it had open
would stay in the TPM for good.

Importing this module loads the TPM software stack, which takes a noticeable part of a second: do
it while the guest boots.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tpm2_pytss import ESAPI, PyTCTI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_HT, TSS2_RC
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_ATTEST,
    TPMT_HA,
    TPMU_HA,
)

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError

# The library's own complaints on stderr; every error reaches the caller as an exception.
os.environ.setdefault("TSS2_LOG", "all+NONE")

BOOT_PCRS = range(11)
"""PCR 0-9 give boot_aggregate, PCR 10 is IMA's."""

# ECC P-256, and restricted: such a key signs nothing but what the TPM itself has made, so a
# signed quote cannot be forged by the guest's root (TPM 2.0 Library, part 1, "Restricted").
_AK_KIND = "ecc256:ecdsa-sha256:null"
_AK_ATTRIBUTES = "restricted|sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"

# How the kernel and tpm2-tools call the banks.
_BANKS = {TPM2_ALG.parse(name): name for name in ("sha1", "sha256", "sha384", "sha512")}

_ALGORITHMS = {name: algorithm for algorithm, name in _BANKS.items()}
_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}

_HANDLES_PER_READ = 64
_DIGESTS_PER_READ = 8  # TPM2_PCR_Read returns no more (TPML_DIGEST, part 2)
_RESPONSE_HEADER = 10  # tag u16, size u32, response code u32
_RESPONSE_MAX = 4096
_QUOTE_ATTEMPTS = 5


@dataclass(frozen=True)
class AttestationKey:
    """The public half of the attestation key.

    It is derived from the TPM's endorsement seed: the same at every boot of this TPM, and never
    stored.

    Attributes:
        public: TPM2B_PUBLIC, marshalled, with its size field.
        pem: the same key as a PEM SubjectPublicKeyInfo.
    """

    public: bytes
    pem: str


@dataclass(frozen=True)
class QuoteResult:
    """A quote and the PCR values that it signs.

    Attributes:
        attest: TPMS_ATTEST, the signed bytes.
        signature: TPMT_SIGNATURE, marshalled.
        nonce: what was asked for, part of `attest`.
        pcrs: bank name to PCR number to value; their digest is the one in `attest`.
    """

    attest: bytes
    signature: bytes
    nonce: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]


class TpmTransport(Protocol):
    """What is asked of the guest."""

    def tpm(self, command: bytes, deadline: Deadline) -> bytes:
        """Send one TPM command and return the response."""

    def tpm_close(self, deadline: Deadline) -> None:
        """Flush everything that was loaded."""

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        """What to raise for a failure of the TPM: itself, or what the host did to cause it."""


class _GuestTcti(PyTCTI):  # type: ignore[misc]  # the library ships no type information
    """Carries commands to the guest; keeps what went wrong there.

    The library reduces an exception from here to an error code, and lets one that is no
    Exception (Ctrl-C) vanish in the C caller. So the first is kept for whoever made the call.
    """

    def __init__(self, guest: TpmTransport, deadline: Deadline) -> None:
        self._guest = guest
        self._deadline = deadline
        self._response = b""
        self.failure: BaseException | None = None
        super().__init__(max_size=_RESPONSE_MAX, magic=b"IMAKEXEC")

    def do_transmit(self, command: bytes) -> None:
        """Send the command and wait for the response; the agent knows no other way."""
        try:
            self._response = self._guest.tpm(command, self._deadline)
        except BaseException as error:
            self.failure = self.failure or error
            raise TSS2_Exception(TSS2_RC.TCTI_RC_IO_ERROR) from error

    def do_receive(self, timeout: int) -> bytes:  # noqa: ARG002  # the deadline is the limit
        """The response to the last command."""
        size = int.from_bytes(self._response[2:6], "big")
        # ESAPI itself does not notice a short one: it would decode what the buffer held before.
        if not _RESPONSE_HEADER <= len(self._response) == size <= _RESPONSE_MAX:
            self.failure = self.failure or GuestFailure(
                f"the TPM's response has {len(self._response)} bytes but says {size}",
                remedy="read the console: the guest's TPM driver is broken",
            )
            raise TSS2_Exception(TSS2_RC.TCTI_RC_MALFORMED_RESPONSE)
        return self._response


class Tpm:
    """TPM operations of one guest, over all its kernels.

    Every method takes a deadline and raises `GuestFailure` when it passes, when the guest dies
    or when the TPM refuses, `GuestOSError` when the guest's driver fails, and `InfraError` when
    the host fails first.
    """

    def __init__(self, guest: TpmTransport) -> None:
        self._guest = guest

    def create_ak(self, deadline: Deadline) -> AttestationKey:
        """The restricted signing key in the endorsement hierarchy.

        That hierarchy, because a quote by one of its keys shows the reset and restart counters
        as they are; keys of others see them obfuscated (part 1, "TPMS_CLOCK_INFO").
        """
        with self._esapi("create the attestation key", deadline) as esapi, _loaded_ak(esapi) as ak:
            return ak.key

    def quote(
        self,
        ak: AttestationKey,
        nonce: bytes,
        deadline: Deadline,
        *,
        banks: Sequence[str],
        pcrs: Sequence[int] = BOOT_PCRS,
    ) -> QuoteResult:
        """One quote over the same PCRs of all the banks, with their values.

        The values are read after the quote; if a PCR was extended in between, both are taken
        again, a few times.

        Args:
            ak: the key from `create_ak`; it is made again, and must come out the same.
            nonce: at most 32 bytes that were never used before.

        Raises:
            GuestFailure: the key differs, so this is another TPM or its endorsement seed
                changed; or the PCRs never stood still.
        """
        selection = TPML_PCR_SELECTION.parse(_selection(banks, pcrs))
        with self._esapi("quote", deadline) as esapi, _loaded_ak(esapi) as loaded:
            if loaded.key != ak:
                raise GuestFailure(
                    "the TPM's attestation key is not the one of before",
                    remedy="the guest must keep the same TPM for the whole run",
                )
            for _ in range(_QUOTE_ATTEMPTS):
                attest, signature = esapi.quote(loaded.handle, selection, TPM2B_DATA(nonce))
                values = _read_pcrs(esapi, banks, pcrs)
                if _signed_digest(bytes(attest)) == _digest(values):
                    return QuoteResult(bytes(attest), signature.marshal(), nonce, values)
        raise GuestFailure(
            f"the PCRs changed during each of {_QUOTE_ATTEMPTS} quotes",
            remedy="let the guest come to rest before the quote",
        )

    def allocated_banks(self, deadline: Deadline) -> tuple[str, ...]:
        """Names of the banks that hold PCRs, in the TPM's order ("sha1", "sha256")."""
        with self._esapi("list the PCR banks", deadline) as esapi:
            _, capability = esapi.get_capability(TPM2_CAP.PCRS, 0, 1)
        return tuple(
            _BANKS.get(bank.hash, f"{bank.hash:#06x}")
            for bank in capability.data.assignedPCR
            if any(bytes(bank.pcrSelect)[: bank.sizeofSelect])
        )

    def update_counter(self, deadline: Deadline) -> int:
        """pcrUpdateCounter, which every change of a PCR moves (part 3, TPM2_PCR_Read)."""
        with self._esapi("read the PCR update counter", deadline) as esapi:
            return _update_counter(esapi)

    def counter_step(self, deadline: Deadline, *, banks: Sequence[str]) -> int:
        """By how much pcrUpdateCounter moves when one PCR is extended in all banks at once.

        That is how a kernel extends a record. It is tried with PCR 11, which no firmware and no
        kernel here uses, and which no quote covers.
        """
        digests = TPML_DIGEST_VALUES(
            [
                TPMT_HA(hashAlg=_ALGORITHMS[bank], digest=TPMU_HA(**{bank: bytes(_SIZES[bank])}))
                for bank in banks
            ]
        )
        with self._esapi("extend a PCR", deadline) as esapi:
            before = _update_counter(esapi)
            esapi.pcr_extend(ESYS_TR.PCR11, digests)
            return _update_counter(esapi) - before

    def loaded_sessions(self, deadline: Deadline) -> tuple[int, ...]:
        """Handles of the sessions that take a slot of the TPM (part 2, TPM_HT_LOADED_SESSION)."""
        first = TPM2_HT.LOADED_SESSION << 24
        with self._esapi("list the loaded sessions", deadline) as esapi:
            _, capability = esapi.get_capability(TPM2_CAP.HANDLES, first, _HANDLES_PER_READ)
        return tuple(int(handle) for handle in capability.data.handles)

    @contextmanager
    def _esapi(self, doing: str, deadline: Deadline) -> Iterator[ESAPI]:
        self._guest.tpm_close(deadline)  # flushes what a failed operation may have left
        tcti = _GuestTcti(self._guest, deadline)
        with ESAPI(tcti) as esapi:
            try:
                yield esapi
            except TSS2_Exception as error:
                if tcti.failure is not None:
                    raise tcti.failure from error
                refusal = GuestFailure(
                    f"the TPM refused to {doing}: {error}",
                    remedy="see the log of swtpm and the console",
                )
                raise self._guest.explain(refusal) from error


@dataclass(frozen=True)
class _LoadedKey:
    handle: ESYS_TR
    key: AttestationKey


@contextmanager
def _loaded_ak(esapi: ESAPI) -> Iterator[_LoadedKey]:
    """The attestation key, in a slot of the TPM while the context lasts.

    An error skips the flush, which a failed ESAPI context could not do: the next operation does.
    """
    template = TPM2B_PUBLIC.parse(_AK_KIND, objectAttributes=_AK_ATTRIBUTES)
    handle, public, *_ = esapi.create_primary(
        TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT
    )
    yield _LoadedKey(handle, AttestationKey(public.marshal(), public.to_pem().decode()))
    esapi.flush_context(handle)


def _update_counter(esapi: ESAPI) -> int:
    counter, _, _ = esapi.pcr_read(_selection(["sha256"], [0]))
    return int(counter)


def _read_pcrs(
    esapi: ESAPI, banks: Sequence[str], pcrs: Sequence[int]
) -> dict[str, dict[int, bytes]]:
    values: dict[str, dict[int, bytes]] = {}
    for bank in banks:
        values[bank] = {}
        for start in range(0, len(pcrs), _DIGESTS_PER_READ):
            numbers = pcrs[start : start + _DIGESTS_PER_READ]
            _, _, digests = esapi.pcr_read(_selection([bank], numbers))
            if len(digests) != len(numbers):
                raise GuestFailure(
                    f"the TPM has no PCRs in the bank {bank}",
                    remedy="name banks that are allocated (--banks)",
                )
            values[bank] |= zip(numbers, map(bytes, digests), strict=True)
    return values


def _selection(banks: Sequence[str], pcrs: Sequence[int]) -> str:
    numbers = ",".join(map(str, pcrs))
    return "+".join(f"{bank}:{numbers}" for bank in banks)


def _signed_digest(attest: bytes) -> bytes:
    unmarshalled, _ = TPMS_ATTEST.unmarshal(attest)
    return bytes(unmarshalled.attested.quote.pcrDigest)


def _digest(values: Mapping[str, Mapping[int, bytes]]) -> bytes:
    """What TPM2_Quote signs: the values in the order of the selection, by the key's hash."""
    digest = hashlib.sha256()
    for bank in values.values():
        for number in sorted(bank):
            digest.update(bank[number])
    return digest.digest()
