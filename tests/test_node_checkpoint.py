"""Checkpoints: atomic, checked, never the last valid one lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from node.checkpoint import list_checkpoints, load, load_newest, prune, save, set_aside
from node.files import write_atomically
from saving import meta
from topology.errors import InputError

TENSORS = {
    "discriminator.a.b": torch.arange(6.0).reshape(2, 3),
    "random.x": torch.arange(4, dtype=torch.uint8),
}


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


@pytest.mark.parametrize("whose", [".safetensors", ".json"])
def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path, whose: str) -> None:
    """In the tensors, which a digest covers, and in the record beside them, which it covers too."""
    save(tmp_path, meta(10), TENSORS)
    file = save(tmp_path, meta(20), TENSORS).with_suffix(whose)
    data, before = file.read_bytes(), load_newest(tmp_path)
    damaged = [data[:offset] for offset in range(0, len(data), 7)]
    damaged += [flipped(data, offset, offset % 8) for offset in range(len(data))]
    for content in damaged:
        file.write_bytes(content)
        reasons: list[str] = []
        found = load_newest(tmp_path, lambda _, reason: reasons.append(reason))  # noqa: B023 - called at once
        if found.meta.cycle == 10:
            assert len(reasons) == 1
            assert "\n" not in reasons[0]
        else:  # white space, or a key that nobody reads
            assert whose == ".json"
            assert found.meta == before.meta
            assert found.tensors.keys() == before.tensors.keys()


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    """The same bytes but for one bit."""
    return data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


def test_the_last_valid_one_stays_however_many_newer_ones_are_damaged(tmp_path: Path) -> None:
    """The invalid ones count, but cannot take its place."""
    for cycle in (10, 20, 30, 40):
        save(tmp_path, meta(cycle), TENSORS)
    for path in list_checkpoints(tmp_path)[2:]:
        path.write_bytes(b"torn")
    prune(tmp_path, 2, [])
    assert [path.stem for path in list_checkpoints(tmp_path)] == [
        "cycle-00000020", "cycle-00000030", "cycle-00000040"
    ]  # fmt: skip
    assert load_newest(tmp_path).meta.cycle == 20


def test_what_a_save_that_died_left_behind_goes_with_the_next_prune(tmp_path: Path) -> None:
    """Else a node that dies again and again fills its disk; a checkpoint set aside stays for whoever looks at it."""
    aside = save(tmp_path, meta(10), TENSORS)
    set_aside(aside)
    orphan = save(tmp_path, meta(20), TENSORS)
    orphan.with_suffix(".json").unlink()
    (tmp_path / "checkpoints" / ".cycle-00000030.safetensors.part").write_bytes(b"half")
    newest = save(tmp_path, meta(40), TENSORS)
    prune(tmp_path, 2, [])
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        aside.name, f"{aside.stem}.json.torn", newest.name, f"{newest.stem}.json"
    }  # fmt: skip


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
    del record["record_digest"]  # as in a record of an earlier version, which nothing else protects
    path.with_suffix(".json").write_text(json.dumps(record | {field: value}))
    with pytest.raises(InputError, match=rf"json: {field}.*: Input should be"):
        load(path)


def test_no_flipped_bit_of_the_record_goes_unseen(tmp_path: Path) -> None:
    """Not even one that takes away the digest of the record itself."""
    path = save(tmp_path, meta(10), TENSORS)
    record = path.with_suffix(".json").read_bytes()
    for at in range(len(record)):
        for bit in range(8):
            changed = bytearray(record)
            changed[at] ^= 1 << bit
            path.with_suffix(".json").write_bytes(changed)
            with pytest.raises(InputError):
                load(path)


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    """And leaves no part file behind."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    (tmp_path / ".file.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
