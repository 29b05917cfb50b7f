"""The image on QEMU's `virt` machine: from a card fresh from the imager to a node in use.

`virt` has no thermometer: numbers that the kernel tells of network cards stand in for them, the
first the size of a packet (1500), in m°C. Its GPIO chip, a PL061, stands in for the Pi's where
edges are needed: QEMU's Pi has none.
"""

from __future__ import annotations

import json
import time
from typing import Any

from card_files import (
    check_imager,
    check_own_firmware,
    check_package,
    check_update,
    write_as_imager,
    write_package,
)
from machine import BROKER, Machine
from radio import check_wifi
from report import Report
from support import Subscriber, replaced, wait_until

__all__ = ["run_virt"]

BOOT_S = 900.0
"""A boot takes a minute on an idle machine; behind other work it takes its time."""
_RUNS = (
    "sensor-node",
    "ssh",
    *(f"systemd-{name}" for name in ("networkd", "resolved", "timesyncd", "udevd", "journald")),
)
_OWN = (
    "sensor-node",
    *(f"sensor-node-{name}" for name in ("web", "panel", "status", "firmware", "wifi@wlan0")),
    *(f"sensor-node-{name}" for name in ("packages", "packages-judge")),
    *(f"sensor-node-{name}" for name in ("staged", "image-judge", "image-verdict")),
)
_PL061 = 0x0903_0000
_LED, _BUTTON = 5, 6
_TIMES = 16
"""How often the sensors are read while what is written to the card is counted."""

_FILES = [
    f"{card}/{name}"
    for name in ("mtu", "tx_queue_len", "ifindex", "type", "addr_len")
    for card in ("eth0", "lo")
]
_CONFIG = """\
[node]
name = "{name}"

[mqtt]
host = "{broker}"
keepalive = "5s"

[outbox]
history_interval = "2s"
"""
_SENSOR = """
[[sensor]]
id = "{id}"
driver = "sysfs"
path = "/sys/class/net/{path}"
interval = "{interval}"
"""


def config(name: str, paths: list[str], *, every: str, more: str = "") -> str:
    """A configuration with a sensor per path: s0, s1, ..."""
    text = _CONFIG.format(name=name, broker=BROKER[0]) + more
    return text + "".join(
        _SENSOR.format(id=f"s{number}", path=path, interval=every)
        for number, path in enumerate(paths)
    )


def run_virt(machine: Machine, seen: Subscriber, report: Report) -> None:
    """Three boots of one card."""
    card = machine.card
    write_as_imager(card, "greenhouse", machine.make_ssh_key())
    nameless = replaced(config("greenhouse", _FILES[:1], every="1s"), ('name = "greenhouse"\n', ""))
    card.write("sensor-node.toml", nameless)
    report.say("virt, first boot: a new card by Imager, with a broker and a sensor named on it")
    _first_boot(machine, seen, report)

    status = card.read("status.txt")
    with report.check("status.txt on the card says how the node is, and where"):
        for words in (
            'The node "greenhouse" is running',
            "Network: 10.0.2.15 on eth0",
            "Sensor:  s0: online",
        ):
            assert words in status, status

    before = seen.history("greenhouse")[-1]["seq"]
    right = config("greenhouse", _FILES[:1], every="1s")
    broken = replaced(right, ("keepalive", "keepalife"))
    card.write("sensor-node.toml", broken)
    report.say("virt, second boot: after a power cut, with a mistake in the configuration")
    _second_boot(machine, seen, report, before)

    panel = f"\n[status_led]\npin = {_LED}\n\n[button]\npin = {_BUTTON}\n"
    # With the default interval of history, which counts for what is written.
    text = replaced(
        config("shed", _FILES, every="30s", more=panel), ('interval = "2s"', 'interval = "60s"')
    )
    card.write("sensor-node.toml", text)
    write_package(card)
    report.say("virt, third boot: another configuration, with ten sensors every 30 s")
    _third_boot(machine, seen, report)


