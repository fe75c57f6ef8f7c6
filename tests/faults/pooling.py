"""A proxy that shares few server connections among many clients, transaction by transaction, as ProxySQL, RDS Proxy and
MaxScale do.

A client has a server connection for the length of a transaction; without autocommit that is from its first statement to
COMMIT or ROLLBACK. Outside of one, each of its statements may go to another connection, which other clients use too:
``LAST_INSERT_ID()`` and ``@variables`` are then those of any of them. The settings that drivers make (SET NAMES,
autocommit, the isolation level) follow the client to each connection.

`PoolingProxy.pins` and `PoolingProxy.delay` are the two ways in which ProxySQL keeps a client on its connection
(https://proxysql.com/documentation/multiplexing/). Both are off unless a test asks for them. The proxy reads packets, so
connections to it must not be encrypted: `tests.faults.proxy.unencrypted` gives the options. A packet of 16 MB is too long for it.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pymysql
from pymysql.constants import CLIENT, COMMAND, SERVER_STATUS
from sqlalchemy import URL

from tests.faults.proxy import shut

OK_PACKET, ERR_PACKET, EOF_PACKET = 0x00, 0xFF, 0xFE

CAPABILITIES = (
    CLIENT.LONG_PASSWORD
    | CLIENT.FOUND_ROWS
    | CLIENT.LONG_FLAG
    | CLIENT.CONNECT_WITH_DB
    | CLIENT.PROTOCOL_41
    | CLIENT.TRANSACTIONS
    | CLIENT.SECURE_CONNECTION
    | CLIENT.MULTI_RESULTS
    | CLIENT.PLUGIN_AUTH
)

# A setting that follows its client, and the statement that a connection without it needs.
SETTINGS = {
    "autocommit": (re.compile(r"SET\s+(SESSION\s+)?AUTOCOMMIT\b", re.IGNORECASE), "SET AUTOCOMMIT = 1"),
    "names": (re.compile(r"SET\s+NAMES\b", re.IGNORECASE), "SET NAMES utf8mb4"),
    "isolation": (
        re.compile(r"SET\s+SESSION\s+TRANSACTION\b", re.IGNORECASE),
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    ),
}
END = re.compile(r"\s*(COMMIT|ROLLBACK)\s*;?\s*$", re.IGNORECASE)
VARIABLE = re.compile(r"(?<!@)@\w")


@dataclass
class Answer:
    """A server's answer to one statement: its packets, and what the last of them says."""

    packets: list[bytes] = field(default_factory=list)
    status: int | None = None  # an error has none
    remembered: int = 0


