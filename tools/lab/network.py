"""The lab's own network: one bridge, a namespace for each board, and links that can be slow, lossy or cut."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tools.lab.cgroups import Cgroup
from tools.lab.system import LabError, run

PROJECT = Path(__file__).parents[2]
BURST_BYTES = 32_768
CABLE_START_S = 10.0


@dataclass(frozen=True, slots=True)
class Network:
    """Names and addresses that belong to one lab of this machine, told apart by three hexadecimal digits."""

    mark: str

    @property
    def bridge(self) -> str:
        """The interface that joins all boards; it holds the host's address."""
        return f"edl{self.mark}"

    def address(self, number: int) -> str:
        """The address of board `number`; the host is number 1."""
        value = int(self.mark, 16)
        return f"10.{64 + value // 256}.{value % 256}.{number}"

    def up(self) -> None:
        """Make the bridge unless it is there."""
        if not exists(self.bridge):
            run(["ip", "link", "add", self.bridge, "type", "bridge"])
        run(["ip", "address", "replace", f"{self.address(1)}/24", "dev", self.bridge])
        run(["ip", "link", "set", self.bridge, "up"])

    def down(self) -> None:
        """Remove every interface and namespace that bears the lab's mark."""
        for name in namespaces():
            if name.startswith(f"{self.bridge}-"):
                run(["ip", "netns", "delete", name], check=False)
        for name in interfaces():
            if name.startswith((f"{self.bridge}-", f"edt{self.mark}-")) or name == self.bridge:
                run(["ip", "link", "delete", name], check=False)


def pick_network(folder: Path) -> Network:
    """The network of the lab in `folder`: always the same, unless another has taken its addresses."""
    start = int(hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:3], 16)
    taken = re.findall(r"inet 10\.(\d+)\.(\d+)\.\d+", run(["ip", "-o", "-4", "address"]))
    used = {(int(a) - 64) * 256 + int(b) for a, b in taken}
    for step in range(4096):
        value = (start + step) % 4096
        if value not in used:
            return Network(f"{value:03x}")
    raise LabError("All addresses between 10.64.0.0 and 10.79.255.255 are taken; bring another lab down.")


def interfaces() -> list[str]:
    """The names of this namespace's network interfaces."""
    return [entry["ifname"] for entry in json.loads(run(["ip", "-j", "link"]))]


def namespaces() -> list[str]:
    """The names of the network namespaces that have one."""
    return [line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip()]


def exists(interface: str) -> bool:
    """Whether there is such an interface here."""
    return Path("/sys/class/net", interface).exists()


def cables_group(network: Network) -> Cgroup:
    """Holds the programs that are the slow and lossy wires of all boards."""
    return Cgroup(f"{network.mark}/cables")


class Link:
    """The wire between the bridge and one board."""

    def __init__(self, network: Network, name: str, number: int, log: Path) -> None:
        self.network = network
        self.namespace = f"{network.bridge}-{name}"
        self.port = f"{network.bridge}-{name}"
        self.tap = f"edt{network.mark}-{name}"
        self.address = network.address(number)
        self._log = log

    def make(self) -> None:
        """Make the namespace and the wire afresh."""
        self.remove()
        run(["ip", "netns", "add", self.namespace])
        run(["ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace])
        self._inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            self._inside("ip", "link", "set", interface, "up")
        run(["ip", "link", "set", self.port, "master", self.network.bridge, "up"])

    def remove(self) -> None:
        """Remove the wire and the namespace, if they are there."""
        if exists(self.tap):
            run(["ip", "link", "delete", self.tap], check=False)
        if exists(self.port):
            run(["ip", "link", "delete", self.port], check=False)
        if self.namespace in namespaces():
            run(["ip", "netns", "delete", self.namespace])

    def whole(self) -> bool:
        """Whether wire and namespace are there."""
        return exists(self.port) and self.namespace in namespaces()

    def enter(self) -> list[str]:
        """The words before a command that is to run in the board's namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def cut(self) -> None:
        """Pull the plug: nothing passes and nobody is told."""
        run(["ip", "link", "set", self.port, "down"])

    def plug(self) -> None:
        """Put it in again."""
        run(["ip", "link", "set", self.port, "up"])

    def limit_rate(self, rate_mbit: float | None) -> None:
        """Let so many megabits a second pass in each direction; None takes the limit away."""
        ends: list[tuple[list[str], str]] = [([], self.port), (self.enter(), "eth0")]
        for before, interface in ends:
            if rate_mbit is None:
                run([*before, "tc", "qdisc", "delete", "dev", interface, "root"], check=False)
                continue
            limit = ["tbf", "rate", f"{round(rate_mbit * 1000)}kbit", "burst", str(BURST_BYTES), "latency", "400ms"]
            run([*before, "tc", "qdisc", "replace", "dev", interface, "root", *limit])

    def delay(self, delay_ms: float, loss: float) -> None:
        """Hold every packet for `delay_ms` in each direction and lose the share `loss` of them; zeros undo it."""
        self._stop_cable()
        if delay_ms == 0 and loss == 0:
            return
        # segments as large as memory allows would be lost or held as one packet
        plain = [*self.enter(), sys.executable, "-m", "tools.lab.cable", "--plain", "eth0"]
        run(["env", "-C", PROJECT, *plain])
        run(["ip", "link", "set", self.port, "nomaster"])
        run(["ip", "tuntap", "add", "dev", self.tap, "mode", "tap"])
        run(["ip", "link", "set", self.tap, "master", self.network.bridge, "up"])
        command = [sys.executable, "-m", "tools.lab.cable", self.port, self.tap, str(delay_ms), str(loss)]
        group = cables_group(self.network)
        group.create()
        with self._log.open("ab") as log:
            group.start(command, log, PROJECT)
        deadline = time.monotonic() + CABLE_START_S
        while f"ready {self.tap}" not in self._log.read_text("utf-8", "replace").split("\n"):
            if time.monotonic() > deadline:
                raise LabError(f"The link's delay could not be set; {self._log} says why.")
            time.sleep(0.02)

    def _stop_cable(self) -> None:
        if exists(self.tap):
            run(["ip", "link", "delete", self.tap])  # its program ends with it
            self._log.write_bytes(b"")
        run(["ip", "link", "set", self.port, "master", self.network.bridge])

    def _inside(self, *argv: str) -> None:
        run([*self.enter(), *argv])
