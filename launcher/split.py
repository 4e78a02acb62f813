"""Which node holds which images: pure, seeded and disjoint.

    K nodes, C classes that occur, N training images

The sizes of the shards and their mix of classes are settled apart. Sizes follow `shares` (equal where empty) and add
up to K x `images_per_node`, or to N where that is 0. The rule then decides who gets which class:

- `iid`: an even draw.
- `dirichlet`: node k's mix of classes is drawn from Dirichlet(alpha C p), where p is the data set's own mix, so that
  balanced classes give the symmetric Dirichlet(alpha); after Hsu, Qi and Brown (2019), who fix the sizes too. As no
  image is held twice, a class that runs out is shared fairly among those who ask for it, and they go on with the rest
  of their mix, or with a new one where nothing of it is left.
- `classes`: the classes are dealt around in a ring, `classes_per_node` at a time, so each is held by as many nodes as
  any other, give or take one, and neighbours in a ring of the node ids share none where K x `classes_per_node` <= C.
  A class is divided among its holders by their shares, so sizes follow the classes' where `images_per_node` is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from node.config import SplitSettings
from topology.errors import InputError

_STREAM = 0x73706C6974  # "split": keeps this stream apart from all others of the same seed
_LEAST, _MOST = 1e-6, 1e6  # one class a node, and p itself, for all purposes: any alpha stays computable
Index = NDArray[np.int64]


def split(
    labels: NDArray[np.int64], node_ids: tuple[int, ...], how: SplitSettings, seed: int, *, at_least: int = 2
) -> dict[int, Index]:
    """The positions of each node's images, in random order: any piece of a shard is a fair sample of it.

    Args:
        labels: Label of each of the N training images.
        node_ids: Nodes in the order that `shares` and the ring of `classes` follow.
        how: The rule and its numbers.
        seed: Same arguments, same split.
        at_least: Fewest images that a node can use, such as one batch.

    Returns:
        For each node its positions in `labels`; no position occurs twice.

    Raises:
        InputError: The data set cannot be shared out like this; where a number is too large, the line tells the
            largest possible one.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
    weights = _weights(len(node_ids), how.shares)
    if how.rule == "classes":
        parts = _classes(labels, weights, how, rng)
    elif how.images_per_node * len(node_ids) > len(labels):
        asked = f"{how.images_per_node} for each of {len(node_ids)} nodes, but there are {len(labels)} training images"
        raise InputError("split.images_per_node", asked, f"at most {len(labels) // len(node_ids)}")
    elif how.rule == "dirichlet":
        parts = _dirichlet(labels, _sizes(len(labels), weights, how), how.alpha, rng)
    else:
        parts = _cut(rng.permutation(len(labels)), _sizes(len(labels), weights, how))
    _check(parts, node_ids, len(labels), at_least)
    return {node_id: rng.permutation(part) for node_id, part in zip(node_ids, parts, strict=True)}


def _check(parts: list[Index], node_ids: tuple[int, ...], images: int, at_least: int) -> None:
    for node_id, part in zip(node_ids, parts, strict=True):
        if len(part) < at_least:
            problem = f"node {node_id} would hold {len(part)} training image(s), and {at_least} make a batch"
            mend = "more images, fewer nodes, evener shares, or a smaller training.batch_size"
            raise InputError("split", problem, mend)
    if np.bincount(np.concatenate(parts), minlength=images).max() > 1:
        raise AssertionError("the split gives one image to two nodes")


def _weights(nodes: int, shares: tuple[float, ...]) -> NDArray[np.float64]:
    if not shares:
        return np.ones(nodes)
    if len(shares) != nodes:
        raise InputError(
            "split.shares", f"{len(shares)} numbers for {nodes} nodes", "one for each node, or none at all"
        )
    if not all(share > 0 for share in shares):
        raise InputError("split.shares", f"{list(shares)}", "numbers above 0")
    return np.array(shares, dtype=np.float64)


def _sizes(images: int, weights: NDArray[np.float64], how: SplitSettings) -> Index:
    return _apportion(how.images_per_node * len(weights) or images, weights)


def _apportion(total: int, weights: NDArray[np.float64]) -> Index:
    """Whole numbers in proportion to the weights that add up to `total`: largest remainders, the first ones first."""
    exact = total * weights / weights.sum()
    parts: Index = np.floor(exact).astype(np.int64)
    most_wanting = np.argsort(parts - exact, kind="stable")
    parts[most_wanting[: total - int(parts.sum())]] += 1
    return parts


