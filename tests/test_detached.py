# SPDX-License-Identifier: GPL-2.0-only
"""A list with quotes of other tools is judged as strictly as the harness' own evidence.

The vectors are from tpm2-tools 5.4 with a software TPM: `tests/tpm2-tools/make` makes them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Run
from evidence_maker import PCRS_0_TO_10, Attestation, Key, Machine, ng, pack, patched_run
from list_writer import ascii_list, naive_pcrs
from list_writer import pack as pack_entries
from small_list import small_list

from imakexec.attest import Flag, Judgement, Reason, Selection, Verdict, judge_list
from imakexec.attest.detached import QuoteFiles, Vouchers
from imakexec.errors import UserError
from imakexec.verification import parse_nonce, read_small_file

VECTORS = Path(__file__).parent / "tpm2-tools"
LOG = VECTORS / "binary_runtime_measurements"
NONCE = bytes(range(32))
BOTH = Selection.of_banks(["sha1", "sha256"])
KEYS = ("p256", "p384", "rsassa", "rsapss")
PCR10 = Selection({"sha256": (10,)})


def vouchers(name: str, *, public: str = "public", selection: Selection = BOTH) -> Vouchers:
    def read(kind: str) -> bytes:
        return (VECTORS / f"{name}.{kind}").read_bytes()

    quote = QuoteFiles(read("message"), read("signature"), NONCE, read("pcrs"), name)
    return Vouchers(read(public), public, (quote,), selection)


def outcome(judgement: Judgement) -> tuple[Verdict, Reason]:
    return judgement.verdict, judgement.reason


def test_the_vectors_are_of_the_small_list() -> None:
    assert LOG.read_bytes() == pack_entries(small_list())


@pytest.mark.parametrize("name", KEYS)
def test_every_kind_of_key(name: str) -> None:
    judgement = judge_list(LOG, vouchers(name))
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.MATCH)
    assert judgement.flags == (Flag.MIXED_TEMPLATES, Flag.VIOLATIONS)
    assert judgement.records == len(small_list())
    assert judgement.timeline is not None
    assert judgement.timeline.boot_aggregates[0].state == "matches"


@pytest.mark.parametrize("name", KEYS)
def test_a_public_key_alone_shows_less(name: str) -> None:
    judgement = judge_list(LOG, vouchers(name, public="pem"))
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.MATCH)
    assert set(judgement.flags) == {Flag.AK_UNCHECKED, Flag.MIXED_TEMPLATES, Flag.VIOLATIONS}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("other", KEYS)
def test_no_other_key_will_do(name: str, other: str) -> None:
    if name == other:
        return
    for public in ("public", "pem"):
        mixed = replace(vouchers(name), key=vouchers(other, public=public).key)
        assert judge_list(LOG, mixed).reason is Reason.SIGNATURE


@pytest.mark.parametrize("name", KEYS)
def test_every_byte_of_quote_and_signature_counts(name: str) -> None:
    genuine = vouchers(name)
    [quote] = genuine.quotes
    forged = [replace(quote, message=other) for other in changed(quote.message)]
    forged += [replace(quote, signature=other) for other in changed(quote.signature)]
    for number, item in enumerate(forged):
        judgement = judge_list(LOG, replace(genuine, quotes=(item,)))
        assert judgement.verdict is Verdict.INVALID_EVIDENCE, number


def changed(content: bytes) -> list[bytes]:
    """The same with one bit of one byte changed, for every byte."""
    return [
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))
    ]


def test_pcr_10_alone_leaves_boot_aggregate_unchecked() -> None:
    judgement = judge_list(LOG, vouchers("pcr10", selection=PCR10))
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.MATCH)
    assert Flag.BOOT_AGGREGATE_UNCHECKED in judgement.flags
    both = Selection({"sha1": (10,), "sha256": (10,)})
    assert judge_list(LOG, vouchers("pcr10", selection=both)).reason is Reason.MISSING_BANK
    assert judge_list(LOG, vouchers("pcr10")).reason is Reason.SELECTION
    assert judge_list(LOG, vouchers("p256", selection=PCR10)).reason is Reason.SELECTION


def test_nonce_of_another_quote() -> None:
    genuine = vouchers("p256")
    stale = replace(genuine, quotes=(replace(genuine.quotes[0], nonce=bytes(32)),))
    assert judge_list(LOG, stale).reason is Reason.NONCE
    assert judge_list(LOG, stale).where == "p256"
    twice = replace(genuine, quotes=genuine.quotes * 2)
    assert judge_list(LOG, twice).reason is Reason.NONCE


def test_values_that_the_quote_does_not_cover() -> None:
    genuine = vouchers("rsassa")
    [quote] = genuine.quotes
    assert isinstance(quote.pcrs, bytes)
    for pcrs in (quote.pcrs[:-1] + b"\0", quote.pcrs[:-1]):
        forged = replace(genuine, quotes=(replace(quote, pcrs=pcrs),))
        assert judge_list(LOG, forged).reason is Reason.PCR_DIGEST


@pytest.mark.parametrize("key", [b"", b"-----BEGIN X\n", b"\xff\xff", b"-----BEGIN \xff"])
def test_a_file_that_is_no_key(key: bytes) -> None:
    judgement = judge_list(LOG, replace(vouchers("p256"), key=key))
    assert outcome(judgement) == (Verdict.INVALID_EVIDENCE, Reason.AK)
    assert judgement.where == "public"


# A machine that the tests control.


def taken(machine: Machine, tmp_path: Path, quotes: int = 1) -> tuple[Path, Vouchers]:
    """The machine's list in a file, with quotes of now."""
    log = tmp_path / "log"
    log.write_bytes(pack(machine.records))
    records = [machine.quote() for _ in range(quotes)]
    files = tuple(QuoteFiles(r.attest, r.signature, r.nonce, r.pcrs, "quote") for r in records)
    return log, Vouchers(machine.key.public, "key", files, Selection.of_banks(machine.banks))


