"""Checkpoints: one safetensors file of tensors and one JSON file beside it, written atomically and checked on load.

    checkpoints/cycle-00000300.safetensors    every tensor of the node's state; equal states give equal bytes
    checkpoints/cycle-00000300.json           what, whose, when, and the xxh3-128 digests of both files

The JSON file is written last: a checkpoint counts only when both are there and the digests fit. So a crash at any
moment leaves the one before it valid, and boot counters and times never touch the tensor file. Whoever calls `save` or
`prune` is the only one who does so on that directory; readers may come at any time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import xxhash
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from node.failpoints import reached
from node.files import make_directory, write_atomically
from topology.errors import InputError

FORMAT = 1
_NAME = re.compile(r"cycle-(\d{8})\.json")
_MEND = "a checkpoint as dgan-node writes it; an older one beside it may be whole"


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint holds and whose it is.

    Attributes:
        run_id: Run it belongs to.
        node_id: Node it belongs to.
        architecture: Name of the architecture in the run's settings.
        arch_id: Exact structure, as snapshots name it.
        image_size: Height and width in pixels.
        image_channels: 1 or 3.
        cycle: Cycles of Algorithm 1 done.
        cycles: Cycles of the whole run.
        epoch: Epochs begun, the running one included.
        epochs: Epochs of the whole run.
        finished: Whether training is complete.
        chosen: How often each neighbour was chosen since the first cycle.
        inputs: Digest of each thing that training depends on and that must not change under a resumed node.
        boot: Number of the start that saved it.
        saved_at_s: Unix time of saving.
    """

    run_id: str
    node_id: int
    architecture: str
    arch_id: str
    image_size: int
    image_channels: int
    cycle: int
    cycles: int
    epoch: int
    epochs: int
    finished: bool
    chosen: dict[str, int]
    inputs: dict[str, str]
    boot: int
    saved_at_s: float


_RECORD = TypeAdapter(CheckpointMeta)
_FIELDS = tuple(field.name for field in fields(CheckpointMeta))


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint.

    Attributes:
        path: The safetensors file.
        meta: The JSON file beside it.
        tensors: By dotted name; the part before the first dot says whose they are.
    """

    path: Path
    meta: CheckpointMeta
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of `prefix.`, with that prefix taken off, such as `discriminator`."""
        return strip_prefix(self.tensors, prefix)

    @property
    def drawing(self) -> dict[str, Tensor]:
        """The generator that images are drawn with: the average of its weights where one was kept, else the last ones."""
        return self.part("average_generator") or self.part("generator")


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, under the rest of their names."""
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def add_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.name`, detached, on the CPU and contiguous in the default memory format."""
    return {f"{prefix}.{name}": t.detach().cpu().contiguous() for name, t in tensors.items()}


def save(directory: Path, meta: CheckpointMeta, tensors: Mapping[str, Tensor]) -> Path:
    """Writes one checkpoint into `directory`/checkpoints and returns the path of its tensors.

    Raises:
        OSError: The disk refuses; what was saved before is still there.
    """
    folder = directory / "checkpoints"
    make_directory(folder)
    data = safetensors.torch.save(dict(tensors))
    path = folder / f"cycle-{meta.cycle:08d}.safetensors"
    # Saving the same cycle again (after a resume) must not pair new tensors with the old digest.
    path.with_suffix(".json").unlink(missing_ok=True)
    write_atomically(path, data, point="tensors")
    record = {"format": FORMAT, **asdict(meta), "digest": xxhash.xxh3_128_hexdigest(data)}
    record["record_digest"] = _record_digest(record)
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=1).encode(), point="record")
    return path


def prune(directory: Path, keep: int, keep_cycles: Iterable[int]) -> None:
    """Deletes all but the newest `keep` checkpoints and those of `keep_cycles`, and what saves that died left behind.

    The newest valid one stays in any case, so that invalid ones cannot take its place.
    """
    forever, complete = set(keep_cycles), list_checkpoints(directory)
    reached("prune.begun")
    old = complete[:-keep]
    if old and not any(_is_valid(path) for path in reversed(complete[-keep:])):
        forever.update(_cycle_of(path) for path in [p for p in reversed(old) if _is_valid(p)][:1])
    for path in old:
        if _cycle_of(path) not in forever:
            path.with_suffix(".json").unlink(missing_ok=True)
            reached("prune.record_gone")
            path.unlink(missing_ok=True)
    for path in _leftovers(directory / "checkpoints"):
        path.unlink(missing_ok=True)
    reached("prune.done")


