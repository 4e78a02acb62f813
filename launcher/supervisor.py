"""Decides when the processes of a run are started, restarted and stopped; pure.

`Supervisor` is told what happened (`started`, `exited`, `stop`) with the time at which it happened, and `tick`
answers what is due. `launcher.processes` carries the answers out on real processes. A node's life:

    WAITING --Start--> RUNNING --0, finished--> FINISHED
       ^                  | ---0, otherwise--> STOPPED    somebody sent it SIGTERM; its checkpoint is saved
       |                  | ---2-------------> REFUSED    usage or configuration: the same again would not help
       +----back-off------+ ---too often-----> GAVE_UP
                            ---while stopping-> STOPPED, or KILLED when it saved nothing on its way out

A running node that shows no sign of life for `hang_s` is killed, and so restarted like any other that dies by a signal.
"""

from __future__ import annotations

import enum
import random
import signal
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from node.exits import EXIT_FAILURE, EXIT_INPUT, EXIT_OK


class State(enum.StrEnum):
    """Where a node's process stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    KILLED = "killed"
    REFUSED = "refused"
    GAVE_UP = "gave up"


_OPEN = (State.WAITING, State.RUNNING)
_FAILED = (State.KILLED, State.REFUSED, State.GAVE_UP)


@dataclass(frozen=True)
class RestartPolicy:
    """How patiently failing nodes are started again, and how long stopping nodes are waited for."""

    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0
    jitter: float = 0.25
    """Each delay is multiplied by a random factor between 1 - jitter and 1 + jitter."""
    healthy_s: float = 60.0
    """After running this long the back-off starts over."""
    restarts: int = 5
    """Restarts allowed within `window_s`, and in a row without a new cycle trained."""
    window_s: float = 300.0
    stop_grace_s: float = 15.0
    """Time between SIGTERM and SIGKILL."""
    hang_s: float = 120.0
    """A node without a sign of life for this long is killed; 0 for never. One cycle of training gives none."""
    longest_look_s: float = 1.0
    """No more than this counts as silence between two looks at a node: whoever stops the launcher and its nodes
    together, or leaves it no time, must not find them killed when it goes on."""


@dataclass(frozen=True)
class Start:
    """Start the process of a node now."""

    node_id: int


@dataclass(frozen=True)
class Stop:
    """Send a running process SIGTERM, or SIGKILL where `kill` is set.

    Attributes:
        node_id: The node.
        kill: Whether it gets SIGKILL, the one signal that ends a process that hangs or was suspended.
        quiet_s: Seconds without a sign of life, where that is why.
    """

    node_id: int
    kill: bool = False
    quiet_s: float | None = None


@dataclass(frozen=True)
class Decision:
    """What an exit led to.

    Attributes:
        node_id: The node that exited.
        code: Its exit status; negative is the number of the signal that killed it.
        state: WAITING when it will be started again, else how it ended.
        restart_in_s: Seconds until it is started again, or None.
    """

    node_id: int
    code: int
    state: State
    restart_in_s: float | None = None


@dataclass
class _Node:
    state: State = State.WAITING
    due_s: float = float("-inf")
    started_s: float = 0.0
    failures_in_a_row: int = 0
    restarted_s: deque[float] = field(default_factory=deque)
    restarts: int = 0
    best_cycle: int = -1
    idle_restarts: int = 0  # restarts since the cycle counter last reached a new height
    told: Stop | None = None
    sign: Hashable = None
    looked_s: float = 0.0
    quiet_s: float = 0.0


class Supervisor:
    """The state of every process of a run; decides, and never acts.

    Times are seconds of one monotonic clock, given by the caller with each event.

    Args:
        node_ids: The nodes to run, in the order in which they are started.
        policy: Delays and limits.
        rng: Source of the jitter.
    """

    def __init__(self, node_ids: Sequence[int], policy: RestartPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._nodes = {node_id: _Node() for node_id in node_ids}
        self._kill_s: float | None = None

    @property
    def done(self) -> bool:
        """Whether no process runs or will be started again."""
        return not any(node.state in _OPEN for node in self._nodes.values())

    @property
    def states(self) -> Mapping[int, State]:
        """Every node's state by its id."""
        return {node_id: node.state for node_id, node in self._nodes.items()}

    @property
    def restarts(self) -> Mapping[int, int]:
        """How often each node was started again."""
        return {node_id: node.restarts for node_id, node in self._nodes.items()}

    def started(self, node_id: int, now_s: float) -> None:
        """The process of a node was started."""
        node = self._nodes[node_id]
        node.started_s, node.told = now_s, None
        node.sign, node.looked_s, node.quiet_s = None, now_s, 0.0

    def looked(self, node_id: int, sign: Hashable, now_s: float) -> None:
        """Somebody looked at a running node.

        Args:
            node_id: The node.
            sign: What was seen; it changes as long as the node lives. None where none can be expected yet.
            now_s: When.
        """
        node = self._nodes[node_id]
        if sign is None or sign != node.sign:
            node.sign, node.quiet_s = sign, 0.0
        else:
            node.quiet_s += min(now_s - node.looked_s, self._policy.longest_look_s)
        node.looked_s = now_s

    def exited(
        self, node_id: int, code: int, now_s: float, *, finished: bool = False, cycle: int | None = None
    ) -> Decision:
        """The process of a node ended.

        Args:
            node_id: The node.
            code: Exit status; negative is the number of the signal that killed it.
            now_s: When.
            finished: Whether the node says that its training is complete.
            cycle: Cycles it had trained, where known: nodes that only ever repeat the same cycles are given up.
        """
        node = self._nodes[node_id]
        restart_in_s = None
        if code == EXIT_OK:
            node.state = State.FINISHED if finished else State.STOPPED
        elif code == EXIT_INPUT:
            node.state = State.REFUSED
        elif self._kill_s is not None:
            # SIGTERM kills a process that does not handle it yet: it has trained nothing.
            node.state = State.STOPPED if code == -signal.SIGTERM else State.KILLED
        else:
            restart_in_s = self._restart_in_s(node, now_s, cycle)
            node.state = State.GAVE_UP if restart_in_s is None else State.WAITING
        return Decision(node_id, code, node.state, restart_in_s)

    def _restart_in_s(self, node: _Node, now_s: float, cycle: int | None) -> float | None:
        """Books the next start of a failed node, or answers None where that makes no sense any more."""
        policy = self._policy
        if now_s - node.started_s >= policy.healthy_s:
            node.failures_in_a_row = 0
        if cycle is None or cycle > node.best_cycle:
            node.best_cycle, node.idle_restarts = max(node.best_cycle, cycle or 0), 0
        while node.restarted_s and now_s - node.restarted_s[0] > policy.window_s:
            node.restarted_s.popleft()
        if max(len(node.restarted_s), node.idle_restarts) >= policy.restarts:
            return None
        delay_s = policy.first_delay_s * 2.0 ** min(
            node.failures_in_a_row, 30
        )  # the exponent stays within a float
        delay_s *= self._rng.uniform(1 - policy.jitter, 1 + policy.jitter)
        delay_s = min(delay_s, policy.longest_delay_s)
        node.failures_in_a_row += 1
        node.idle_restarts += 1
        node.due_s = now_s + delay_s
        return delay_s

    def stop(self, now_s: float) -> None:
        """Somebody asked the run to stop: politely the first time, at once the second."""
        self._kill_s = now_s + self._policy.stop_grace_s if self._kill_s is None else now_s
        for node in self._nodes.values():
            if node.state is State.WAITING:
                node.state = State.STOPPED

    def tick(self, now_s: float, *, may_start: bool = True) -> tuple[Start | Stop, ...]:
        """What is due now; each action is named once. Starts wait while they may not be made."""
        actions: list[Start | Stop] = []
        for node_id, node in self._nodes.items():
            if node.state is State.WAITING and may_start and now_s >= node.due_s:
                if node.due_s > float("-inf"):
                    node.restarts += 1
                    node.restarted_s.append(now_s)
                node.state = State.RUNNING  # a due start is named once
                actions.append(Start(node_id))
            elif node.state is State.RUNNING:
                order = self._order(node_id, node, now_s)
                if order is not None and (node.told is None or (order.kill and not node.told.kill)):
                    node.told = order
                    actions.append(order)
        return tuple(actions)

    def _order(self, node_id: int, node: _Node, now_s: float) -> Stop | None:
        """What a running node must be told, were it not told before."""
        if self._kill_s is not None:
            return Stop(node_id, kill=now_s >= self._kill_s)
        if 0 < self._policy.hang_s <= node.quiet_s:
            return Stop(node_id, kill=True, quiet_s=node.quiet_s)
        return None

    def exit_code(self, signal_number: int | None = None) -> int:
        """The launcher's own exit status, once `done`.

        0 when every node finished; 2 when configuration alone stopped a node; 1 after any other failure, a node
        that had to be killed, or one that somebody else stopped; 128 + signal after a clean stop by that signal.
        """
        states = set(self.states.values())
        if states <= {State.FINISHED}:
            return EXIT_OK
        if failed := states.intersection(_FAILED):
            return EXIT_INPUT if failed == {State.REFUSED} else EXIT_FAILURE
        return EXIT_FAILURE if signal_number is None else 128 + signal_number