def test_a_kexec_needs_no_harness(tmp_path: Path) -> None:
    judgement = judge_list(*taken(patched_run(), tmp_path))
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.MATCH)
    assert judgement.timeline is not None
    assert [boot.kind for boot in judgement.timeline.boots] == ["cold", "kexec"]
    assert judgement.timeline.boots[0].clock is None
    assert judgement.timeline.boots[1].clock is not None


def test_a_loss_needs_no_harness(tmp_path: Path) -> None:
    judgement = judge_list(*taken(patched_run(40, extra=0), tmp_path))
    assert outcome(judgement) == (Verdict.TRUNCATED, Reason.SEGMENT_FULL)
    assert judgement.timeline is not None
    assert judgement.first_divergence == judgement.timeline.boots[1].index
    assert [record.index for record in judgement.context] == [
        judgement.first_divergence + n for n in range(-3, 4)
    ]


def test_keys_of_any_parent_will_do(tmp_path: Path) -> None:
    machine = Machine(key=Key(hierarchy=0x40000001))
    machine.boot()
    assert judge_list(*taken(machine, tmp_path)).verdict is Verdict.IN_SYNC


def test_a_reset_between_the_two_quotes(tmp_path: Path) -> None:
    machine = patched_run()
    log, first = taken(machine, tmp_path)
    machine.reset += 1
    second = taken(machine, tmp_path)[1]
    both = replace(first, quotes=(*first.quotes, *second.quotes))
    judgement = judge_list(log, both)
    assert (judgement.reason, judgement.where) == (Reason.COUNTERS, "snapshot list")


def test_a_quote_before_and_one_after(tmp_path: Path) -> None:
    machine = patched_run()
    early = machine.quote()
    machine.files(2)
    log, late = taken(machine, tmp_path)
    files = QuoteFiles(early.attest, early.signature, early.nonce, early.pcrs, "early")
    assert judge_list(log, replace(late, quotes=(files, *late.quotes))).verdict is Verdict.IN_SYNC
    judgement = judge_list(log, replace(late, quotes=(files,)))
    assert outcome(judgement) == (Verdict.OUT_OF_SYNC, Reason.UNCOVERED_TAIL)


