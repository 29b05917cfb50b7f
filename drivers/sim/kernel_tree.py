"""A simulated `/sys` with IIO and hwmon devices, in the kernel's layout.

A device is a folder below `/sys/devices`, inside its parent's folder. The entries in
`/sys/bus/iio/devices` and `/sys/class/hwmon` are links to it, numbered in order of appearance.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from drivers.sim.room import Air

__all__ = ["EIO", "Content", "KernelTree", "SimulatedDevice", "serve", "simulated_device"]

CLASSES = {"iio": "sys/bus/iio/devices", "hwmon": "sys/class/hwmon"}
_PREFIX = {"iio": "iio:device", "hwmon": "hwmon"}

EIO = Path("/proc/self/mem")
"""The link target of a file that fails with EIO: address 0 is not mapped."""

Content = Callable[[], str | Path | None]
"""Returns the content of a file: a text, `EIO`, or None for a missing file."""


def serve(file: Path, content: str | Path | None) -> None:
    """Make `file` have `content`."""
    if file.is_symlink() or not isinstance(content, str):
        file.unlink(missing_ok=True)
    if isinstance(content, Path):
        file.symlink_to(content)
    elif content is not None:
        file.write_text(content, encoding="utf-8")


class SimulatedDevice:
    """One device: `kind` "iio" or "hwmon", its name, its parent, and its files' contents.

    `before_answer` is called before its files are read, and may sleep. `unplugged` returns whether
    the device has gone; its number stays reserved.
    """

    def __init__(self, kind: str, name: str, parent: str, files: dict[str, Content]) -> None:
        self.gpio: int | None = None
        """The pin in its device tree node, if it has one."""
        self.before_answer: Callable[[], object] = lambda: None
        self.unplugged: Callable[[], bool] = lambda: False
        self.kind = kind
        self.name = name
        self.parent = parent
        self.files = files


class KernelTree:
    """The existing devices; change the list, or a device's `files`, to plug in and to break.

    `number` is the first number of each kind, as if other devices had been found at boot. Sensors
    on different threads may use the tree: unchanged files are not touched.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self.devices: list[SimulatedDevice] = []
        self.number = 0

    def owns(self, absolute: str) -> bool:
        """Return whether a kernel path is in this tree."""
        return absolute.lstrip("/").startswith(tuple(CLASSES.values()))

    def refresh(self, absolute: str) -> None:
        """Update the lists, and the files of the device that is listed as `absolute`."""
        links: dict[Path, Path] = {}
        asked = self._root / absolute.lstrip("/")
        listed = self._listed()
        if asked in listed:
            listed[asked].before_answer()  # without the lock, because it may take long
        with self._lock:
            for link, device in listed.items():
                if device.unplugged():
                    continue
                links[link] = self._folder(device, link.name)
                self._write(device, links[link], anew=link == asked)
            for listed_in in CLASSES.values():
                (self._root / listed_in).mkdir(parents=True, exist_ok=True)
                for link in (self._root / listed_in).iterdir():
                    if link.is_symlink() and link.resolve() != links.get(link):
                        link.unlink()
            for link, folder in links.items():
                if not link.is_symlink():
                    link.symlink_to(os.path.relpath(folder, link.parent))

    def _listed(self) -> dict[Path, SimulatedDevice]:
        """Return every device by its link in the lists."""
        numbers = dict.fromkeys(CLASSES, self.number)
        listed = {}
        for device in self.devices:
            numbered = f"{_PREFIX[device.kind]}{numbers[device.kind]}"
            numbers[device.kind] += 1
            listed[self._root / CLASSES[device.kind] / numbered] = device
        return listed

    def _folder(self, device: SimulatedDevice, numbered: str) -> Path:
        parent = (self._root / "sys/devices/simulated" / device.parent).resolve()
        folder = parent / ("hwmon" if device.kind == "hwmon" else "") / numbered
        if not folder.exists():
            folder.mkdir(parents=True)
            if device.kind == "hwmon":
                (folder / "device").symlink_to(f"../../../{device.parent}")
            if device.gpio is not None:  # phandle, pin, flags
                (parent / "of_node").mkdir(exist_ok=True)
                cells = struct.pack(">III", 7, device.gpio, 0)
                (parent / "of_node/gpios").write_bytes(cells)
        return folder

    def _write(self, device: SimulatedDevice, folder: Path, *, anew: bool) -> None:
        files: dict[str, Content] = {"name": lambda: f"{device.name}\n", **device.files}
        for name, content in files.items():
            file = folder / name
            if file.exists() and not anew:
                continue
            serve(file, content())


