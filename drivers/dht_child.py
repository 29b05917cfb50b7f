"""Adafruit's adafruit_dht in a child process, for all DHTs of a node.

`drivers.dht_process` starts it, as `python -m drivers.dht_child`, for these reasons: Blinka's
PulseIn waits for its helper in msgrcv without a limit (Blinka issue 210) and takes over SIGTERM;
and parts of Blinka print to standard output.

The process prints `{}` when Blinka is imported. Then each line on standard input, `DHT22 4`, asks
for one measurement, and the answer is a line of JSON. The process ends with its input, even during
msgrcv, after removing PulseIn's message queue.

It imports `microcontroller` and not `board`, which looks for what pip could install, and takes a
third of the memory for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from typing import Any

from drivers.gpio_chip import line_user

__all__ = ["main", "recording"]

_PULSEIN = "adafruit_blinka.microcontroller.bcm283x.pulseio.PulseIn"
_STARTS = 3
"""How often the helper program is started until it is ready within PulseIn's 0.25 s."""


def recording(library_class: Any) -> Any:
    """Derive a class that keeps the decoded frame from `adafruit_dht.DHT22` or `DHT11`.

    The library (4.0.12) discards the bytes; `_pulses_to_binary` makes each of them. The library
    also accepts 80 of the 81 pulses, which gives a frame with its lows and highs exchanged.
    """

    class Recording(library_class):
        frame = bytearray()

        def _pulses_to_binary(self, pulses: Any, start: int, stop: int) -> int:
            if start == 0:
                self.frame = bytearray()
                if len(pulses) < 81:
                    raise RuntimeError("A full buffer was not returned. Try again.")
            byte: int = super()._pulses_to_binary(pulses, start, stop)
            self.frame.append(byte & 0xFF)
            return byte

    return Recording


def _answer(model: str, pin: int) -> dict[str, str]:
    """Measure once with a new library object, because an old one may serve its cache."""
    import adafruit_dht
    from microcontroller import pin as pins

    if not hasattr(adafruit_dht, "PulseIn"):
        return {"missing": "Blinka has no pulseio on this computer"}
    if user := line_user(pin):  # PulseIn would wait for its helper, which cannot get the pin
        return {"busy": user}
    library_class = recording(getattr(adafruit_dht, model))
    for _ in range(_STARTS):
        try:
            sensor = library_class(getattr(pins, f"D{pin}"), use_pulseio=True)
        except (RuntimeError, OSError) as error:  # chip missing, not allowed, helper missing
            helpers = _helpers()
            if not helpers or (status := helpers[-1].poll()) is not None:
                ended = f"; its helper program has ended with status {status}" if helpers else ""
                return {"missing": f"Blinka: {error}{ended}"}
        else:
            break
    else:
        return {"slow": "its helper program is not ready within 0.25 s"}
    try:
        sensor.measure()
        return {"frame": bytes(sensor.frame).hex()}
    except RuntimeError as error:
        return {"failed": str(error)}
    finally:
        sensor.exit()


def _helpers() -> list[Any]:
    """Return the processes of PulseIn's helper program."""
    module = sys.modules.get(_PULSEIN)
    return module.procs if module is not None else []


def _end() -> None:
    """Release what PulseIn holds outside this process, and exit."""
    module = sys.modules.get(_PULSEIN)
    if module is not None:
        module.final()
    os._exit(0)


def main() -> None:
    """Answer until the input ends."""
    # Standard output is only for answers: what Blinka prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wanted: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            wanted.put(line)
        _end()

    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(Exception):  # the first answer reports any error
        import adafruit_dht  # noqa: F401
        import microcontroller.pin  # noqa: F401
    print("{}", file=answers)
    while request := wanted.get():
        model, pin = request.split()
        try:
            answer = _answer(model, int(pin))
        except (ImportError, NotImplementedError, AttributeError) as error:
            answer = {"missing": f"Blinka finds no such pin on this computer ({error})"}
        except Exception as error:  # noqa: BLE001, reported to the parent
            answer = {"broken": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
