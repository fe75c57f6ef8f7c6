"""A proxy on loopback that holds each request back for a round trip's time: a server in another building.

A process of its own. A thread for each direction of each connection sleeps as long as is wanted; an event loop's timers
are no finer than a millisecond.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from sqlalchemy.engine import make_url


@contextmanager
def delayed(url: str, seconds: float) -> Iterator[str]:
    """The URL of a proxy to *url* through which an answer takes *seconds* longer."""
    parsed = make_url(url)
    here, there = multiprocessing.get_context("spawn").Pipe()
    target = (parsed.host or "127.0.0.1", parsed.port or 3306)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(target, seconds, there), daemon=True)
    process.start()
    there.close()  # so that recv() ends if the process does
    port = here.recv()
    try:
        yield parsed.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.join()


def _serve(target: tuple[str, int], seconds: float, parent: Connection) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    parent.send(listener.getsockname()[1])
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(target)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_forward, args=(client, server, seconds), daemon=True).start()
        threading.Thread(target=_forward, args=(server, client, 0.0), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, seconds: float) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if seconds:
                time.sleep(seconds)
            sink.sendall(data)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
