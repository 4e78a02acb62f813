"""What is fuzzed. A target takes any bytes; every exception that leaves it is a bug. Nothing here needs atheris."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transport.wire
from fuzz import mutate
from fuzz.oracle import hold_to_protocol, require
from topology.errors import InputError
from transport.errors import RemoteError

HERE = Path(__file__).parent
Target = Callable[[bytes, Path], None]


def decoder(wire: Any = transport.wire) -> Target:
    """`decode` of this module or of a changed copy of it: a RemoteError, or a snapshot that is as the protocol says."""
    schema = wire.Schema(
        "tiny", (("weight", (2, 3)), ("bias", (1,)), ("variance", (2,))), frozenset({"variance"})
    )
    connections = [
        wire.Expected("paper-ring", 3, schema, blocks, dtype)
        for blocks, dtype in ((1, "float32"), (1, "bfloat16"), (2, "float16"))
    ]

    def run(data: bytes, _folder: Path) -> None:
        for expected in connections:
            try:
                snapshot = wire.decode(data, expected)
            except RemoteError as error:
                require_one_line(error)
            else:
                hold_to_protocol(data, expected, snapshot)

    return run


def peers(data: bytes, folder: Path) -> None:
    """peers.toml and the settings in it: an InputError, or peers that survive being written."""
    from node.config import resolve  # noqa: PLC0415 - a target loads what it fuzzes and no more
    from topology.peers import dump_peers, read_peers  # noqa: PLC0415 - the same

    path = folder / "peers.toml"
    path.write_bytes(data)
    try:
        read = read_peers(path)
    except InputError as error:
        require_one_line(error)
        return
    for peer in read.peers:
        require(len(read.view(peer.id).neighbors) == len(peer.neighbors), "a view lacks a neighbour")
        require(peer.bind_address.startswith("tcp://"), "a peer cannot be bound")
    written = dump_peers(read)
    path.write_text(written, encoding="utf-8")
    require(dump_peers(read_peers(path)) == written, "the peers read back are others")
    try:
        resolve(path, read.settings)
    except InputError as error:
        require_one_line(error)


def graph(suffix: str) -> Target:
    """A graph file of that suffix: an InputError, or a graph that survives being written."""

    def run(data: bytes, folder: Path) -> None:
        from topology.files import read_graph, write_graph  # noqa: PLC0415 - a target loads what it fuzzes and no more

        path = folder / f"graph{suffix}"
        path.write_bytes(data)
        try:
            read = read_graph(path)
        except InputError as error:
            require_one_line(error)
            return
        path = folder / "graph.toml"
        path.write_text(write_graph(read), encoding="utf-8")
        require(read_graph(path) == read, "the graph read back is another")

    return run


def checkpoint(data: bytes, folder: Path) -> None:
    """A record and its tensors: an InputError, or a checkpoint each of whose fields has its type."""
    from node.checkpoint import load  # noqa: PLC0415 - a target loads what it fuzzes and no more

    record, tensors = mutate.split_checkpoint(data)
    path = folder / "cycle-00000007.safetensors"
    path.write_bytes(tensors)
    path.with_suffix(".json").write_bytes(record)
    try:
        loaded = load(path)
    except InputError as error:
        require_one_line(error)
        return
    for field, kinds in RECORD.items():
        require(type(getattr(loaded.meta, field)) in kinds, f"{field} has another type")
    for field, kind in (("chosen", int), ("inputs", str)):
        require(all(type(value) is kind for value in getattr(loaded.meta, field).values()), f"in {field}")
    size = sum(tensor.numel() * tensor.element_size() for tensor in loaded.tensors.values())
    require(size <= len(tensors), "the tensors take more than their file")


RECORD = {
    **dict.fromkeys(("run_id", "architecture", "arch_id"), (str,)),
    **dict.fromkeys(("node_id", "image_size", "image_channels", "cycle", "cycles", "epoch", "epochs", "boot"), (int,)),
    "finished": (bool,),
    "chosen": (dict,),
    "inputs": (dict,),
    "saved_at_s": (int, float),
}  # fmt: skip


def require_one_line(error: Exception) -> None:
    """Whoever reads the refusal reads one line."""
    require(len(str(error).splitlines()) == 1, f"the refusal has several lines: {error}")


@dataclass(frozen=True)
class Fuzzed:
    """One thing to fuzz.

    Attributes:
        run: Takes any bytes and a folder to write in.
        mutator: Changes an input and keeps its structure.
        max_bytes: The longest input.
        words: What the format is made of.
    """

    run: Target
    mutator: mutate.Mutator
    max_bytes: int
    words: tuple[str, ...]


_TOML = ("[[", "]]", "[", "]", "{", "}", '"""', "'''", " = ", "\\u0000", "0x", "1e9", "nan", "inf", "true", "1979-05-27T07:32:00Z")  # fmt: skip
_GRAPH = ("name", "edges", "[[node]]\n", "id = ", "address", "bind", "architecture", "tcp://", "[::1]")
_PEERS = ("[run]\n", "[[peer]]\n", "public_key", "neighbors", "data", "key", "directory", "{id}", "policy", "preset", "lockstep")  # fmt: skip
_GRAPHML = (
    "<graphml>", "<graph ", "edgedefault=", '"directed"', "<node id=", "<edge source=", " target=", "<key id=", " for=",
    " attr.name=", " attr.type=", "<data key=", "<default>", "</default>", '"boolean"', '"int"', '"long"', '"double"',
    '"yfiles.type"', "<port>", "<hyperedge>", "<?xml", "encoding=", "<!DOCTYPE", "<!ENTITY", "xmlns:y=", "y:ShapeNode",
    "http://www.yworks.com/xml/graphml", "http://graphml.graphdrawing.org/xmlns", '"nodegraphics"', '"edgegraphics"',
)  # fmt: skip
_CHECKPOINT = ("F32", "F64", "BF16", "U8", "BOOL", "F8_E8M0", "F4", "C64", "__metadata__", "data_offsets", "shape", "dtype", "[]", "null", "NaN", "1e999")  # fmt: skip

TARGETS: dict[str, Fuzzed] = {
    "decoder": Fuzzed(decoder(), mutate.frame, 4400, ("float32", "float16", "bfloat16")),
    "checkpoint": Fuzzed(checkpoint, mutate.checkpoint, 4096, _CHECKPOINT),
    "peers": Fuzzed(peers, mutate.text, 8192, _TOML + _GRAPH + _PEERS),
    "graph-toml": Fuzzed(graph(".toml"), mutate.text, 8192, _TOML + _GRAPH),
    "graph-graphml": Fuzzed(graph(".graphml"), mutate.text, 8192, _GRAPHML),
    "graph-edges": Fuzzed(graph(".edges"), mutate.text, 8192, ("{}", "{'weight': ", "#", "\t")),
}
"""Name -> what is fuzzed under it; the name of its folders in corpus/ and regressions/ too."""


def inputs(kind: str, name: str) -> list[Path]:
    """The committed inputs of a target: `corpus` or `regressions`."""
    return sorted(path for path in (HERE / kind / name).glob("*") if path.is_file())
