"""The network of the fault run: what it leaves behind, and whether its rules reach the packets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from faults.namespaces import Network, link, no_namespaces

pytestmark = pytest.mark.system
COMMAND_WORDS = 4  # `ip netns exec NAME`


@pytest.fixture(autouse=True)
def _allowed() -> None:
    if missing := no_namespaces():
        pytest.skip(missing)


def spaces() -> list[str]:
    """Names of the namespaces that there are."""
    told = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in told.splitlines()]


def test_nothing_is_left_behind_by_an_error_or_by_a_run_that_was_killed() -> None:
    """The error passes on; the next network removes what belongs to a process that is no more."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = f"dgan-faults-{ended.pid}-0-router"
    subprocess.run(["ip", "netns", "add", left], check=True)
    network = Network([1])
    own = network.command(1)[3]

    def row() -> None:
        with network:
            assert own in spaces()
            raise RuntimeError("row broke")

    with pytest.raises(RuntimeError, match="row broke"):
        row()
    assert not {own, left} & set(spaces())


def test_a_rule_holds_for_what_passes_and_is_gone_with_the_next() -> None:
    """A listener in one namespace, and who connects in another."""
    listener = "import socket; s = socket.create_server(('10.77.1.2', 7000)); print(flush=True); [s.accept() for _ in range(9)]"
    caller = "import socket; socket.create_connection(('10.77.1.2', 7000), 5)"
    with Network([1, 2]) as network:
        inside = {node: network.command(node)[:COMMAND_WORDS] for node in (1, 2)}

        def connects() -> bool:
            done = subprocess.run(
                [*inside[2], sys.executable, "-c", caller], capture_output=True, check=False
            )
            return done.returncode == 0

        with subprocess.Popen([*inside[1], sys.executable, "-c", listener], stdout=subprocess.PIPE) as one:
            assert one.stdout
            one.stdout.readline()
            assert connects()
            network.filter(f'iifname "{link(2)}" meta l4proto tcp counter reject with tcp reset')
            assert not connects()
            assert network.counted() == 1
            network.filter()
            assert connects()
            one.kill()
