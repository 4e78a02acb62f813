"""The probe: Gram matrices, the choice on held-out images, and whole runs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from eval.features import layer_features
from eval.grams import Features, balanced, concatenated, cross_products, kernel, train_products
from eval.probe import binomial_error, probe
from eval.runs import RunDirectory, read_run
from eval.svm import Choice, choose, errors_of, fit, split
from node import checkpoint
from node.checkpoint import add_prefix
from node.models import Discriminator, initialise
from node.shards import Shard, load_shard, save_shard
from topology.errors import InputError

pytestmark = pytest.mark.system

MakeRun = Callable[..., Path]


def _layers(count: int, seed: int) -> list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((count, width)).astype(np.float32) for width in (7, 4, 1)]


def test_the_grams_of_layers_add_up_to_that_of_their_concatenation() -> None:
    """Whichever of the images are asked for."""
    train, test = _layers(30, 0), _layers(12, 1)
    found = train_products([train], concatenated)
    joined, other = np.hstack(train), np.hstack(test)
    scale = np.linalg.norm(joined, axis=1).mean()
    np.testing.assert_allclose(found.train_NN, joined @ joined.T / scale**2, atol=1e-5)
    chosen = np.array([0, 3, 29])
    products, squares = cross_products([test], [train], chosen, found.factors)
    np.testing.assert_allclose(products, other @ joined[chosen].T / scale**2, atol=1e-5)
    np.testing.assert_allclose(squares, (np.linalg.norm(other, axis=1) / scale) ** 2, rtol=1e-5)
    assert np.sqrt(np.diagonal(found.train_NN)).mean() == pytest.approx(1, rel=1e-5)


def test_balanced_layers_count_the_same() -> None:
    """Each is scaled to mean norm 1 before they are joined."""
    train = _layers(30, 0)
    train[0] *= 50
    found = train_products([train], balanced)
    joined = np.hstack([layer / np.linalg.norm(layer, axis=1).mean() for layer in train])
    joined /= np.linalg.norm(joined, axis=1).mean()
    np.testing.assert_allclose(found.train_NN, joined @ joined.T, atol=1e-5)


def _neighborhood() -> tuple[list[Features], list[Features]]:
    """Training and test images by three discriminators, one of them wider and of fewer layers than the others."""
    train, test = (
        [_layers(count, seed) for seed in seeds] for count, seeds in ((30, (0, 1, 2)), (12, (3, 4, 5)))
    )
    for layers, seed in ((train, 6), (test, 7)):
        count = len(layers[1][0])
        layers[1] = [
            9 * np.random.default_rng(seed).standard_normal((count, 20)).astype(np.float32),
            layers[1][1],
        ]
    return train, test


def test_the_grams_of_discriminators_add_up_to_that_of_all_their_layers() -> None:
    """One discriminator after the other, whatever their architectures, gives what concatenation gives."""
    train, test = _neighborhood()
    found = train_products(iter(train), concatenated)
    joined, other = (np.hstack([layer for part in parts for layer in part]) for parts in (train, test))
    scale = np.linalg.norm(joined, axis=1).mean()
    np.testing.assert_allclose(found.train_NN, joined @ joined.T / scale**2, atol=1e-5)
    products, squares = cross_products(iter(test), iter(train), np.arange(30), found.factors)
    np.testing.assert_allclose(products, other @ joined.T / scale**2, atol=1e-5)
    np.testing.assert_allclose(squares, (np.linalg.norm(other, axis=1) / scale) ** 2, rtol=1e-5)


def test_balanced_layers_of_every_discriminator_count_the_same() -> None:
    """A neighbour whose numbers are larger does not drown the others."""
    train, test = _neighborhood()
    found = train_products(train, balanced)
    norms = [np.linalg.norm(layer, axis=1).mean() for part in train for layer in part]
    layers = [[layer for part in parts for layer in part] for parts in (train, test)]
    joined, other = (
        np.hstack([layer / norm for layer, norm in zip(each, norms, strict=True)]) for each in layers
    )
    scale = np.linalg.norm(joined, axis=1).mean()
    np.testing.assert_allclose(found.train_NN, joined @ joined.T / scale**2, atol=1e-5)
    products, _ = cross_products(test, train, np.arange(30), found.factors)
    np.testing.assert_allclose(products, other @ joined.T / scale**2, atol=1e-5)


def test_kernels_match_their_definitions() -> None:
    """exp(-gamma |x - y|²), and the inner product itself."""
    rows, columns = _layers(5, 0)[0], _layers(6, 1)[0]
    products = rows @ columns.T
    own, other = ((part.astype(np.float64) ** 2).sum(axis=1) for part in (rows, columns))
    distances = ((rows[:, None] - columns[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(kernel(products, own, other, 0.5), np.exp(-0.5 * distances), rtol=1e-4)
    linear = kernel(products, own, other, None)
    np.testing.assert_allclose(linear, products)
    assert linear.dtype == np.float64
    assert linear.flags.c_contiguous


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_a_precomputed_kernel_gives_the_same_svm(gamma: float | None) -> None:
    """The Gram matrices are a shortcut, not another method."""
    train, test = _layers(90, 0)[:1], _layers(60, 1)[:1]
    labels = np.asarray((train[0][:, 0] > 0).astype(np.int64) + (train[0][:, 1] > 0))
    truth = np.asarray((test[0][:, 0] > 0).astype(np.int64) + (test[0][:, 1] > 0))
    products = train_products([train], concatenated)
    scale = np.linalg.norm(train[0], axis=1).mean()
    plain = SVC(kernel="linear" if gamma is None else "rbf", C=3, gamma=gamma or "scale")
    expected = 100 * (plain.fit(train[0] / scale, labels).predict(test[0] / scale) != truth).mean()
    name = "linear" if gamma is None else "rbf"
    choice = Choice(name, gamma, 3, 0)  # type: ignore[arg-type]  # one of two names
    machines = fit(products, labels, {choice.kernel: choice})
    found = errors_of(machines, [train], [test], len(labels), truth)
    assert found == {name: pytest.approx(expected, abs=1e-9)}


def test_of_many_images_hyperparameters_are_chosen_by_some_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third of each class, of the rarest too, and always all held-out ones."""
    train, labels = _layers(100, 0), np.random.default_rng(0).integers(0, 2, 100)
    labels[:90] = np.repeat([0, 1, 2], [2, 43, 45])
    products = train_products([train], concatenated).train_NN
    some = np.r_[0, 2:45:3, 45:90:3, 90:100]
    expected = choose(products[np.ix_(some, some)], labels[some], len(some) - 10)
    assert expected != choose(products, labels, 90)
    monkeypatch.setattr("eval.svm._CHOSEN_BY", 30)
    assert choose(products, labels, 90) == expected


