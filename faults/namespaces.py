"""A network of its own for the nodes of a row: a namespace for each, and a router between them that can be told to misbehave.

    namespace of node 1 --- 10.77.1.0/24 ---+
    namespace of node 2 --- 10.77.2.0/24 ---+ router: packet filter where it forwards, a rate on each of its links
    namespace of node 3 --- 10.77.3.0/24 ---+

It is the router that drops, so that a sender learns of a loss as it would anywhere: from what never comes back. Nothing
of it is seen outside, and what a run that was killed has left behind goes when the next one begins.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faults.lab import NODE

_PORT = 7000
_PREFIX = "dgan-faults"
_COUNT = itertools.count()


class Network:
    """The namespaces, as long as the `with` block; node N has the address 10.77.N.2.

    Args:
        nodes: Their ids, 1 to 254.
    """

    def __init__(self, nodes: Iterable[int]) -> None:
        # A number too: there may be several in one process, one after another or at once.
        self._name = f"{_PREFIX}-{os.getpid()}-{next(_COUNT)}"
        self._nodes = tuple(nodes)

    def __enter__(self) -> Self:
        """Builds it.

        Raises:
            OSError: The system refuses.
        """
        _sweep()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, node: int) -> str:
        """Where a node listens."""
        return f"tcp://10.77.{node}.2:{_PORT}"

    def command(self, node: int) -> tuple[str, ...]:
        """What starts a node in its namespace; the process is the node's own."""
        return ("ip", "netns", "exec", self._of(node), *NODE)

    def filter(self, *rules: str) -> None:
        """From now on these rules, and no others, are asked for each packet on its way; a node's link is called as `link`.

        Raises:
            OSError: nft refuses them.
        """
        lines = (
            "flush ruleset",
            "table inet faults {",
            "chain passing {",
            "type filter hook forward priority 0",
            *rules,
            "}\n}\n",
        )
        self._on_router("nft", "-f", "-", text="\n".join(lines))

    def counted(self) -> int:
        """Packets that the present rules have counted."""
        found = json.loads(self._on_router("nft", "-j", "list", "table", "inet", "faults"))
        return sum(_packets(entry["rule"]["expr"]) for entry in found["nftables"] if "rule" in entry)

    def slow_down(self, node: int, bits_per_s: int) -> None:
        """A token bucket on the way to a node, with room for 0.4 s.

        Raises:
            OSError: tc refuses it.
        """
        bucket = ("rate", f"{bits_per_s}bit", "burst", "32kb", "latency", "400ms")
        self._on_router("tc", "qdisc", "replace", "dev", link(node), "root", "tbf", *bucket)

    def _of(self, node: int | str) -> str:
        return f"{self._name}-{node}"

    def _on_router(self, *words: str, text: str = "") -> str:
        return _do("ip", "netns", "exec", self._of("router"), *words, text=text)

    def _build(self) -> None:
        router = self._of("router")
        _do("ip", "netns", "add", router)
        self._on_router("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for node in self._nodes:
            own, near, far = self._of(node), link(node), "eth0"
            _do("ip", "netns", "add", own)
            _do("ip", "-n", router, "link", "add", near, "type", "veth", "peer", "name", far, "netns", own)
            for space, device, host in ((router, near, 1), (own, far, 2)):
                _do("ip", "-n", space, "address", "add", f"10.77.{node}.{host}/24", "dev", device)
                _do("ip", "-n", space, "link", "set", device, "up")
            _do("ip", "-n", own, "route", "add", "default", "via", f"10.77.{node}.1")

    def _remove(self) -> None:
        for name in _names():
            if name.startswith(f"{self._name}-"):
                _do("ip", "netns", "delete", name)


def link(node: int) -> str:
    """The router's device that leads to a node."""
    return f"node{node}"


def no_namespaces() -> str | None:
    """Why no network with a packet filter can be made here, or None."""
    return _missing(("ip", "nft"))


def no_slow_links() -> str | None:
    """Why no network with a packet filter and slow links can be made here, or None."""
    return _missing(("ip", "nft", "tc"))


def _missing(programs: Iterable[str]) -> str | None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux, to make network namespaces"
    for program in programs:
        if shutil.which(program) is None:
            return f"the program {program} is not installed"
    try:
        with Network([1]) as network:
            network.filter("meta l4proto tcp counter reject with tcp reset", "numgen random mod 100 < 5 drop")
            if "tc" in programs:
                network.slow_down(1, 8_000_000)
    except OSError as error:
        return f"no such network can be made here: {error}"
    return None


def _do(*words: str, text: str = "") -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = (done.stderr.strip() or f"status {done.returncode}").splitlines()[0]
        raise OSError(f"{' '.join(words)}: {complaint}")
    return done.stdout


def _names() -> list[str]:
    return [line.split()[0] for line in _do("ip", "netns", "list").splitlines() if line]


def _sweep() -> None:
    """Removes the namespaces of runs that are no more."""
    for name in _names():
        owner = name.removeprefix(f"{_PREFIX}-").split("-")[0]
        if name.startswith(f"{_PREFIX}-") and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):  # another run may be sweeping too
                _do("ip", "netns", "delete", name)


def _packets(expressions: list[dict[str, Any]]) -> int:
    return sum(each["counter"]["packets"] for each in expressions if "counter" in each)
