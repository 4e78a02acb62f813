"""Makes the directory of a run: graph, settings, keys, shards and peers.toml; `run.json` last, so that it vouches for the rest.

A directory with `run.json` is complete and belongs to the inputs written there: the same inputs change nothing in
it, others are refused. A directory without it was left half-made or is new; what a failed call left there is made
again, except for keys, which are kept. The shards are the run's data: once made, the data set is not read again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import platform
import re
import secrets
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from launcher.datasets import DataSet, load_data, prepare_shards, resolve_image
from launcher.plan import Request, RunPlan, build_plan, check_request
from launcher.split import split
from node.config import Settings, resolve
from node.files import write_atomically
from topology.errors import InputError
from topology.files import write_graph
from topology.peers import DEFAULT_DATA, DEFAULT_DIRECTORY, DEFAULT_KEY, Peer, Peers, dump_peers
from topology.tables import read_text
from transport.keys import load_keys, make_keys, save_keys

RUN_FILE = "run.json"
_LOCK = ".lock"  # stays behind, and so tells a half-made run directory from a stranger's
_RESTORE = "restore the file from a copy, or give another --run-dir"
_ANOTHER = "give the run's own, or another --run-dir"


@dataclass(frozen=True)
class Draft:
    """A run that passed every check, before anything is written.

    Attributes:
        plan: The run.
        data: The data set to share out, or None where the run directory is complete already.
    """

    plan: RunPlan
    data: DataSet | None

    @property
    def is_new(self) -> bool:
        """Whether the run directory has yet to be made."""
        return self.data is not None


def draft_run(graph_file: Path, request: Request, *, progress: bool = False) -> Draft:
    """Checks all that a run needs; writes nothing but the cache of downloaded data sets.

    Args:
        graph_file: Where the graph came from, for errors about it.
        request: What was asked for.
        progress: Whether to show downloads on standard error.

    Raises:
        InputError: The request cannot be run, the data set cannot be read or does not go round, or the run
            directory belongs to another run, is incomplete or is no run directory.
    """
    check_request(graph_file, request)
    run_dir = request.run_dir
    if (run_dir / RUN_FILE).exists():
        _check_same_run(run_dir / RUN_FILE, request)
        settings = _recorded_settings(run_dir)
        return Draft(build_plan(request, settings, _recorded_images(run_dir, request)), None)
    _check_unused(run_dir)
    data = load_data(request.data, progress=progress)
    settings = resolve_image(data, request.settings)
    batch = settings.training.batch_size
    parts = split(data.train[1], request.graph.ids, settings.split, settings.seed, at_least=batch)
    plan = build_plan(request, settings, {node_id: len(part) for node_id, part in parts.items()})
    return Draft(plan, data)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps the run directory, made where it is missing, to this process for the length of a `with` block.

    The system ends the lock with the process, however it ends.

    Raises:
        InputError: Another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / _LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = "another dgan-launch is at work in this run directory"
            raise InputError(run_dir, problem, "wait for it, stop it, or name another directory") from None
        yield


def is_locked(run_dir: Path) -> bool:
    """Whether another process keeps the run directory to itself now."""
    if not (run_dir / _LOCK).exists():
        return False
    try:
        with locked(run_dir):
            return False
    except InputError:
        return True


def write_run(draft: Draft) -> None:
    """Makes the run directory of a new draft; the caller holds its lock. A complete one is left as it is.

    Raises:
        InputError: Another process has made the directory since the draft.
        LocalError: A key left by an earlier call is unreadable or readable to others.
        OSError: The directory cannot be written.
    """
    if draft.data is None:
        return
    plan, request = draft.plan, draft.plan.request
    run_dir = request.run_dir
    if (run_dir / RUN_FILE).exists():
        raise InputError(run_dir, "another dgan-launch has just prepared it", "give the same command again")
    # What a failed call left here may have been cut for other nodes.
    shutil.rmtree(run_dir / "shards", ignore_errors=True)
    prepare_shards(draft.data, plan.settings, request.graph.ids, run_dir / "shards")
    run_id = new_run_id(run_dir.resolve().name)
    write_atomically(run_dir / "graph.toml", write_graph(request.graph).encode())
    write_atomically(run_dir / "settings.toml", plan.settings.to_toml().encode())
    write_atomically(run_dir / "peers.toml", dump_peers(_peers(plan, run_id, _public_keys(plan))).encode())
    record = {
        "run_id": run_id,
        "created": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        **_versions(),
        "graph": request.graph.name,
        "data": {"name": draft.data.name, "argument": request.data},
        "inputs": _inputs(request),
    }
    write_atomically(run_dir / RUN_FILE, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def settings_layer(path: Path) -> dict[str, Any]:
    """The nested tables of a TOML file of settings, as `node.config.resolve` takes them.

    Raises:
        InputError: The file is missing, unreadable or no TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(path, f"not TOML: {error}", "mend the syntax there") from None


def default_run_dir(graph_name: str, policy: str, now: datetime) -> Path:
    """`runs/<graph name>-<policy>-<timestamp>`."""
    return Path("runs") / f"{plain_name(graph_name)}-{policy}-{now:%Y%m%d-%H%M%S}"


def new_run_id(name: str) -> str:
    """A run's id: begins with the name, and is no other run's, since it ends at random."""
    return f"{plain_name(name)}-{secrets.token_hex(4)}"


