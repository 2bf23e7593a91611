# SPDX-License-Identifier: GPL-2.0-only
"""A list and what vouches for it in files of their own, as other tools leave them.

Quotes as tpm2_quote writes them (`-m`, `-s`, `-o`) with the key as TPM2B_PUBLIC or PEM, or bare PCR
values. Here nobody has watched the boots, so that nothing is claimed about them: what holds of the
list and the TPM's counters is all there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imakexec.attest.checkpoint import Checkpoint
from imakexec.attest.continuity import replay_from, require_successor
from imakexec.attest.crosscheck import CrossCheck
from imakexec.attest.judgement import Judgement
from imakexec.attest.log import MeasurementLog
from imakexec.attest.pcr_values import PcrBanks, read_pcr_values
from imakexec.attest.power import ListObservation, PowerCycle, split_power_cycles
from imakexec.attest.quote import AttestationKey, Quote, check_fresh_nonces, verify_quote
from imakexec.attest.reasons import Reason, Rejection, Verdict
from imakexec.attest.replay import IMA_PCR, Replay, Start, replay
from imakexec.attest.selection import Selection
from imakexec.attest.source import MalformedLog, compare_with, read_list
from imakexec.attest.structures import Attest, StructureError
from imakexec.attest.verdict import Case, action_for, conclude, rejected, wanted_values
from imakexec.errors import UserError
from imakexec.evidence import QuoteRecord

_LIST = "list"


@dataclass(frozen=True)
class QuoteFiles:
    """One quote.

    Args:
        message: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        nonce: the qualifying data that was asked for.
        pcrs: the values: a file's content (see `pcr_values`), or as given.
        where: the files, for people.
    """

    message: bytes
    signature: bytes
    nonce: bytes
    pcrs: bytes | PcrBanks
    where: str


@dataclass(frozen=True)
class Vouchers:
    """What vouches for a list: quotes of one key, oldest first, one or two.

    Args:
        key: the public key's file content, TPM2B_PUBLIC or PEM.
        key_file: its name.
        quotes: one, or the ones before and after the list was read.
        selection: what each must cover, and nothing else.
    """

    key: bytes
    key_file: str
    quotes: tuple[QuoteFiles, ...]
    selection: Selection


def judge_list(
    path: Path,
    vouchers: Vouchers | PcrBanks,
    *,
    prepend: Sequence[Path] = (),
    against: Sequence[Path] = (),
    padded: Collection[str] = (),
    checkpoint: Checkpoint | None = None,
    processes: int = 1,
) -> Judgement:
    """Judge a list in a file.

    Args:
        path: a list, a hand-over buffer or a memory dump.
        vouchers: for it; or bare values, with PCR 10 of each bank, that nobody has signed.
        prepend: what was saved of a trimmed list before, oldest first.
        against: other lists of the same records, in ASCII or of other banks, that must agree.
        padded: banks into which the kernel has extended SHA-1 digests, padded with zero bytes.
        checkpoint: what an earlier judgement has left: the list must go on from there.
        processes: that may share the work; more than 1 only where there are no threads.

    Raises:
        InfraError: a process that shared the work failed.
        UserError: a file cannot be read, or what is given does not go together. Whatever is wrong
            with the contents is a judgement, not an exception.
    """
    try:
        proof = authenticate(vouchers)
        log = read_list(path, prepend).log
        checks = {item: compare_with(log, item, padded=padded) for item in against}
    except MalformedLog as fault:
        return rejected(Rejection(fault.reason, fault.what, where=fault.where))
    except Rejection as rejection:
        return rejected(rejection)
    judgement = judge_log(log, proof, padded=padded, checkpoint=checkpoint, processes=processes)
    if judgement.snapshot:
        judgement = replace(judgement, where=str(path))
    return _compared(judgement, checks)


@dataclass(frozen=True)
class Proof:
    """PCR values that hold, as far as anybody vouches for them.

    Args:
        quotes: oldest first.
        key: that has signed them; None for bare values.
    """

    quotes: tuple[Quote, ...]
    key: AttestationKey | None


def authenticate(vouchers: Vouchers | PcrBanks) -> Proof:
    """Check all that a list is to be compared with.

    Raises:
        UserError: bare values without PCR 10 of each bank.
        Rejection: with a reason of INVALID_EVIDENCE.
    """
    if not isinstance(vouchers, Vouchers):
        _require_ima_pcr(vouchers)
        return Proof((Quote(None, vouchers, b""),), None)
    key = _key(vouchers)
    quotes = []
    for files in vouchers.quotes:
        try:
            record = QuoteRecord(files.message, files.signature, files.nonce, _values(files))
            quotes.append(verify_quote(record, key, vouchers.selection, primary=False))
        except Rejection as rejection:
            where = rejection.where or files.where
            raise Rejection(rejection.reason, rejection.what, where=where) from None
    check_fresh_nonces(quotes)
    return Proof(tuple(quotes), key)


def judge_log(
    log: MeasurementLog,
    proof: Proof,
    *,
    padded: Collection[str] = (),
    checkpoint: Checkpoint | None = None,
    processes: int = 1,
) -> Judgement:
    """Judge a list that was read already; arguments as of `judge_list`.

    Raises:
        InfraError: a process that shared the work failed.
        UserError: there is a checkpoint, and only bare values.
    """
    if checkpoint is not None and proof.key is None:
        raise UserError(
            "bare PCR values do not go on from a checkpoint: nobody has signed them",
            where="checkpoint",
            remedy="verify a quote, with its signature, key and nonce",
        )
    try:
        if checkpoint is not None and proof.key is not None:
            require_successor(checkpoint, proof.key, proof.quotes)
        wanted = wanted_values(proof.quotes, checkpoint)

        def run(start: Start | None) -> Replay:
            return replay(
                log,
                tuple(wanted),
                wanted,
                start=start,
                padded=frozenset(padded),
                processes=processes,
            )

        outcome, anchor = replay_from(checkpoint, log, proof.quotes, run)
        item = ListObservation(_LIST, 0, proof.quotes, log, outcome, anchor)
        return conclude(Case((item,), (_power_cycle(item, proof),), key=proof.key), checkpoint)
    except Rejection as rejection:
        return rejected(rejection)


def _power_cycle(item: ListObservation, proof: Proof) -> PowerCycle:
    """The one in which the list was read; how many boots it had so far nobody has counted."""
    if proof.key is None:
        return PowerCycle((item,), None)
    [cycle], _ = split_power_cycles((item,), ())
    return replace(cycle, first_epoch=None, most_boots=None)


def _compared(judgement: Judgement, checks: Mapping[Path, CrossCheck]) -> Judgement:
    """A list that replays is not believed either if another one of the same records differs."""
    differing = next((path for path, check in checks.items() if not check.agrees), None)
    if differing is None or judgement.verdict is not Verdict.IN_SYNC:
        return replace(judgement, checks=checks)
    check = checks[differing]
    return replace(
        judgement,
        verdict=Verdict.TAMPERED,
        reason=Reason.LISTS_DIFFER,
        sentence=f"The list replays, but record {check.compared} differs from the one in the"
        f" {check.form} list of bank {check.bank} in its {check.field}: {check.difference}.",
        action=action_for(Reason.LISTS_DIFFER),
        where=str(differing),
        first_divergence=check.compared,
        checks=checks,
    )


def _key(vouchers: Vouchers) -> AttestationKey:
    if vouchers.key.startswith(b"-----BEGIN"):
        return AttestationKey.from_pem(
            vouchers.key.decode("ascii", "backslashreplace"), vouchers.key_file
        )
    return AttestationKey.from_public(vouchers.key, vouchers.key_file)


def _values(files: QuoteFiles) -> PcrBanks:
    if not isinstance(files.pcrs, bytes):
        return files.pcrs
    try:
        signed = Attest.parse(files.message).selections
    except StructureError:
        return {}  # the check of the quote says what is wrong with it
    return read_pcr_values(files.pcrs, signed, files.where)


def _require_ima_pcr(values: PcrBanks) -> None:
    for bank, pcrs in values.items():
        if IMA_PCR not in pcrs:
            raise UserError(
                f"PCR {IMA_PCR} of bank {bank} is not given: it is the one that IMA extends",
                where=f"PCR values of bank {bank}",
                remedy=f"give PCR {IMA_PCR} of every bank",
            )