def _leftovers(folder: Path) -> list[Path]:
    """Files of a save or a `prune` that did not come to its end; those of a checkpoint set aside are none."""
    orphans = [
        path
        for path in folder.glob("cycle-*.safetensors")
        if not path.with_suffix(".json").exists() and not _aside(path).exists()
    ]
    return [*folder.glob(".cycle-*.part"), *orphans]


def set_aside(path: Path) -> None:
    """Takes an invalid checkpoint out of the count, so that `prune` cannot keep it in a valid one's place."""
    path.with_suffix(".json").replace(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_suffix(".json.torn")


def list_checkpoints(directory: Path) -> list[Path]:
    """Tensor files of the complete checkpoints of a node's directory, oldest first; their digests are not checked."""
    found = (directory / "checkpoints").glob("cycle-*.json")
    complete = [p.with_suffix(".safetensors") for p in found if _NAME.fullmatch(p.name)]
    return sorted((p for p in complete if p.exists()), key=_cycle_of)


def load(path: Path) -> Checkpoint:
    """Reads and checks one checkpoint by the path of its tensors.

    Raises:
        InputError: A file is missing, torn, of another format, or does not fit its digest.
    """
    record, data = _read(path)
    try:
        tensors = safetensors.torch.load(data)
    # The last two: an unknown format of numbers, an impossible shape.
    except (SafetensorError, LookupError, RuntimeError) as error:
        raise InputError(path, f"no safetensors file ({error})", _MEND) from None
    return Checkpoint(path, _meta(path.with_suffix(".json"), record), tensors)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The record and the bytes of a checkpoint, both as they were written."""
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        data = path.read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, f"unreadable checkpoint ({error})", _MEND) from None
    where = path.with_suffix(".json")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else record
        raise InputError(where, f"format = {found!r}", f"this version reads format {FORMAT}")
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise InputError(where, f"no field {missing[0]}", _MEND)
    # A bit flipped in the name of its digest would leave the record without one.
    unknown = [name for name in record if name not in (*_FIELDS, "format", "digest", "record_digest")]
    if unknown:
        raise InputError(where, f"unknown field {unknown[0]!r}", _MEND)
    # Earlier records have no digest of themselves.
    if record.get("record_digest", expected := _record_digest(record)) != expected:
        raise InputError(where, "the content does not fit its digest (changed)", _MEND)
    if xxhash.xxh3_128_hexdigest(data) != record.get("digest"):
        raise InputError(path, "the content does not fit its digest (torn or changed)", _MEND)
    return record, data


def _record_digest(record: Mapping[str, Any]) -> str:
    """Digest of what a record says, its own digest left out; it does not depend on order or white space."""
    told = {name: value for name, value in record.items() if name != "record_digest"}
    return xxhash.xxh3_128_hexdigest(json.dumps(told, sort_keys=True).encode())


def _is_valid(path: Path) -> bool:
    try:
        _read(path)
    except InputError:
        return False
    return True


def _meta(path: Path, record: Mapping[str, Any]) -> CheckpointMeta:
    """The record's fields, each of its type: a count that is a text would fail much later and far from here."""
    try:
        # As JSON, for only there a mapping may stand for a dataclass in strict mode.
        return _RECORD.validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(path, f"{field}: {first['msg']}", "a record as dgan-node writes it") from None


def load_newest(
    directory: Path, on_invalid: Callable[[Path, str], Any] = lambda _path, _reason: None
) -> Checkpoint:
    """The newest valid checkpoint of a node's directory.

    Args:
        directory: Such as runs/NAME/nodes/3.
        on_invalid: Told the path and the one-line reason for each newer checkpoint that had to be passed over.

    Raises:
        InputError: There is none, or none is valid.
    """
    reasons: list[str] = []
    for path in reversed(list_checkpoints(directory)):
        try:
            return load(path)
        except InputError as error:
            reasons.append(str(error))
            on_invalid(path, str(error))
    if not reasons:
        mend = "train the node first, or copy its folder whole"
        raise InputError(directory / "checkpoints", "no checkpoint", mend)
    mend = "a whole copy of this folder; a node whose folder was moved away begins at cycle 0"
    raise InputError(directory / "checkpoints", f"none is valid, the newest: {reasons[0]}", mend)


def _cycle_of(path: Path) -> int:
    return int(path.stem.removeprefix("cycle-"))