def test_a_tenth_of_every_class_is_held_out() -> None:
    """In proportion, without repeats, and told by the seed."""
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    order, fit_count = split(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(160))
    assert fit_count == 144
    assert np.bincount(labels[order[fit_count:]]).tolist() == [10, 5, 1]
    again, _ = split(labels, np.random.default_rng(0))
    np.testing.assert_array_equal(order, again)
    other, _ = split(labels, np.random.default_rng(1))
    assert not np.array_equal(order, other)


def test_a_class_of_two_keeps_one_to_learn_from() -> None:
    """Whatever the draw, or the SVM could not know the class while choosing."""
    labels = np.repeat([0, 1], [18, 2])
    for seed in range(20):
        order, fit_count = split(labels, np.random.default_rng(seed))
        assert set(labels[order[:fit_count]]) == {0, 1}


def test_the_choice_is_made_on_the_held_out_images() -> None:
    """Rings around one another: no line parts them, and a narrow enough kernel does."""
    generator = np.random.default_rng(0)
    angle, radius = generator.uniform(0, 2 * np.pi, 200), np.repeat([1.0, 2.0], 100)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    order, fit_count = split(np.repeat([0, 1], 100), generator)
    points, labels = points[order], np.repeat([0, 1], 100)[order]
    products = train_products([[points]], concatenated)
    found = choose(products.train_NN, labels, fit_count)
    assert found["rbf"].held_out_error == 0
    assert found["linear"].held_out_error > 20
    assert found["linear"].gamma is None


def test_the_standard_error_is_binomial() -> None:
    """2.5% of 10,000: the 0.16 that a difference must exceed."""
    assert binomial_error(2.5, 10_000) == pytest.approx(0.156, abs=1e-3)


