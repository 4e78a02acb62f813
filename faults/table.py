"""The rows, by number."""

from __future__ import annotations

from faults import checkpoints, hostile, namespaces, network, processes, soak, weather
from faults.verdicts import Row

ROWS = (
    Row(1, "crash", "`kill -9` of a node at a random moment, 50 times", processes.crash),
    Row(2, "kill during a save", "`kill -9` at each of 21 steps of a save", checkpoints.save, quick=True),
    Row(3, "torn checkpoint", "cut or a bit flipped, 400 times, and 3 times before a start", checkpoints.torn),
    Row(4, "disk full", "a disk of 3 MB is filled, and has room again", checkpoints.full, checkpoints.no_small_disk),
    Row(5, "stop", "SIGTERM at a random moment, 20 times; twice in mid-cycle", processes.stop),
    Row(6, "hang", "SIGSTOP, after 60 s SIGCONT", processes.hang, quick=True),
    Row(7, "late joiner", "the last of three nodes starts 60 s after the others", processes.late),
    Row(8, "start order", "five nodes on a ring in 20 orders", processes.order),
    Row(9, "partition", "a node's packets are dropped for 30 s: all, those to it, those from it", network.partition, namespaces.no_namespaces),
    Row(10, "reset storm", "every packet of a node is answered with a TCP reset, for 2 s and for 10 s", network.storm, namespaces.no_namespaces, quick=True),
    Row(11, "loss; slow line", "5% of all packets are lost; 8 Mbit/s for snapshots of 20 MB", network.poor, namespaces.no_slow_links),
    Row(12, "bad line", "200±100 ms late in slices of 7 bytes; then a bit flipped in every 5 kB", weather.bad_line),
    Row(13, "flood", "good frames under a neighbour's key, 1000 times as fast as an honest node's, 30 s", hostile.flood),
    Row(14, "noise", "frames of 64 MB, messages of 10,000 parts and without end, noise before and after the greeting, 200 connections that say nothing", hostile.noise),
    Row(15, "strangers", "no key, another key, a key from two hops away; impostors at the right address", hostile.strangers, quick=True),
    Row(16, "replay", "recorded bytes on the line, recorded frames under the right key", hostile.replay),
    Row(17, "clock", "a day ahead, a day behind, a start with it a day behind", processes.clock),
    Row(18, "launcher killed", "`kill -9` of the launcher", processes.orphans, quick=True),
    Row(19, "port, id or directory taken", "another socket, another process, one id twice", processes.refused),
    Row(20, "soak", "random faults, one after another, from a printed seed", soak.run, quick=True),
)  # fmt: skip
