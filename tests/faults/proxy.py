"""A TCP proxy on loopback that cuts the connection around COMMIT, at a place that the test chooses.

It reads the client's packets (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html), so the
connection must not be encrypted: `unencrypted` gives the options. What it did with each COMMIT is kept in `Proxy.cuts`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from sqlalchemy import URL

COM_QUERY = 3


class Cut(Enum):
    """Where the connection ends."""

    NEVER = "nowhere"
    REQUEST_LOST = "before the server gets COMMIT"
    AT_ONCE = "while the server is at COMMIT"
    ANSWER_LOST = "before the client gets the answer to COMMIT"
    AFTERWARDS = "after the client got the answer to COMMIT"
    BEFORE = "at the statement before COMMIT"
    REQUEST_TORN = "when the server has half of the request"
    ANSWER_TORN = "when the client has half of the answer"


UNKNOWN = {Cut.REQUEST_LOST, Cut.AT_ONCE, Cut.ANSWER_LOST, Cut.REQUEST_TORN, Cut.ANSWER_TORN}
"""The cuts after which it cannot know."""


class Proxy:
    """Forwards to the server of *url*, and asks *choose* at each statement's packet where to cut.

    *choose* gets the statement in upper case. It is asked in the connection's own thread.
    """

    def __init__(self, url: URL, choose: Callable[[str], Cut]) -> None:
        self.target, self.choose = (url.host or "127.0.0.1", url.port or 3306), choose
        self.cuts: list[Cut] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self.listener.getsockname()[1])
        self.open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(self.target)
                except OSError:  # nobody listens there just now
                    shut(client)
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.open.add(one)
                threading.Thread(target=Link(self, client, server).run, name="link", daemon=True).start()

    def close(self) -> None:
        shut(self.listener)
        for one in list(self.open):
            shut(one)


class Link:
    """One client's connection. A request is answered before the next one is sent, so one thread does for both ways."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.has_written = self.muted = self.cut_after_answer = self.tears_answer = False

    def run(self) -> None:
        back = threading.Thread(target=self._answers, name="answers", daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while packet := self._packet():
                if not self._forward(packet):
                    break
        self._end()
        back.join()

    def _packet(self) -> bytes:
        header = self._exactly(4)
        return header + self._exactly(int.from_bytes(header[:3], "little")) if header else b""

    def _exactly(self, number: int) -> bytes:
        data = b""
        while len(data) < number:
            more = self.client.recv(number - len(data))
            if not more:
                return b""
            data += more
        return data

    def _forward(self, packet: bytes) -> bool:
        """Send the packet on, or cut; whether the connection goes on."""
        is_query = packet[3] == 0 and packet[4:5] == bytes([COM_QUERY])
        statement = packet[5:].decode(errors="replace").upper().lstrip("\0\1") if is_query else ""
        # SQLAlchemy commits when it sets a new connection's isolation level, too: that is nobody's unit of work.
        is_idle = statement == "COMMIT" and not self.has_written
        cut = self.proxy.choose(statement) if is_query and not is_idle else Cut.NEVER
        if statement == "COMMIT" and self.has_written:
            self.proxy.cuts.append(cut)
        self.has_written = statement != "COMMIT" and (self.has_written or statement.startswith(("UPDATE", "INSERT")))
        if cut in (Cut.REQUEST_LOST, Cut.BEFORE):
            return False
        self.muted = cut in (Cut.ANSWER_LOST, Cut.AT_ONCE)
        self.cut_after_answer = cut is Cut.AFTERWARDS
        self.tears_answer = cut is Cut.ANSWER_TORN
        if cut is Cut.REQUEST_TORN:
            self.server.sendall(packet[: len(packet) // 2])
            return False
        self.server.sendall(packet)
        if cut is Cut.AT_ONCE:
            return False
        return True

    def _answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.server.recv(65536):
                if self.muted:
                    break
                # Asked before the client has this answer, and may send the next request.
                is_last = self.cut_after_answer or self.tears_answer
                self.client.sendall(data[: len(data) // 2] if self.tears_answer else data)
                if is_last:
                    break
        self._end()

    def _end(self) -> None:
        for one in (self.client, self.server):
            self.proxy.open.discard(one)
            shut(one)


def shut(one: socket.socket) -> None:
    """Close, and wake the thread that reads from it."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxy(url: URL, choose: Callable[[str], Cut]) -> Iterator[Proxy]:
    made = Proxy(url, choose)
    try:
        yield made
    finally:
        made.close()


def unencrypted(url: URL) -> dict[str, Any]:
    """The driver's connect_args for a connection that the proxy can read."""
    return {"mysqldb": {"ssl_mode": "DISABLED"}, "pymysql": {"ssl_disabled": True}}[url.get_driver_name()]
