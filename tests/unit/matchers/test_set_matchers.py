"""Matchers of whole sets, each against a slow, literal transcription in float64."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import make_matcher
from atom_plugin.matchers.kernel_regression import NeuralFeatureRegression, ridge_predictions
from atom_plugin.matchers.set_matcher import LABELS, STEP_SIZES, SetMatcher, SetStep
from atom_plugin.matchers.trajectories import TrajectoryMatching
from atom_plugin.matchers.unrolled import DatasetDistillation, LabelDistillation
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.network_pool import NetworkPool, flat_weights
from atom_plugin.runtime.randomness import generator_for

CLASSES, SHAPE = 3, (2, 8, 8)
NETWORK = ConvNetConfig(width=4, depth=2, normalisation="instance")


def value(scalar):
    return scalar.detach().item()


def network(seed=0):
    made = NETWORK.build(SHAPE, CLASSES, generator=generator_for(seed, "network")).double()
    return made.requires_grad_(False)


def a_step(matcher: SetMatcher, *, ipc=2, pool=None, carried=None, tiles=1):
    generator = generator_for(1, "images")
    images = torch.randn(CLASSES * ipc * tiles, *SHAPE, generator=generator, dtype=torch.float64).requires_grad_()
    stored = torch.arange(CLASSES).repeat_interleave(ipc)
    learned = matcher.learned(stored, CLASSES)
    return SetStep(
        images=images,
        labels=torch.arange(CLASSES).repeat_interleave(ipc * tiles),
        learned={name: item.start.double().requires_grad_() for name, item in learned.items()},
        carried=carried or {},
        network=network(),
        real_images=torch.randn(CLASSES * 4, *SHAPE, generator=generator, dtype=torch.float64),
        real_labels=torch.arange(CLASSES).repeat_interleave(4),
        generator=generator_for(2, "step"),
        augment=lambda some, generator: some,
        pool=pool,
    )


def plainly_trained(start, batches, rates):
    """A copy of ``start`` after torch's own SGD, a rate for each batch."""
    trained = copy.deepcopy(start).requires_grad_(True)
    for (images, targets), rate in zip(batches, rates, strict=True):
        loss = F.cross_entropy(trained(images.detach()), targets.detach())
        for parameter, slope in zip(
            trained.parameters(), torch.autograd.grad(loss, list(trained.parameters())), strict=True
        ):
            parameter.data -= rate * slope
    return trained