class Server:
    """One of the connections that the clients share."""

    def __init__(self, url: URL) -> None:
        self.socket = socket.create_connection((url.host or "127.0.0.1", url.port or 3306), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # PyMySQL logs in. From then on the packets are the clients'.
        self.login = pymysql.Connection(
            user=url.username or "",
            password=url.password or "",
            database=url.database,
            client_flag=CLIENT.FOUND_ROWS,
            autocommit=True,
            defer_connect=True,
            ssl_disabled=True,
        )
        self.login.connect(self.socket)
        self.version = self.login.get_server_info()
        self.settings = {name: default for name, (_, default) in SETTINGS.items()}
        self.in_transaction = False

    def ask(self, payload: bytes) -> Answer:
        """Send a command, and read all of its answer."""
        send(self.socket, payload, 0)
        answer = Answer()
        ends = 0
        while True:
            packet = self._packet()
            answer.packets.append(packet)
            head, is_first = packet[0], len(answer.packets) == 1
            if head == ERR_PACKET:
                # Which errors end the transaction, only the server knows; its next status says.
                return answer
            if head == OK_PACKET and is_first:
                _, at = length_encoded(packet, 1)
                answer.remembered, at = length_encoded(packet, at)
                return self._ended(answer, packet[at : at + 2])
            if head == EOF_PACKET and len(packet) < 9:  # after the columns, and after the rows
                ends += 1
                if ends == 2:
                    return self._ended(answer, packet[3:5])

    def _ended(self, answer: Answer, status: bytes) -> Answer:
        (answer.status,) = struct.unpack("<H", status)
        self.in_transaction = bool(answer.status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)
        return answer

    def _packet(self) -> bytes:
        packet = receive(self.socket)
        if packet is None:
            raise ConnectionError("the server has closed the connection")
        return packet[0]

    def adopt(self, settings: dict[str, str]) -> None:
        """Make the settings those of the client that is served next."""
        for name, statement in settings.items():
            if self.settings[name] != statement:
                self.ask(bytes([COMMAND.COM_QUERY]) + statement.encode())
                self.settings[name] = statement

    def close(self) -> None:
        shut(self.socket)
        # PyMySQL's own end is the same socket.
        self.login._force_close()


class PoolingProxy:
    """Listens on loopback, at `url`, and serves its clients by a few connections to the server of *url*.

    *pins*: a client that has named a user variable keeps its connection. *delay*: after an answer that carries an id, the
    client's next so many statements stay on the connection.
    """

    def __init__(self, url: URL, *, servers: int = 3, pins: bool = False, delay: int = 0, seed: int = 1) -> None:
        self.target, self.pins, self.delay = url, pins, delay
        self.dice = random.Random(seed)
        self.free = [Server(url) for _ in range(servers)]
        self.version = self.free[0].version
        self.freed = threading.Condition()
        self.open: set[socket.socket] = set()
        self.every = list(self.free)
        self.switches = 0  # how often a client's statement went to another connection than its last
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self.listener.getsockname()[1])
        threading.Thread(target=self._accept, name="pooling proxy", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.open.add(client)
                threading.Thread(target=Client(self, client).run, name="pooled client", daemon=True).start()

    def borrow(self) -> Server:
        """Any connection that is free."""
        with self.freed:
            while not self.free:
                self.freed.wait()
            return self.free.pop(self.dice.randrange(len(self.free)))

    def give_back(self, server: Server) -> None:
        with self.freed:
            self.free.append(server)
            self.freed.notify()

    def replace(self, server: Server | None) -> None:
        """Put a new connection in the place of one that a client keeps or has broken."""
        fresh = Server(self.target)
        with self.freed:
            self.every.append(fresh)
        self.give_back(fresh)
        if server is not None:
            server.close()

    def close(self) -> None:
        shut(self.listener)
        for one in list(self.open):
            shut(one)
        for server in self.every:
            server.close()


class Client:
    """One client's connection to the proxy."""

    def __init__(self, proxy: PoolingProxy, connection: socket.socket) -> None:
        self.proxy, self.connection = proxy, connection
        self.settings = {name: default for name, (_, default) in SETTINGS.items()}
        self.server: Server | None = None
        self.last: Server | None = None
        self.is_pinned = False
        self.stays = 0

    def run(self) -> None:
        try:
            with contextlib.suppress(OSError):
                self._greet()
                while self._serve():
                    pass
        finally:
            self.proxy.open.discard(self.connection)
            shut(self.connection)
            self._leave()

    def _greet(self) -> None:
        """Let everybody in: the passwords are the proxy's own affair."""
        salt = b"12345678", b"123456789012"
        low, high = struct.pack("<I", CAPABILITIES)[:2], struct.pack("<I", CAPABILITIES)[2:]
        status = struct.pack("<H", SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT)
        greeting = b"\x0a" + self.proxy.version.encode() + b"\0" + struct.pack("<I", 1) + salt[0] + b"\0" + low
        greeting += b"\x2d" + status + high + bytes([21]) + b"\0" * 10 + salt[1] + b"\0mysql_native_password\0"
        send(self.connection, greeting, 0)
        login = receive(self.connection)
        if login is None:
            raise ConnectionError
        send(self.connection, self._ok(), login[1] + 1)

    def _ok(self) -> bytes:
        status = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT * self._is_autocommit()
        return b"\0\0\0" + struct.pack("<H", status) + b"\0\0"

    def _is_autocommit(self) -> bool:
        return "0" not in self.settings["autocommit"]

    def _serve(self) -> bool:
        """Answer one command; whether another may follow."""
        packet = receive(self.connection)
        if packet is None or packet[0][0] == COMMAND.COM_QUIT:
            return False
        command, statement = packet[0][0], packet[0][1:].decode(errors="replace")
        if command == COMMAND.COM_PING or (command == COMMAND.COM_QUERY and self._is_setting(statement)):
            send(self.connection, self._ok(), 1)
            return True
        if self.server is None:
            self.server = self.proxy.borrow()
            self.proxy.switches += self.last not in (None, self.server)
            self.last = self.server
            self.server.adopt(self.settings)
        answer = self.server.ask(packet[0])
        # Before the client may ask again.
        self._keep_or_leave(statement, answer)
        for number, part in enumerate(answer.packets, 1):
            send(self.connection, part, number)
        return True

    def _is_setting(self, statement: str) -> bool:
        """Whether *statement* makes a setting, which is sent along with the next statement of another kind."""
        if self.server is not None and self.server.in_transaction:
            return False
        for name, (pattern, _) in SETTINGS.items():
            if pattern.match(statement):
                self.settings[name] = statement
                if self.server is not None:
                    self.server.adopt(self.settings)
                return True
        return False

    def _keep_or_leave(self, statement: str, answer: Answer) -> None:
        if self.proxy.pins and not self.is_pinned and VARIABLE.search(statement):
            self.is_pinned = True
            self.proxy.replace(None)
        self.stays = self.proxy.delay if answer.remembered else max(self.stays - 1, 0)
        assert self.server is not None
        is_over = self._is_autocommit() or END.match(statement)
        if is_over and not self.server.in_transaction and not self.is_pinned and not self.stays:
            self.proxy.give_back(self.server)
            self.server = None

    def _leave(self) -> None:
        """What a client leaves behind that goes away: its transaction is rolled back with the connection."""
        if self.server is None:
            return
        if self.is_pinned:
            self.server.close()
        else:
            self.proxy.replace(self.server)
        self.server = None


def send(to: socket.socket, payload: bytes, number: int) -> None:
    to.sendall(len(payload).to_bytes(3, "little") + bytes([number & 0xFF]) + payload)


def receive(of: socket.socket) -> tuple[bytes, int] | None:
    """The next packet and its number; None when the connection has ended."""
    header = _exactly(of, 4)
    payload = _exactly(of, int.from_bytes(header[:3], "little")) if header else None
    return (payload, header[3]) if header and payload else None


def _exactly(of: socket.socket, number: int) -> bytes | None:
    data = b""
    while len(data) < number:
        more = of.recv(number - len(data))
        if not more:
            return None
        data += more
    return data


def length_encoded(packet: bytes, at: int) -> tuple[int, int]:
    """The integer at this place, and the place after it."""
    first = packet[at]
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    return (int.from_bytes(packet[at + 1 : at + 1 + size], "little"), at + 1 + size) if size else (first, at + 1)


@contextmanager
def pooling_proxy(url: URL, *, servers: int = 3, pins: bool = False, delay: int = 0) -> Iterator[PoolingProxy]:
    proxy = PoolingProxy(url, servers=servers, pins=pins, delay=delay)
    try:
        yield proxy
    finally:
        proxy.close()
