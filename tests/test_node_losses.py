"""Eq. (2)-(4) against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from node.losses import discriminator_loss, noisy_labels, non_saturating, saturating


def logits(*probabilities: float) -> torch.Tensor:
    """Logits of the given probabilities, float64."""
    return torch.tensor([math.log(p / (1 - p)) for p in probabilities], dtype=torch.float64)


def test_the_discriminator_loss_is_the_negated_half_of_eq_3() -> None:
    """-log D for real labels, -log(1 - D) for generated ones, means over the batch."""
    d = logits(0.8, 0.4)
    real = discriminator_loss(d, torch.ones(2, dtype=torch.float64))
    fake = discriminator_loss(d, torch.zeros(2, dtype=torch.float64))
    assert float(real) == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, abs=1e-12)
    assert float(fake) == pytest.approx(-(math.log(0.2) + math.log(0.6)) / 2, abs=1e-12)


def test_a_noisy_label_mixes_the_two_halves() -> None:
    """Label 1.1 weighs log D by 1.1 and log(1 - D) by -0.1."""
    loss = discriminator_loss(logits(0.8), torch.tensor([1.1], dtype=torch.float64))
    assert float(loss) == pytest.approx(-(1.1 * math.log(0.8) - 0.1 * math.log(0.2)), abs=1e-12)


def test_the_generator_losses_are_eq_4_and_its_non_saturating_form() -> None:
    """log(1 - D(G(z))) and -log D(G(z))."""
    d = logits(0.3, 0.6)
    assert float(saturating(d)) == pytest.approx((math.log(0.7) + math.log(0.4)) / 2, abs=1e-12)
    assert float(non_saturating(d)) == pytest.approx(-(math.log(0.3) + math.log(0.6)) / 2, abs=1e-12)


def test_losses_stay_finite_where_probabilities_round_to_0_or_1() -> None:
    """A logit of 200 is D = 1 in every float; its log(1 - D) is -200."""
    extreme = torch.tensor([200.0, -200.0])
    assert float(saturating(extreme)) == pytest.approx(-100)
    assert float(non_saturating(extreme)) == pytest.approx(100)
    assert float(discriminator_loss(extreme, torch.tensor([0.0, 1.0]))) == pytest.approx(200)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_label_noise_has_mean_0_and_the_given_deviation(label: float) -> None:
    """P9: standard deviation 0.2 around both labels; the bounds are five standard errors."""
    count = 40_000
    labels = noisy_labels(label, count, 0.2, torch.Generator().manual_seed(3))
    assert float(labels.mean()) == pytest.approx(label, abs=5 * 0.2 / math.sqrt(count))
    assert float(labels.std()) == pytest.approx(0.2, abs=5 * 0.2 / math.sqrt(2 * count))


def test_label_noise_of_0_leaves_the_labels_exact() -> None:
    """The knob can be turned off."""
    assert torch.equal(noisy_labels(1.0, 3, 0.0, torch.Generator()), torch.ones(3))