def _public_keys(plan: RunPlan) -> Mapping[int, str]:
    keys = {}
    for node in plan.nodes:
        path = plan.request.run_dir / DEFAULT_KEY.format(id=node.id)
        if not path.exists():
            save_keys(path, make_keys())
        keys[node.id] = load_keys(path).public
    return keys


def _peers(plan: RunPlan, run_id: str, public_keys: Mapping[int, str]) -> Peers:
    return Peers(
        path=None,
        run_id=run_id,
        data=DEFAULT_DATA,
        key=DEFAULT_KEY,
        directory=DEFAULT_DIRECTORY,
        settings=plan.settings.model_dump(mode="json"),
        peers=tuple(
            Peer(
                id=node.id,
                address=node.address,
                public_key=public_keys[node.id],
                neighbors=node.neighbors,
                bind=node.bind,
                architecture=node.architecture,
            )
            for node in plan.nodes
        ),
    )


def _inputs(request: Request) -> dict[str, Any]:
    """What makes two requests the same run, as JSON."""
    graph = request.graph
    return {
        "graph": {
            "name": graph.name,
            "edges": [list(edge) for edge in graph.edges],
            "node": {str(node.id): asdict(node) for node in graph.nodes},
        },
        "data": request.data,
        "base_port": request.base_port,
        "address": request.address,
        "settings": request.settings.model_dump(mode="json"),
    }


def _check_same_run(run_file: Path, request: Request) -> None:
    """Refuses a request whose inputs differ from those that the directory was made from; names the first."""
    recorded = _record(run_file).get("inputs")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("settings"), dict):
        raise InputError(run_file, "inputs is no table with settings", _RESTORE)
    if difference := first_difference(run_file, recorded, _inputs(request)):
        name, there, here = difference
        values = f"{name} is {there} there and {here} here"
        raise InputError(run_file, f"the run directory belongs to another run: {values}", _ANOTHER)


def first_difference(
    where: Path,
    recorded: Mapping[str, Any],
    here: Mapping[str, Any],
    read: Callable[[Path, Mapping[str, Any]], Settings] = resolve,
) -> tuple[str, str, str] | None:
    """The first field in which a record differs from what is here, and both values as words; None where none does.

    A setting that came with a later version counts as that version has it. For a record of what is done and over, that is its default:
    so a default must be what was done before, or the records that it concerns must go.

    Args:
        where: The record's file, for errors.
        recorded: Nested tables, one of them `settings`.
        here: The same now.
        read: What makes settings of a table: `resolve` for what is to go on, `validated` for what is over.

    Raises:
        InputError: A recorded setting is not one of this version's.
    """
    there, now = (
        _flat({**each, "settings": read(where, each["settings"]).model_dump(mode="json")})
        for each in (recorded, here)
    )
    for name in [*now, *sorted(there.keys() - now.keys())]:
        if there.get(name) != now.get(name):
            return name, _shown(there.get(name)), _shown(now.get(name))
    return None


def _record(run_file: Path) -> dict[str, Any]:
    try:
        record = json.loads(run_file.read_bytes())
    except ValueError as error:
        raise InputError(run_file, f"not JSON ({error})", _RESTORE) from None
    if not isinstance(record, dict):
        raise InputError(run_file, "no table", _RESTORE)
    return record


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested tables as one, `settings.` left out of the names since nobody writes it."""
    if not isinstance(value, dict):
        return {name.removeprefix("settings."): value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else str(key))
    return flat


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - enough of it to recognise it


def _recorded_settings(run_dir: Path) -> Settings:
    """The resolved settings of a complete run."""
    path = run_dir / "settings.toml"
    _check_whole(path)
    return resolve(path, settings_layer(path))


def _recorded_images(run_dir: Path, request: Request) -> Mapping[int, int]:
    """Images of each node of a complete run, whose files are all there."""
    own = [
        template.format(id=node_id)
        for template in (DEFAULT_KEY, DEFAULT_DATA)
        for node_id in request.graph.ids
    ]
    for name in ("graph.toml", "peers.toml", "shards/test.npz", "shards/split.json", *own):
        _check_whole(run_dir / name)
    path = run_dir / "shards" / "split.json"
    try:
        nodes = json.loads(path.read_bytes())["nodes"]
        return {node_id: int(nodes[str(node_id)]["images"]) for node_id in request.graph.ids}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(path, f"no record of every node's images ({error!r})", _RESTORE) from None


def _check_whole(path: Path) -> None:
    if not path.is_file():
        raise InputError(path, "missing from a prepared run directory", _RESTORE)


def _check_unused(run_dir: Path) -> None:
    """Refuses a directory with anything in it, unless a failed call has left it."""
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise InputError(run_dir, "not a directory", "give another --run-dir")
    if (run_dir / "nodes").exists():
        raise InputError(run_dir / RUN_FILE, "missing although nodes have run here", _RESTORE)
    names = sorted(path.name for path in run_dir.iterdir())
    if names and _LOCK not in names:
        problem = f"not a run directory: it holds {names[0]} and no {RUN_FILE}"
        raise InputError(run_dir, problem, "give an empty or a new --run-dir")


def plain_name(name: str) -> str:
    """A name that is safe as a file name and short enough for the header of a frame."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:64].strip("-.") or "run"


def source_digest(package: str) -> str:
    """Of the sources of one of the project's packages, which its version need not tell."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".py", ".toml"):
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "node/": source_digest("node")}
    for package in ("dgan", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
