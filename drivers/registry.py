"""Finds a driver by name: our own in a table, other packages' by entry point.

A module is only imported when its driver is requested: a configuration with one `cpu` sensor does
not load any Adafruit module. A third-party package adds a driver like this:

    [project.entry-points."sensor_node.drivers"]
    my_sensor = "my_package.my_module:MY_SENSOR"      # a drivers.base.DriverInfo
"""

from __future__ import annotations

import importlib

from drivers.base import DriverInfo
from drivers.errors import MissingSupport

__all__ = ["ENTRY_POINT_GROUP", "UnknownDriver", "driver_names", "find_driver", "is_built_in"]

ENTRY_POINT_GROUP = "sensor_node.drivers"

_BUILT_IN = {
    "ads1015": "drivers.ads1115:ADS1015",
    "ads1115": "drivers.ads1115:ADS1115",
    "agree": "drivers.agree:AGREE",
    "ble": "drivers.ble.sensor:BLE",
    "cpu": "drivers.cpu:CPU",
    "dht11": "drivers.dht:DHT11",
    "dht22": "drivers.dht:DHT22",
    "ds18b20": "drivers.ds18b20:DS18B20",
    "mcp3004": "drivers.mcp3008:MCP3004",
    "mcp3008": "drivers.mcp3008:MCP3008",
    "mcp3204": "drivers.mcp3008:MCP3204",
    "mcp3208": "drivers.mcp3008:MCP3208",
    "modbus": "drivers.modbus:MODBUS",
    "sysfs": "drivers.sysfs:SYSFS",
}


class UnknownDriver(LookupError):
    """The name does not belong to any driver."""


def find_driver(name: str) -> DriverInfo:
    """Return the driver called `name`.

    Raises:
        UnknownDriver: the driver does not exist.
        MissingSupport: the driver is in another package, and cannot be imported.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        info = getattr(importlib.import_module(module), attribute)
        assert isinstance(info, DriverInfo)
        return info
    from drivers.catalogue import CATALOGUE

    for row in CATALOGUE:
        if row.name == name:
            from drivers.circuitpython import chip_driver

            return chip_driver(row)
    return _third_party(name)


def _third_party(name: str) -> DriverInfo:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            info = entry.load()
        except (Exception, SystemExit) as error:
            raise MissingSupport(
                f"driver {name!r}: {entry.value} cannot be loaded ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(info, DriverInfo):
            raise MissingSupport(f"driver {name!r}: {entry.value} is not a DriverInfo")
        return info
    raise UnknownDriver(name)


def is_built_in(name: str) -> bool:
    """Return whether the driver of this name is one of ours; another package cannot replace it."""
    from drivers.catalogue import CATALOGUE

    return name in _BUILT_IN or any(row.name == name for row in CATALOGUE)


def driver_names() -> list[str]:
    """Return every name that `find_driver` accepts, sorted."""
    from importlib.metadata import entry_points

    from drivers.catalogue import CATALOGUE

    names = {*_BUILT_IN, *(row.name for row in CATALOGUE)}
    names.update(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))
    return sorted(names)
