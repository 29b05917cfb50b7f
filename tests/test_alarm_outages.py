"""Alarms through outages: a few of those that `tests/alarms/run` goes through by the thousand."""

from __future__ import annotations

import alarm_model
import pytest
from alarm_model import World

from node.outbox.file import OutboxFile
from node.outbox.outbox import Outbox
from node.outbox.records import Batch


@pytest.mark.parametrize("seed", [1, 2])
def test_no_alarm_is_lost_and_none_comes_twice(tmp_path, seed):
    world = World(tmp_path, seed)
    world.live(40)
    assert world.faults() == []
    assert world.records > 30
    assert world.broker.again, "and the broker has sent some of it again"


def test_a_log_without_the_states_of_alarms_would_be_found(tmp_path, monkeypatch):
    """The negative control: a restarted node would begin an alarm a second time."""
    monkeypatch.setattr(Outbox, "keep_alarm", lambda *_: None)
    world = World(tmp_path, 1)
    world.live(40)
    assert world.faults() != []


def test_a_state_that_is_committed_before_its_record_would_be_found(tmp_path, monkeypatch):
    """The other one: what is killed between the two would never tell of the alarm."""
    real, write = OutboxFile.commit, OutboxFile._write_alarms

    def commit(file: OutboxFile, batch: Batch, *arguments: object, **keys: object) -> None:
        write(file, batch.alarms)
        real(file, batch, *arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(OutboxFile, "commit", commit)
    monkeypatch.setattr(alarm_model, "OTHER_OUTAGES", ())
    monkeypatch.setattr(alarm_model, "POINTS", ("within the commit",))
    world = World(tmp_path, 1)
    world.live(30)
    assert world.faults() != []


def test_a_for_goes_on_over_a_boot_as_soon_as_the_clock_is_set(tmp_path, monkeypatch):
    """Of 60 s, 30 were over before the boot, and 20 are after it: the rest was without power."""
    world = World(tmp_path, 1)
    monkeypatch.setattr(World, "_value", lambda *_: 9.0)
    monkeypatch.setattr(World, "_disturb_a_little", lambda _: None)

    def held() -> bool:
        alarms = world.life.reporter.alarms
        assert alarms is not None
        return alarms.health["a"]["held"].state == "on"

    for _ in range(4):
        world.step()
    assert not held()
    world.boot(20.0, without_clock_steps=3)
    world.step()
    world.step()
    assert not held(), "nothing is known of the time before"
    world.step()
    assert world.clock.in_sync
    assert held()
