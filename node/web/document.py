"""The frame that every page has: head, script, banner, footer. Pure.

All text from elsewhere goes through `esc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from node.plot.text import esc

__all__ = ["Assets", "document", "page_links", "problem_list"]


class Assets(msgspec.Struct, frozen=True):
    """The addresses of the style sheet and the script, which change with their content."""

    style: str
    script: str


def document(
    title: str, body: Sequence[str], footer: str, assets: Assets, *, whole: bool = False
) -> str:
    """Return a page. With `whole` the script always fetches all of it, and never `/api/v1/now`."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{esc(title)}</title>"
        f'<link rel="stylesheet" href="{assets.style}">'
        f'<link rel="icon" href="/icon.svg" type="image/svg+xml">'
        f'<script src="{assets.script}" defer></script>'
        '<noscript><meta http-equiv="refresh" content="30"></noscript>'
        f"</head><body{' data-whole' if whole else ''}>"
        '<p id="lost" class="problem" role="alert" hidden>This page has lost its connection: '
        "what it shows is old.</p>"
        f"{''.join(body)}{footer}</body></html>"
    )


def problem_list(problems: Iterable[str]) -> str:
    items = "".join(f"<li>{esc(problem)}</li>" for problem in problems)
    return f'<ul class="problem" role="alert">{items}</ul>' if items else ""


def page_links(page: int, pages: int, query: str = "") -> str:
    """Return the links to the page before and after; `query` begins their parameters."""
    if pages == 1:
        return ""
    links = []
    if page > 1:
        links.append(f'<a rel="prev" href="/?{query}page={page - 1}">← before</a>')
    links.append(f"<span>{page} of {pages}</span>")
    if page < pages:
        links.append(f'<a rel="next" href="/?{query}page={page + 1}">more →</a>')
    return f'<nav class="pages" aria-label="Pages">{"".join(links)}</nav>'
