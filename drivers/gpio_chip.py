"""The GPIO chip of the 40-pin header, and who has a line of it.

Used on the thread of whoever takes a pin: the DHTs (`drivers.dht_edges`, `drivers.dht_child`) and
gpiozero's pins (`drivers.gpiod_pins`).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from drivers.errors import MissingSupport, PinInUse, as_sensor_error

__all__ = ["header_chip", "is_kernels", "line_error", "line_user", "pin_in_use", "remedy_for"]

_PI_CHIPS = ("pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1")  # the 40-pin header's, by model
_REMEDY = "on a Pi, install gpiod and join the group gpio; on a laptop, add --simulate"

# The kernel's drivers are known by their node in the device tree: "dht11@4"; "onewire@4", or
# "onewire" on our image.
_REMEDIES = {
    "dht11": 'dtoverlay=dht11 has it: leave backend out, or set backend = "kernel"',
    "onewire": "1-Wire has it: use another pin, or give another one to 1-Wire in config.txt, with "
    "dtoverlay=w1-gpio,gpiopin=N (dtoverlay=sensor-node,onewire_pin=N on the image)",
    "sensor-node": "a node, or another command of sensor-node, has it: give each sensor a pin of "
    "its own",
}
_OTHERS = "stop the program that uses it, or remove the overlay that uses it from config.txt"


def header_chip() -> str:
    """Return the GPIO chip of the 40-pin header, by its label, because its number varies.

    On a board that is not a Pi, $SENSOR_NODE_GPIO_CHIP names the chip; a pin is then its line.

    Raises:
        MissingSupport: the chip does not exist, or gpiod is not installed.
    """
    try:
        import gpiod
    except ImportError as error:
        raise MissingSupport(f"gpiod cannot be imported ({error})", _REMEDY) from error
    if chosen := os.environ.get("SENSOR_NODE_GPIO_CHIP"):
        return chosen
    for path in sorted(map(str, Path("/dev").glob("gpiochip*"))):
        try:
            with gpiod.Chip(path) as chip:
                if chip.get_info().label in _PI_CHIPS:
                    return path
        except OSError:
            continue
    raise MissingSupport("a Pi's GPIO chip is missing, or this user may not open it", _REMEDY)


def line_user(pin: int) -> str | None:
    """Return the name by which the kernel knows the user of a line; "" if the line is free.

    None if it cannot be known. The line is neither taken nor moved (GPIO_V2_GET_LINEINFO_IOCTL).
    """
    try:
        path = header_chip()
        import gpiod

        with gpiod.Chip(path) as chip:
            line = chip.get_line_info(pin)
    except (MissingSupport, OSError, ValueError):  # the last: the chip has fewer lines
        return None
    return (line.consumer or "a user without a name") if line.used else ""


def pin_in_use(pin: int, user: str) -> PinInUse:
    """Return the error for a pin that the kernel reports as taken by `user`."""
    what = f'GPIO {pin} is in use: the kernel knows its user as "{user}"'
    return PinInUse(what, remedy_for(user))


def is_kernels(user: str) -> bool:
    """Return whether the user of a pin is one of the kernel's drivers ("spi0 CS0" for one)."""
    return any(name in user for name in ("@", "onewire", "spi"))


def remedy_for(user: str) -> str:
    """Return what to do about the user of a pin, by its name, or words that have it in them."""
    return next((remedy for name, remedy in _REMEDIES.items() if name in user), _OTHERS)


def line_error(pin: int, error: OSError) -> Exception:
    """Return what to raise for an error of the kernel's when a line was to be taken."""
    if error.errno == errno.EBUSY and (user := line_user(pin)):
        return pin_in_use(pin, user)
    return as_sensor_error(error, f"GPIO {pin}")
