"""Chips that Linux drives and the catalogue does not: the line that loads the driver. Data.

Overlays are those of `/boot/firmware/overlays/README` on a Pi. Names of devices are from the
drivers' sources: one is named after its driver, one after the first chip of its kind, and some
after the address. `sensor-node scan` prints them as well.
"""

from __future__ import annotations

import msgspec

__all__ = ["RECIPES", "Recipe"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to read one kind of chip through the kernel."""

    chips: str
    """The names on the chips, and on boards with them."""
    overlay: str = ""
    """What follows `dtoverlay=`, where there is one."""
    device: str = ""
    """Name and usual address for `new_device`, where there is no overlay."""
    name: str
    """That of the IIO or hwmon device: the `name` of a `sysfs` sensor."""
    channels: str
    source: str
    """The kernel's driver."""

    @property
    def loaded_by(self) -> str:
        """Return what loads the driver, in words."""
        if self.overlay:
            return f"put dtoverlay={self.overlay} into config.txt, and reboot"
        return (
            f"echo {self.device} | sudo tee /sys/bus/i2c/devices/i2c-1/new_device, after each "
            "boot, where the system has that driver"
        )


_AIR = "temperature, humidity"
_WEATHER = "temperature, pressure"

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        chips="BMP180",
        overlay="i2c-sensor,bmp180",
        name="bmp180",
        channels=_WEATHER,
        source="iio/pressure/bmp280-core.c",
    ),
    Recipe(
        chips="BMP085, GY-68",
        overlay="i2c-sensor,bmp085",
        name="bmp085",
        channels=_WEATHER,
        source="iio/pressure/bmp280-core.c",
    ),
    Recipe(
        chips="HDC1080, HDC1000, HDC1008, HDC1010, HDC1050, HDC10xx, HDC100x",
        overlay="i2c-sensor,hdc100x",
        name="1-0040",
        channels=_AIR,
        source="iio/humidity/hdc100x.c",
    ),
    Recipe(
        chips="HDC2010",
        device="hdc2010 0x40",
        name="hdc2010",
        channels=_AIR,
        source="iio/humidity/hdc2010.c",
    ),
    Recipe(
        chips="HDC2080, HDC20xx",
        device="hdc2080 0x40",
        name="hdc2010",
        channels=_AIR,
        source="iio/humidity/hdc2010.c",
    ),
    Recipe(
        chips="MAX6675",
        overlay="maxtherm,spi0-0,max6675",
        name="maxim_thermocouple",
        channels="temperature",
        source="iio/temperature/maxim_thermocouple.c",
    ),
    Recipe(
        chips="MS5611, GY-63",
        device="ms5611 0x77",
        name="ms5611",
        channels=_WEATHER,
        source="iio/pressure/ms5611_core.c",
    ),
    Recipe(
        chips="MS5607",
        device="ms5607 0x77",
        name="ms5607",
        channels=_WEATHER,
        source="iio/pressure/ms5611_core.c",
    ),
    *(
        Recipe(
            chips=chip,
            overlay=f"i2c-sensor,{chip.lower()}",
            name=chip.lower(),
            channels=_WEATHER,
            source="iio/pressure/ms5637.c",
        )
        for chip in ("MS5637", "MS5803", "MS5805", "MS5837")
    ),
    Recipe(
        chips="TSYS01",
        device="tsys01 0x77",
        name="tsys01",
        channels="temperature",
        source="iio/temperature/tsys01.c",
    ),
    Recipe(
        chips="STS30, STS31, STS35, STS3x",
        device="sts3x 0x4a",
        name="sts3x",
        channels="temperature",
        source="hwmon/sht3x.c",
    ),
    Recipe(
        chips="DS1621",
        overlay="i2c-sensor,ds1621",
        name="ds1621",
        channels="temperature",
        source="hwmon/ds1621.c",
    ),
    *(
        Recipe(
            chips=chip,
            device=f"{chip.lower()} 0x48",
            name=chip.lower(),
            channels="temperature",
            source="hwmon/ds1621.c",
        )
        for chip in ("DS1631", "DS1721", "DS1731")
    ),
)
