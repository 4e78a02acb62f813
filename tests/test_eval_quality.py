"""Generated images against test images, and the classifier that they are compared by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from eval import classifier as classifiers
from eval.classifier import Classifier, Recipe, full_contrast, shuffled
from eval.quality import (
    CONFIDENCE,
    Reference,
    held_classes,
    origins,
    quality,
    score,
    training_pool,
    training_shards,
)
from eval.results import ClassOrigins, QualityScores, read_quality, write_result
from eval.runs import RunDirectory, read_run
from node.shards import load_shard, save_shard
from topology.errors import InputError

pytestmark = pytest.mark.system

MakeRun = Callable[..., Path]


@pytest.fixture
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares in corners are learned in a few steps."""
    monkeypatch.setattr("eval.quality.Recipe", lambda seed: Recipe(seed=seed, steps=60))


def test_contrast_is_stretched_image_by_image() -> None:
    """A grey square on grey reads as a white one on black; a flat image as nothing."""
    faint = torch.full((1, 1, 8, 8), 0.1)
    faint[..., :4] = 0.3
    strong = torch.full((1, 1, 8, 8), -1.0)
    strong[..., :4] = 1.0
    flat = torch.full((1, 1, 8, 8), 0.5)
    stretched = full_contrast(torch.cat([faint, strong, flat]))
    assert torch.allclose(stretched[:2], strong.expand(2, 1, 8, 8), atol=1e-5)
    assert torch.equal(stretched[2:], torch.zeros(1, 1, 8, 8))


def test_shuffled_images_keep_their_grey_levels_and_nothing_else() -> None:
    """Without blur they are the same pixels elsewhere; with it, noise at full contrast all the same."""
    images = torch.full((4, 1, 8, 8), -1.0)
    images[..., :4, :4] = 1.0
    seen = set()
    for seed in range(12):
        noise = shuffled(images, torch.Generator().manual_seed(seed))
        assert noise.shape == images.shape
        assert noise.amin() == -1
        assert noise.amax() == 1
        levels = len(set(noise.flatten().tolist()))
        seen.add(levels == 2)
        if levels == 2:
            assert torch.equal(noise.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))
            assert not torch.equal(noise, images)
    assert seen == {True, False}


def test_noise_is_no_class(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """A generator that never learned must not seem to cover classes."""
    images = read_run(make_toy_run(tmp_path / "run")).training_images(1)
    model = classifiers.train(images.images, images.labels, 3, Recipe(seed=0, steps=100))
    noise = np.random.default_rng(0).normal(128, 30, (200, 8, 8, 1)).clip(0, 255).astype(np.uint8)
    assert (classifiers.judge(model, noise).max(axis=1) > 0.9).mean() < 0.02
    assert (classifiers.judge(model, images.images).max(axis=1) > 0.9).mean() > 0.95


def test_equal_inputs_give_an_equal_classifier(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """So that runs on the same data are compared by the same features."""
    images = read_run(make_toy_run(tmp_path / "run")).training_images(1)
    recipe = Recipe(seed=1, steps=5)
    models = [classifiers.train(images.images, images.labels, 3, recipe) for _ in range(2)]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name])


def test_the_digest_covers_images_labels_and_recipe() -> None:
    """A cached classifier of other data must not be taken."""
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1])
    digests = {
        classifiers.digest(images, labels, 2, Recipe(0)),
        classifiers.digest(images + np.uint8(1), labels, 2, Recipe(0)),
        classifiers.digest(images, labels[::-1], 2, Recipe(0)),
        classifiers.digest(images, labels, 3, Recipe(0)),
        classifiers.digest(images, labels, 2, Recipe(1)),
    }
    assert len(digests) == 5


def test_a_classifier_is_read_back_only_with_its_digest(tmp_path: Path) -> None:
    """A missing, foreign or torn file is no classifier; it is only a cache."""
    path = tmp_path / "eval" / "classifier.safetensors"
    model, other = Classifier(1, 3, (16, 32)), Classifier(1, 3, (16, 32))
    assert not classifiers.load(path, other, "one")
    classifiers.save(path, model, "one")
    assert not classifiers.load(path, other, "two")
    assert classifiers.load(path, other, "one")
    assert torch.equal(model.last.weight, other.last.weight)
    path.write_bytes(path.read_bytes()[:100])
    assert not classifiers.load(path, other, "one")