def assert_slopes(matcher, step, *names, eps=1e-6):
    """The gradients for the images and what is learned are those of finite differences, along a random direction each."""
    leaves = {"images": step.images, **step.learned}
    slopes = torch.autograd.grad(matcher.loss(step), [leaves[name] for name in names])
    for name, slope in zip(names, slopes, strict=True):
        direction = torch.randn(slope.shape, generator=generator_for(3, name), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            moved = (leaves[name].detach() + sign * eps * direction).requires_grad_()
            there = {"images": moved} if name == "images" else {"learned": {**step.learned, name: moved}}
            values.append(value(matcher.loss(replace(step, generator=generator_for(2, "step"), **there))))
        assert float((slope * direction).sum()) == pytest.approx(
            (values[0] - values[1]) / (2 * eps), rel=1e-3, abs=1e-7
        )
        assert bool(slope.abs().sum() > 0)


def test_dd_is_the_error_after_plain_steps_at_each_step_size():
    matcher = DatasetDistillation(steps=3, step_size=0.3, loss_scale=2.0)
    step = a_step(matcher)
    sizes = torch.tensor([0.3, 0.1, 0.5], dtype=torch.float64)
    step = replace(step, learned={STEP_SIZES: sizes.requires_grad_()})
    trained = plainly_trained(step.network, [(step.images, step.labels)] * 3, sizes.tolist())
    expected = 2 * F.cross_entropy(trained(step.real_images), step.real_labels)
    assert value(matcher.loss(step)) == pytest.approx(value(expected), rel=1e-10)
    assert_slopes(matcher, step, "images", STEP_SIZES)


def test_ld_trains_on_the_softmax_of_its_labels_and_leaves_the_images():
    matcher = LabelDistillation(steps=2, step_size=0.3, label_share=0.8)
    assert not matcher.moves_images
    step = a_step(matcher, tiles=4)
    shares = step.learned[LABELS].softmax(1)
    assert torch.allclose(shares[torch.arange(6), torch.arange(3).repeat_interleave(2)], torch.full((6,), 0.8).double())
    targets = shares.repeat_interleave(4, dim=0)
    trained = plainly_trained(step.network, [(step.images, targets)] * 2, [0.3, 0.3])
    assert value(matcher.loss(step)) == pytest.approx(
        value(F.cross_entropy(trained(step.real_images), step.real_labels)), rel=1e-8
    )
    assert_slopes(matcher, step, LABELS, STEP_SIZES)


def a_pool(epochs=(0, 1, 2, 3), networks=2):
    weights = torch.stack([torch.stack([flat_weights(network(10 * r + e)) for e in epochs]) for r in range(networks)])
    return NetworkPool(
        network=NETWORK,
        image_shape=SHAPE,
        classes=CLASSES,
        epochs=epochs,
        weights=weights,
        accuracies=(0.5,) * networks,
        fingerprint="x",
        preprocessing="x",
        made={},
    )


@pytest.mark.parametrize("label_lr", [0.0, 1.0])
def test_mtt_is_the_students_distance_from_the_expert(label_lr):
    pool = a_pool()
    matcher = TrajectoryMatching(
        student_steps=5, expert_epochs=2, student_batch=4, step_size=0.2, label_lr=label_lr, oldest=1, youngest=1
    )
    step = a_step(matcher, pool=pool)
    generator = generator_for(2, "step")
    expert = pool.weights[int(torch.randint(2, (), generator=generator))].double()
    torch.randint(1, (), generator=generator)  # the age: one is left
    targets = step.labels if not label_lr else step.learned[LABELS].softmax(1)
    batches = []
    while len(batches) < 5:
        batches += [(step.images[rows], targets[rows]) for rows in torch.randperm(6, generator=generator).split(4)]
    start = network()
    torch.nn.utils.vector_to_parameters(expert[1], start.parameters())
    trained = plainly_trained(start, batches[:5], [value(step.learned[STEP_SIZES])] * 5)
    ended = torch.nn.utils.parameters_to_vector(trained.parameters())
    expected = (ended - expert[3]).square().sum() / (expert[1] - expert[3]).square().sum()
    assert value(matcher.loss(step)) == pytest.approx(value(expected), rel=1e-8)
    step = replace(step, generator=generator_for(2, "step"))
    assert_slopes(matcher, step, "images", STEP_SIZES, *([LABELS] if label_lr else []))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"expert_epochs": 4}, "two epochs 4 apart"), ({"youngest": 2}, "the first from 2 to 2")],
)
def test_mtt_refuses_a_pool_without_such_ages(options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        TrajectoryMatching(**options).check(network(), a_pool())
    assert "0, 1, 2, 3" in str(caught.value) and "--every 1" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 1]), ({"oldest": 3}, [0, 1, 2, 3]), ({"youngest": 3}, [3]), ({"expert_epochs": 4, "oldest": 4}, [0, 1])],
)
def test_students_start_in_the_first_quarter_of_the_experts_training(options, expected):
    pool = a_pool(epochs=(0, 1, 2, 3, 4, 5), networks=1)
    assert TrajectoryMatching(**options)._starts(pool) == expected


def test_mtt_refuses_to_run_without_a_pool():
    with pytest.raises(ConfigError, match=r"found no pool .* --pool"):
        TrajectoryMatching().check(network(), None)


def test_frepo_is_ridge_regression_on_the_embedding():
    matcher = NeuralFeatureRegression(networks=2, oldest=10, ridge=1e-3, loss_scale=3.0)
    carried = {name: item.double() for name, item in matcher.carried(network(), generator_for(0, "carried")).items()}
    step = a_step(matcher, carried=carried)
    apart = torch.randn(
        6, 3, generator=generator_for(4, "labels"), dtype=torch.float64
    )  # no two alike: a margin has kinks
    step = replace(step, learned={LABELS: (step.learned[LABELS].detach() + 0.1 * apart).requires_grad_()})
    index = matcher._drawn(step)
    seen = network()
    torch.nn.utils.vector_to_parameters(carried["weights"][index].double(), seen.parameters())
    real, synthetic = (seen.features(side).embedding.detach().numpy() for side in (step.real_images, step.images))
    labels = step.learned[LABELS].detach().numpy()
    kernel = synthetic @ synthetic.T
    kernel += 1e-3 * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
    predicted = real @ synthetic.T @ np.linalg.inv(kernel) @ labels
    expected = np.eye(3)[step.real_labels.numpy()] - 1 / 3
    error = np.mean([0.5 * np.sum((a - b) ** 2) for a, b in zip(predicted, expected, strict=True)])
    top = np.sort(labels, axis=1)
    margin = np.mean([min(row[-1] - row[-2], 1 / 3) for row in top])
    assert value(matcher.loss(step)) == pytest.approx(3 * (error - margin), rel=1e-8)
    assert_slopes(matcher, step, "images", LABELS, eps=1e-4)


