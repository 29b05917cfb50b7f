"""What the documents say of one another, and of what is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shown import DOCUMENTS, ROOT


def without_code(text: str) -> str:
    """The text without its blocks of code, whose brackets and signs are not Markdown's."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(file: Path, text: str) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = file.parent / path if path else file
        there = link != "#" and target.exists()
        if not there or (anchor and anchor not in anchors(target.read_text() if path else text)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    text = (ROOT / name).read_text()
    assert broken_links(ROOT / name, text) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_of_code_is_closed(name):
    """A fence too many shows the rest of the document as code."""
    fences = re.findall(r"^```(.*)$", (ROOT / name).read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[1::2]) <= {""}


def test_a_link_to_nowhere_would_be_found():
    """The control: a file that is gone, a heading that is gone, here and elsewhere."""
    text = (
        "# A\n[x](gone.md) [x](#a) [x](#b) [x](node/README.md#gone) [x](#) [x](https://a.b/c#d)\n"
    )
    assert broken_links(ROOT / "README.md", text) == ["gone.md", "#b", "node/README.md#gone", "#"]


def names_on_an_index(text: str) -> list[str]:
    """Commands that ask an index for the project by a name that it does not own there."""
    return re.findall(r"\bpipx? (?:install|download|wheel)\b[^`\n]*\bpi-sensor-node\b.*", text)


@pytest.mark.parametrize("name", [*DOCUMENTS, "pyproject.toml", "deploy/man/sensor-node.1"])
def test_what_is_installed_comes_from_the_checkout(name):
    """Anyone may register `pi-sensor-node`; what they publish there must not be installed."""
    assert names_on_an_index((ROOT / name).read_text()) == []


def test_a_command_that_asks_an_index_would_be_found():
    assert names_on_an_index("`pip install 'pi-sensor-node[web]'`") != []
    assert names_on_an_index("pip install '.[web]'\nthe distribution pi-sensor-node") == []


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 160


def test_a_report_of_a_fault_brings_what_is_needed():
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "fault.yml").read_text()
    for command in ("sensor-node doctor --json", "sensor-node status --json"):
        assert f"sudo {command}" in form


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_comparison_of_the_readme_is_what_was_measured():
    """Each of its figures stands in the table that `tests/bench/run --readme` has printed."""
    text = (ROOT / "README.md").read_text().partition("\n## Compared\n")[2].partition("\n## ")[0]
    heading, _, *rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    columns = {"tutorial loop": "tutorial", "this node": "node", "C program": "c"}
    measured = (ROOT / "tests/bench/README.md").read_text()
    names = next(
        line.split() for line in measured.splitlines() if line.split()[:2] == ["tutorial", "node"]
    )
    where = {
        "CPU per reading": ("10 sensors every 10 s", "CPU per reading, ms"),
        "CPU to the first": ("cold start", "CPU, ms"),
        "memory": ("10 sensors every 10 s", "memory (RSS), MB"),
        "readings lost by": ("kill -9 of the peer", "lost"),
        "readings lost of": ("a day's backlog", "lost"),
    }
    assert len(rows) == len(where)
    for what, *figures in rows:
        section, label = next(v for begins, v in where.items() if what.startswith(begins))
        below = measured.partition(f"\n{section}")[2].splitlines()
        row = next(line for line in below if line.startswith(f"  {label}  "))
        values = dict(zip(names, row.removeprefix(f"  {label}").split(), strict=True))
        for column, figure in zip(heading[1:], figures, strict=True):
            assert figure == values[columns.get(column, column)].partition("±")[0], (what, column)
