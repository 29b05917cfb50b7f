"""The image on QEMU's `raspi3b`: the Pi's own I2C and GPIO, its device tree, and our overlay.

The sensor is QEMU's tmp105, twice: one at 0x48 that the kernel drives (lm75), and one at 0x4a
that our own driver reads through /dev/i2c-1. QEMU sets the temperature of each.
"""

from __future__ import annotations

import subprocess
import time

from machine import BROKER, Machine
from report import Report
from support import Subscriber, wait_until
from virt import BOOT_S, level_at, wait_for

__all__ = ["run_raspi"]

_GPLEV0 = 0x3F20_0034
"""Levels of GPIO 0 to 31 (BCM2835 ARM Peripherals, §6.1)."""
_LED = 17
_ONE_WIRE = "/sys/bus/w1/devices/w1_bus_master1"
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


def run_raspi(machine: Machine, seen: Subscriber, report: Report) -> None:
    card, folder = machine.card, machine.folder
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
    with report.check(
        "the Pi's readings arrive, through the kernel and by our driver", vital=True
    ) as figures:
        began_s = time.monotonic()
        machine.power_on("-device", chips[0], "-device", chips[1])
        wait_for(machine, lambda: seen.states("chip", "pi"), BOOT_S)
        figures.append(f"{time.monotonic() - began_s:.0f} s after power on")
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
        machine.run(f"test -d {_ONE_WIRE}")
    with report.check(
        "the node may have 1-Wire thermometers convert, and set them; another user may not"
    ):
        _may_write_what_it_must(machine)
    report.could_not_run(
        "the button on the Pi's own GPIO",
        "QEMU's BCM2835 has no edge detection; virt's GPIO chip stood in",
    )
    machine.cut_power()


def _may_write_what_it_must(machine: Machine) -> None:
    """A DS18B20 is made known to the bus by hand: the kernel makes its files, and udev's rule runs.

    The files are opened only, for there is no chip to answer.
    """
    machine.run(f"echo 28-0316a1b2c3d4 > {_ONE_WIRE}/w1_master_add")
    files = (f"{_ONE_WIRE}/therm_bulk_read", f"{_ONE_WIRE}/28-0316a1b2c3d4/resolution")
    owners = f"stat --format '%G %A' {' '.join(files)} || true"
    wait_until(lambda: machine.run(owners).split() == ["sensor-node", "-rw-rw-r--"] * 2, 60, owners)
    process = machine.run("systemctl show sensor-node --property MainPID --value").strip()
    in_unit = f"nsenter --target {process} --mount setpriv --clear-groups"
    for file in files:
        machine.run(f"{in_unit} --reuid sensor-node --regid sensor-node sh -c ': >> {file}'")
        told = machine.run(
            f"{in_unit} --reuid 65534 --regid 65534 sh -c ': >> {file}' 2>&1 || true"
        )
        assert "Permission denied" in told, f"a stranger opens {file}: {told}"
    told = machine.run(f"{in_unit} sh -c ': >> /proc/sys/kernel/panic' 2>&1 || true")
    assert "Read-only" in told, f"it is not the unit's own view that was tried: {told}"


def _wait_for_temperature(seen: Subscriber, sensor: str, celsius: float) -> None:
    def newest() -> float | None:
        states = seen.states(sensor, "pi")
        return float(states[-1]["temperature"]) if states else None

    try:
        wait_until(lambda: newest() == celsius, 90)
    except AssertionError:
        health = seen.health("pi")["sensors"][sensor]
        raise AssertionError(f"{sensor} is {newest()} °C, not {celsius}: {health}") from None
