# SPDX-License-Identifier: GPL-2.0-only
"""`imakexec verify`: which files make up the evidence, and which checkpoint goes in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imakexec.attest import (
    Checkpoint,
    Judgement,
    QuoteFiles,
    Selection,
    Vouchers,
    judge_folder,
    judge_list,
    next_checkpoint,
)
from imakexec.attest.detached import parse_nonce, read_small_file
from imakexec.attest.pcr_values import PcrValues, parse_pcr_options
from imakexec.attest.replay import HASHES
from imakexec.errors import UserError

_DEFAULT_BANKS = ("sha1", "sha256")
_MOST_QUOTES = 2


@dataclass(frozen=True)
class VerifyRequest:
    """What is to be verified.

    Args:
        evidence: an evidence folder, or a list.
        messages: TPMS_ATTEST files of the quotes, oldest first, for a list only.
        signatures: TPMT_SIGNATURE files, one for each.
        pcr_files: files of PCR values, one for each, or none where `pcrs` has them.
        nonces: one for each, as the user wrote it.
        public: the key's TPM2B_PUBLIC or PEM.
        pcr_list: which PCRs of which banks must be quoted, as the user wrote it; None for PCR 0-10
            of sha1 and sha256.
        pcrs: single PCR values, as the user wrote them.
        padded: banks into which the kernel has extended padded SHA-1 digests.
        prepend: saved records of a trimmed list.
        against: other lists of the same records.
        checkpoint: the file that holds what the last verification has left, and is to hold what
            this one leaves.
        reanchor: after a loss, go on from the quoted value.
        processes: that may share the work on a list.
    """

    evidence: Path
    messages: Sequence[Path] = ()
    signatures: Sequence[Path] = ()
    pcr_files: Sequence[Path] = ()
    nonces: Sequence[str] = ()
    public: Path | None = None
    pcr_list: str | None = None
    pcrs: Sequence[str] = ()
    padded: Sequence[str] = ()
    prepend: Sequence[Path] = ()
    against: Sequence[Path] = ()
    checkpoint: Path | None = None
    reanchor: bool = False
    processes: int = 1


def verify(request: VerifyRequest) -> Judgement:
    """Judge, and keep the checkpoint that the judgement leaves.

    Raises:
        UserError: a file cannot be read or written, or what is asked for does not go together.
        InfraError: the checkpoint's disk is full.
    """
    if request.reanchor and request.checkpoint is None:
        raise UserError(
            "re-anchoring needs a place to keep the anchor in",
            where="--reanchor",
            remedy="name it with --checkpoint FILE",
        )
    before = None if request.checkpoint is None else Checkpoint.load(request.checkpoint)
    if request.evidence.is_dir():
        _refuse_list_options(request)
        judgement = judge_folder(request.evidence, checkpoint=before)
    else:
        _check_banks(request.padded)
        judgement = judge_list(
            request.evidence,
            _vouchers(request),
            prepend=request.prepend,
            against=request.against,
            padded=request.padded,
            checkpoint=before,
            processes=request.processes,
        )
    if request.checkpoint is not None:
        after = next_checkpoint(judgement, reanchor=request.reanchor)
        if after is not None:
            after.save(request.checkpoint)
    return judgement


def _refuse_list_options(request: VerifyRequest) -> None:
    given = {
        "--message": request.messages,
        "--signature": request.signatures,
        "--pcrs": request.pcr_files,
        "--nonce": request.nonces,
        "--public": request.public,
        "--pcr-list": request.pcr_list,
        "--pcr": request.pcrs,
        "--padded": request.padded,
        "--prepend": request.prepend,
        "--against": request.against,
    }
    for option, value in given.items():
        if value:
            raise UserError(
                f"{option} is for a list: an evidence folder holds its quotes itself",
                where=str(request.evidence),
                remedy=f"leave {option} out, or name the list instead of the folder",
            )


def _vouchers(request: VerifyRequest) -> Vouchers | PcrValues:
    values = parse_pcr_options(request.pcrs)
    if not request.messages:
        if request.signatures or request.pcr_files or request.nonces or request.public:
            raise _incomplete("the quote itself is missing", "--message")
        if not values:
            raise UserError(
                "nothing says what PCR 10 holds",
                where=str(request.evidence),
                remedy="name a quote with --message, --signature, --pcrs, --public and --nonce; or"
                " give bare values with --pcr sha256:10=HEX",
            )
        return values
    if request.public is None:
        raise _incomplete("nothing says which key must have signed the quote", "--public")
    count = len(request.messages)
    if count > _MOST_QUOTES:
        raise UserError(
            f"{count} quotes are named",
            where="--message",
            remedy="name one, or the ones taken before and after the list was read",
        )
    _same_number("--signature", request.signatures, count)
    _same_number("--nonce", request.nonces, count)
    if values and (request.pcr_files or count > 1):
        raise UserError(
            "single values cannot complete a file or two quotes",
            where="--pcr",
            remedy="name a file of values for each quote with --pcrs",
        )
    if not values:
        _same_number("--pcrs", request.pcr_files, count)
    text = request.pcr_list
    return Vouchers(
        key=read_small_file(request.public, "the public key"),
        key_file=str(request.public),
        quotes=tuple(_quote(request, number, values) for number in range(count)),
        selection=Selection.of_banks(_DEFAULT_BANKS)
        if text is None
        else Selection.parse(text, option="--pcr-list"),
    )


def _quote(request: VerifyRequest, number: int, values: PcrValues) -> QuoteFiles:
    message, signature = request.messages[number], request.signatures[number]
    return QuoteFiles(
        message=read_small_file(message, "the quote"),
        signature=read_small_file(signature, "the signature"),
        nonce=parse_nonce(request.nonces[number]),
        pcrs=values or read_small_file(request.pcr_files[number], "the file of PCR values"),
        where=str(message),
    )


def _same_number(option: str, given: Sequence[object], count: int) -> None:
    if len(given) != count:
        raise _incomplete(
            f"{count} quotes and {len(given)} times {option}"
            if given
            else f"the quote is not complete without {option}",
            option,
        )


def _incomplete(what: str, option: str) -> UserError:
    return UserError(
        what,
        where=option,
        remedy="a quote is --message, --signature, --pcrs and --nonce, once each, under one"
        " --public key",
    )


def _check_banks(banks: Sequence[str]) -> None:
    for bank in banks:
        if bank not in HASHES:
            raise UserError(
                f"no bank {bank!r}",
                where=f"--padded {bank}",
                remedy=f"one of: {', '.join(HASHES)}",
            )