def test_quotes_are_checked_before_lists(tmp_path: Path) -> None:
    log, genuine = taken(patched_run(), tmp_path)
    log.write_bytes(b"nothing")
    forged = replace(genuine, quotes=(replace(genuine.quotes[0], signature=b"\0"),))
    assert judge_list(log, forged).reason is Reason.SIGNATURE
    assert outcome(judge_list(log, genuine)) == (Verdict.MALFORMED, Reason.NOT_A_LIST)
    log.write_bytes(pack(patched_run().records)[:-1])
    assert outcome(judge_list(log, genuine)) == (Verdict.MALFORMED, Reason.SHORT_RECORD)


def test_sha1_signs_nothing_any_more(tmp_path: Path) -> None:
    log, genuine = taken(patched_run(), tmp_path)
    [quote] = genuine.quotes
    sha1 = quote.signature[:2] + b"\0\4" + quote.signature[4:]
    forged = replace(genuine, quotes=(replace(quote, signature=sha1),))
    assert judge_list(log, forged).reason is Reason.SIGNATURE


def test_no_bank_may_be_missing(tmp_path: Path) -> None:
    machine = patched_run()

    def one_bank(attest: Attestation) -> Attestation:
        digest = hashlib.sha256(b"".join(values["sha256"].values())).digest()
        return replace(attest, selections=((0xB, PCRS_0_TO_10),), pcr_digest=digest)

    values = machine.quote().pcrs
    record = machine.quote(one_bank)
    log, genuine = taken(machine, tmp_path)
    pcrs = {"sha256": values["sha256"]}
    files = QuoteFiles(record.attest, record.signature, record.nonce, pcrs, "quote")
    half = replace(genuine, quotes=(files,))
    assert judge_list(log, half).reason is Reason.MISSING_BANK
    alone = replace(half, selection=Selection.of_banks(["sha256"]))
    assert judge_list(log, alone).verdict is Verdict.IN_SYNC


# Bare values.


def test_bare_values_authenticate_nothing() -> None:
    pcrs = naive_pcrs(small_list(), "little", "sha256")
    judgement = judge_list(LOG, {"sha256": pcrs})
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.MATCH)
    assert Flag.UNAUTHENTICATED in judgement.flags
    [snapshot] = judgement.snapshots
    assert snapshot.clock_ms is snapshot.reset_count is snapshot.restart_count is None
    other = judge_list(LOG, {"sha256": {10: bytes(32)}})
    assert outcome(other) == (Verdict.OUT_OF_SYNC, Reason.FOREIGN_EXTEND)


def test_bare_values_need_the_pcr_of_ima() -> None:
    with pytest.raises(UserError, match="PCR 10 of bank sha1"):
        judge_list(LOG, {"sha256": {10: bytes(32)}, "sha1": {0: bytes(20)}})


def test_banks_that_disagree_are_named() -> None:
    pcrs = {bank: naive_pcrs(small_list(), "little", bank) for bank in ("sha1", "sha256")}
    pcrs["sha256"][10] = naive_pcrs(small_list()[:4], "little", "sha256")[10]
    judgement = judge_list(LOG, pcrs)
    assert outcome(judgement) == (Verdict.OUT_OF_SYNC, Reason.BANKS_DIVERGE)
    assert "6 records in sha1, 4 records in sha256" in judgement.sentence


def test_padded_banks(tmp_path: Path) -> None:
    """A kernel before 5.8 extends SHA-1 digests everywhere."""
    value = bytes(32)
    for item in small_list():
        measured = b"\xff" * 20 if item.violation else hashlib.sha1(item.hashed("little")).digest()
        value = hashlib.sha256(value + measured + bytes(12)).digest()
    pcrs = {"sha256": {10: value}}
    assert judge_list(LOG, pcrs).verdict is Verdict.OUT_OF_SYNC
    assert judge_list(LOG, pcrs, padded=["sha256"]).verdict is Verdict.IN_SYNC
    # The list of such a bank has the same digests.
    other = tmp_path / "sha256"
    digests = [
        bytes(32)
        if item.violation
        else hashlib.sha1(item.hashed("little")).digest().ljust(32, b"\0")
        for item in small_list()
    ]
    entries = [
        replace(item, digest=digest) for item, digest in zip(small_list(), digests, strict=True)
    ]
    other.write_bytes(pack_entries(entries, bank="sha256"))
    judgement = judge_list(LOG, pcrs, padded=["sha256"], against=[other])
    assert judgement.verdict is Verdict.IN_SYNC
    assert judge_list(LOG, pcrs, against=[other]).checks[other].difference


