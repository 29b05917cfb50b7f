"""Alarms of a real node at a real broker: topic, record in the history, program, restart, end."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from support import (
    FakeClock,
    NodeProcess,
    Subscriber,
    replaced,
    retained,
    sysfs_config,
    wait_until,
)

from drivers.sim.board import SimulatedBoard
from node.alarms.outputs import AlarmOutputs
from node.alarms.programs import AlarmPrograms
from node.alarms.table import AlarmTable
from node.config.schema import OutboxTable
from node.health import AlarmHealth, Health, SensorHealth, alarm_texts
from node.outbox.log_file import LogFile
from node.outbox.outbox import Outbox
from node.outbox.reader import look_into
from node.outbox.store import FILE_NAME
from node.reading import AlarmOf, Layout

TOPIC = "sensors/test/s/alarm/too-warm"
ALARM = """
[sensor.channel.temperature]
[[sensor.channel.temperature.alarm]]
name = "too-warm"
above = 25
hysteresis = 0.5
exec = ["{program}", "an argument"]
"""


def program_in(folder: Path) -> Path:
    """A program that writes down what it was run with."""
    program = folder / "on-alarm"
    program.write_text(
        f'#!/bin/sh\necho "$1 $SENSOR_NODE_ALARM $SENSOR_NODE_STATE $SENSOR_NODE_VALUE" '
        f'"$SENSOR_NODE_NODE $HOME" >>{folder}/ran\n'
    )
    program.chmod(0o755)
    return program


def config_of(port: int, file: Path, program: Path, **more: Any) -> str:
    return sysfs_config(port, {"s": file}, interval="200ms", **more) + ALARM.format(program=program)


def alarm_on(subscriber: Subscriber) -> dict[str, Any]:
    """The newest message of the alarm."""
    payloads = subscriber.on(TOPIC)
    return json.loads(payloads[-1]) if payloads and payloads[-1] else {}


def records(subscriber: Subscriber) -> list[dict[str, Any]]:
    """The records of alarms, each once: history may send one again, with the same `seq`."""
    known = {(r["stream"], r["seq"]): r for r in subscriber.history() if "alarm" in r}
    return list(known.values())


def test_an_alarm_from_its_first_value_to_its_end(
    broker, subscribe, start_node, temperature_file, tmp_path
):
    """On, acknowledged, over a restart, off; each a record of its own, and each with its `seq`."""
    subscriber = subscribe(broker.port)
    temperature_file.write_text("27000\n")
    history = "[outbox]\nhistory_interval = 0\n"
    config = config_of(broker.port, temperature_file, program_in(tmp_path)) + history
    node: NodeProcess = start_node(config)
    wait_until(lambda: alarm_on(subscriber).get("state") == "on")
    first = alarm_on(subscriber)
    assert {key: first[key] for key in ("condition", "limit", "unit", "value", "acknowledged")} == {
        "condition": "above",
        "limit": 25,
        "unit": "°C",
        "value": 27.0,
        "acknowledged": False,
    }
    subscriber.wait_for("sensors/test/status", "online")
    topics = [topic for topic, _, _ in subscriber.messages]
    assert topics.index(TOPIC) < topics.index("sensors/test/status")
    wait_until(lambda: records(subscriber))
    (record,) = records(subscriber)
    reading = next(r for r in subscriber.history() if r["seq"] == record["seq"] - 1)
    assert record["time"] == reading["time"] == first["since"]
    assert record["seq"] == first["seq"]
    assert record["alarm"]["name"] == "too-warm"
    assert (record["alarm"]["state"], record["alarm"]["value"]) == ("on", 27.0)
    assert set(record) == {"seq", "sensor", "time", "clock", "alarm", "stream"}, "no channels"
    wait_until(lambda: subscriber.health()["alarms"] == 1)
    assert subscriber.health()["sensors"]["s"]["alarms"]["too-warm"]["state"] == "on"

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    client.publish("sensors/test/cmd/acknowledge", "s/too-warm", 1).wait_for_publish(20)
    wait_until(lambda: alarm_on(subscriber)["acknowledged"])
    wait_until(lambda: subscriber.on("sensors/test/cmd/acknowledge/result"))
    answer = json.loads(subscriber.on("sensors/test/cmd/acknowledge/result")[-1])
    assert answer == {"command": "acknowledge", "ok": True, "alarms": ["s/too-warm"]}
    client.publish("sensors/test/cmd/acknowledge", "s/x", 1).wait_for_publish(20)
    wait_until(lambda: len(subscriber.on("sensors/test/cmd/acknowledge/result")) == 2)
    answer = json.loads(subscriber.on("sensors/test/cmd/acknowledge/result")[-1])
    assert answer["error"] == "unknown alarm; configured: s/too-warm"
    client.disconnect()
    client.loop_stop()

    ran = ["an argument too-warm on 27 test ", "an argument too-warm acknowledged 27 test "]
    file = tmp_path / "ran"
    wait_until(lambda: file.exists() and file.read_text().splitlines() == ran)
    said = alarm_on(subscriber)
    node.kill()
    subscriber.wait_for("sensors/test/status", "offline")
    node = start_node(config)
    subscriber.wait_for("sensors/test/status", "online")
    wait_until(lambda: len(subscriber.on("sensors/test/s/availability")) >= 4)
    assert alarm_on(subscriber) == said, "as it was, and not a second time"

    temperature_file.write_text("24400\n")
    wait_until(lambda: alarm_on(subscriber)["state"] == "off")
    wait_until(lambda: len(records(subscriber)) == 3)
    states = [(r["alarm"]["state"], r["alarm"]["acknowledged"]) for r in records(subscriber)]
    assert states == [("on", False), ("on", True), ("off", False)]
    seqs = [r["seq"] for r in subscriber.history()]
    assert sorted(set(seqs)) == list(range(1, max(seqs) + 1)), "no gap where the records are"
    ran += ["an argument too-warm off 24.4 test "]
    wait_until(lambda: file.read_text().splitlines() == ran)

    temperature_file.write_text("27000\n")
    wait_until(lambda: alarm_on(subscriber)["state"] == "on")
    assert node.terminate() == 0
    kept = retained(broker.port)
    assert json.loads(kept[TOPIC])["state"] == "on", "it stays on until a value proves otherwise"
    without = replaced(config, (ALARM.format(program=tmp_path / "on-alarm"), ""))
    start_node(without)
    wait_until(lambda: subscriber.on(TOPIC)[-1] == "")
    wait_until(lambda: len(records(subscriber)) == 5)
    assert records(subscriber)[-1]["alarm"]["state"] == "off", "it ended with its configuration"
    assert TOPIC not in retained(broker.port)


def test_no_value_is_an_alarm_and_an_alarm_that_is_off_is_unknown_without_one(
    broker, subscribe, start_node, temperature_file
):
    subscriber = subscribe(broker.port)
    silent = '[[sensor.channel.temperature.alarm]]\nname = "silent"\nno_value = "2s"\n'
    warm = '[[sensor.channel.temperature.alarm]]\nname = "too-warm"\nabove = 25\n'
    header = "[sensor.channel.temperature]\n"
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="200ms")
    start_node(config + header + silent + warm)

    def state_of(name: str) -> str:
        payloads = subscriber.on(f"sensors/test/s/alarm/{name}")
        return str(json.loads(payloads[-1])["state"]) if payloads else ""

    wait_until(lambda: (state_of("silent"), state_of("too-warm")) == ("off", "off"))
    temperature_file.rename(temperature_file.with_suffix(".gone"))
    wait_until(lambda: (state_of("silent"), state_of("too-warm")) == ("on", "unknown"))
    temperature_file.with_suffix(".gone").rename(temperature_file)
    wait_until(lambda: (state_of("silent"), state_of("too-warm")) == ("off", "off"))
    (on,) = [
        json.loads(payload)
        for payload in subscriber.on("sensors/test/s/alarm/silent")
        if json.loads(payload)["state"] == "on"
    ]
    assert (on["condition"], on["limit"], on["unit"], on["value"]) == ("no_value", 2.0, "s", None)


def test_an_alarm_without_a_broker_is_recorded_shown_and_run(
    start_node, temperature_file, tmp_path
):
    """The log has it, with the state that a later process continues from."""
    temperature_file.write_text("27000\n")
    node = start_node(config_of(9, temperature_file, program_in(tmp_path)))
    wait_until(lambda: (tmp_path / "ran").exists() and (tmp_path / "ran").read_text())
    node.kill()

    def seen(log: LogFile) -> list[tuple[str, ...]]:
        return [r.layout.channels for r in log.readings_after(0, 100) if r.layout.alarm]

    file = node.state_dir / FILE_NAME
    names = ("alarm_too-warm", "alarm_too-warm_limit", "alarm_too-warm_value")
    db = sqlite3.connect(file)  # the node was killed: it has left a WAL
    db.execute("SELECT count(*) FROM tick").fetchone()
    assert look_into(file, seen) == [names]
    assert set(look_into(file, LogFile.alarms)) == {"s/too-warm"}
    db.close()


def test_a_program_that_hangs_is_ended_and_the_next_one_runs(tmp_path, caplog):
    programs = AlarmPrograms([], time_limit_s=0.2)
    programs.run(["/bin/sleep", "60"], {})
    wait_until(lambda: "/bin/sleep was ended: it ran longer than 0.2 s" in caplog.text)
    programs._time_limit_s = 30
    programs.run(["/no/such/program"], {})
    programs.run(["/bin/sh", "-c", "exit 3"], {})
    programs.run(["/bin/sh", "-c", f"env >{tmp_path}/env"], {"SENSOR_NODE_ALARM": "x"})
    wait_until(lambda: (tmp_path / "env").exists() and (tmp_path / "env").read_text())
    assert "the alarm's program /no/such/program cannot be run" in caplog.text
    assert "/bin/sh failed with exit code 3" in caplog.text
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names <= {"PATH", "LANG", "SENSOR_NODE_ALARM", "PWD", "SHLVL", "_", "OLDPWD"}
    programs.close()


def test_programs_do_not_pile_up(caplog):
    programs = AlarmPrograms([])
    for _ in range(30):
        programs.run(["/bin/sleep", "60"], {})
    assert "/bin/sleep is left out: 20 runs are waiting already" in caplog.text
    programs.close()


def test_a_pin_is_high_while_one_of_its_alarms_sounds():
    board = SimulatedBoard(FakeClock())
    first, second = AlarmTable(above=8.0, gpio=22), AlarmTable(below=2.0, gpio=22)
    other = AlarmTable(above=9.0, gpio=23)
    outputs = AlarmOutputs([first, second, other], board, AlarmPrograms([]))

    def levels() -> tuple[int, int]:
        pins = board.pin_factory()
        return pins.pin(22).state, pins.pin(23).state

    assert levels() == (0, 0)
    outputs.show([first, second])
    assert levels() == (1, 0)
    outputs.show([second, other])
    assert levels() == (1, 1)
    outputs.show([])
    assert levels() == (0, 0)
    outputs.show([other])
    outputs.close()
    assert not board.pin_factory().pin(23).state


def test_a_pin_that_cannot_be_opened_costs_only_itself(caplog):
    board = SimulatedBoard(FakeClock())
    first = AlarmOutputs([AlarmTable(above=8.0, gpio=22)], board, AlarmPrograms([]))
    second = AlarmOutputs([AlarmTable(above=8.0, gpio=22)], board, AlarmPrograms([]))
    assert "the alarm output GPIO 22 cannot be used" in caplog.text
    second.show([AlarmTable(above=8.0, gpio=22)])
    first.close()
    second.close()


def test_an_earlier_version_takes_a_record_for_a_reading_of_other_channels(tmp_path, clock):
    """So that an update can be undone: its layout has what such a version needs, and no less."""

    class Earlier(msgspec.Struct, frozen=True):
        sensor: str
        channels: tuple[str, ...]
        units: tuple[str, ...]

    outbox = Outbox(tmp_path, OutboxTable(), clock)
    of = AlarmOf("warm", "temperature", "above")
    names = ("alarm_warm", "alarm_warm_limit", "alarm_warm_value")
    for layout, numbers in (
        (Layout("s", ("temperature",), ("°C",)), (21.5,)),
        (Layout("s", names, ("", "°C", "°C"), of), (1, 8.0, 9.1)),
    ):
        outbox.append(layout, numbers, boot_s=1.0, utc_s=2.0, synced=True)
    outbox.keep_alarm("s/warm", "{}")
    outbox.commit()
    outbox.close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    definitions = [text for (text,) in db.execute("SELECT definition FROM layout ORDER BY number")]
    (schema,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    assert schema == 1
    assert definitions[0] == '{"sensor":"s","channels":["temperature"],"units":["°C"]}'
    assert msgspec.json.decode(definitions[1], type=Earlier) == Earlier(
        "s", names, ("", "°C", "°C")
    )


def test_a_damaged_log_is_replaced_with_the_states_of_its_alarms(tmp_path, clock):
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    outbox.append(Layout("s", ("t",), ("°C",)), (1.0,), boot_s=1.0, utc_s=2.0, synced=True)
    outbox.keep_alarm("s/warm", '{"kind":"above"}')
    outbox.commit()
    outbox.close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("UPDATE tick SET checksum = 0")
    db.commit()
    db.close()
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    assert outbox.set_aside
    assert outbox.alarms == {"s/warm": '{"kind":"above"}'}
    outbox.close()


def test_health_says_which_alarms_are_on_in_words():
    """As `status` and the page do."""
    on = AlarmHealth(
        state="on",
        condition="above",
        limit=-15.0,
        unit="°C",
        value=-12.3,
        since="2026-11-24T03:13:00.123Z",
        clock="synced",
        acknowledged=True,
    )
    alarms = {"too-warm": on, "silent": AlarmHealth(state="off"), "other": AlarmHealth()}
    health = Health(sensors={"freezer": SensorHealth(alarms=alarms)})
    assert alarm_texts(health) == [
        "freezer/too-warm: above -15 °C, -12.3, since 2026-11-24T03:13:00.123Z, acknowledged"
    ]
    assert str(alarms["other"]) == "unknown"