def simulated_device(name: str, parent: str, air: Callable[[], Air]) -> SimulatedDevice:
    """Return a device like the kernel driver `name`'s: special files for some, else hwmon's."""

    def milli(value: Callable[[Air], float]) -> Content:
        return lambda: f"{value(air()) * 1000:.0f}\n"

    temperature: dict[str, Content] = {"in_temp_input": milli(lambda a: a.temperature)}
    humidity = {"in_humidityrelative_input": milli(lambda a: a.humidity)}
    pressure: dict[str, Content] = {  # kPa
        "in_pressure_input": lambda: f"{air().pressure / 10:.9f}\n"
    }
    # drivers/iio/chemical/scd4x.c: two 16-bit words, and CO2 in ppm with a scale to %.
    scd4x: dict[str, Content] = {
        "in_temp_raw": lambda: f"{(air().temperature + 45) * 65536 / 175:.0f}\n",
        "in_temp_scale": lambda: "2.670288085\n",
        "in_temp_offset": lambda: "-16852\n",
        "in_humidityrelative_raw": lambda: f"{air().humidity * 655.36:.0f}\n",
        "in_humidityrelative_scale": lambda: "1.525878906\n",
        # People breathe out both.
        "in_concentration_co2_raw": lambda: f"{420 + 8 * max(0.0, air().humidity - 30):.0f}\n",
        "in_concentration_co2_scale": lambda: "0.000100000\n",
    }
    measured = [air()]  # a DHT answers with its previous measurement

    def dht_temperature() -> str:
        measured.append(air())
        return f"{measured.pop(0).temperature * 1000:.0f}\n"

    dht: dict[str, Content] = {
        "in_humidityrelative_input": lambda: f"{measured[0].humidity * 1000:.0f}\n",
        "in_temp_input": dht_temperature,
    }
    # drivers/iio/humidity/hdc100x.c and hdc2010.c: 16 bits of -40 to 125 °C, and of 0 to 100 %.
    hdc: dict[str, Content] = {
        "in_temp_raw": lambda: f"{(air().temperature + 40) * 65536 / 165:.0f}\n",
        "in_temp_scale": lambda: "2.517700195\n",
        "in_temp_offset": lambda: "-15887.515151\n",
        "in_humidityrelative_raw": lambda: f"{air().humidity * 655.36:.0f}\n",
        "in_humidityrelative_scale": lambda: "1.525878906\n",
    }
    thermocouple: dict[str, Content] = {
        "in_temp_raw": lambda: f"{air().temperature * 4:.0f}\n",
        "in_temp_scale": lambda: "250\n",
    }
    weather = ("bmp085", "bmp180", "bmp280", "ms5607", "ms5611", "ms5637", "ms5803", "ms5805")
    profiles: dict[str, dict[str, Content]] = {
        **{name: {**temperature, **pressure} for name in (*weather, "ms5837")},
        "1-0040": hdc,
        "hdc2010": hdc,
        "maxim_thermocouple": thermocouple,
        "tsys01": temperature,
        "bme280": {**temperature, **pressure, **humidity},
        "dht11": dht,
        "scd4x": scd4x,
    }
    kind = name.partition("@")[0]
    if kind in profiles:
        return SimulatedDevice("iio", name, parent, profiles[kind])
    return SimulatedDevice("hwmon", name, parent, {"temp1_input": milli(lambda a: a.temperature)})
