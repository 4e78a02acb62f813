"""Whether half the bits end as well: one node trained in bfloat16, or five whose snapshots travel in it.

    python -m benchmarks.equality MNIST_FOLDER [--subject training|payload] [--seeds 80] [--probed 25] [--epochs 10]
        [--device DEVICE]

`training`: each seed is one node of the `paper` preset with its own 10,000 of MNIST's training images, trained once in each
number format. `payload`: each seed is the five nodes of the paper's ring under `uniform`, trained in float32, whose
neighbours' discriminators arrive once in each number format; its figures are means of the five. Both of a pair start from the
same weights and see the same images and noise, for the same number of epochs. With one step of D in a cycle, as where the
training's speed is measured: how many it takes else depends on its losses. Two formats round differently, and after some
hundred cycles two trainings share nothing but their distribution, so that it takes many seeds to tell a difference of a few
percent from chance. Two things are compared, each the mean over the last epochs, every one of which is a draw of its own: the
probe's error with the RBF kernel, at one fixed setting, and KID of the generator against the test images. The probe takes most
of the time and is the steadier of the two, so that only the first seeds are probed. A processor without instructions for
bfloat16 rounds as one that has them. On a GPU nodes train by replayed graphs; what is judged is judged on the CPU.

Every finished pair is written to results/equality.json, or equality-payload.json, at once. A second start goes on with the
seeds that are missing, or are to be probed and were not, and with more of them if it is told so, on another machine too: both
trainings of a pair are of the same one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import EVERY_CYCLE, machine
from benchmarks.provenance import ROOT, commit
from benchmarks.rounding import in_bfloat16
from eval import classifier
from eval.classifier import Classifier, Recipe
from eval.features import generated_images, layer_features
from eval.grams import concatenated, train_products
from eval.metrics import kernel_distance
from eval.statistics import mean
from eval.svm import Choice, errors_of, fit
from launcher.datasets import load_data
from launcher.images import render
from node.config import Settings, resolve
from node.files import make_directory, write_json
from node.hardware import choose_device, computes_in_bfloat16, prepare_processor
from node.models import Discriminator
from node.shards import Shard
from node.trainer import Trainer
from topology.errors import InputError
from topology.graph import ring

PRECISIONS = ("float32", "bfloat16")
_IMAGES = 10_000
_KEPT_EPOCHS = 5
_NODES = 5
_RBF = Choice("rbf", gamma=1.0, c=10.0, held_out_error=float("nan"))
_PROBE_LIMIT, _KID_LIMIT = 0.15, 5.0  # points, percent


@dataclass(frozen=True)
class Outcome:
    """What one training ends with: means over the last epochs.

    Attributes:
        probe: Wrong test images in percent; None where this seed is not probed.
        kid: Of generated images.
    """

    probe: float | None
    kid: float


@dataclass(frozen=True)
class Pair:
    """What was trained in both number formats.

    Attributes:
        seed: Of its weights, noise and images.
        float32: What came of it.
        bfloat16: The same.
        computed: Whether what trained computes in bfloat16, rather than rounding to it.
        machine: What it was trained on.
        commit: State of the project that it was trained with.
    """

    seed: int
    float32: Outcome
    bfloat16: Outcome
    computed: bool
    machine: dict[str, Any]
    commit: str | None = None

    @classmethod
    def read(cls, found: dict[str, Any]) -> Pair:
        """One from the file of results."""
        return cls(**{**found, **{name: Outcome(**found[name]) for name in PRECISIONS}})


@dataclass(frozen=True)
class Plan:
    """What is the same for every pair.

    Attributes:
        data: The folder of MNIST.
        classifiers: Where the classifier lies.
        subject: `training` or `payload`.
        epochs: Of every training.
        probed: How many seeds' features are probed, the first ones.
        device: Where nodes train, one of torch's devices.
    """

    data: str
    classifiers: Path
    subject: str
    epochs: int
    probed: int
    device: str


@dataclass(frozen=True)
class Data:
    """MNIST at 20x20 pixels, and what KID is measured with."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    model: Classifier
    reference_Nn: NDArray[np.float64]