def test_ridge_predictions_of_the_images_themselves_are_their_labels():
    images, labels = torch.randn(5, 20).double(), torch.randn(5, 3).double()
    torch.testing.assert_close(ridge_predictions(images, images, labels, ridge=1e-12), labels)


@pytest.mark.parametrize("width", [3, 8, 20])
def test_ridge_predictions_in_float32_are_those_of_the_kernel_in_float64(width):
    generator = torch.Generator().manual_seed(0)
    real, images, labels = (torch.randn(n, d, generator=generator) for n, d in ((4, width), (8, width), (8, 3)))
    kernel = images.double() @ images.double().T
    inverse = torch.linalg.inv(kernel + 1e-6 * kernel.trace() / 8 * torch.eye(8))
    expected = real.double() @ images.double().T @ inverse @ labels.double()
    found = ridge_predictions(real, images, labels, ridge=1e-6)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_networks_of_frepo_take_steps_of_torchs_adam_and_start_anew():
    matcher = NeuralFeatureRegression(networks=1, oldest=3, online_lr=0.01)
    plain = replace(
        NETWORK, normalisation="none"
    )  # else biases get no gradient but rounding, which Adam makes a step of
    single = plain.build(SHAPE, CLASSES, generator=generator_for(0, "network")).requires_grad_(False)
    step = a_step(matcher, carried=matcher.carried(single, generator_for(0, "carried")))
    step = replace(
        step,
        network=single,
        images=step.images.detach().float(),
        learned={LABELS: step.learned[LABELS].float()},
        real_images=step.real_images.float(),
    )
    oracle = plain.build(SHAPE, CLASSES)
    torch.nn.utils.vector_to_parameters(step.carried["weights"][0].clone(), oracle.parameters())
    adam = torch.optim.Adam(oracle.parameters(), lr=0.01)
    for taken in range(1, 4):
        matcher.loss(step)
        matcher.advance(step)
        adam.zero_grad()
        loss = ((oracle(step.images) - step.learned[LABELS].detach()) ** 2).sum(1).mean() / 2
        loss.backward()
        adam.step()
        expected = torch.nn.utils.parameters_to_vector(oracle.parameters()).detach()
        torch.testing.assert_close(step.carried["weights"][0], expected, rtol=1e-4, atol=1e-5)
        assert int(step.carried["ages"][0]) == taken
    matcher.advance(step)
    assert int(step.carried["ages"][0]) == 0
    assert not bool(step.carried["first moment"].any())


def test_dcc_compares_the_gradients_of_all_classes_together():
    matcher = make_matcher("dcc")
    step = a_step(DatasetDistillation())
    sums = []
    for images, labels in ((step.real_images, step.real_labels), (step.images.detach(), step.labels)):
        seen = network().requires_grad_(True)
        weights = [item for item in seen.parameters() if item.ndim > 1]
        per_class = [
            torch.autograd.grad(F.cross_entropy(seen(images[labels == k]), labels[labels == k]), weights)
            for k in range(3)
        ]
        sums.append([sum(own) for own in zip(*per_class, strict=True)])
    expected = 0.0
    for a, b in zip(*sums, strict=True):
        for row, other in zip(a.flatten(1), b.flatten(1), strict=True):
            # the matcher divides by the number of classes, which its 1e-6 sees
            expected += 1 - float(row @ other) / 9 / (float(row.norm() * other.norm()) / 9 + 1e-6)
    found = matcher.loss(step.network, step.real_images, step.images, step.real_labels, step.labels)
    assert value(found) == pytest.approx(expected, rel=1e-8)
    grouped = matcher.grouped_loss(step.network, step.real_images, step.images, groups=3)
    assert value(grouped) == pytest.approx(expected, rel=1e-8)
    assert not matcher.separates


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dd", {"steps": 0}, "steps must be a whole number of 1 or more, not 0"),
        ("dd", {"step_size": 0.0}, "step_size must be above 0"),
        ("ld", {"label_share": 1.0}, "label_share must be above 0 and below 1"),
        ("mtt", {"youngest": 3, "oldest": 2}, "found ages from 3 to 2"),
        ("mtt", {"student_batch": -1}, "student_batch must be a whole number of 1 or more"),
        ("frepo", {"networks": 0}, "networks must be a whole number of 1 or more"),
        ("frepo", {"ridge": -1.0}, "ridge"),
    ],
)
def test_impossible_options_are_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_matcher(name, options)


def test_a_loop_that_knows_features_only_is_told_what_to_call():
    step = a_step(DatasetDistillation())
    features = network().features(step.real_images)
    with pytest.raises(ConfigError, match=r"needs the whole set.* loss\(step\)"):
        DatasetDistillation()(features, features)
