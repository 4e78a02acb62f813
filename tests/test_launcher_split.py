"""Splits: disjoint, repeatable, of the sizes and classes asked for, and refused with the largest number possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from launcher.split import split
from node.config import SplitSettings
from topology.errors import InputError

FIVE = (1, 2, 3, 4, 5)
LABELS = np.repeat(np.arange(10), 100)  # ten classes of a hundred images


def share(
    labels: NDArray[np.int64] = LABELS, ids: tuple[int, ...] = FIVE, seed: int = 0, **data: Any
) -> dict[int, NDArray[np.int64]]:
    """A split under these data settings."""
    return split(labels, ids, SplitSettings(**data), seed)


def counts(parts: dict[int, NDArray[np.int64]], labels: NDArray[np.int64] = LABELS) -> NDArray[np.int64]:
    """(K, C) images of each class at each node."""
    classes = int(labels.max()) + 1
    return np.array([np.bincount(labels[part], minlength=classes) for part in parts.values()])


def refusal(**data: Any) -> str:
    """The line that refuses these settings."""
    with pytest.raises(InputError) as caught:
        share(**data)
    line = str(caught.value)
    assert "\n" not in line
    return line


@given(
    rule=st.sampled_from(["iid", "dirichlet", "classes"]),
    alpha=st.floats(1e-9, 1e9),
    nodes=st.integers(1, 8),
    seed=st.integers(0, 2**63 - 1),
    images_per_node=st.just(0) | st.integers(8, 20),
    shares=st.lists(st.floats(0.5, 2.0), min_size=8, max_size=8) | st.none(),
)
def test_no_image_is_held_twice_whatever_the_rule(
    rule: str, alpha: float, nodes: int, seed: int, images_per_node: int, shares: list[float] | None
) -> None:
    """Positions are distinct, within the data set, and as many as asked for."""
    parts = share(
        ids=tuple(range(1, nodes + 1)),
        seed=seed,
        rule=rule,
        alpha=alpha,
        images_per_node=images_per_node,
        shares=shares[:nodes] if shares else (),
    )
    held = np.concatenate(list(parts.values()))
    assert len(np.unique(held)) == len(held)
    assert held.min() >= 0
    assert held.max() < len(LABELS)
    if images_per_node:
        assert len(held) == images_per_node * nodes


@pytest.mark.parametrize("rule", ["iid", "dirichlet", "classes"])
def test_the_same_seed_gives_the_same_split_and_another_seed_another(rule: str) -> None:
    """The split is a function of its arguments."""
    first, again, other = (share(rule=rule, seed=seed) for seed in (7, 7, 8))
    assert all(np.array_equal(first[node], again[node]) for node in FIVE)
    assert any(not np.array_equal(first[node], other[node]) for node in FIVE)


def test_an_iid_split_shares_out_everything_evenly() -> None:
    """Sizes differ by one at most, and every node sees every class."""
    labels = LABELS[:-3]
    parts = share(labels)
    sizes = [len(part) for part in parts.values()]
    assert sum(sizes) == len(labels)
    assert max(sizes) - min(sizes) <= 1
    assert counts(parts, labels).min() > 0


def test_shares_set_the_sizes_in_the_order_of_the_nodes() -> None:
    """Relative numbers, of any scale; with `images_per_node` that is their mean."""
    assert [len(part) for part in share(shares=(1, 2, 3, 2, 2)).values()] == [100, 200, 300, 200, 200]
    parts = share(shares=(1, 2, 3, 2, 2), images_per_node=100, rule="dirichlet")
    assert [len(part) for part in parts.values()] == [50, 100, 150, 100, 100]


def test_dirichlet_sizes_are_exact_and_a_small_alpha_skews_the_labels() -> None:
    """The largest class of a node grows from a tenth to most of what it holds."""
    tops = {}
    for alpha in (1e-6, 0.1, 1000.0):
        held = counts(share(rule="dirichlet", alpha=alpha))
        assert held.sum(axis=1).tolist() == [200] * 5
        tops[alpha] = (held.max(axis=1) / held.sum(axis=1)).mean()
    assert tops[1000.0] < 0.2
    assert 0.3 < tops[0.1] < tops[1e-6]


def test_a_vanishing_alpha_still_leaves_each_node_few_classes() -> None:
    """A node whose classes run out draws another skewed mix, not a sample of all that is left."""
    held = counts(share(rule="dirichlet", alpha=1e-6))
    assert (np.count_nonzero(held, axis=1) <= 4).all()


def test_a_large_alpha_follows_an_uneven_data_set() -> None:
    """Each node's mix tends to the data set's, not to equal classes."""
    labels = np.repeat([0, 1], [900, 100])
    held = counts(share(labels, rule="dirichlet", alpha=1e9), labels)
    assert (held[:, 1] < 60).all()
    assert held.sum() == 1000


def test_classes_are_covered_evenly_and_ring_neighbours_share_none() -> None:
    """Five nodes with two of ten classes each: every class has one holder."""
    held = counts(share(rule="classes", classes_per_node=2)) > 0
    assert held.sum(axis=1).tolist() == [2] * 5
    assert held.sum(axis=0).tolist() == [1] * 10


def test_classes_have_equally_many_holders_give_or_take_one() -> None:
    """Five nodes with three of ten classes each: fifteen places over ten classes."""
    held = counts(share(rule="classes", classes_per_node=3))
    assert (held > 0).sum(axis=1).tolist() == [3] * 5
    assert sorted((held > 0).sum(axis=0).tolist()) == [1] * 5 + [2] * 5
    assert held.sum() == len(LABELS), "images_per_node = 0 shares out all of them"


def test_classes_trim_each_node_to_the_images_asked_for() -> None:
    """Exact sizes, of the node's own classes alone."""
    held = counts(share(rule="classes", classes_per_node=2, images_per_node=150))
    assert held.sum(axis=1).tolist() == [150] * 5
    assert ((held > 0).sum(axis=1) == 2).all()


