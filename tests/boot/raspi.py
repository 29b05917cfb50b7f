"""The image on QEMU's `raspi3b`: the Pi's own I2C and GPIO, its device tree, and our overlay.

The sensor is QEMU's tmp105, twice: one at 0x48 that the kernel drives (lm75), and one at 0x4a
that our own driver reads through /dev/i2c-1. QEMU sets the temperature of each.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from machine import BROKER, Machine
from report import Report
from support import Subscriber, wait_until
from virt import BOOT_S, level_at, wait_for

__all__ = ["run_raspi"]

_GPLEV0 = 0x3F20_0034
"""Levels of GPIO 0 to 31 (BCM2835 ARM Peripherals, §6.1)."""
_LED = 17
_CONFIG = f"""\
[node]
name = "pi"

[mqtt]
host = "{BROKER[0]}"
keepalive = "5s"

[status_led]
pin = {_LED}

[[sensor]]
id = "kernel"
driver = "sysfs"
name = "tmp105"
device = "1-0048"
interval = "2s"

[[sensor]]
id = "chip"
driver = "pct2075"
address = 0x4a
interval = "2s"
"""
# What the boot loader of a Pi adds, and a chip that the kernel shall drive.
_BOARD = """\
/dts-v1/;
/plugin/;
/ {
    fragment@0 {
        target = <&i2c1>;
        __overlay__ {
            #address-cells = <1>;
            #size-cells = <0>;
            temperature@48 { compatible = "ti,tmp105"; reg = <0x48>; };
        };
    };
};
"""


def run_raspi(machine: Machine, seen: Subscriber, report: Report, folder: Path) -> None:
    card = machine.card
    card.write("ssh.txt", machine.make_ssh_key())
    card.write("sensor-node.toml", _CONFIG)
    source = folder / "board.dts"
    source.write_text(_BOARD)
    board = source.with_suffix(".dtbo")
    subprocess.run(["dtc", "-q", "-I", "dts", "-O", "dtb", "-o", board, source], check=True)
    ours = card.take("overlays/sensor-node.dtbo", folder)
    machine.use_device_tree("bcm2837-rpi-3-b.dtb", ours, board)
    chips = [
        f"tmp105,bus=i2c-bus.1,address={address:#x},id={name}"
        for name, address in (("kernel", 0x48), ("chip", 0x4A))
    ]
    report.say("raspi3b: two thermometers on the Pi's I2C bus")
    with report.check("the Pi's readings arrive, through the kernel and by our driver", vital=True):
        for attempt in (1, 2):
            machine.power_on("-device", chips[0], "-device", chips[1])
            try:
                wait_for(machine, lambda: seen.states("chip", "pi"), BOOT_S)
                break
            except AssertionError:
                machine.cut_power()
                if attempt == 2:
                    raise
                report.say("no network: QEMU's usb-net is missed by one boot in seven; once more")
        wait_until(lambda: seen.states("kernel", "pi"), 60)
    for milli in (21_500, -10_500, 84_000):  # the chip begins with 0.5 °C of resolution
        with report.check(f"a temperature of {milli / 1000} °C set from outside arrives from both"):
            for name in ("kernel", "chip"):
                machine.qmp(
                    "qom-set",
                    path=f"/machine/peripheral/{name}",
                    property="temperature",
                    value=milli,
                )
            for name in ("kernel", "chip"):
                _wait_for_temperature(seen, name, milli / 1000)
    with report.check("the LED at GPIO 17, seen from outside, is on when the node is well"):
        wait_until(lambda: level_at(machine, _GPLEV0, _LED), 60, "GPIO 17 is high")
        time.sleep(5)
        assert level_at(machine, _GPLEV0, _LED), "and stays so"
    with report.check("SPI and 1-Wire are on as well"):
        machine.run("test -c /dev/spidev0.0 && test -c /dev/spidev0.1")
        machine.run("test -d /sys/bus/w1/devices/w1_bus_master1")
    report.could_not_run(
        "the button on the Pi's own GPIO",
        "QEMU's BCM2835 has no edge detection; virt's GPIO chip stood in",
    )
    machine.cut_power()


def _wait_for_temperature(seen: Subscriber, sensor: str, celsius: float) -> None:
    def newest() -> float | None:
        states = seen.states(sensor, "pi")
        return float(states[-1]["temperature"]) if states else None

    try:
        wait_until(lambda: newest() == celsius, 90)
    except AssertionError:
        health = seen.health("pi")["sensors"][sensor]
        raise AssertionError(f"{sensor} is {newest()} °C, not {celsius}: {health}") from None
