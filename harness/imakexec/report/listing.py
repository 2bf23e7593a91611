# SPDX-License-Identifier: GPL-2.0-only
"""A list alone, for people: its timeline, or the PCR values that it leads to.

Every line fits 80 columns except digests and the names of files.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from imakexec.attest.listing import Listing, Overview, Part, ReplayedPcrs
from imakexec.report.terminal import folded, render_check, render_timeline

_BAD = "bold red"


def print_listing(console: Console, listing: Listing) -> None:
    """Print what the list is made of, its timeline, and how it compares with other lists."""
    for line in render_listing(listing):
        console.print(line, highlight=False)


def print_pcr_values(console: Console, values: ReplayedPcrs) -> None:
    """Print what the list is, and the values."""
    for line in render_pcr_values(values):
        console.print(line, highlight=False)


def render_listing(listing: Listing) -> Iterator[Text]:
    """The lines of a listing."""
    yield from _overview(listing.overview)
    uses = (f"{use.name} {use.records} ({use.size} bytes)" for use in listing.templates)
    yield Text(folded("templates", ", ".join(uses)))
    unknown = [use.name for use in listing.templates if use.fields is None]
    if unknown:
        yield Text(
            folded("", f"unknown, so that nothing in them has a meaning: {', '.join(unknown)}")
        )
    yield Text(folded("PCRs", ", ".join(map(str, listing.pcrs))))
    yield from render_timeline(listing.timeline)
    yield Text("")
    for path, check in listing.checks.items():
        yield from render_check(path, check)
    yield from _contradiction(listing.overview)
    if not listing.timeline.rows[0].boot_aggregate:
        yield Text(
            folded(
                "note",
                "The list does not begin with a boot_aggregate: if it was trimmed, name the saved "
                "records with --prepend.",
            )
        )
    yield Text(folded("note", "Nothing here is authenticated: only a quote vouches for a list."))


def render_pcr_values(values: ReplayedPcrs) -> Iterator[Text]:
    """The lines of replayed PCR values."""
    yield from _overview(values.overview)
    for pcr, banks in values.pcrs.items():
        yield Text(f"\nPCR {pcr}", style="bold")
        for bank, value in banks.items():
            yield Text(f"  {bank:8}{value.hex()}")
    yield Text("")
    yield from _contradiction(values.overview)
    yield Text(folded("note", "Nothing here is authenticated: compare it with a quote."))


def _overview(overview: Overview) -> Iterator[Text]:
    for part in overview.parts:
        yield Text(f"list      {part.path}")
        yield from _part(part)
    violations = f", {len(overview.violations)} violations" if overview.violations else ""
    total = f"{overview.records} records, {overview.size} bytes{violations}"
    yield Text(folded("in all" if len(overview.parts) > 1 else "", total))
    yield Text(folded("", overview.byteorder.meaning))
    if overview.bank != "sha1":
        yield Text(folded("", f"the list of bank {overview.bank}"))
    if overview.repeats_saved_records:
        yield Text(
            folded(
                "note",
                "The list itself begins with all saved records: if it was not trimmed, leave out "
                "--prepend.",
            )
        )


def _part(part: Part) -> Iterator[Text]:
    buffer = part.buffer
    if buffer is not None:
        place = f" at offset {buffer.offset:#x}" if buffer.offset else ""
        yield Text(
            folded(
                "",
                f"hand-over buffer{place}: {buffer.count} records in {buffer.size} bytes, by its "
                "header",
            )
        )
        if buffer.cut:
            text = f"the last record had no room: {buffer.cut} bytes of it were carried"
            yield Text(folded("", text), style=_BAD)
    if part.others:
        places = ", ".join(f"{offset:#x}" for offset in part.others)
        yield Text(folded("", f"further hand-over buffers, without more records, at {places}"))


def _contradiction(overview: Overview) -> Iterator[Text]:
    if overview.contradiction is not None:
        text = (
            f"Record {overview.contradiction} contradicts itself: its digest is not the hash of "
            "its template data."
        )
        yield Text(folded("TAMPERED", text), style=_BAD)
