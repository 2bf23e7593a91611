# SPDX-License-Identifier: GPL-2.0-only
"""`imakexec verify`: which files make up the evidence, and which checkpoint goes in and out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imakexec.attest import (
    Checkpoint,
    Judgement,
    QuoteFiles,
    Selection,
    Verdict,
    Vouchers,
    judge_folder,
    judge_list,
    next_checkpoint,
)
from imakexec.attest.continuity import CannotAnchor
from imakexec.attest.log import DIGEST_SIZES
from imakexec.attest.pcr_values import PcrBanks
from imakexec.attest.replay import HASHES
from imakexec.errors import UserError
from imakexec.evidence import lies_in

_DEFAULT_BANKS = ("sha1", "sha256")
_MOST_QUOTES = 2
_SIZE_LIMIT = 1 << 20
_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_VALUE = re.compile(r"(?P<bank>[a-z0-9]+):(?P<index>\d{1,2})=(?:0x)?(?P<value>[0-9a-fA-F]+)")


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

    @property
    def is_folder(self) -> bool:
        """Whether the evidence is a folder."""
        return is_folder(self.evidence)

    @property
    def inputs(self) -> list[Path]:
        """Every file that is read, which no result may replace."""
        single = [item for item in (self.evidence, self.public) if item is not None]
        several = (self.messages, self.signatures, self.pcr_files, self.prepend, self.against)
        named = [Path(nonce[1:]) for nonce in self.nonces if nonce.startswith("@")]
        return [*single, *(path for paths in several for path in paths), *named]


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; whatever cannot be one is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long, or a folder on the way is closed
        return False


def verify(request: VerifyRequest) -> Judgement:
    """Judge.

    Raises:
        UserError: a file cannot be read, or what is asked for does not go together.
        InfraError: a process that shared the work failed.
    """
    _check_places(request)
    before = None if request.checkpoint is None else Checkpoint.load(request.checkpoint)
    if request.is_folder:
        _refuse_list_options(request)
        return judge_folder(request.evidence, checkpoint=before)
    _check_banks(request.padded)
    return judge_list(
        request.evidence,
        _vouchers(request),
        prepend=request.prepend,
        against=request.against,
        padded=request.padded,
        checkpoint=before,
        processes=request.processes,
    )


def keep_checkpoint(request: VerifyRequest, judgement: Judgement) -> str:
    """Write the checkpoint that a judgement leaves, if it leaves one.

    Returns:
        What became of the file, in words; empty if none was asked for.

    Raises:
        UserError: the file cannot be written.
        InfraError: its disk is full.
    """
    if request.checkpoint is None:
        return ""
    try:
        after = next_checkpoint(judgement, reanchor=request.reanchor)
    except CannotAnchor as why:
        return f"not re-anchored, and left as it was: {why}"
    if after is None:
        return "left as it was"
    after.save(request.checkpoint)
    if judgement.verdict is Verdict.IN_SYNC:
        return f"written, of {after.records} records"
    return f"re-anchored after record {after.records}, whose value nobody can account for"


def _check_places(request: VerifyRequest) -> None:
    """Refuse what would be written to the wrong place, or read from nowhere."""
    if not request.is_folder and not _exists(request.evidence):
        raise UserError(
            "there is no such evidence folder or list",
            where=str(request.evidence),
            remedy="name the folder that a run of imakexec has written, or a binary list",
        )
    if request.checkpoint is None:
        if request.reanchor:
            raise UserError(
                "re-anchoring needs a place to keep the anchor in",
                where="--reanchor",
                remedy="name it with --checkpoint FILE",
            )
        return
    if request.is_folder and lies_in(request.checkpoint, request.evidence):
        raise UserError(
            "the checkpoint would lie in the evidence folder",
            where=f"--checkpoint {request.checkpoint}",
            remedy="name a file outside of it, where the attested machine cannot write",
        )


def read_small_file(path: Path, what: str) -> bytes:
    """Read a file that belongs to a quote.

    Raises:
        UserError: it cannot be read, is empty or too long to be any such.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise UserError(
            f"{what} cannot be read: {error.strerror}",
            where=str(path),
            remedy="name a file that this user may read",
        ) from error
    if not 0 < len(content) <= _SIZE_LIMIT:
        raise UserError(
            f"{what} has {'no' if not content else f'more than {_SIZE_LIMIT}'} bytes",
            where=str(path),
            remedy="name the file that the tool has written",
        )
    return content


def parse_nonce(text: str) -> bytes:
    """Read a nonce: hexadecimal digits, or the name of the file that holds it after an "@".

    Raises:
        UserError: it is neither.
    """
    if text.startswith("@"):
        return read_small_file(Path(text[1:]), "the nonce")
    match = _HEX.fullmatch(text)
    if match is None:
        raise UserError(
            f"{text[:80]!r} is no nonce",
            where="--nonce",
            remedy="write it in hexadecimal digits, or @FILE for a file that holds its bytes",
        )
    return bytes.fromhex(match[1])


def parse_pcr_options(texts: Sequence[str]) -> dict[str, dict[int, bytes]]:
    """Read what a user wrote for single PCRs, e.g. "sha256:10=4c56d332...".

    Raises:
        UserError: one is none, is named twice, or is not as long as a PCR of its bank.
    """
    values: dict[str, dict[int, bytes]] = {}
    for text in texts:
        match = _VALUE.fullmatch(text.strip())
        bank, index = (match["bank"], int(match["index"])) if match else ("", 0)
        if not match or len(match["value"]) != 2 * DIGEST_SIZES.get(bank, 0) or index > 23:
            raise UserError(
                f"{text!r} is not the value of a PCR",
                where="--pcr",
                remedy="write BANK:INDEX=HEX, all digits of it, e.g. sha256:10=4c56d332...; banks: "
                + ", ".join(DIGEST_SIZES),
            )
        if index in values.setdefault(bank, {}):
            raise UserError(
                f"PCR {index} of bank {bank} is given twice",
                where=f"--pcr {text}",
                remedy="give each PCR once",
            )
        values[bank][index] = bytes.fromhex(match["value"])
    return values


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


def _vouchers(request: VerifyRequest) -> Vouchers | PcrBanks:
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


def _quote(request: VerifyRequest, number: int, values: PcrBanks) -> QuoteFiles:
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