def _first_boot(machine: Machine, seen: Subscriber, report: Report) -> None:
    machine.power_on()
    with report.check("a first reading arrives, without any login", vital=True) as figures:
        began_s = time.monotonic()
        wait_for(machine, lambda: seen.states("s0", "greenhouse"), BOOT_S)
        figures.append(f"{time.monotonic() - began_s:.0f} s after power on")
        assert seen.states("s0", "greenhouse")[0]["temperature"] == 1.5
    with report.check("the configuration on the card is the one in use; SSH takes its key"):
        assert machine.run("hostname").strip() == "greenhouse"
        assert "no password" not in machine.run("passwd --status root | cut -d' ' -f2")
    check_imager(machine, report, "greenhouse")
    nothing_has_failed(machine, report)
    with report.check(
        "a cut link shows as offline, and the backlog comes without a gap"
    ) as figures:
        machine.plug_network(in_=False)
        cut_s = time.monotonic()
        seen.wait_for("sensors/greenhouse/status", "offline", 60)
        figures.append(f"offline after {time.monotonic() - cut_s:.1f} s")
        last = seen.states("s0", "greenhouse")[-1]["seq"]
        time.sleep(15)
        machine.plug_network(in_=True)
        seen.wait_for("sensors/greenhouse/status", "online", 90)
        # History waits up to two minutes after boot for the clock, which nobody sets here.
        wait_until(lambda: newest_seq(seen) > last + 15, 180, "the backlog")
        figures.append(f"{newest_seq(seen)} readings in a row")
        assert gaps(seen.history("greenhouse")) == []
    with report.check("a node that freezes is restarted by the watchdog") as figures:
        main = "systemctl show sensor-node --property MainPID --value"
        process = machine.run(main).strip()
        frozen_s = time.monotonic()
        machine.run(f"kill -STOP {process}")
        seen.wait_for("sensors/greenhouse/status", "offline", 60)
        seen.wait_for("sensors/greenhouse/status", "online", 240)
        figures.append(f"online {time.monotonic() - frozen_s:.0f} s after it froze")
        assert machine.run(main).strip() != process
    with report.check("status.txt is written without being asked for"):
        wait_until(lambda: "status.txt" in machine.run("ls /boot/firmware"), 240, "status.txt")
    machine.run("systemctl start sensor-node-status", seconds=240)
    machine.plug_network(in_=False)
    time.sleep(8)
    machine.cut_power()


def _second_boot(machine: Machine, seen: Subscriber, report: Report, before: int) -> None:
    machine.power_on()
    with report.check("a broken configuration leaves the node on the last good one", vital=True):
        wait_for(machine, lambda: problem_of(seen, "greenhouse"), BOOT_S)
        problem = problem_of(seen, "greenhouse")
        assert "sensor-node.toml cannot be used" in problem, problem
        assert "keepalife" in problem
    with report.check("after a power cut the numbers go on without a gap") as figures:
        started = newest_seq(seen)
        wait_until(lambda: newest_seq(seen) > started + 5, 180, "new readings")
        readings = seen.history("greenhouse")
        assert len({reading["stream"] for reading in readings}) == 1
        assert gaps(readings) == []
        figures.append(f"{newest_seq(seen)} in a row, {before} before the cut")
    with report.check("status.txt says what is wrong with the configuration, and where"):
        machine.run("systemctl start sensor-node-status", seconds=240)
        text = machine.run("cat /boot/firmware/status.txt")
        assert "line 6: [mqtt] keepalife: unknown key" in text, text
        assert "The last valid configuration stays in use" in text
    machine.shut_down(240)


def _third_boot(machine: Machine, seen: Subscriber, report: Report) -> None:
    machine.power_on()
    with report.check("a corrected configuration is the one in use", vital=True):
        wait_for(machine, lambda: seen.states("s9", "shed"), BOOT_S)
        wait_until(lambda: seen.on("sensors/shed/health"), 60)
        assert problem_of(seen, "shed") == ""
    nothing_has_failed(machine, report)
    check_package(machine, report)
    with report.check("the root file system is only read"):
        assert "ro" in machine.run("findmnt --noheadings --output OPTIONS /").strip().split(",")
    with report.check("no unit of ours is exposed more than systemd's 3 of 10") as figures:
        for unit in _OWN:
            said = machine.run(f"systemd-analyze security --no-pager --threshold=30 {unit}")
            figures.append(said.strip().splitlines()[-1].rpartition("level for ")[2].split(" ")[-3])
    _write_load(machine, seen, report)
    _panel(machine, seen, report)
    check_update(machine, report)
    check_own_firmware(machine, report)
    check_wifi(machine, report)
    machine.cut_power()


def _write_load(machine: Machine, seen: Subscriber, report: Report) -> None:
    with report.check("the card is written to a little with ten sensors every 30 s") as figures:
        # From between two readings to between two others: a commit more or less is a quarter.
        before = _written_once_read(machine, seen, 1)
        an_hour = (_written_once_read(machine, seen, _TIMES) - before) / _TIMES * 120
        figures.append(f"{an_hour / 1e6:.1f} MB an hour")
        assert an_hour < 8e6
    with report.check("and not at all when nothing is measured") as figures:
        machine.run("systemctl stop sensor-node sensor-node-status.timer; sync")
        time.sleep(10)
        before = machine.bytes_written()
        time.sleep(60)
        written = machine.bytes_written() - before
        figures.append(f"{written} bytes in 60 s")
        assert written == 0