def main() -> None:
    """Trains what is missing and says what all of it shows."""
    options = _options()
    settings = {
        "epochs": options.epochs,
        "images": _IMAGES,
        "kept_epochs": _KEPT_EPOCHS,
        "c": _RBF.c,
        "gamma": _RBF.gamma,
    }
    done = {found["seed"]: Pair.read(found) for found in _done(options.output, settings)}
    classifiers = ROOT / "runs" / "equality.classifiers"
    make_directory(classifiers)
    read(options.data, classifiers)  # makes the classifier before two processes want it
    missing = [
        seed
        for seed in range(options.seeds)
        if seed not in done or (seed < options.probed and done[seed].float32.probe is None)
    ]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's products, in processes that are yet to start
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        plan = Plan(
            options.data, classifiers, options.subject, options.epochs, options.probed, options.device
        )
        work = partial(train_both, plan, commit())
        for finished in as_completed([pool.submit(work, seed) for seed in missing]):
            pair = finished.result()
            done[pair.seed] = pair
            print(pair, flush=True)
            _write(options, settings, done.values())
    _write(options, settings, done.values())
    print(json.dumps(compare(done.values()), indent=1))


def train_both(plan: Plan, made_by: str | None, seed: int) -> Pair:
    """The nodes in one number format, then from the beginning in the other."""
    prepare_processor(1)
    data = read(plan.data, plan.classifiers)
    plain, reduced = (train(plan, data, seed, form) for form in PRECISIONS)
    device = torch.device(plan.device)
    computed = device.type != "cpu" or computes_in_bfloat16()
    return Pair(seed, plain, reduced, computed, machine(device), made_by)


def train(plan: Plan, data: Data, seed: int, form: str) -> Outcome:
    """What the nodes have learnt after so many epochs, in one number format."""
    nodes = start(plan, data, seed, form)
    payload = form if plan.subject == "payload" else "float32"
    device = torch.device(plan.device)
    published = {i: deepcopy(trainer.discriminator) for i, (trainer, _) in nodes.items()}
    heard = {i: {j: published[j] for j in ring(_NODES).neighbors(i) if j in published} for i in nodes}
    kids, probes = [], []
    for epoch in range(plan.epochs):
        with in_bfloat16(device):
            for cycle in range(nodes[1][0].cycles_per_epoch):
                for i, (trainer, _) in nodes.items():
                    if cycle % trainer.settings.exchange.publish_every_cycles == 0:
                        publish(trainer, published[i], payload)
                for i, (trainer, _) in nodes.items():
                    trainer.cycle(heard[i].copy)
        if epoch >= plan.epochs - _KEPT_EPOCHS:
            kids += [kid(trainer, data, seed) for trainer, _ in nodes.values()]
            probes += [probe(trainer, data, own) for trainer, own in nodes.values() if seed < plan.probed]
    return Outcome(float(np.mean(probes)) if probes else None, float(np.mean(kids)))


def start(plan: Plan, data: Data, seed: int, form: str) -> dict[int, tuple[Trainer, NDArray[np.int64]]]:
    """Fresh nodes, each with the positions of its images."""
    count = _NODES if plan.subject == "payload" else 1
    chosen = np.random.default_rng(seed).choice(len(data.images), count * _IMAGES, replace=False)
    settings = settings_of(seed, plan.subject, form, plan.device)
    return {
        i: (
            Trainer(settings, "paper", i, Shard(data.images[own]), neighbor_ids=ring(_NODES).neighbors(i)),
            own,
        )
        for i, own in enumerate(np.split(chosen, count), start=1)
    }


def publish(trainer: Trainer, copy: Discriminator, payload: str) -> None:
    """The discriminator as neighbours get it: rounded as the wire rounds."""
    dtype = torch.bfloat16 if payload == "bfloat16" else torch.float32
    state = trainer.discriminator.state_dict()
    copy.load_state_dict({name: tensor.to(dtype).float() for name, tensor in state.items()})


def settings_of(seed: int, subject: str, form: str, device: str) -> Settings:
    """The paper preset with one step of D in every cycle: alone, or listening."""
    policy, precision = ("uniform", "float32") if subject == "payload" else ("alone", form)
    training = {"precision": precision, "device": device}
    tables = {"seed": seed, "training": training, "discriminator": EVERY_CYCLE}
    return resolve("benchmark", {"preset": "paper", "policy": policy}, tables)


def probe(trainer: Trainer, data: Data, chosen: NDArray[np.int64]) -> float:
    """Wrong test images in percent, by the features of the discriminator, which is left as it is."""
    discriminator = deepcopy(trainer.discriminator).cpu()
    train_layers, test_layers = (
        layer_features(discriminator, images) for images in (data.images[chosen], data.test_images)
    )
    products = train_products([train_layers], concatenated)
    machines = fit(products, data.labels[chosen], {"rbf": _RBF})
    return errors_of(machines, [train_layers], [test_layers], len(chosen), data.test_labels)["rbf"]


