"""Checkpoints: atomic, checked, never the last valid one lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from node.checkpoint import (
    CheckpointMeta,
    list_checkpoints,
    load,
    load_newest,
    prune,
    save,
    set_aside,
)
from node.files import write_atomically
from topology.errors import InputError

TENSORS = {
    "discriminator.a.b": torch.arange(6.0).reshape(2, 3),
    "random.x": torch.arange(4, dtype=torch.uint8),
}


def meta(cycle: int, boot: int = 1) -> CheckpointMeta:
    """A record for that cycle."""
    return CheckpointMeta(
        run_id="run", node_id=3, architecture="paper", arch_id="paper/20", image_size=20, image_channels=1, cycle=cycle,
        cycles=100, epoch=1, epochs=2, finished=False, chosen={"2": 5}, inputs={}, boot=boot, saved_at_s=1.5,
    )  # fmt: skip


def test_a_checkpoint_survives_a_round_trip(tmp_path: Path) -> None:
    """Tensors of every kind and the whole record come back; parts are cut by prefix."""
    loaded = load(save(tmp_path, meta(7), TENSORS))
    assert loaded.meta == meta(7)
    assert loaded.tensors.keys() == TENSORS.keys()
    assert torch.equal(loaded.part("discriminator")["a.b"], TENSORS["discriminator.a.b"])
    assert torch.equal(loaded.part("random")["x"], TENSORS["random.x"])


def test_equal_states_give_equal_files_whatever_the_boot(tmp_path: Path) -> None:
    """Boot counters and times live in the JSON file alone."""
    first = save(tmp_path / "a", meta(7), TENSORS)
    second = save(tmp_path / "b", meta(7, boot=9), dict(reversed(TENSORS.items())))
    assert first.read_bytes() == second.read_bytes()


def test_the_newest_are_kept_and_so_are_the_named_ones(tmp_path: Path) -> None:
    """Keep 2 and cycle 10 for good."""
    for cycle in (10, 20, 30, 40):
        save(tmp_path, meta(cycle), TENSORS)
        prune(tmp_path, 2, [10])
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        f"cycle-{cycle:08d}.safetensors" for cycle in (10, 30, 40)
    ]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 6


@pytest.mark.parametrize("damage", ["truncate", "flip", "no tensors", "no record", "half a record"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    """And says why it was passed over, where it was complete once."""
    save(tmp_path, meta(10), TENSORS)
    newest = save(tmp_path, meta(20), TENSORS)
    data, record = newest.read_bytes(), newest.with_suffix(".json")
    if damage == "truncate":
        newest.write_bytes(data[:-3])
    elif damage == "flip":
        newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "no tensors":
        newest.unlink()
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text(record.read_text()[:20])
    reasons: list[str] = []
    assert load_newest(tmp_path, lambda _, reason: reasons.append(reason)).meta.cycle == 10
    assert len(reasons) == (0 if damage.startswith("no ") else 1)


@pytest.mark.parametrize("step", ["write_tensors", "replace_tensors", "write_record", "replace_record"])
def test_a_save_that_dies_at_any_step_leaves_the_one_before(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write and each rename fails once; what was there still loads, and the next save works."""
    save(tmp_path, meta(10), TENSORS)
    name = "open" if step.startswith("write") else "replace"
    suffix = ".safetensors.part" if step.endswith("tensors") else ".json.part"
    original = getattr(Path, name)

    def fail(path: Path, *args: object, **options: object) -> object:
        if path.name.endswith(suffix):
            raise OSError(28, "No space left on device")
        return original(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, fail)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, meta(20), TENSORS)
    assert load_newest(tmp_path).meta.cycle == 10
    save(tmp_path, meta(20), TENSORS)
    assert load_newest(tmp_path).meta.cycle == 20


def test_a_torn_checkpoint_that_was_set_aside_takes_no_valid_ones_place(tmp_path: Path) -> None:
    """With keep = 1, the valid one that is saved after a fallback stays."""
    save(tmp_path, meta(20), TENSORS)
    save(tmp_path, meta(30), TENSORS).write_bytes(b"torn")
    assert load_newest(tmp_path, lambda path, _: set_aside(path)).meta.cycle == 20
    save(tmp_path, meta(25), TENSORS)
    prune(tmp_path, 1, [])
    assert load_newest(tmp_path).meta.cycle == 25


def test_no_checkpoint_at_all_is_one_line(tmp_path: Path) -> None:
    """It names the folder."""
    with pytest.raises(InputError, match="checkpoints: no checkpoint"):
        load_newest(tmp_path)


def test_a_record_of_another_format_is_refused(tmp_path: Path) -> None:
    """A later version's files are not guessed at."""
    path = save(tmp_path, meta(10), TENSORS)
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(InputError, match="format = 99"):
        load(path)
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in record.items() if k != "boot"}))
    with pytest.raises(InputError, match="no field boot"):
        load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cycle", "7"),
        ("boot", True),
        ("finished", 1),
        ("chosen", {"2": "5"}),
        ("inputs", []),
        ("saved_at_s", None),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    """Before it can fail where nobody thinks of the checkpoint."""
    path = save(tmp_path, meta(10), TENSORS)
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {field: value}))
    with pytest.raises(InputError, match=rf"json: {field}.*: Input should be"):
        load(path)


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    """And leaves no part file behind."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    (tmp_path / ".file.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