def _written_once_read(machine: Machine, seen: Subscriber, times: int) -> int:
    """What has gone to the card, ten seconds after the sensors were read so many times more."""
    count = len(seen.states("s9", "shed"))
    wait_until(lambda: len(seen.states("s9", "shed")) >= count + times, 60 * times, "readings")
    time.sleep(10)
    machine.run("sync")
    return machine.bytes_written()


def _panel(machine: Machine, seen: Subscriber, report: Report) -> None:
    chip = machine_path(machine, "pl061")
    drop_in = "/run/systemd/system/sensor-node.service.d/gpio.conf"
    press(machine, chip, down=False)
    machine.run(
        f"mkdir -p $(dirname {drop_in}) && printf '[Service]\\nEnvironment="
        f"SENSOR_NODE_GPIO_CHIP=/dev/gpiochip0\\n' > {drop_in} && systemctl daemon-reload && "
        "systemctl restart sensor-node"
    )
    with report.check("the LED, seen from outside, is on when the node is well"):
        seen.wait_for("sensors/shed/status", "online", 120)
        # The data register shows the lines that the address selects (PrimeCell PL061, §3.3.1).
        led = _PL061 + (1 << _LED << 2)
        wait_until(lambda: level_at(machine, led, _LED), 60, "the LED is on")
        time.sleep(5)
        assert level_at(machine, led, _LED), "and stays so"
    with report.check("the LED blinks when there is no broker"):
        machine.plug_network(in_=False)
        seen.wait_for("sensors/shed/status", "offline", 60)
        levels: set[bool] = set()

        def has_blinked() -> bool:
            levels.add(level_at(machine, led, _LED))
            return len(levels) == 2

        wait_until(has_blinked, 60, "it blinks")
        machine.plug_network(in_=True)
        seen.wait_for("sensors/shed/status", "online", 90)
    with report.check("the button, pressed from outside, has all sensors read at once") as figures:
        count = len(seen.states("s0", "shed"))
        wait_until(lambda: len(seen.states("s0", "shed")) > count, 60, "the next ordinary reading")
        count = len(seen.states("s0", "shed"))
        press(machine, chip, down=True)
        time.sleep(0.5)
        press(machine, chip, down=False)
        pressed_s = time.monotonic()
        wait_until(lambda: len(seen.states("s0", "shed")) > count, 15, "a reading after the press")
        figures.append(f"{time.monotonic() - pressed_s:.1f} s after it was let go")


# -- what is looked at


def nothing_has_failed(machine: Machine, report: Report) -> None:
    with report.check("nothing has failed, and all that is to run does"):
        ask = "systemctl is-system-running || true"
        wait_until(lambda: machine.run(ask).strip() != "starting", 300)
        state = machine.run(ask).strip()
        assert state == "running", machine.run("systemctl --failed --no-legend --plain")
        # To break one, systemd leaves out a unit, not always the same, and nothing has failed.
        assert "ordering cycle" not in machine.run("journalctl --boot --no-pager")
        machine.run(f"systemctl is-active {' '.join(_RUNS)}")


def wait_for(machine: Machine, condition: Any, seconds: float) -> None:
    """Until something is seen of the guest; the end of its console is told if it is not."""

    def holds() -> bool:
        assert machine.is_on, f"QEMU has ended:\n{(machine.folder / 'qemu.log').read_text()}"
        return bool(condition())

    try:
        wait_until(holds, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{machine.last_of_console()}") from None


def newest_seq(seen: Subscriber, node: str = "greenhouse") -> int:
    return max((reading["seq"] for reading in seen.history(node)), default=0)


def gaps(readings: list[dict[str, Any]]) -> list[int]:
    """The numbers that are missing below the highest."""
    numbers = {reading["seq"] for reading in readings}
    return sorted(set(range(1, max(numbers, default=0))) - numbers)


def problem_of(seen: Subscriber, node: str) -> str:
    """The first problem in the newest health that was not kept by the broker."""
    payloads = seen.on(f"sensors/{node}/health")
    problems = json.loads(payloads[-1])["problems"] if payloads else []
    return str(problems[0]) if problems else ""


def level_at(machine: Machine, address: int, line: int) -> bool:
    return bool(int(machine.qtest(f"readl {address:#x}"), 16) >> line & 1)


def press(machine: Machine, chip: str, *, down: bool) -> None:
    """The button lies between the line and ground."""
    machine.qtest(f"set_irq_in {chip} unnamed-gpio-in {_BUTTON} {int(not down)}")


def machine_path(machine: Machine, kind: str) -> str:
    """Where QEMU has a device of this kind."""
    for folder in ("/machine/unattached", "/machine"):
        for item in machine.qmp("qom-list", path=folder):
            if item["type"] == f"child<{kind}>":
                return f"{folder}/{item['name']}"
    raise AssertionError(f"QEMU has no {kind}")
