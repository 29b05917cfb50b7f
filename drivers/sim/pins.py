"""gpiozero's mock pins, separate for each simulated board.

gpiozero 2.0.1 shares SPI interfaces by pin numbers only, even between factories. A converter
left open on one board would answer in place of another board's.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

from gpiozero import Device
from gpiozero.exc import SPISoftwareFallback
from gpiozero.pins.mock import MockFactory, MockSPIInterfaceShared
from gpiozero.pins.spi import SPISoftwareBus

__all__ = ["mock_pins"]


def mock_pins() -> MockFactory:
    """Return a new factory, also set as gpiozero's default, which its software bus uses."""
    _tell_factories_apart()
    Device.pin_factory = MockFactory()
    return Device.pin_factory


@functools.cache
def _tell_factories_apart() -> None:
    """Make gpiozero share an interface only within one factory."""
    warnings.filterwarnings("ignore", category=SPISoftwareFallback)
    for shared in (MockSPIInterfaceShared, SPISoftwareBus):
        shared._shared_key = classmethod(_by_factory(shared._shared_key.__func__))


def _by_factory(usual: Any) -> Any:
    def key(cls: Any, *pins: Any, pin_factory: Any, **named: Any) -> tuple[Any, ...]:
        return (pin_factory, usual(cls, *pins, pin_factory=pin_factory, **named))

    return key
