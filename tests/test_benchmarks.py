"""The benchmarks compare what they say they compare."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import line
from benchmarks.equality import Outcome, Pair, compare, publish
from benchmarks.measure import Figure, alternate, figure, ratios
from benchmarks.plot import draw, draw_scale
from benchmarks.recheck import main as recheck
from benchmarks.recheck import verdict
from benchmarks.rounding import Rounded
from benchmarks.textbook import Inputs, in_order
from benchmarks.training import build_textbook, build_trainer, count_operations, settings_in
from node.config import resolve
from node.losses import noisy_labels
from node.shards import Shard
from node.snapshots import schema, to_block
from node.trainer import Trainer
from transport.wire import Expected, Snapshot, decode, encode


@pytest.mark.system
def test_the_textbook_loop_computes_what_a_node_computes() -> None:
    """From equal weights and equal draws, step by step; only the order of sums differs."""
    settings = settings_in("float32")
    trainer, source, textbook = build_trainer(settings), build_trainer(settings), build_textbook(settings)
    textbook.start_from(trainer.generator, trainer.discriminator)
    before = {
        id(p): p.detach().clone()
        for network in (textbook.generator, textbook.discriminator)
        for p in network.parameters()
    }
    m, noise = settings.training.batch_size, settings.discriminator.label_noise
    for _ in range(3):
        record = trainer.cycle(dict)
        z_mZ, x_mCHW = source.sample_noise(), source.batches.sample()
        real, fake = (noisy_labels(label, m, noise, source.streams["labels"]) for label in (1.0, 0.0))
        d_loss, g_loss = textbook.cycle(Inputs(z_mZ, x_mCHW, real, fake, source.sample_noise()))
        assert (d_loss, g_loss) == pytest.approx((record.d_loss, record.g_loss), rel=1e-3)
    for mine, theirs in (
        (textbook.generator, trainer.generator),
        (textbook.discriminator, trainer.discriminator),
    ):
        for parameter, reference in zip(mine.parameters(), in_order(theirs), strict=True):
            p, q = parameter.detach(), reference.detach()
            # Adam moves a weight as far for a gradient of 1e-9 as for one of 1: there a sign may differ.
            assert float((p - q).abs().mean()) < 0.02 * float((p - before[id(parameter)]).abs().mean()) + 1e-7


@pytest.mark.system
def test_operations_are_those_of_the_layers() -> None:
    """D's second layer alone takes, forwards, 100 x 5 x 5 outputs of 64 channels, each of 64 x 16 products."""
    one_layer = 2 * 100 * 25 * 64 * 64 * 16
    assert count_operations(build_trainer(settings_in("float32"))) > 8 * one_layer


def test_rounded_products_are_those_of_bfloat16() -> None:
    """A convolution and its gradients, and a matrix product: as torch computes them in bfloat16, up to the order of sums."""
    torch.manual_seed(0)
    image, weight = torch.randn(8, 16, 10, 10).bfloat16(), torch.randn(4, 16, 4, 4).bfloat16()
    square = torch.randn(50, 50).bfloat16()

    def work() -> list[torch.Tensor]:
        x, w = image.clone().requires_grad_(), weight.clone().requires_grad_()
        out = torch.nn.functional.conv2d(x, w, stride=2, padding=1)
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]  # torch leaves it out
        assert x.grad is not None
        assert w.grad is not None
        return [out.detach(), x.grad, w.grad, square @ square]

    theirs = work()
    with Rounded():
        mine = work()
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one.float() - other.float()).abs().max()) <= 2**-7 * float(other.float().abs().max())
    exact = torch.nn.functional.conv2d(image.float(), weight.float(), stride=2, padding=1)
    assert torch.equal(mine[0], exact.bfloat16())
    assert not torch.equal(mine[0].float(), exact)


def cell(error: float = 2.5, processor: str = "one", policy: str = "alone") -> dict[str, Any]:
    """A cell's file, as far as it is compared."""
    machine = {"processor": processor, "instructions": ["avx2"]}
    probe = {"run_id": str(error), "rows": [{"error": error}]}
    return {
        "graph": {"edges": [[1, 2]], "nodes": {"1": "paper", "2": "paper"}},
        "settings": resolve("test", {"policy": policy}).model_dump(mode="json"),
        "machine": machine,
        "command": "dgan-launch study",
        "versions": {"torch": "2"},
        "probe": probe,
        "quality": None,
    }


def test_a_cell_made_again_must_hold_the_same_figures_on_the_same_type_of_machine() -> None:
    """The run's id is another one each time; another machine rounds otherwise, other settings are another cell."""
    assert verdict(cell(), cell()) == ("every figure is the same", False)
    assert verdict(cell(), cell(error=2.6)) == (
        "1 of the figures differ, such as probe.rows[0].error: 2.5 and 2.6",
        True,
    )
    assert verdict(cell(), cell(error=2.6, processor="two"))[1] is False
    differs = 'made otherwise: policy was "alone" and is "uniform" now'
    assert verdict(cell(), cell(policy="uniform")) == (differs, True)