@pytest.mark.usefixtures("_short_training")
def test_every_nodes_images_are_judged(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """With the real training images as the reference point, which the untrained generators do not reach."""
    run = read_run(make_toy_run(tmp_path / "run"))
    told: list[str] = []
    result = quality(run, [1, 3], 0, tmp_path, told.append)
    assert len(told) == 4
    assert result.classes == ("a", "b", "c")
    assert result.reference_images == 60
    assert result.classifier.training_images == 120
    assert result.classifier.test_error < 2
    assert result.real.images == 60
    assert result.real.classes_covered == 3
    assert result.real.class_share_needed == pytest.approx(0.2 / 3)
    assert sum(result.real.class_shares) == pytest.approx(result.real.confident)
    assert [node.node for node in result.nodes] == [1, 3]
    for node in result.nodes:
        assert node.checkpoint == f"nodes/{node.node}/checkpoints/cycle-00000030.safetensors"
        assert node.scores.images == 60
        assert node.scores.fid > 2 * result.real.fid
        assert node.scores.kid > result.real.kid + result.real.kid_sd
        assert node.scores.coverage < result.real.coverage


@pytest.mark.usefixtures("_short_training")
def test_the_classifier_is_trained_once(
    make_toy_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in a folder under its digest; another seed and another run on the same data take it from there."""
    first, second = (read_run(make_toy_run(tmp_path / name)) for name in ("first", "second"))
    folder = tmp_path / "classifiers"
    result = quality(first, [1], 0, folder)
    (file,) = folder.iterdir()
    assert file.name == f"{result.classifier.digest}.safetensors"
    monkeypatch.setattr(classifiers, "train", lambda *_: pytest.fail("trained again"))
    assert quality(first, [1], 0, folder) == result
    assert quality(first, [1], 1, folder).nodes != result.nodes
    assert quality(second, [1], 0, folder).classifier == result.classifier


@pytest.mark.usefixtures("_short_training")
def test_the_classifier_learns_from_labelled_images_that_are_given(
    make_toy_run: MakeRun, tmp_path: Path
) -> None:
    """In the place of the nodes' own, which need not be here; images that are unlike the test images are refused."""
    run = read_run(make_toy_run(tmp_path / "run"))
    test = load_shard(run.path / "shards" / "test.npz")
    more, odd, other = (tmp_path / f"{name}.npz" for name in ("more", "odd", "other"))
    save_shard(more, dataclasses.replace(test, index=None))
    save_shard(odd, dataclasses.replace(test, images=test.images.repeat(2, axis=1).repeat(2, axis=2)))
    save_shard(other, dataclasses.replace(test, classes=("x", "y", "z")))
    assert quality(run, [1], 0, tmp_path, labelled=more).classifier.training_images == 60
    with pytest.raises(InputError, match=r"other\.npz: 3 classes, x, y, z; .* 3, a, b, c"):
        quality(run, [1], 0, tmp_path, labelled=other)
    with pytest.raises(InputError, match=r"odd\.npz: images of \(16, 1\).*as the test images: \(8, 1\)"):
        quality(run, [1], 0, tmp_path, labelled=odd)
    for node in run.nodes:
        node.shard.unlink()
    result = quality(run, [1], 0, tmp_path, labelled=more)
    assert result.classifier.training_images == 60
    assert result.nodes[0].origins is None


def test_a_class_of_few_images_is_not_held() -> None:
    """A tenth of an even share is; a mix that is drawn from all classes has some of each."""
    assert held_classes(np.array([0] * 980 + [2] * 10 + [5] * 9), 10) == {0, 2}
    assert held_classes(np.arange(1000) % 200, 200) == set(range(200))


def test_several_may_keep_one_classifier_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes while another has half written, and whoever reads meanwhile, has a whole one."""
    path = tmp_path / "classifiers" / "same.safetensors"
    models = [Classifier(1, 3, (16, 32)) for _ in range(3)]
    write, seen = classifiers.write_atomically, []

    def slowly(whole: Path, data: bytes) -> None:
        write(whole, data)
        if not seen:  # before this one is in its place another comes and goes
            seen.append(classifiers.load(path, models[2], "same"))
            classifiers.save(path, models[1], "same")
            seen.append(classifiers.load(path, models[2], "same"))

    monkeypatch.setattr(classifiers, "write_atomically", slowly)
    classifiers.save(path, models[0], "same")
    assert seen == [False, True]
    assert torch.equal(models[2].last.weight, models[1].last.weight)
    assert classifiers.load(path, models[2], "same")
    assert torch.equal(models[2].last.weight, models[0].last.weight)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_grey_background_costs_distance_and_no_class(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Judgements see full contrast; distances see the images as they are."""
    run = read_run(make_toy_run(tmp_path / "run"))
    own, test = run.training_images(1), run.test_images()
    model = classifiers.train(own.images, own.labels, 3, Recipe(seed=0, steps=60))
    reference = Reference.of(model, test.images)
    grey = (120 + own.images // 3).astype(np.uint8)
    plain, faint = (score(model, images, reference, 0) for images in (own.images, grey))
    assert faint.classes_covered == plain.classes_covered == 3
    assert faint.fid > 3 * plain.fid


def test_a_digit_at_half_contrast_on_grey_is_judged_as_the_digit() -> None:
    """As surely as at full contrast, though no training image looked like it."""
    digits = load_digits()
    images = (digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    model = classifiers.train(images[:1200], labels[:1200], 10, Recipe(seed=0, steps=300))
    grey = (100 + images[1200:] // 2).astype(np.uint8)
    shares = []
    for each in (images[1200:], grey):
        judged = classifiers.judge(model, each)
        shares.append(((judged.argmax(axis=1) == labels[1200:]) & (judged.max(axis=1) >= CONFIDENCE)).mean())
    assert shares[0] > 0.7
    assert shares[1] == pytest.approx(shares[0], abs=0.02)


def _scores(*class_shares: float) -> QualityScores:
    """Of images whose classes are known and nothing else."""
    return QualityScores(
        images=100, kid=0, kid_sd=0, kid_subsets=1, kid_subset_size=2, fid=0, precision=1, recall=1, density=1,
        coverage=1, neighbors=5, confident=sum(class_shares), class_shares=class_shares, classes_covered=0,
        confidence_needed=CONFIDENCE, class_share_needed=0.05,
    )  # fmt: skip


def test_covered_classes_are_told_apart_by_who_holds_them() -> None:
    """The node's own, those that only its neighbours hold, and those of neither; a share too small covers nothing."""
    held = {1: frozenset({0, 1}), 2: frozenset({1, 2, 3}), 3: frozenset({4}), 4: frozenset({5})}
    found = origins(held, 1, (2, 3), _scores(0.6, 0.04, 0.05, 0.0, 0.1, 0.2))
    assert found == ClassOrigins((0, 1), (1, 2, 3, 4), own_covered=1, neighbors_covered=2, unseen_covered=1)
    assert origins(held, 4, (), _scores(0.6, 0.04, 0.05, 0.0, 0.1, 0.2)) == ClassOrigins((5,), (), 1, 0, 3)


def test_classes_of_a_shard_that_is_elsewhere_are_not_guessed() -> None:
    """Neither a node's own nor its neighbour's; whose shard is elsewhere besides does not matter."""
    held = {1: frozenset({0, 1}), 2: frozenset({1, 2})}
    assert origins(held, 1, (2, 3), _scores(0.5, 0.5, 0)) is None
    assert origins(held, 3, (1, 2), _scores(0.5, 0.5, 0)) is None
    assert origins(held, 1, (2,), _scores(0.5, 0.5, 0)) is not None


@pytest.mark.usefixtures("_short_training")
def test_who_holds_a_class_stands_in_the_result(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Read from the shards of the run; a file from before it did is read as well."""
    run = read_run(make_toy_run(tmp_path / "run"))
    for node_id, classes in ((1, [0]), (2, [0, 1])):
        shard = load_shard(run.node(node_id).shard)
        keep = np.isin(shard.labels, classes)
        save_shard(
            run.node(node_id).shard,
            dataclasses.replace(shard, images=shard.images[keep], labels=shard.labels[keep], index=None),
        )
    result = quality(run, [1, 2], 0, tmp_path)
    first, second = (node.origins for node in result.nodes)
    assert first is not None
    assert second is not None
    assert (first.own, first.neighbors) == ((0,), (0, 1, 2))
    assert (second.own, second.neighbors) == ((0, 1), (0, 1, 2))
    path = run.evaluation / "quality.json"
    write_result(path, result)
    assert read_quality(run.evaluation) == result
    older = json.loads(path.read_text(encoding="utf-8"))
    for node in older["nodes"]:
        del node["origins"]
    path.write_text(json.dumps(older), encoding="utf-8")
    read = read_quality(run.evaluation)
    assert read is not None
    assert [node.origins for node in read.nodes] == [None, None]


def _pool(run: RunDirectory) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return training_pool(list(training_shards(run, run.test_images()).values()))


def test_the_pool_does_not_depend_on_the_split(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """The same images shared out otherwise give the same classifier."""
    run = read_run(make_toy_run(tmp_path / "run"))
    images, labels = _pool(run)
    first, third = run.node(1).shard, run.node(3).shard
    shards = load_shard(first), load_shard(third)
    save_shard(first, shards[1])
    save_shard(third, shards[0])
    again, labels_again = _pool(run)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)


def test_private_shards_that_are_elsewhere_are_left_out(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Joined folders of several machines need not bring the private images."""
    run = read_run(make_toy_run(tmp_path / "run"))
    run.node(1).shard.unlink()
    shard = load_shard(run.node(2).shard)
    save_shard(run.node(2).shard, dataclasses.replace(shard, labels=None))
    assert len(_pool(run)[0]) == 40
    run.node(3).shard.unlink()
    with pytest.raises(InputError, match=r"node-1\.npz: no such file"):
        _pool(run)


def test_too_few_test_images_are_told(make_toy_run: MakeRun, tmp_path: Path) -> None:
    """Five neighbours need six images."""
    run = read_run(make_toy_run(tmp_path / "run"))
    path = run.path / "shards" / "test.npz"
    shard = load_shard(path)
    save_shard(
        path, dataclasses.replace(shard, images=shard.images[:4], labels=np.array([0, 1, 2, 0]), index=None)
    )
    with pytest.raises(InputError, match="4 test images; at least 6"):
        quality(run, [1], 0, tmp_path)
