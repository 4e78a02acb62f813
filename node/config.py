"""Every knob of a run, described once; frozen, complete and recorded. Imports no torch.

A run's settings are resolved in one order: the defaults below, then a preset file (`node/presets/NAME.toml`),
then the `[run]` table of `peers.toml` or the `--set section.key=value` options. Unknown keys are refused.
Units stand in the names: `_s` seconds, `_cycles` turns of Algorithm 1's outer loop, `_epochs` passes of
floor(N / batch size) cycles.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from topology.errors import InputError

PRESETS = ("quick", "paper", "best")
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 64


class Section(BaseModel):
    """Base of every table of settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ImageSettings(Section):
    """The images that every node models (P8)."""

    size: int = Field(0, ge=0, le=MAX_IMAGE_SIZE)
    """Height and width in pixels, 8 to 64; 0 takes the data set's own."""
    channels: Literal[0, 1, 3] = 0
    """1 grey or 3 colour; 0 takes the data set's own."""
    resize: Literal["antialias", "crop"] = "antialias"
    """How a larger image becomes `size`: antialiased resize of the whole, or the centre crop."""

    @model_validator(mode="after")
    def _size_is_usable(self) -> Self:
        if 0 < self.size < MIN_IMAGE_SIZE:
            raise ValueError(
                f"size = {self.size}; an architecture takes {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels"
            )
        return self


class SplitSettings(Section):
    """How a data set becomes private, disjoint shards (P2, P11)."""

    images_per_node: int = Field(0, ge=0)
    """Training images of each node; 0 shares out all of them."""
    rule: Literal["iid", "dirichlet", "classes"] = "iid"
    """`iid`; `dirichlet`: each node draws its mix of classes; `classes`: each node holds `classes_per_node`."""
    alpha: float = Field(0.5, gt=0)
    """Concentration of the `dirichlet` mixes: small is more skewed (Hsu et al. 2019)."""
    classes_per_node: int = Field(2, ge=1)
    """Classes of each node under `classes`."""
    shares: tuple[float, ...] = ()
    """Relative sizes of the shards in the order of the node ids; empty makes them equal."""
    test_images: int = Field(0, ge=0)
    """Test images kept for the evaluator; 0 keeps all."""


class Architecture(Section):
    """One structure of generator and discriminator; both ends of an edge know it by name (P3, P8).

    Widths count channels from the input to the output and leave out the last layer (1 value in D, the image's
    channels in G). An image size asks for more or fewer layers than listed: the first width is repeated, or the
    first ones are dropped, so that the layers next to the output keep theirs.
    """

    discriminator_widths: tuple[int, ...] = Field((64, 64, 12), min_length=1)
    """Channels of D's hidden convolutions; (64, 64, 12) at 20x20 gives the paper's 8049 features."""
    generator_widths: tuple[int, ...] = Field((64, 32), min_length=1)
    """Channels of G's hidden fractionally strided convolutions."""
    latent_size: int = Field(100, ge=1)
    """Length of the noise vector z."""
    slope: float = Field(0.2, ge=0, lt=1)
    """LeakyReLU's slope in D."""
    first_batchnorm: bool = True
    """Batch normalisation after D's first convolution too (section 4), which DCGAN leaves out. As no batch mixes real and
    generated images, it hides brightness and contrast from D."""
    image_moments: bool = False
    """Whether D's logit also weighs the mean and the mean square of the image's values, channel by channel: what that hides.
    Without, little keeps the background of generated images black."""

    @model_validator(mode="after")
    def _widths_are_positive(self) -> Self:
        for name in ("discriminator_widths", "generator_widths"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name} = {list(getattr(self, name))}; every width is at least 1")
        return self


DEFAULT_ARCHITECTURE = "paper"
BUILT_IN_ARCHITECTURES: dict[str, Architecture] = {
    "paper": Architecture(),
    "wide": Architecture(discriminator_widths=(48, 128, 12), generator_widths=(128, 64)),
    "light": Architecture(discriminator_widths=(32, 32, 12), generator_widths=(32, 16)),
}


