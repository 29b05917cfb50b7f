"""The conformance suite on every driver; on a package of somebody else's; and on bad drivers."""

from __future__ import annotations

import importlib

import adafruit_dht  # noqa: F401, so that it is put on the fake clock
import pytest
from support import FakeClock, TickingClock, put_libraries_on

from drivers.base import Options
from drivers.catalogue import CATALOGUE
from drivers.conformance import Conformance, example_options
from drivers.registry import driver_names, find_driver
from drivers.sim.chips import I2C_CHIPS, SPI_CHIPS
from drivers.sim.dead import DEATHS

ROWS = {row.name: row for row in CATALOGUE}
NOT_SIMULATED = ROWS.keys() - {*I2C_CHIPS, *SPI_CHIPS}

SUBJECTS: dict[str, tuple[str, dict[str, object] | None]] = {
    **{name: (name, None) for name in driver_names()},
    "dht22 edges": ("dht22", {"pin": 4, "backend": "edges"}),
    "dht22 kernel": ("dht22", {"pin": 4, "backend": "kernel"}),
    "sysfs by path": ("sysfs", {"path": "/sys/class/hwmon/hwmon0/temp1_input"}),
    "sysfs dht11": ("sysfs", {"name": "dht11"}),
}
every_subject = pytest.mark.parametrize("subject", SUBJECTS)


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch):
    """Makes the suite for a subject, on a fake clock."""
    clock: FakeClock = TickingClock()

    def make(subject: str) -> Conformance:
        name, given = SUBJECTS[subject]
        if name in ROWS:
            importlib.import_module(ROWS[name].module)
        if name == "ads1115":
            importlib.import_module("adafruit_ads1x15.analog_in")
        put_libraries_on(clock, monkeypatch)
        info = find_driver(name)
        options: Options = example_options(info) if given is None else info.options(**given)
        return Conformance(info, options, clock=clock)

    return make


@every_subject
def test_a_driver_declares_what_it_is(conformance, subject):
    name, _ = SUBJECTS[subject]
    assert find_driver(name).name == name
    conformance(subject).check_declaration()


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s not in NOT_SIMULATED])
def test_a_driver_reads_what_it_declares(conformance, subject):
    conformance(subject).check_readings()


@pytest.mark.parametrize("death", DEATHS)
@every_subject
def test_a_driver_reads_nothing_from_a_dead_board(conformance, subject, death):
    error = conformance(subject).check_dead(death)
    assert error is not None, "it asked the board for nothing"
    if subject in ROWS and death in ("zeros", "ones"):
        assert error.what.startswith(example_options(find_driver(subject)).where())
        assert f"every byte read was 0x{'00' if death == 'zeros' else 'ff'}" in error.what