def test_labels_that_never_occur_are_no_classes() -> None:
    """Label 0 of a data set that counts from 1 is dealt to nobody."""
    labels = LABELS + 1
    held = counts(share(labels, rule="classes", classes_per_node=2), labels)
    assert (held > 0).sum(axis=0).tolist() == [0] + [1] * 10


@pytest.mark.parametrize("rule", ["iid", "dirichlet"])
def test_too_many_images_are_refused_with_the_largest_number(rule: str) -> None:
    """And that number works."""
    assert refusal(rule=rule, images_per_node=201).endswith("at most 200")
    assert "split.images_per_node: 201 for each of 5 nodes" in refusal(rule=rule, images_per_node=201)
    assert [len(part) for part in share(rule=rule, images_per_node=200).values()] == [200] * 5


@pytest.mark.parametrize("shares", [(), (1, 1, 1, 1, 1.5)])
def test_too_many_images_of_few_classes_are_refused_with_the_largest_number(
    shares: tuple[float, ...],
) -> None:
    """Classes with two holders bound it; one image more is refused."""
    data: dict[str, Any] = {"rule": "classes", "classes_per_node": 3, "shares": shares}
    most = int(refusal(images_per_node=10_000, **data).rsplit(" ", 1)[1])
    assert len(np.concatenate(list(share(images_per_node=most, **data).values()))) == 5 * most
    assert refusal(images_per_node=most + 1, **data).endswith(f"at most {most}")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"shares": (1, 2)}, "split.shares: 2 numbers for 5 nodes"),
        ({"shares": (1, 2, 3, 4, 0)}, "numbers above 0"),
        (
            {"rule": "classes", "classes_per_node": 11},
            "split.classes_per_node: 11, but 10 classes occur; 1 to 10",
        ),
        ({"images_per_node": 1}, "split: node 1 would hold 1 training image(s), and 2 make a batch"),
        ({"shares": (1, 1, 1, 1, 1e-9)}, "node 5 would hold 0"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_in_one_line(data: dict[str, Any], told: str) -> None:
    """The line names the field and the value."""
    assert told in refusal(**data)


def test_a_shard_smaller_than_a_batch_is_refused() -> None:
    """`at_least` names the node that would get too few."""
    with pytest.raises(InputError, match=r"node 1 would hold 200 .* 201 make a batch"):
        split(LABELS, FIVE, SplitSettings(), 0, at_least=201)
