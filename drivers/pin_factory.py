"""The gpiozero factory of this computer's pins, and a remedy for what all of its factories do."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from typing import Any

from drivers.errors import MissingSupport

__all__ = ["open_pin_factory", "release_after_failure"]


def open_pin_factory() -> Any:
    """Return our factory on gpiod if lgpio is not installed, else gpiozero's choice.

    Raises:
        MissingSupport: GPIO does not exist, or this user may not use it.
    """
    import importlib.util

    from gpiozero import Device
    from gpiozero.exc import BadPinFactory, PinFactoryFallback

    if "GPIOZERO_PIN_FACTORY" not in os.environ and importlib.util.find_spec("lgpio") is None:
        # gpiozero decides on a computer whose header is not a Pi's.
        with contextlib.suppress(MissingSupport):
            from drivers.gpiod_pins import GpiodFactory

            return release_after_failure(GpiodFactory())
    try:
        with warnings.catch_warnings(record=True) as fallbacks:
            # One warning for each missing library; only the outcome counts.
            warnings.simplefilter("always", PinFactoryFallback)
            Device.ensure_pin_factory()
    except BadPinFactory as error:
        tried = "".join(
            f"; {str(fallback.message).removeprefix('Falling back from ')}"
            for fallback in fallbacks
            if issubclass(fallback.category, PinFactoryFallback)
        )
        raise MissingSupport(
            f"gpiozero finds no GPIO on this computer{tried}",
            "on a Pi: sudo apt install python3-lgpio; on a laptop: add --simulate",
        ) from error
    return release_after_failure(Device.pin_factory)


def release_after_failure(factory: Any) -> Any:
    """Make a factory release a pin that cannot be opened; return the factory.

    A device of gpiozero (2.0.1) reserves its pin before it opens it. If that fails, the pin stays
    reserved for as long as an exception keeps the device in memory. The next attempt is then told
    that a closed device uses the pin, and not what really does.
    """
    reserve, open_pin = factory.reserve_pins, factory.pin
    newest = threading.local()

    def reserve_pins(requester: Any, *names: Any) -> None:
        newest.requester = weakref.ref(requester)
        reserve(requester, *names)

    def pin(name: Any) -> Any:
        try:
            return open_pin(name)
        except Exception:
            requester = getattr(newest, "requester", lambda: None)()
            if requester is not None:
                factory.release_pins(requester, name)
            raise

    factory.reserve_pins, factory.pin = reserve_pins, pin
    return factory
