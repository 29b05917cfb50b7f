"""Joins a guest's connection (standard input and output, as QEMU gives it) to a local port."""

import os
import socket
import sys
import threading


def main() -> None:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as link:

        def from_guest() -> None:
            while received := os.read(0, 65536):
                link.sendall(received)
            link.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=from_guest, daemon=True).start()
        while received := link.recv(65536):
            os.write(1, received)


main()
