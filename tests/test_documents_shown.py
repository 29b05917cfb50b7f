"""What the documents show is what the commands print: see shown.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from shown import DOCUMENTS, ROOT, SETTINGS, Block, Settings, blocks_of, difference, fits, like
from support import Subscriber, wait_until

pytestmark = pytest.mark.real_time(seconds=60)

BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
# Each worker sets up the settings of its tests: so all blocks of a document are one test.
TOGETHER = sorted({(block.document, block.setting) for block in BLOCKS if block.setting})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    made = Settings(tmp_path_factory.mktemp("shown"))
    yield made
    made.close()


@pytest.mark.parametrize(("document", "setting"), TOGETHER)
def test_what_is_shown_is_what_is_printed(settings, document, setting):
    """If it is not, and the new output is right: tests/.venv/bin/python tests/shown.py --write."""
    blocks = [b for b in BLOCKS if (b.document, b.setting) == (document, setting)]
    differences = [difference(block, settings.make(block)) for block in blocks]
    assert "\n".join(filter(None, differences)) == ""


def test_the_payloads_of_the_documents_are_those_on_the_wire(settings):
    """The examples in the tables of topics, and every key of `health` by name."""
    running = settings.of("running")
    subscriber = Subscriber(running.port)
    try:
        wait_until(lambda: subscriber.on("sensors/greenhouse/history"))
        newest = {topic: text for topic, text, _ in subscriber.messages}
    finally:
        subscriber.close()
    for document in ("README.md", "node/mqtt/README.md"):
        text = (ROOT / document).read_text()
        examples = re.findall(r"^\| `(\S+)` \|.*`({.*})`", text, re.MULTILINE)
        assert "state" in {topic.rpartition("/")[2] for topic, _ in examples}
        for topic, example in examples:
            name = topic.rpartition("/")[2]
            real = newest[f"sensors/greenhouse/{'air/' if name == 'state' else ''}{name}"]
            # Whether the clock is synced is a matter of this computer, which simulates the sensors.
            real = real.replace('"clock":"unsynced"', '"clock":"synced"')
            real = real.replace(',"simulated":true', "")
            shown = json.loads(example.replace('"..."', '"2026-11-24T03:13:00.123Z"'))
            found = json.loads(real)
            if name == "history":  # told apart: a batch has it when it is new
                found.pop("accuracy", None)
            assert like(shown, found), (document, topic, real)
    health = json.loads(newest["sensors/greenhouse/health"])
    section = (ROOT / "node/mqtt/README.md").read_text().partition("`health` is an object of")[2]
    for key in (*health, *health["sensors"]["air"]):
        assert f"`{key}`" in section, key


def test_every_block_that_shows_output_is_made_by_a_command():
    """Or says why it is not; a block without a language, with a prompt, or of JSON is output."""
    for block in BLOCKS:
        if block.language in ("", "json", "console") or block.text.startswith("$ "):
            assert block.setting in SETTINGS or block.comment.startswith("not run: "), str(block)


def shown(text: str, comment: str = "output: nothing; values") -> Block:
    return Block("x.md", 1, comment, "", text, 0)


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("air  19.5 °C  ▁▂▃  2s  online\nbox  46 %\n", True),
        ("air  19.5 °F  ▁▂▃  2s  online\nbox  46 %\n", False),
        ("air  19.5 °C  ▁▂▃  2s  offline\nbox  46 %\n", False),
        ("air  19.5 °C  ▁▂▃  2s  online\n", False),
        ("air  19.5 °C  ▁▂▃  2s  online\nbox  46 %\ncpu  45 °C\n", False),
    ],
)
def test_values_may_differ_and_words_may_not(printed, same):
    block = shown("air   21.25 °C  █▁  12s  online\nbox  7 %\n")
    assert (difference(block, printed) == "") == same


def test_without_the_word_values_a_number_counts():
    block = shown("every 5s\n", "output: nothing")
    assert difference(block, "every 6s\n")
    assert not difference(block, "every 5s\n")


def test_dots_stand_for_lines_and_nothing_else():
    assert fits("a\n...\nd\n", "a\nb\nc\nd\n", set())
    assert fits("a\n...\nd\n", "a\nd\n", set())
    assert not fits("a\n...\nd\n", "a\nb\nd\ne\n", set())
    assert fits("a\n", "a\nb\n", set(), more=True)
    assert not fits("a\nb\n", "a\n", set(), more=True)


def test_an_example_in_json_has_the_keys_the_kinds_and_the_words_of_the_answer():
    answer = {"sensors": [{"id": "air", "ok": 7, "why": {"rate": 1}}, {"id": "box"}], "up": True}
    assert like({"sensors": [{"id": "air", "ok": 1, "why": {"rate": 9}}], "up": True}, answer)
    assert not like({"sensors": [{"id": "air", "ok": 1, "why": {"x": 1}}], "up": True}, answer)
    assert not like({"sensors": [{"id": "sea"}], "up": True}, answer)
    assert not like({"sensors": [], "up": False}, answer)
    assert not like({"sensors": []}, answer)
    assert like({"accuracy": {"t": 0.5}}, {"accuracy": {"t": 0.4, "h": 2.0}})
    assert not like({"accuracy": {"t": 0.5}}, {"accuracy": {"t": "?", "h": 2.0}})
    assert not like({"accuracy": 0.5}, {"accuracy": {"t": 0.5}})
