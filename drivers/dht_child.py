"""Adafruit's adafruit_dht in a child process: `python -m drivers.dht_child DHT22 4 pulseio`.

`drivers.dht_process` starts it, for these reasons: Blinka's PulseIn waits for its helper in msgrcv
without a limit (Blinka issue 210) and takes over SIGTERM; parts of Blinka print to standard output;
and bit-banging works better in an interpreter whose lock it does not share.

The process prints `{}` when Blinka is imported. Then each line on standard input asks for one
measurement, and the answer is a line of JSON. The process ends with its input, even during msgrcv,
after removing PulseIn's message queue.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import sys
import threading
from typing import Any

__all__ = ["main", "recording"]


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


def _answer(model: str, pin: int, backend: str) -> dict[str, str]:
    """Measure once with a new library object, because an old one may serve its cache."""
    import adafruit_dht
    import board as pins

    if backend == "pulseio" and not hasattr(adafruit_dht, "PulseIn"):
        return {"missing": "Blinka has no pulseio on this computer"}
    try:
        sensor = recording(getattr(adafruit_dht, model))(
            getattr(pins, f"D{pin}"), use_pulseio=backend == "pulseio"
        )
    except (RuntimeError, OSError) as error:  # chip missing, not allowed, helper missing
        return {"missing": f"Blinka: {error}"}
    try:
        sensor.measure()
        return {"frame": bytes(sensor.frame).hex()}
    except RuntimeError as error:
        return {"failed": str(error)}
    finally:
        sensor.exit()


def _end() -> None:
    """Release what PulseIn holds outside this process, and exit."""
    module = sys.modules.get("adafruit_blinka.microcontroller.bcm283x.pulseio.PulseIn")
    if module is not None:
        module.final()
    os._exit(0)


def main() -> None:
    """Answer until the input ends."""
    model, pin, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
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
        importlib.import_module("adafruit_dht")
        importlib.import_module("board")
    print("{}", file=answers)
    while wanted.get():
        try:
            answer = _answer(model, pin, backend)
        except (ImportError, NotImplementedError, AttributeError) as error:
            answer = {"missing": f"Blinka finds no such pin on this computer ({error})"}
        except Exception as error:  # noqa: BLE001, reported to the parent
            answer = {"broken": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
