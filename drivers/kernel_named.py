"""A kernel device found by its name, which `drivers.sysfs` opens if a path is not given.

A device's number may pass to another device while the node runs (a driver is reloaded, an I2C bus
is bound again), so each reading checks the name first. `drivers.kernel_dht` has special rules for
the DHT.
"""

from __future__ import annotations

from drivers.base import Driver, Measurement
from drivers.bus import Board
from drivers.errors import WrongDriver
from drivers.kernel_devices import (
    W1_NAME,
    KernelDevice,
    find_device,
    kernel_devices,
    one_wire_refusal,
)
from drivers.kernel_dht import DHT_KIND, KernelDht
from drivers.kernel_files import Sysfs
from drivers.kernel_values import quantities_of, scaled

__all__ = ["Named", "named_devices", "open_named"]

# The drivers `cpu` and `ds18b20` read these; the kernel lists them here a second time.
_READ_BY_OTHERS = ("cpu_thermal", W1_NAME)


def open_named(
    name: str, device: str | None, board: Board, *, scale: float | None = None
) -> Driver:
    """Open the IIO or hwmon device of that name; `scale` as in `scaled`.

    Raises:
        SensorNotFound: zero devices match, or several and `device` does not select one.
        WrongDriver: the device is on 1-Wire; or it is a DHT, whose scale is known.
    """
    found = find_device(board, name, device)
    if found.name == W1_NAME:
        raise one_wire_refusal(found.device)
    if found.kind != DHT_KIND:
        return Named(found, board, scale)
    if scale is not None:
        raise WrongDriver(f"{found} gives m°C and m%", "leave scale out")
    return KernelDht(found, board)


def named_devices(board: Board) -> list[dict[str, str | int]]:
    """Return the options of each device: `name`, and `device` if several share the name."""
    there = [d for d in kernel_devices(board) if d.name not in _READ_BY_OTHERS]
    options: list[dict[str, str | int]] = []
    for device in there:
        alone = sum(device.name in (other.name, other.kind) for other in there) == 1
        options.append({"name": device.name})
        if not alone:
            options[-1]["device"] = device.device
    return options


class Named(Sysfs):
    """A device folder whose identity is checked at each reading."""

    def __init__(self, device: KernelDevice, board: Board, scale: float | None) -> None:
        super().__init__(device.path, scaled(quantities_of(device.folder), scale), board)
        self._device = device

    def read(self) -> Measurement:
        """Read every file of the device, if it is still the same one."""
        self._board.path(self._device.path)
        self._device.check()
        return super().read()
