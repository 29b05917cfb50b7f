"""A stand-in for Blinka's helper program libgpiod_pulsein: the same arguments, the same queue.

PULSEIN_PULSES are the widths that a trigger is answered with. PULSEIN_MODE is `die PIN` for a
program that exits at the trigger, as the real one was seen to do (Blinka issue 210), or `slow` for
one that is never ready. PULSEIN_LOG gets a line when a capture begins and when it ends.
"""

import os
import sys
import time

import sysv_ipc

newest = int(sys.argv[sys.argv.index("--pulses") + 1])
queue = sysv_ipc.MessageQueue(int(sys.argv[sys.argv.index("--queue") + 1]))
pin = sys.argv[-1]
mode = os.environ.get("PULSEIN_MODE", "")
log = os.open(os.environ["PULSEIN_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
widths = [int(width) for width in os.environ.get("PULSEIN_PULSES", "").split(",") if width]
if mode == "slow":
    time.sleep(60)
queue.send("!", True, type=2)
os.write(1, b"started\n")
captured: list[int] = []
while True:
    command = queue.receive(type=1)[0][:1]
    if command == b"t":
        if mode == f"die {pin}":
            sys.exit(1)
        os.write(log, f"begin {pin}\n".encode())
        captured = widths[-newest:]
    elif command == b"p" and captured:
        os.write(log, f"end {pin}\n".encode())
    elif command == b"c":
        captured = []
    elif command == b"l":
        queue.send(f"{len(captured)}", True, type=2)
    elif command == b"^":
        queue.send(f"{captured.pop(0) if captured else -1}", True, type=2)