def kid(trainer: Trainer, data: Data, seed: int) -> float:
    """KID of the generator, which is left as it is."""
    images = generated_images(deepcopy(trainer.average_generator).cpu().eval(), len(data.test_images), seed)
    features_Mn = classifier.describe(data.model, images)
    return float(kernel_distance(data.reference_Nn, features_Mn, 100, 1000, np.random.default_rng(seed)).mean)


@cache
def read(folder: str, classifiers: Path) -> Data:
    """The images, and the classifier, which is trained by the first that asks."""
    found = load_data(folder)
    image = settings_of(0, "training", "float32", "cpu").image.model_copy(update={"channels": 1})
    (train_images, labels), (test_images, test_labels) = found.train, found.test
    pixels, test_pixels = (
        render(images, np.arange(len(images)), image) for images in (train_images, test_images)
    )
    model, _ = classifier.kept(classifiers, pixels, labels, len(found.classes), Recipe(seed=0))
    return Data(pixels, labels, test_pixels, test_labels, model, classifier.describe(model, test_pixels))


def compare(pairs: Collection[Pair]) -> dict[str, Any]:
    """bfloat16 less float32 with 95% intervals over seeds: probe in points, KID in percent of float32's mean."""
    probes = [
        (pair.float32.probe, pair.bfloat16.probe)
        for pair in pairs
        if pair.float32.probe is not None and pair.bfloat16.probe is not None
    ]
    kids = [(pair.float32.kid, pair.bfloat16.kid) for pair in pairs]
    if len(probes) < 2:  # noqa: PLR2004 - one has no spread
        return {}
    plain_kid, reduced_kid = np.mean(kids, axis=0).tolist()
    plain_probe, reduced_probe = np.mean(probes, axis=0).tolist()
    points = interval([reduced - plain for plain, reduced in probes])
    percent = interval([100 * (reduced - plain) / plain_kid for plain, reduced in kids])
    return {
        "seeds": len(pairs),
        "probed": len(probes),
        "computed": sum(pair.computed for pair in pairs),
        "probe_points": points | {"limit": _PROBE_LIMIT, "within": _inside(points, _PROBE_LIMIT)},
        "kid_percent": percent | {"limit": _KID_LIMIT, "within": _inside(percent, _KID_LIMIT)},
        "means": {
            "float32": {"probe": plain_probe, "kid": plain_kid},
            "bfloat16": {"probe": reduced_probe, "kid": reduced_kid},
        },
    }


def interval(differences: Sequence[float]) -> dict[str, float]:
    """Mean and Student's 95% interval."""
    found = mean({seed: {0: value} for seed, value in enumerate(differences)})
    if found is None or found.student is None:
        raise ValueError("one difference has no spread")
    return {"mean": found.value, "low": found.student.low, "high": found.student.high}


def _inside(found: dict[str, float], limit: float) -> bool:
    return -limit <= found["low"] and found["high"] <= limit


def _done(output: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Finished pairs of the same settings; those of others are not to be overwritten."""
    if not output.exists():
        return []
    found = json.loads(output.read_bytes())
    if found["settings"] != settings:
        sys.exit(f"{output} holds pairs with {found['settings']}, not {settings}; name another --output")
    return list(found["pairs"])


def _write(options: argparse.Namespace, settings: dict[str, Any], done: Collection[Pair]) -> None:
    words = f"--subject {options.subject} --seeds {options.seeds} --probed {options.probed} --epochs {options.epochs}"
    words += "" if options.device == "cpu" else f" --device {options.device}"
    result = {
        "command": f"python -m benchmarks.equality MNIST_FOLDER {words}",
        "settings": settings,
        "found": compare(done),
        "pairs": [asdict(each) for each in sorted(done, key=lambda each: each.seed)],
    }
    write_json(options.output, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a folder with MNIST's four IDX files, or `mnist` to download them")
    parser.add_argument("--subject", choices=("training", "payload"), default="training")
    parser.add_argument("--seeds", type=int, default=80)
    parser.add_argument("--probed", type=int, default=25, help="seeds whose features are probed too")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2, help="pairs at a time")
    parser.add_argument("--device", default="cpu", help="where nodes train: cpu, cuda or auto")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        options.device = str(choose_device(options.device, 0))
    except (InputError, RuntimeError) as error:
        parser.error(str(error))
    name = "equality.json" if options.subject == "training" else f"equality-{options.subject}.json"
    options.output = options.output or ROOT / "results" / name
    return options


if __name__ == "__main__":
    main()
