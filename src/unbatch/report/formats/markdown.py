"""Markdown, as for a comment under a pull request. Text of strangers is kept from being markup."""

from __future__ import annotations

import re
import shlex

from unbatch.report.claims import LEVELS, RULES, Sheet, setting_of
from unbatch.report.formats.text import MARKS

__all__ = ["write"]


def write(sheet: Sheet) -> str:
    """The verdict, the scale as a table, what was not tested, where it comes from, and the next commands."""
    parts = [
        f"## {_plain(sheet.badge)}",
        _plain(sheet.verdict),
        _plain(sheet.meaning),
        "\n".join(["| | answer | question | where | |", "|---|---|---|---|---|", *_rows(sheet)]),
        "**Not tested:** " + _plain("; ".join(sheet.untested)) + ".",
        f"**Setting.** {_plain(setting_of(sheet.upper_bounds))}",
        *_next(sheet),
        _origin(sheet),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(sheet: Sheet) -> list[str]:
    rows = []
    for claim in sheet.claims:
        where = _plain(", ".join(part for part in (claim.client, claim.where) if part))
        known = " (in the baseline)" if claim.known else ""
        rows.append(
            f"| `{MARKS[claim.level]}` | {LEVELS[claim.level]}{known} | {_plain(RULES.get(claim.rule, claim.rule))} | {where} "
            f"| {_plain(claim.said)} |"
        )
    return rows


def _next(sheet: Sheet) -> list[str]:
    steps = []
    for step in sheet.origin.next_steps:
        steps.append(f"**Next.** {_plain(step.why)}")
        if step.command:
            steps.append(f"```sh\n{_unfenced(shlex.join(step.command))}\n```")
    return steps


def _origin(sheet: Sheet) -> str:
    origin = sheet.origin
    lines = [f"- made: {_plain(origin.date)}"] if origin.date else []
    lines += [f"- client: {_plain(origin.client)}"] if origin.client else []
    lines += [f"- model: {_plain(origin.model)}"] if origin.model else []
    lines += [f"- {file.role}: {_plain(file.name)}, sha256 `{file.sha256}`" for file in origin.files]
    lines += [f"- the adversary knew: {_plain('; '.join(sheet.knowledge))}"] if sheet.knowledge else []
    again = f"\n\nMade again by:\n\n```sh\n{_unfenced(shlex.join(origin.command))}\n```" if origin.command else ""
    return "\n".join(lines) + again


def _plain(text: str) -> str:
    r"""The text with nothing in it that Markdown, or HTML in it, would obey.

    Example:
        >>> print(_plain("a|b <img src=x> `*_"))
        a\|b &lt;img src=x&gt; \`\*\_
    """
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    return re.sub(r"([\\`*_\[\]|#@!~])", r"\\\1", text)


def _unfenced(text: str) -> str:
    return text.replace("```", "` ` `")
