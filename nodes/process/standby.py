"""Waiting for the first runner without torch, which takes several hundred megabytes.

The first connection that asks for more than the node's health is dropped: runners of ``bench run --hosts`` try again,
and are accepted once torch is loaded.
"""

import json
import socket
from contextlib import suppress

HEALTH = b"GET /health "
REQUEST_S, REQUEST_BYTES = 2.0, 4096  # for a request; one that is not read would reset the connection


def await_runner(listening: socket.socket, name: str) -> None:
    """Answer health checks of node ``name`` until a runner connects to ``listening``."""
    while True:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.settimeout(REQUEST_S)
            asked = connection.recv(REQUEST_BYTES)
            if asked.startswith(HEALTH):
                connection.sendall(_idle(name))
            elif asked:
                return


def _idle(name: str) -> bytes:
    body = json.dumps({"node": name, "state": "idle"}).encode()
    head = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join([*head, "", ""]).encode() + body
