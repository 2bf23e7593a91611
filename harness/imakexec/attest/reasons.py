# SPDX-License-Identifier: GPL-2.0-only
"""The words of a judgement: verdicts with their exit codes, reasons and flags."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Verdict(StrEnum):
    """What evidence says about a measurement list; the value is stable and machine readable."""

    IN_SYNC = "IN_SYNC"
    TRUNCATED = "TRUNCATED"
    OUT_OF_SYNC = "OUT_OF_SYNC"
    TAMPERED = "TAMPERED"
    INVALID_EVIDENCE = "INVALID_EVIDENCE"
    MALFORMED = "MALFORMED"


EXIT_CODES: Mapping[Verdict, int] = MappingProxyType(
    {
        Verdict.IN_SYNC: 0,
        Verdict.TRUNCATED: 10,
        Verdict.OUT_OF_SYNC: 11,
        Verdict.TAMPERED: 12,
        Verdict.INVALID_EVIDENCE: 13,
        Verdict.MALFORMED: 14,
    }
)


class Reason(StrEnum):
    """Why the verdict is what it is. Each reason belongs to exactly one verdict."""

    # IN_SYNC
    MATCH = "match"
    REANCHORED = "reanchored"
    # TRUNCATED
    SEGMENT_FULL = "segment_full"
    RECORDS_MISSING = "records_missing"
    # OUT_OF_SYNC
    FOREIGN_EXTEND = "foreign_extend"
    BANKS_DIVERGE = "banks_diverge"
    NO_MARKERS = "no_markers"
    UNCOVERED_TAIL = "uncovered_tail"
    UNCOVERED_PCR = "uncovered_pcr"
    # TAMPERED
    TEMPLATE_DIGEST = "template_digest"
    HISTORY_REWRITTEN = "history_rewritten"
    STALE_LIST = "stale_list"
    BOOT_AGGREGATE = "boot_aggregate"
    LISTS_DIFFER = "lists_differ"
    # INVALID_EVIDENCE
    INCOMPLETE = "incomplete"
    DAMAGED_FILE = "damaged_file"
    AK = "ak"
    ATTEST = "attest"
    MAGIC_TYPE = "magic_type"
    SIGNATURE = "signature"
    NONCE = "nonce"
    SELECTION = "selection"
    MISSING_BANK = "missing_bank"
    PCR_DIGEST = "pcr_digest"
    COUNTERS = "counters"
    # MALFORMED
    MANIFEST = "manifest"
    NOT_A_LIST = "not_a_list"
    EMPTY_LIST = "empty_list"
    SHORT_RECORD = "short_record"
    TRAILING_BYTES = "trailing_bytes"
    FIELD_SUM = "field_sum"
    TEMPLATE_NAME = "template_name"
    PCR_INDEX = "pcr_index"
    HANDOVER_HEADER = "handover_header"

    @property
    def verdict(self) -> Verdict:
        """The verdict that this reason leads to."""
        return _VERDICT_OF[self]


_REASONS_OF: Mapping[Verdict, tuple[Reason, ...]] = {
    Verdict.IN_SYNC: (Reason.MATCH, Reason.REANCHORED),
    Verdict.TRUNCATED: (Reason.SEGMENT_FULL, Reason.RECORDS_MISSING),
    Verdict.OUT_OF_SYNC: (
        Reason.FOREIGN_EXTEND,
        Reason.BANKS_DIVERGE,
        Reason.NO_MARKERS,
        Reason.UNCOVERED_TAIL,
        Reason.UNCOVERED_PCR,
    ),
    Verdict.TAMPERED: (
        Reason.TEMPLATE_DIGEST,
        Reason.HISTORY_REWRITTEN,
        Reason.STALE_LIST,
        Reason.BOOT_AGGREGATE,
        Reason.LISTS_DIFFER,
    ),
    Verdict.INVALID_EVIDENCE: (
        Reason.INCOMPLETE,
        Reason.DAMAGED_FILE,
        Reason.AK,
        Reason.ATTEST,
        Reason.MAGIC_TYPE,
        Reason.SIGNATURE,
        Reason.NONCE,
        Reason.SELECTION,
        Reason.MISSING_BANK,
        Reason.PCR_DIGEST,
        Reason.COUNTERS,
    ),
    Verdict.MALFORMED: (
        Reason.MANIFEST,
        Reason.NOT_A_LIST,
        Reason.EMPTY_LIST,
        Reason.SHORT_RECORD,
        Reason.TRAILING_BYTES,
        Reason.FIELD_SUM,
        Reason.TEMPLATE_NAME,
        Reason.PCR_INDEX,
        Reason.HANDOVER_HEADER,
    ),
}

_VERDICT_OF: Mapping[Reason, Verdict] = {
    reason: verdict for verdict, reasons in _REASONS_OF.items() for reason in reasons
}


class Flag(StrEnum):
    """What a reader should know beside the verdict. A flag never changes the verdict."""

    NO_MARKERS = "no_markers"
    """A kexec boundary without any marker, by a kernel that is not known to write them."""
    MARKER_ANOMALY = "marker_anomaly"
    """A record poses as a marker but does not hold, or an expected marker is absent."""
    PENDING_TAIL = "pending_tail"
    """The last records of the list are not in the quoted PCR: nothing is known about them."""
    VIOLATIONS = "violations"
    """The list holds violation records: whatever they say is not authenticated."""
    UNKNOWN_TEMPLATE = "unknown_template"
    """Records of an unknown template: replayed, but nothing in them has a meaning."""
    MIXED_TEMPLATES = "mixed_templates"
    """Records of several templates beside ima-buf: which one has which is in no PCR."""
    ROLLBACK = "rollback"
    """The TPM's clock or counters went back: the machine's state was set back."""
    CLAIM_CONTRADICTED = "claim_contradicted"
    """The TPM's counters contradict what the harness says about a boot."""
    CLOCK_UNSAFE = "clock_unsafe"
    """The TPM lost its clock at a disorderly reset: information, not a failure."""
    NO_HARDWARE_ROOT = "no_hardware_root"
    """boot_aggregate is all zero: the list is not tied to the firmware's measurements."""
    BOOT_AGGREGATE_UNCHECKED = "boot_aggregate_unchecked"
    """A boot_aggregate could not be recomputed from the quoted PCRs."""
    UNAUTHENTICATED = "unauthenticated"
    """The PCR values are bare: nobody has signed them, so nothing was authenticated."""
    AK_UNCHECKED = "ak_unchecked"
    """Only the public key is known: nothing shows that it signs only what its TPM has made."""
    DEGRADED = "degraded"
    """Replay began at a value that was taken over after a loss: what was lost stays unknown."""


class Rejection(Exception):
    """Evidence fails a check: the one way in which checks stop a judgement.

    Args:
        reason: the reason code, which implies the verdict.
        what: one sentence: what was expected and what was seen.
        where: the file, snapshot or record concerned.
        flags: what else the reader should know.
    """

    def __init__(
        self, reason: Reason, what: str, *, where: str = "", flags: frozenset[Flag] = frozenset()
    ) -> None:
        super().__init__(f"{where}: {what}" if where else what)
        self.reason = reason
        self.what = what
        self.where = where
        self.flags = flags
