#!/usr/bin/env python3
"""Carries one connection of the guest to a port of the host: QEMU's user network runs it with the connection on standard input and output.

    relay.py PORT

The guest's network is otherwise closed (restrict=on): the box works without an uplink.
"""
import os
import socket
import sys
import threading


def main(port):
    host = socket.create_connection(("127.0.0.1", port), timeout=30)
    host.settimeout(None)

    def back():
        while part := host.recv(65536):
            os.write(1, part)
        os._exit(0)

    threading.Thread(target=back, daemon=True).start()
    while part := os.read(0, 65536):
        host.sendall(part)
    host.shutdown(socket.SHUT_WR)
    threading.Event().wait(30)


if __name__ == "__main__":
    main(int(sys.argv[1]))
