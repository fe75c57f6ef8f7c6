"""A network for the nodes of one cluster, in which every cable can be pulled.

Each node lives in a network namespace with two cables: ``peers`` leads to the other nodes, ``clients`` to this machine.
Both end in a bridge. A partition pulls the first and leaves the second, so clients still reach a node that the others
have lost, as behind a broken switch. Packets vanish silently: neither end receives a reset.

It needs root, the program ``ip``, and a kernel with bridges and namespaces; `obstacle` says which of them is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

NODES = range(3)


@dataclass(frozen=True)
class Network:
    """The network named *name*, six letters at most, in the subnets 10.213.*subnet* and 10.213.*subnet* + 1."""

    name: str
    subnet: int

    def peer(self, node: int) -> str:
        """The address that the other nodes know *node* by."""
        return f"10.213.{self.subnet}.{node + 1}"

    def address(self, node: int) -> str:
        """The address that clients know *node* by."""
        return f"10.213.{self.subnet + 1}.{node + 1}"

    def inside(self, node: int) -> list[str]:
        """A command in front of another, which then runs in the namespace of *node*."""
        return ["ip", "netns", "exec", self._namespace(node)]

    def up(self) -> None:
        """Build the network anew; what an earlier run has left goes first."""
        self.down()
        for side in ("p", "c"):
            _ip(f"link add {self.name}-{side} type bridge", f"link set {self.name}-{side} up")
        _ip(f"address add 10.213.{self.subnet + 1}.254/24 dev {self.name}-c")
        for node in NODES:
            namespace = self._namespace(node)
            _ip(f"netns add {namespace}", f"-n {namespace} link set lo up")
            for side, inner, own in (("p", "peers", self.peer(node)), ("c", "clients", self.address(node))):
                cable = self._cable(side, node)
                _ip(
                    f"link add {cable} type veth peer name {inner} netns {namespace}",
                    f"link set {cable} master {self.name}-{side} up",
                    f"-n {namespace} address add {own}/24 dev {inner}",
                    f"-n {namespace} link set {inner} up",
                )

    def down(self) -> None:
        for node in NODES:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(f"netns delete {self._namespace(node)}")
            for side in ("p", "c"):
                # Deleting a namespace takes its cables along, but the kernel does so a little later.
                with contextlib.suppress(subprocess.CalledProcessError):
                    _ip(f"link delete {self._cable(side, node)}")
        for side in ("p", "c"):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(f"link delete {self.name}-{side}")

    def isolate(self, node: int) -> None:
        """Cut *node* off from both others."""
        _ip(f"link set {self._cable('p', node)} nomaster")

    def separate(self, nodes: Sequence[int]) -> None:
        """Cut *nodes* off from each other, but not from the rest."""
        for node in nodes:
            subprocess.run(["bridge", "link", "set", "dev", self._cable("p", node), "isolated", "on"], check=True)

    def heal(self) -> None:
        """Plug every cable in again."""
        for node in NODES:
            cable = self._cable("p", node)
            _ip(f"link set {cable} master {self.name}-p")
            subprocess.run(["bridge", "link", "set", "dev", cable, "isolated", "off"], check=True)

    def _namespace(self, node: int) -> str:
        return f"{self.name}{node + 1}"

    def _cable(self, side: str, node: int) -> str:
        return f"{self.name}-{side}{node + 1}"


def obstacle() -> str:
    """Why no such network can be built here; empty when one can."""
    if os.geteuid() != 0:
        return "only root builds networks"
    if not shutil.which("ip") or not shutil.which("bridge"):
        return "the programs ip and bridge are missing (Debian: apt-get install iproute2)"
    try:
        trial = Network("fsmt", 252)
        trial.up()
        trial.down()
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"
    return ""


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(
            ["ip", *command.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