# Other lists of the same records.


def test_other_lists_must_agree(tmp_path: Path) -> None:
    text, other = tmp_path / "ascii", tmp_path / "sha256"
    text.write_bytes(ascii_list(small_list()))
    other.write_bytes(pack_entries(small_list(), bank="sha256"))
    judgement = judge_list(LOG, vouchers("p256"), against=[text, other])
    assert judgement.verdict is Verdict.IN_SYNC
    assert [check.compared for check in judgement.checks.values()] == [6, 6]
    text.write_bytes(ascii_list(small_list()).replace(b"/usr/bin/true", b"/usr/bin/evil"))
    judgement = judge_list(LOG, vouchers("p256"), against=[other, text])
    assert outcome(judgement) == (Verdict.TAMPERED, Reason.LISTS_DIFFER)
    assert judgement.first_divergence == 2
    assert judgement.where == str(text)
    # A list that is out of step stays that.
    lost = judge_list(LOG, {"sha256": {10: bytes(32)}}, against=[text])
    assert lost.reason is Reason.FOREIGN_EXTEND
    assert not lost.checks[text].agrees


def test_a_trimmed_list(tmp_path: Path) -> None:
    whole = LOG.read_bytes()
    end = len(pack_entries(small_list()[:3]))
    head, rest = tmp_path / "head", tmp_path / "rest"
    head.write_bytes(whole[:end])
    rest.write_bytes(whole[end:])
    assert judge_list(rest, vouchers("p256"), prepend=[head]).verdict is Verdict.IN_SYNC
    assert judge_list(rest, vouchers("p256")).verdict is Verdict.OUT_OF_SYNC


# The command.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def options(name: str, public: str = "public") -> list[str | Path]:
    return [
        *("-m", VECTORS / f"{name}.message", "-s", VECTORS / f"{name}.signature"),
        *("-o", VECTORS / f"{name}.pcrs", "-u", VECTORS / f"{name}.{public}", "-q", NONCE.hex()),
    ]


def test_command_with_the_files_of_tpm2_quote(run: Run, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    ended = run("verify", LOG, *options("rsapss"), "--json", result)
    assert ended.code == 0
    assert "verdict   IN_SYNC (match)" in ended.out
    assert "Nothing was authenticated" not in ended.out
    document = json.loads(result.read_text())
    assert (document["verdict"], document["evidence"]) == ("IN_SYNC", str(LOG))
    assert document["layout"] == {"byteorder": "little", "bank": "sha1"}
    assert "basis" not in document


def test_command_with_pcr_10_alone(run: Run) -> None:
    assert run("verify", LOG, *options("pcr10"), "-l", "sha256:10").code == 0
    assert run("verify", LOG, *options("pcr10")).code == 13


def test_command_with_single_values_beside_a_quote(run: Run) -> None:
    value = (VECTORS / "pcr10.pcrs").read_bytes().hex()
    given = [item for item in options("pcr10") if item not in ("-o", VECTORS / "pcr10.pcrs")]
    assert run("verify", LOG, *given, "-l", "sha256:10", "--pcr", f"sha256:10={value}").code == 0
    other = run("verify", LOG, *given, "-l", "sha256:10", "--pcr", f"sha256:10={'00' * 32}")
    assert (other.code, "pcr_digest" in other.out) == (13, True)


def test_command_with_bare_values(run: Run) -> None:
    value = (VECTORS / "pcr10.pcrs").read_bytes().hex()
    ended = run("verify", LOG, "--pcr", f"sha256:10={value}")
    assert ended.code == 0
    assert "Nothing was authenticated" in ended.out
    assert run("verify", LOG, "--pcr", f"sha256:10={'00' * 32}").code == 11


def test_command_that_says_nothing(run: Run) -> None:
    ended = run("verify", LOG, *options("p256"), "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    ended = run("verify", LOG, "--pcr", f"sha256:10={'00' * 32}", "--quiet")
    assert (ended.code, ended.out) == (11, "")


def without(option: str) -> list[str | Path]:
    given = options("p256")
    at = given.index(option)
    return given[:at] + given[at + 2 :]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "nothing says what PCR 10 holds"),
        (without("-m"), "the quote itself is missing"),
        (without("-s"), "not complete without --signature"),
        (without("-o"), "not complete without --pcrs"),
        (without("-u"), "which key"),
        (without("-q"), "not complete without --nonce"),
        ([*options("p256"), "-m", LOG], "2 quotes and 1 times --signature"),
        ([*options("p256"), "-m", LOG, "-m", LOG], "3 quotes are named"),
        ([*options("p256"), "--pcr", "sha1:10=" + "00" * 20], "cannot complete a file"),
        ([*without("-q"), "-q", "xyz"], "is no nonce"),
        ([*without("-s"), "-s", "/nowhere"], "signature cannot be read"),
        ([*without("-u"), "-u", "/dev/null"], "has no bytes"),
        ([*options("p256"), "-l", "sha1:0"], "PCR 10 is not among"),
        ([*options("p256"), "--padded", "md5"], "no bank 'md5'"),
        ([*options("p256"), "--reanchor"], "needs a place"),
    ],
)
def test_command_that_does_not_go_together(
    run: Run, given: Sequence[str | Path], said: str
) -> None:
    ended = run("verify", LOG, *given)
    assert ended.code == 2
    assert said in ended.err
    assert "to do:" in ended.err