def test_what_was_made_again_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One cell of many is enough; none is not."""
    stored, fresh = tmp_path / "stored", tmp_path / "fresh"
    for study, name, found in (
        (stored, "a.all.s0", cell()),
        (stored, "b.all.s0", cell()),
        (fresh, "b.all.s0", cell(error=2.6)),
        (fresh, "c.all.s0", cell()),
    ):
        (study / "cells").mkdir(parents=True, exist_ok=True)
        (study / "cells" / f"{name}.json").write_text(json.dumps(found))
    assert recheck(stored, fresh) == 1
    (told,) = capsys.readouterr().out.splitlines()
    assert told.startswith("b.all.s0: 1 of the figures differ")
    (fresh / "cells" / "b.all.s0.json").write_text(json.dumps(cell()))
    assert recheck(stored, fresh) == 0
    (fresh / "cells" / "b.all.s0.json").unlink()
    assert recheck(stored, fresh) == 1
    assert "no cell in common" in capsys.readouterr().out


def test_rounds_alternate_and_the_first_does_not_count() -> None:
    """A B A B and so on."""
    calls: list[str] = []

    def called(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    pairs = alternate(lambda: called("A"), lambda: called("B"), 2)
    assert "".join(calls) == "ABABAB"
    assert pairs == [(3.0, 4.0), (5.0, 6.0)]
    assert ratios(pairs) == [3 / 4, 5 / 6]


@pytest.mark.parametrize(("at_least", "met"), [(True, False), (False, True)])
def test_a_figure_says_whether_it_meets_its_target(*, at_least: bool, met: bool) -> None:
    """By its median, and in words."""
    found = figure("speed", [1.0, 3.0, 2.0], target=2.5, at_least=at_least, beside="2 s")
    assert (found.value, found.lowest, found.highest, found.met) == (2.0, 1.0, 3.0, met)
    sign, word = (">=", ", MISSED") if at_least else ("<=", "")
    assert line(found.as_json()) == f"speed: 2 [1 - 3] ({sign} 2.5{word}); 2 s"
    assert Figure("size", 1, 1, 1).met is None


def test_the_picture_is_the_same_for_the_same_results(tmp_path: Path) -> None:
    """So that a repeated run changes no file for nothing."""
    results = {"one": {"figures": [figure("speed", [1.0, 2.0], target=2.0).as_json()]}}
    for name in ("a.svg", "b.svg"):
        draw(results, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_becomes_of_many_nodes_is_drawn_by_their_neighbours(tmp_path: Path) -> None:
    """A line for each degree; figures without numbers have no place in it, and without any nothing is drawn."""
    numbers = [
        {"nodes": n, "degree": d, "rate": 30, "first_cycle_s": n, "proportional_mb": 70}
        for n, d in ((5, 2), (20, 4))
    ]
    figures = [figure("speed", [1.0]), *(figure(f"{n}", [1.0], numbers=n) for n in numbers)]
    draw_scale({"scale": {"figures": [each.as_json() for each in figures]}}, tmp_path / "scale.svg")
    text = (tmp_path / "scale.svg").read_text(encoding="utf-8")
    assert "2 neighbours" in text
    assert "4 neighbours" in text
    draw_scale({"scale": {"figures": [figure("speed", [1.0]).as_json()]}}, tmp_path / "none.svg")
    draw_scale({}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_two_formats_are_equal_only_where_the_whole_interval_lies_within_the_limits() -> None:
    """KID in percent of float32's mean; what one pair shows is no interval."""
    probes = ((2.0, 2.1), (2.2, 2.2), (2.4, 2.3))
    kids = ((1.0, 1.1), (1.0, 1.2), (1.0, 1.0))
    pairs = [
        Pair(seed, Outcome(probe[0], kid[0]), Outcome(probe[1], kid[1]), computed=seed > 0, machine={})
        for seed, (probe, kid) in enumerate(zip(probes, kids, strict=True))
    ]
    assert [Pair.read(asdict(pair)) for pair in pairs] == pairs
    found = compare(pairs)
    assert found["computed"] == 2
    assert found["seeds"] == 3
    assert found["probe_points"]["mean"] == pytest.approx(0)
    # Student's 97.5% point for two degrees of freedom, times 0.1 / sqrt(3).
    assert found["probe_points"]["high"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert found["probe_points"]["within"] is False
    assert found["kid_percent"]["mean"] == pytest.approx(10)
    assert compare(pairs[:1]) == {}
    unprobed = Pair(9, Outcome(None, 1.0), Outcome(None, 1.1), computed=True, machine={})
    more = compare([*pairs, unprobed])
    assert (more["seeds"], more["probed"]) == (4, 3)
    assert more["probe_points"] == found["probe_points"]
    assert more["kid_percent"]["mean"] == pytest.approx(10)


def test_a_payload_in_bfloat16_is_rounded_as_the_wire_rounds() -> None:
    """Weights and statistics; the publisher's own stay as they are."""
    settings = resolve("test", {"image": {"size": 8, "channels": 1}, "training": {"batch_size": 4}})
    trainer = Trainer(settings, "light", 1, Shard(np.zeros((4, 8, 8, 1), np.uint8)))
    before = {name: tensor.clone() for name, tensor in trainer.discriminator.state_dict().items()}
    made = schema("light", settings.architecture["light"], 8, 1)
    sent = Snapshot("run", 1, made.arch_id, 1, 1, 0, False, (to_block(before),))  # noqa: FBT003 - done
    arrived = decode(encode(sent, made, "bfloat16"), Expected("run", 1, made, dtype="bfloat16")).blocks[0]
    copy = deepcopy(trainer.discriminator)
    publish(trainer, copy, "bfloat16")
    for name, tensor in copy.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), arrived[name])
    assert not torch.equal(copy.last.weight, trainer.discriminator.last.weight)
    assert all(torch.equal(t, before[n]) for n, t in trainer.discriminator.state_dict().items())
