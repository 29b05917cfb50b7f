"""The record of the slots: what the boot loader is told, and what is left of it after a fault."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from image_support import DEPLOY, on_the_pi

slots = on_the_pi("slots")


@pytest.fixture
def card(tmp_path: Path) -> Path:
    file = tmp_path / "card"
    file.write_bytes(bytes(4 << 20))
    return file


def damage(card: Path, offset: int) -> None:
    with card.open("r+b") as stream:
        stream.seek(offset + 5)
        stream.write(b"\xff")


def test_a_new_card_starts_slot_a(card):
    record = slots.Record(card)
    assert (record.good, record.trial) == ("a", None)


def test_a_trial_begins_and_ends_with_the_slot_kept_or_not(card):
    record = slots.Record(card)
    record.begin_trial("b", 3)
    assert (record.good, record.trial) == ("a", slots.Trial("b", 3))
    record.end_trial()
    assert (record.good, record.trial) == ("a", None)
    record.begin_trial("b", 1)
    record.keep("b")
    assert (record.good, record.trial) == ("b", None)


def test_a_damaged_copy_leaves_the_other_and_a_damaged_trial_the_good_slot(card):
    record = slots.Record(card)
    record.keep("b")
    record.begin_trial("a", 3)
    damage(card, slots.GOOD_AT[0])
    assert record.good == "b"
    damage(card, slots.TRIAL_AT)
    assert (record.good, record.trial) == ("b", None)


def test_nothing_else_on_the_card_is_touched(card):
    record = slots.Record(card)
    record.keep("b")
    record.begin_trial("a", 3)
    content = bytearray(card.read_bytes())
    for offset in (*slots.GOOD_AT, slots.TRIAL_AT):
        content[offset : offset + slots.SECTOR_BYTES] = bytes(slots.SECTOR_BYTES)
    assert content == bytes(4 << 20)


def test_after_a_power_cut_at_any_write_the_card_has_the_old_slot_or_the_new_one(card, monkeypatch):
    """Each write is lost, or torn in its middle; the ones after it never happen."""
    outcomes = set()
    for cut, torn in itertools.product(range(4), (False, True)):
        card.write_bytes(bytes(4 << 20))
        record = slots.Record(card)
        record.keep("a")
        record.begin_trial("b", 2)
        with monkeypatch.context() as power:
            power.setattr(slots.os, "pwrite", cut_off(cut, torn=torn))
            with contextlib.suppress(KeyboardInterrupt):
                record.keep("b")
        trial = record.trial
        starts = trial.slot if trial else record.good
        outcomes.add((record.good, starts))
        assert record.good in ("a", "b")
        assert starts == "b" or record.good == "a"
    assert ("b", "b") in outcomes
    assert ("a", "b") in outcomes, "the negative control: a cut that came before"


def cut_off(after: int, *, torn: bool) -> Any:
    writes = itertools.count()
    real = os.pwrite

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        if next(writes) < after:
            return real(descriptor, content, offset)
        if torn:
            real(descriptor, content[:7], offset)
        raise KeyboardInterrupt

    return pwrite


@pytest.mark.skipif(
    shutil.which("mkenvimage") is None, reason="needs mkenvimage: apt-get install u-boot-tools"
)
def test_a_record_is_what_u_boots_own_tool_makes(tmp_path):
    source, made = tmp_path / "text", tmp_path / "sector"
    source.write_text("trial=b\ntries=3\n")
    command = ["mkenvimage", "-s", str(slots.SECTOR_BYTES), "-p", "0", "-o", made, source]
    subprocess.run(command, check=True)
    assert slots.pack({"trial": "b", "tries": "3"}) == made.read_bytes()
    assert slots.unpack(made.read_bytes()) == {"trial": "b", "tries": "3"}


@pytest.mark.parametrize(
    "sector",
    [b"", bytes(512), b"\xff" * 512, b"x" * 511, bytes(513)],
    ids=["empty", "zeros", "erased", "short", "long"],
)
def test_what_is_no_record_has_no_values(sector):
    assert slots.unpack(sector) == {}


@pytest.mark.parametrize(
    ("trial", "tries"), [("c", "3"), ("", "3"), ("b", "0"), ("b", "x"), ("b", "")]
)
def test_a_trial_that_makes_no_sense_is_none(card, trial, tries):
    with card.open("r+b") as stream:
        stream.seek(slots.TRIAL_AT)
        stream.write(slots.pack({"trial": trial, "tries": tries}))
    assert slots.Record(card).trial is None


def test_the_boot_loader_and_this_program_mean_the_same_places():
    script = (DEPLOY / "image/boot.cmd").read_text()
    for offset in (*slots.GOOD_AT, slots.TRIAL_AT):
        assert f" {offset // slots.SECTOR_BYTES:x} 1" in script
    for slot, number in slots.SLOTS.items():
        assert f"{slot}" in script
        assert f"setenv part {number}" in script


def test_what_runs_is_said_on_the_command_line(tmp_path, monkeypatch):
    line = tmp_path / "cmdline"
    monkeypatch.setattr(slots, "_COMMAND_LINE", line)
    line.write_text("root=PARTUUID=534e0001-02 ro sensor_node.slot=b sensor_node.trial quiet\n")
    assert (slots.running(), slots.is_trial()) == ("b", True)
    line.write_text("root=PARTUUID=534e0001-02 ro quiet sensor_node.slot=c\n")
    assert (slots.running(), slots.is_trial()) == ("", False)