def test_options_of_lists_are_not_for_folders(run: Run, tmp_path: Path) -> None:
    for given in (options("p256"), ["--pcr", "sha1:10=00"], ["--against", LOG]):
        ended = run("verify", tmp_path, *given)
        assert ended.code == 2
        assert "is for a list" in ended.err


def test_nonces(tmp_path: Path) -> None:
    file = tmp_path / "nonce"
    file.write_bytes(NONCE)
    assert parse_nonce(f"@{file}") == parse_nonce(f"0x{NONCE.hex()}") == NONCE
    for text in ("", "0", "0x", "0xz"):
        with pytest.raises(UserError):
            parse_nonce(text)


def test_nonce_file_is_no_place_for_a_result(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "nonce"
    file.write_bytes(NONCE)
    given = [item if item != NONCE.hex() else f"@{file}" for item in options("p256")]
    assert run("verify", LOG, *given).code == 0
    assert run("verify", LOG, *given, "--json", file).code == 2
    assert file.read_bytes() == NONCE


def test_evidence_that_is_not_there(run: Run, tmp_path: Path) -> None:
    for name in (tmp_path / "missing", tmp_path / ("x" * 300), "l\x1b[31m"):
        ended = run("verify", name, "--pcr", f"sha256:10={'00' * 32}")
        assert ended.code == 2
        assert "to do:" in ended.err
        assert "\x1b" not in ended.err


def test_trimmed_list_says_what_it_may_lack(tmp_path: Path) -> None:
    rest = tmp_path / "rest"
    rest.write_bytes(pack_entries(small_list()[2:]))
    judgement = judge_list(rest, vouchers("p256"))
    assert judgement.reason is Reason.FOREIGN_EXTEND
    assert "the saved records belong before it" in judgement.sentence
    assert "saved records" not in judge_list(LOG, {"sha256": {10: bytes(32)}}).sentence


def test_files_too_long_to_be_a_quote(tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UserError, match="more than"):
        read_small_file(file, "the quote")


def test_the_verifier_needs_no_tpm_library() -> None:
    """Importing it, and judging, loads of other people's packages only `cryptography`."""
    code = (
        "import sys, pathlib; import imakexec.attest as a;"
        "from imakexec.verification import VerifyRequest, verify;"
        f"r = verify(VerifyRequest(pathlib.Path({str(LOG)!r}), pcrs=['sha256:10=' + '00' * 32]));"
        "assert r.exit_code == 11;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert "cryptography" in loaded
    assert not loaded & {"tpm2_pytss", "qemu", "rich", "typer", "pexpect", "hypothesis"}


def test_one_more_record_is_not_in_the_quote(tmp_path: Path) -> None:
    machine = patched_run()
    log, genuine = taken(machine, tmp_path)
    log.write_bytes(pack([*machine.records, ng("/late")]))
    judgement = judge_list(log, genuine)
    assert judgement.reason is Reason.UNCOVERED_TAIL
    assert judgement.first_divergence == len(machine.records)
