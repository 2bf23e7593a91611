# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 13: a list in a template format of one's own is carried whole, like any other.

The kernel writes the format into every record, as the name of the template. The next kernels have
the default template, restore the records as they are, and hand them on once more. The format must
be that of no template of the kernel's own: what becomes of one is a row of scenario 14.
"""

from __future__ import annotations

import pytest

from imakexec import scenario
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(13), pytest.mark.tight]

FORMAT = "n-ng|d-ng|sig"
PARAMETER = f"ima_template_fmt={FORMAT}"

UNCOUNTED = len(FORMAT)
"""Bytes of each record that a kernel leaves out which counts a custom format as an empty name."""

MORE = 127
"""Records more than would do."""


def test_custom_template_format(trial: Trial) -> None:
    with trial.running(cmdline=PARAMETER) as session:
        # A segment is rounded up to pages, which is room as well.
        room = trial.kernel.extra_memory + trial.kernel.page_size
        measured = scenario.generate_activity(session, room // UNCOUNTED + MORE)
        trial.execute(trial.load(without=PARAMETER, chain=True))
        if trial.kernel.is_ours:
            # Restored records must be sized like those that were measured here. Elsewhere some of
            # them are lost by now.
            trial.execute(trial.load(without=PARAMETER))

    templates = {record.name: record.template.name for record in trial.records()}
    carried = [name for name in measured if name in templates]
    trial.claim("all are carried", carried == list(measured), f"{len(carried)} of {len(measured)}")
    assert {templates[name] for name in carried} <= {FORMAT}
    if trial.kernel.is_ours:
        assert trial.names().count("kexec_execute") == 2
