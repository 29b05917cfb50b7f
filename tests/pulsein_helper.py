"""A stand-in for Blinka's helper program libgpiod_pulsein: the same arguments, the same queue.

PULSEIN_PULSES are the widths that a trigger is answered with; PULSEIN_MODE "die" makes it exit at
the trigger, as the real one was seen to do (Blinka issue 210).
"""

import os
import sys

import sysv_ipc

newest = int(sys.argv[sys.argv.index("--pulses") + 1])
queue = sysv_ipc.MessageQueue(int(sys.argv[sys.argv.index("--queue") + 1]))
widths = [int(width) for width in os.environ.get("PULSEIN_PULSES", "").split(",") if width]
queue.send("!", True, type=2)
os.write(1, b"started\n")
captured: list[int] = []
while True:
    command = queue.receive(type=1)[0][:1]
    if command == b"t":
        if os.environ.get("PULSEIN_MODE") == "die":
            sys.exit(1)
        captured = widths[-newest:]
    elif command == b"c":
        captured = []
    elif command == b"l":
        queue.send(f"{len(captured)}", True, type=2)
    elif command == b"^":
        queue.send(f"{captured.pop(0) if captured else -1}", True, type=2)
