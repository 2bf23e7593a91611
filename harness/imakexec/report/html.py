# SPDX-License-Identifier: GPL-2.0-only
"""A run of the tests as one page, which needs nothing but a browser and the folder it lies in.

Whatever a guest, a log or a file says goes through the template, which escapes it.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from imakexec.errors import InfraError
from imakexec.report.page import Page, describe
from imakexec.suite.result import SuiteRun

PAGE = "index.html"


def write_html(run: SuiteRun, folder: Path) -> Path:
    """Write the page of a run.

    Args:
        run: what the tests came to.
        folder: that holds their artefacts; what is missing there is missing in the page.

    Returns:
        The page, `index.html` in that folder.

    Raises:
        InfraError: it cannot be written.
    """
    text = render(describe(run, folder))
    path = folder / PAGE
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InfraError.refused("the report cannot be written", error, path) from error
    return path


def render(page: Page) -> str:
    """The page as text; every character of it can be written as UTF-8."""
    templates = _templates()
    style, script = (
        Markup(templates.get_template(name).render().strip()) for name in ("page.css", "page.js")
    )
    return templates.get_template("page.html").render(
        page=page, style=style, script=script, script_hash=_hash(script)
    )


def shown(value: object) -> object:
    """A value as the page may hold it: what cannot be seen is shown as an escape.

    That is control characters other than tab and newline, lone surrogates, and what turns the
    direction of the text around it.
    """
    if value is None or hasattr(value, "__html__"):
        return value
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\t\n" else _escape(letter) for letter in text
    )


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("imakexec.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _hash(script: str) -> str:
    """What a Content-Security-Policy allows a script by (CSP Level 3, hash-source)."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