class DiscriminatorSettings(Section):
    """Training of D: lines 2-6 of Algorithm 1, Eq. (3)."""

    learning_rate: float = Field(0.1, gt=0)
    """Step of stochastic gradient descent."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of stochastic gradient descent; 0 is plain SGD."""
    loss_threshold: float = Field(1.3, gt=0)
    """LossThres(1): in epoch n D learns from batches while its loss on them is above this over n. At chance it is 1.39."""
    max_steps: int = Field(3, ge=1)
    """Cap on the inner loop's steps in one cycle, since `while Loss > LossThres` need not end."""
    label_noise: float = Field(0.2, ge=0)
    """Standard deviation of the Gaussian noise on the labels 1 (real) and 0 (generated)."""
    initialisation: Literal["he", "dcgan"] = "he"
    """He's normal, or DCGAN's N(0, 0.02)."""


class GeneratorSettings(Section):
    """Training of G: lines 7, 8 and 12 of Algorithm 1, Eq. (4)."""

    loss: Literal["saturating", "non_saturating"] = "non_saturating"
    """`saturating` descends log(1 - D(G(z))), Eq. (4) to the letter; `non_saturating` descends -log D(G(z))."""
    learning_rate: float = Field(2e-4, gt=0)
    """Adam's step size."""
    beta1: float = Field(0.5, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Adam's decay of the second moment."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Images are drawn with a moving average of G's weights, which keeps at most this share of itself in a cycle (`node/ema.py`); 0
    draws with the last weights. G learns alike either way."""
    initialisation: Literal["he", "dcgan"] = "dcgan"
    """He's normal, or DCGAN's N(0, 0.02)."""


class CooperationSettings(Section):
    """Lines 9-12 of Algorithm 1."""

    consider_probability: float = Field(0.5, ge=0, le=1)
    """Probability that a cycle considers the neighbours (line 9)."""
    criterion: Literal["eq6", "bernoulli", "capped", "tempered", "objection", "competence", "novelty"] = "eq6"
    """What `info-gain` weighs neighbours by. `eq6`: Eq. (6) with negative values clamped to 0; `bernoulli`: the full
    Bernoulli KL; `capped`: the same, no image counting for more than log 2; `tempered`: its square root; `objection`: Eq. (6)
    the other way round, over images that the neighbour's D takes for real less than the own; `competence`: the Bernoulli KL
    times how well the neighbour's D tells the node's real images from its generated ones; `novelty`: how far the change that
    the neighbour's D asks of a generated image points away from what the own D asks."""
    statistics_weight: float = Field(3.0, ge=0)
    """Under `territories`: what it counts in G's loss how far a neighbour's part of its images is, layer by layer, from the running
    statistics of batch normalisation that the neighbour's D came with; 0 leaves that out."""
    max_age_s: float = Field(60.0, gt=0)
    """A neighbour silent for longer is no candidate (async mode), by this node's monotonic clock."""


class ExchangeSettings(Section):
    """Publishing and receiving snapshots."""

    publish_every_cycles: int = Field(10, ge=1)
    """Cycles between two published snapshots; in lockstep, the length of a block."""
    republish_s: float = Field(3.0, gt=0)
    """The newest snapshot is sent again after this long without a new one."""
    payload: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights on the wire."""
    lockstep_timeout_s: float = Field(120.0, gt=0)
    """Longest wait for the neighbours' block before the node gives up with exit status 75."""
    linger_s: float = Field(60.0, ge=0)
    """Longest time a finished node goes on serving neighbours that have not finished."""


class TrainingSettings(Section):
    """What is neither D's nor G's alone."""

    batch_size: int = Field(100, ge=2)
    """m of Algorithm 1: images, and noise vectors, in one batch."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the convolutions (autocast); weights, losses and optimisers stay float32. `auto`: bfloat16 on
    a processor that is faster in it, else float32."""
    device: str = Field("cpu", pattern=r"^(cpu|auto|cuda(:\d+)?)$")
    """`cpu`, `cuda`, `cuda:N`, or `auto`: a GPU where there is one, node 3 of a machine with two on the second."""
    cuda_graphs: bool = True
    """Whether a GPU replays a cycle as graphs of kernels, instead of being told each kernel by Python."""
    threads: int = Field(1, ge=1)
    """Threads of one node's arithmetic."""


class CheckpointSettings(Section):
    """What is saved, and when. Lockstep runs save at every block beside."""

    every_epochs: int = Field(1, ge=1)
    """Epochs between checkpoints."""
    every_s: float = Field(60.0, gt=0)
    """Longest time between checkpoints."""
    keep: int = Field(3, ge=1)
    """Newest checkpoints kept."""
    keep_epochs: tuple[int, ...] = ()
    """Epochs whose final checkpoint is kept for good."""


class OutputSettings(Section):
    """Metrics and pictures."""

    metrics_every_cycles: int = Field(10, ge=1)
    """Cycles summed up in one line of metrics.jsonl."""
    samples_every_epochs: int = Field(1, ge=1)
    """Epochs between grids of generated images."""
    sample_images: int = Field(64, ge=1, le=1024)
    """Images in a grid, from noise that stays the same through the run."""


class Settings(Section):
    """All settings of a run; the same for every node."""

    preset: str = "quick"
    """The preset these settings started from."""
    policy: Literal[
        "alone",
        "uniform",
        "info-gain",
        "alone-matched",
        "uniform-untrained",
        "forgiving",
        "gossip",
        "territories",
    ] = "info-gain"
    """Whose discriminator the generator also learns against (P7). The paper's: `alone` nobody's; `uniform` any
    neighbour's; `info-gain` that of a neighbour drawn by `cooperation.criterion`. Controls that it lacks: `alone-matched`
    its own once more, as often as `uniform` a neighbour's; `uniform-untrained` a random one that was never trained, in the
    place of the neighbour's. For skewed data: `forgiving` for each image that of all, its own among them, which takes it for
    the most real (F2U, arXiv 1905.09684). Two that average D with each new snapshot of a neighbour (D-PSGD, arXiv 1705.09056):
    `gossip`, else as `alone-matched`; `territories`, for skewed data, whose generator answers in each part of its noise to
    another discriminator, its own or a neighbour's, and is led to what a neighbour's has seen."""
    epochs: int = Field(1, ge=1)
    """Passes over a node's shard, floor(N / batch size) cycles each."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Root of every random stream, of the split too."""
    lockstep: bool = False
    """Exchange in blocks, so that a run can be repeated bit for bit; else the newest that has arrived."""
    image: ImageSettings = ImageSettings()
    split: SplitSettings = SplitSettings()
    architecture: dict[str, Architecture] = Field(default_factory=lambda: dict(BUILT_IN_ARCHITECTURES))
    """Structures by name; `peers.toml` names one for each node."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    generator: GeneratorSettings = GeneratorSettings()
    cooperation: CooperationSettings = CooperationSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    training: TrainingSettings = TrainingSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    output: OutputSettings = OutputSettings()

    @property
    def stands_alone(self) -> bool:
        """Whether nothing is exchanged: no link is opened, and no neighbour, key or port is needed."""
        return self.policy in ("alone", "alone-matched")

    @property
    def averages(self) -> bool:
        """Whether a node's discriminator is averaged with those of its neighbours."""
        return self.policy in ("gossip", "territories")

    @model_validator(mode="after")
    def _kept_epochs_exist(self) -> Self:
        for epoch in self.checkpoint.keep_epochs:
            if not 1 <= epoch <= self.epochs:
                raise ValueError(
                    f"checkpoint.keep_epochs names epoch {epoch}; the run has epochs 1 to {self.epochs}"
                )
        return self

    def to_toml(self) -> str:
        """The complete settings as TOML, as `resolve` reads it back."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def resolve(where: str | Path, *layers: Mapping[str, Any]) -> Settings:
    """Settings from the defaults, a preset and further layers, later ones winning.

    The preset is the last one that a layer names under `preset`, else `quick`.

    Args:
        where: What an error names as the place of the layers, such as the path of `peers.toml`.
        layers: Nested tables in the shape of `Settings`.

    Raises:
        InputError: A key is unknown or a value is out of bounds.
    """
    preset = next((layer["preset"] for layer in reversed(layers) if "preset" in layer), "quick")
    if preset not in PRESETS:
        raise InputError(where, f"preset = {preset!r} is unknown", f"one of {', '.join(PRESETS)}")
    merged: dict[str, Any] = {
        "architecture": {name: a.model_dump(mode="json") for name, a in BUILT_IN_ARCHITECTURES.items()},
    }
    for layer in (_preset(preset), *layers, {"preset": preset}):
        merged = merge(merged, layer)
    return validated(where, merged)


def validated(where: str | Path, table: Mapping[str, Any]) -> Settings:
    """Settings as a table has them and no preset, refused as by `resolve`.

    Of a complete record: what came with a later version has its default, whatever the preset says now.
    """
    try:
        return Settings.model_validate(table)
    except ValidationError as error:
        raise _input_error(where, error) from None


def check_territories(
    where: str | Path, settings: Settings, node_id: int, architecture: str, neighbors: int
) -> None:
    """Refuses what cannot be divided among a node and its neighbours.

    Raises:
        InputError: Under `territories`, too few numbers in the noise, or too few images in a batch to be normalised by.
    """
    if settings.policy != "territories":
        return
    parts = 1 + neighbors
    for field, value, least in (
        (f"architecture.{architecture}.latent_size", settings.architecture[architecture].latent_size, parts),
        ("training.batch_size", settings.training.batch_size, 2 * parts),
    ):
        if value < least:
            problem = f"{field} = {value} is too small for node {node_id}, which has {neighbors} neighbours"
            raise InputError(where, problem, f"at least {least} under policy = territories")


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """`section.key=value` words as one nested layer; a value is read as TOML, else taken as text.

    Raises:
        InputError: A word has no `=` or an empty key.
    """
    layer: dict[str, Any] = {}
    for word in assignments:
        path, equals, text = word.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise InputError("--set", f"{word!r} is no assignment", "section.key=value")
        value: Any = _toml_value(text.strip())
        for key in reversed(keys):
            value = {key: value}
        layer = merge(layer, value)
    return layer


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _preset(name: str) -> dict[str, Any]:
    return tomllib.loads(
        resources.files("node").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    )


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, one over the other."""
    merged = dict(under)
    for key, value in over.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_tables else value
    return merged


def _input_error(where: str | Path, error: ValidationError) -> InputError:
    """The first complaint as one line; a misspelt key gets the nearest right one."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        mend = (
            f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known keys: {', '.join(known)}"
        )
        return InputError(where, f"unknown setting {field}", mend)
    if first["type"] == "value_error":
        problem, _, mend = str(first["ctx"]["error"]).partition("; ")
        return InputError(where, f"{field}: {problem}" if field else problem, mend)
    message = first["msg"]
    return InputError(where, f"{field} = {first['input']!r}", message[0].lower() + message[1:])


def _known_keys(path: list[str]) -> list[str]:
    """Keys that the table at `path` takes; below `architecture` every name holds an Architecture."""
    section: type[Section] = Settings
    for part in path:
        annotation = section.model_fields[part].annotation if part in section.model_fields else Architecture
        section = annotation if isinstance(annotation, type) and issubclass(annotation, Section) else section
    return sorted(section.model_fields)