def _cut(pool: Index, sizes: Index) -> list[Index]:
    """Consecutive pieces of the pool; what is left over at the end is nobody's."""
    ends = np.cumsum(sizes)
    return [pool[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _pools(labels: NDArray[np.int64], rng: np.random.Generator) -> list[Index]:
    """Positions of each class that occurs, shuffled."""
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def _dirichlet(
    labels: NDArray[np.int64], sizes: Index, alpha: float, rng: np.random.Generator
) -> list[Index]:
    pools = _pools(labels, rng)
    left_C = np.array([len(pool) for pool in pools])
    mixes_KC = _mixes(len(sizes), left_C, alpha, rng)
    dealt_KC = np.zeros_like(mixes_KC, dtype=np.int64)
    # Each turn either fills every node or empties a class, so there are at most C + 1 turns.
    while (dealt_KC.sum(axis=1) < sizes).any():
        wanted_KC = _wishes(sizes - dealt_KC.sum(axis=1), mixes_KC, left_C, alpha, rng)
        for label in np.flatnonzero(wanted_KC.sum(axis=0) > left_C):
            wanted_KC[:, label] = rng.multivariate_hypergeometric(wanted_KC[:, label], left_C[label])
        dealt_KC += wanted_KC
        left_C = left_C - wanted_KC.sum(axis=0)
    pieces = [_cut(pool, dealt) for pool, dealt in zip(pools, dealt_KC.T, strict=True)]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def _wishes(
    needs_K: Index, mixes_KC: NDArray[np.float64], left_C: Index, alpha: float, rng: np.random.Generator
) -> Index:
    """How many images of each class every node draws next from its mix of the classes that are left."""
    chances_KC = mixes_KC * (left_C > 0)
    # A node whose classes have all run out draws another mix: still a skewed one where alpha is small.
    lost_K = chances_KC.sum(axis=1) == 0
    chances_KC[lost_K] = _mixes(int(lost_K.sum()), left_C, alpha, rng)
    return rng.multinomial(needs_K, chances_KC / chances_KC.sum(axis=1, keepdims=True))


def _mixes(nodes: int, left_C: Index, alpha: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(nodes, C) shares of the classes that are left, each row from Dirichlet(alpha C p)."""
    has_C = left_C > 0
    mixes_KC = np.zeros((nodes, len(left_C)))
    concentration_C = min(alpha, _MOST) * has_C.sum() * left_C[has_C] / left_C.sum()
    mixes_KC[:, has_C] = rng.dirichlet(np.maximum(concentration_C, _LEAST), size=nodes)
    return mixes_KC


def _classes(
    labels: NDArray[np.int64], weights: NDArray[np.float64], how: SplitSettings, rng: np.random.Generator
) -> list[Index]:
    pools = _pools(labels, rng)
    each = how.classes_per_node
    if each > len(pools):
        raise InputError(
            "split.classes_per_node", f"{each}, but {len(pools)} classes occur", f"1 to {len(pools)}"
        )
    order = rng.permutation(len(pools))
    slots_KC = np.arange(len(weights) * each).reshape(len(weights), each) % len(pools)
    pieces: list[list[Index]] = [[] for _ in weights]
    for position, label in enumerate(order):
        holders = np.flatnonzero((slots_KC == position).any(axis=1))
        if len(holders) > 0:
            cuts = _cut(pools[label], _apportion(len(pools[label]), weights[holders]))
            for holder, piece in zip(holders, cuts, strict=True):
                pieces[holder].append(piece)
    parts = [rng.permutation(np.concatenate(piece)) for piece in pieces]
    if how.images_per_node == 0:
        return parts
    held = np.array([len(part) for part in parts])
    sizes = _sizes(len(labels), weights, how)
    if (sizes > held).any():
        asked = f"{how.images_per_node} for each node, more than {each} classes a node leave"
        raise InputError("split.images_per_node", asked, f"at most {_most_images(held, weights)}")
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _most_images(held: Index, weights: NDArray[np.float64]) -> int:
    """The largest `images_per_node` that no node lacks images for."""
    # A size is its exact share rounded up or down, so no more than this can fit.
    most = int(((held + 1) * weights.sum() / (len(held) * weights)).min())
    while (_apportion(most * len(held), weights) > held).any():
        most -= 1
    return most