def test_a_run_is_probed_with_its_floors(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Five ways to describe an image, each with two kernels and the choice between them."""
    run = read_run(make_toy_run(tmp_path / "run"))
    told: list[str] = []
    result = probe(run, [1, 3], 0, floors=True, tell=told.append)
    assert len(result.rows) == 15
    assert told == [f"toy: node {n}, {s}" for n in (1, 3) for s in ("trained D", "untrained D", "raw pixels")]
    assert (result.run_id, result.policy, result.data_set, result.seed) == ("toy", "uniform", "squares", 0)
    for row in result.rows:
        assert [node.node for node in row.nodes] == [1, 3]
        assert row.lowest <= row.mean <= row.highest
    pixels = next(row for row in result.rows if row.source == "pixels" and row.kernel == "linear")
    assert pixels.mean == 0  # squares in three corners are easily told apart
    assert pixels.nodes[0].features == 64
    assert pixels.nodes[0].checkpoint is None


def test_the_headline_is_the_papers_row(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Trained, all layers; for each node the kernel that did better on its own held-out images."""
    run = read_run(make_toy_run(tmp_path / "run"))
    result = probe(run, [1, 2, 3], 0, floors=False)
    assert len(result.rows) == 6
    row = result.headline
    assert (row.source, row.layers, row.kernel) == ("discriminator", "all", "chosen")
    node = row.nodes[1]
    assert (node.training_images, node.held_out_images, node.test_images) == (40, 4, 60)
    assert node.features == 16 * 32 + 4 * 12 + 1
    assert node.checkpoint == "nodes/2/checkpoints/cycle-00000030.safetensors"
    assert node.cycle == 30
    by_kernel = {other.kernel: other.nodes[1] for other in result.rows if other.layers == "all"}
    assert node.held_out_error == min(by_kernel[name].held_out_error for name in ("linear", "rbf"))


def test_a_probe_can_be_repeated(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """One seed, one result."""
    run = read_run(make_toy_run(tmp_path / "run"))
    assert probe(run, [2], 5, floors=True) == probe(run, [2], 5, floors=True)


def test_all_nodes_are_checked_before_the_first_is_probed(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """An hour's work should not end at the last node's missing labels."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shard = load_shard(run.node(3).shard)
    save_shard(run.node(3).shard, dataclasses.replace(shard, labels=None))
    told: list[str] = []
    with pytest.raises(InputError, match="the shard has no labels"):
        probe(run, [1, 2, 3], 0, floors=True, tell=told.append)
    assert told == []


def test_a_node_with_one_class_is_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """An SVM has nothing to tell apart there."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shard = load_shard(run.node(1).shard)
    save_shard(run.node(1).shard, Shard(shard.images, np.zeros(40, np.int64), classes=("a", "b", "c")))
    with pytest.raises(InputError, match="40 images, 1 classes with more than one; a node to probe needs"):
        probe(run, [1], 0, floors=True)


def _blind(run: RunDirectory, node_id: int) -> None:
    """Overwrites a node's checkpoint with one whose D sees nothing: all its weights are 0."""
    old = run.checkpoint(node_id)
    tensors = {
        name: torch.zeros_like(tensor) if name.startswith("discriminator.") else tensor
        for name, tensor in old.tensors.items()
    }
    checkpoint.save(run.node(node_id).directory, old.meta, tensors)


def test_neighbours_tell_apart_what_a_node_cannot(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """The neighbourhood stands in rows of its own beside the node's D, and is never the headline."""
    run = read_run(make_toy_run(tmp_path / "run"))
    _blind(run, 2)
    told: list[str] = []
    result = probe(run, [2], 0, floors=False, neighborhood=True, tell=told.append)
    assert told == ["toy: node 2, trained D", "toy: node 2, D and neighbours' D"]
    rows = {(row.source, row.layers): row for row in result.rows if row.kernel == "chosen"}
    assert set(rows) == {(s, n) for s in ("discriminator", "neighborhood") for n in ("all", "pooled")}
    for layers in ("all", "pooled"):
        assert rows["discriminator", layers].mean > 50
        assert rows["neighborhood", layers].mean < 10
    assert [row for row in result.rows if row.headline] == [rows["discriminator", "all"]]
    own, joined = (rows[source, "all"].nodes[0] for source in ("discriminator", "neighborhood"))
    assert (joined.checkpoint, joined.cycle) == (own.checkpoint, own.cycle)
    assert joined.neighbor_checkpoints == tuple(
        f"nodes/{other}/checkpoints/cycle-00000030.safetensors" for other in (1, 3)
    )
    assert own.neighbor_checkpoints == ()
    assert joined.features == 3 * own.features


def test_a_neighbour_may_have_another_architecture(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Its layers need not be as wide as the node's."""
    run = read_run(make_toy_run(tmp_path / "run"))
    first, second, third = run.nodes
    run = dataclasses.replace(run, nodes=(first, dataclasses.replace(second, architecture="paper"), third))
    old = run.checkpoint(2)
    other = Discriminator(run.architecture(2), 8, 1)
    initialise(other, "he", torch.Generator().manual_seed(0))
    tensors = add_prefix(other.state_dict(), "discriminator")
    checkpoint.save(run.node(2).directory, dataclasses.replace(old.meta, architecture="paper"), tensors)
    result = probe(run, [1], 0, floors=False, neighborhood=True)
    own, joined = (
        next(row.nodes[0] for row in result.rows if (row.source, row.layers) == (source, "all"))
        for source in ("discriminator", "neighborhood")
    )
    wide = sum(layer.shape[1] for layer in layer_features(other, run.test_images().images[:1]))
    assert joined.features == 2 * own.features + wide
    assert wide != own.features


def test_a_neighbour_without_a_checkpoint_is_told_first(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Whoever is not asked for its neighbourhood does not mind."""
    run = read_run(make_toy_run(tmp_path / "run"))
    shutil.rmtree(run.node(3).directory)
    told: list[str] = []
    with pytest.raises(InputError, match="no folder of node 3"):
        probe(run, [1, 2], 0, floors=False, neighborhood=True, tell=told.append)
    assert told == []
    assert probe(run, [1], 0, floors=False).headline.nodes[0].node == 1
