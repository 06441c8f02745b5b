"""Kernels, CAFE and pixel matching against slow, literal transcriptions, in float64, and their paths through the loop."""

import math

import pytest
import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ImageMatcher, make_matcher
from atom_plugin.models.features import Features
from atom_plugin.runtime.randomness import generator_for

CLASSES = 3


def draw(*shape: int, purpose: str) -> torch.Tensor:
    return torch.randn(*shape, generator=generator_for(0, purpose), dtype=torch.float64)


def features(per_class: int, purpose: str) -> Features:
    count = CLASSES * per_class
    maps = (draw(count, 4, 3, 2, purpose=f"{purpose}0"), draw(count, 3, 2, 2, purpose=f"{purpose}1"))
    embedding = draw(count, 5, purpose=f"{purpose}e") + (1.0 if purpose == "real" else 0.0)
    return Features(maps=maps, embedding=embedding, groups=CLASSES)


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def mmd(real, synthetic, multipliers):
    """One class: lists of vectors. The bandwidth counts as a constant, as in M3D's released code."""
    pooled = [*real, *synthetic]
    pairs = [(i, j) for i in range(len(pooled)) for j in range(len(pooled)) if i != j]
    base = sum(float(squared(pooled[i], pooled[j]).detach()) for i, j in pairs) / len(pairs)

    def k(a, b):
        return sum(torch.exp(-squared(a, b) / (m * base)) for m in multipliers)

    def mean(first, second):
        return sum(k(a, b) for a in first for b in second) / (len(first) * len(second))

    return mean(real, real) + mean(synthetic, synthetic) - 2 * mean(real, synthetic)


def by_class(items, k):
    per_class = len(items) // CLASSES
    return list(items[k * per_class : (k + 1) * per_class])


KERNEL_CASES = [
    ({"kernel": "gaussian"}, (1.0,)),
    ({"kernel": "gaussian", "bandwidths": [0.3]}, (0.3,)),
    ({"kernel": "mixture"}, (0.25, 0.5, 1.0, 2.0, 4.0)),
    ({"kernel": "mixture", "bandwidths": [0.1, 3]}, (0.1, 3.0)),
]


@pytest.mark.parametrize(("options", "multipliers"), KERNEL_CASES)
def test_dm_with_a_kernel_is_the_discrepancy(options, multipliers):
    real, given = features(4, "real"), features(2, "synthetic")
    ours, theirs = (given.embedding.clone().requires_grad_() for _ in range(2))
    loss = make_matcher("dm", {**options, "loss_scale": 2.0})(
        real, Features(maps=given.maps, embedding=ours, groups=CLASSES)
    )
    expected = 2.0 * sum(mmd(by_class(real.embedding, k), by_class(theirs, k), multipliers) for k in range(CLASSES))
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0], rtol=1e-9, atol=1e-12
    )


def test_atom_takes_the_kernel_for_its_embedding_term_alone():
    real, synthetic = features(4, "real"), features(2, "synthetic")
    attention = make_matcher("atom", {"task_balance": 0.0, "loss_scale": 1.0})(real, synthetic)
    kernel = make_matcher("dm", {"kernel": "mixture"})(real, synthetic)
    both = make_matcher("atom", {"task_balance": 0.7, "loss_scale": 3.0, "kernel": "mixture"})(real, synthetic)
    torch.testing.assert_close(both, 3.0 * (attention + 0.7 * kernel))


def test_equal_embeddings_have_no_discrepancy_also_when_all_are_one():
    for same in (draw(6, 5, purpose="x"), torch.ones(6, 5, dtype=torch.float64)):
        given = same.clone().requires_grad_()
        sides = [Features(maps=(), embedding=item, groups=CLASSES) for item in (same, given)]
        loss = make_matcher("dm", {"kernel": "mixture"})(*sides)
        assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
        assert torch.isfinite(torch.autograd.grad(loss, given)[0]).all()


def test_a_wider_kernel_nears_the_linear_one():
    """exp(-d / mb) is 1 - d / mb for large m: the discrepancy is then that of the means, times 2 / mb."""
    real, synthetic = (Features(maps=(), embedding=draw(n, 5, purpose=str(n)), groups=1) for n in (6, 4))
    pooled = torch.cat([real.embedding, synthetic.embedding])
    base = float((pooled[:, None] - pooled[None]).square().sum() / (10 * 9))
    wide = make_matcher("dm", {"kernel": "gaussian", "bandwidths": [1e6]})(real, synthetic)
    linear = make_matcher("dm")(real, synthetic)
    torch.testing.assert_close(wide * 1e6 * base / 2, linear, rtol=1e-4, atol=0)


def cafe_oracle(real, synthetic, weights):
    """L_f over every map and the embedding; L_d over every real image."""

    def mean(vectors):
        return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]

    def aligned(first, second):
        total = 0.0
        for k in range(CLASSES):
            total = total + squared(mean(by_class(first, k)), mean(by_class(second, k)))
        return total

    maps = sum(
        aligned([i.flatten() for i in a], [i.flatten() for i in b])
        for a, b in zip(real.maps, synthetic.maps, strict=True)
    )
    centres = [torch.stack(mean(by_class(synthetic.embedding, k))) for k in range(CLASSES)]
    discrimination = 0.0
    for k in range(CLASSES):
        for vector in by_class(real.embedding, k):
            scores = [sum(vector * centre) for centre in centres]
            discrimination = discrimination - (scores[k] - sum(score.exp() for score in scores).log())
    embedding = aligned(list(real.embedding), list(synthetic.embedding))
    return weights[0] * maps + weights[1] * embedding + weights[2] * discrimination


@pytest.mark.parametrize("weights", [(1.0, 1.0, 0.01), (0.0, 0.5, 2.0), (0.3, 0.0, 0.0)])
def test_cafe_is_alignment_and_discrimination(weights):
    names = ("map_weight", "embedding_weight", "discrimination_weight")
    options = dict(zip(names, weights, strict=True)) if weights != (1.0, 1.0, 0.01) else {}
    real, given = features(4, "real"), features(2, "synthetic")
    results = []
    for function in (make_matcher("cafe", {**options, "loss_scale": 2.0}), None):
        leaves = [item.clone().requires_grad_() for item in (*given.maps, given.embedding)]
        side = Features(maps=tuple(leaves[:-1]), embedding=leaves[-1], groups=CLASSES)
        loss = function(real, side) if function else 2.0 * cafe_oracle(real, side, weights)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_pixels_are_matched_without_a_network():
    real, synthetic = draw(9, 2, 4, 4, purpose="real"), draw(3, 2, 4, 4, purpose="synthetic").requires_grad_()
    real_labels, labels = torch.tensor([0, 1, 2, 2, 1, 0, 1, 1, 2]), torch.tensor([2, 0, 1])
    matcher = make_matcher("mmd-pixel", {"loss_scale": 0.5})
    assert isinstance(matcher, ImageMatcher)
    loss = matcher.loss(torch.nn.Identity(), real, synthetic, real_labels, labels)
    expected = 0.0
    for k in range(3):
        own = [image for image, label in zip(real, real_labels, strict=True) if label == k]
        mean = sum(own) / len(own)
        expected = expected + 0.5 * sum((mean - synthetic[labels == k][0]).flatten() ** 2)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, synthetic)[0], torch.autograd.grad(expected, synthetic)[0])


def test_pixels_with_a_kernel():
    real, synthetic = draw(6, 1, 3, 3, purpose="real"), draw(6, 1, 3, 3, purpose="synthetic")
    labels = torch.arange(CLASSES).repeat_interleave(2)
    loss = make_matcher("mmd-pixel", {"kernel": "mixture"}).loss(torch.nn.Identity(), real, synthetic, labels, labels)
    flat = [by_class(item.flatten(1), k) for k in range(CLASSES) for item in (real, synthetic)]
    expected = sum(mmd(a, b, (0.25, 0.5, 1.0, 2.0, 4.0)) for a, b in zip(flat[::2], flat[1::2], strict=True))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dm", {"kernel": "cubic"}, "kernel must be one of linear, gaussian, mixture, not 'cubic'"),
        ("dm", {"kernel": 3}, "kernel must be one of"),
        ("dm", {"bandwidths": [1.0]}, "bandwidths have no effect on the linear kernel"),
        ("dm", {"kernel": "gaussian", "bandwidths": [1.0, 2.0]}, "must be a list of one number above 0"),
        ("atom", {"kernel": "mixture", "bandwidths": []}, "must be a list of numbers above 0"),
        ("atom", {"kernel": "mixture", "bandwidths": [1.0, -1.0]}, "must be a list of numbers above 0"),
        ("mmd-pixel", {"kernel": "mixture", "bandwidths": 2.0}, "must be a list of numbers above 0"),
        ("mmd-pixel", {"kernel": "mixture", "bandwidths": "wide"}, "must be a list of numbers above 0"),
        ("cafe", {"map_weight": -1.0}, "map_weight must be 0 or more"),
        ("cafe", {"discrimination_weight": math.inf}, "discrimination_weight must be 0 or more"),
        ("cafe", {"loss_scale": "big"}, "matcher 'cafe' does not accept"),
        ("cafe", {"p_s": 4.0}, "it takes the options map_weight"),
        ("dc", {"biases": "yes"}, "biases='yes'; it must be true or false"),
        ("dsa", {"loss_scale": math.nan}, "loss_scale must be 0 or more"),
    ],
)
def test_impossible_options_are_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_matcher(name, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"), [("dm", {"kernel": "mixture"}), ("cafe", {"map_weight": 0.0, "embedding_weight": 0.0})]
)
def test_a_loop_in_half_precision_leaves_the_matrix_products_alone(name, options):
    matcher = make_matcher(name, options)
    sides = [features(64, purpose) for purpose in ("real", "synthetic")]
    single = [
        Features(maps=tuple(m.float() for m in side.maps), embedding=side.embedding.float(), groups=CLASSES)
        for side in sides
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = matcher(*single)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), matcher(*sides), rtol=1e-5, atol=1e-7)


def test_embeddings_of_other_networks_are_refused():
    sides = [Features(maps=(), embedding=draw(6, d, purpose="x"), groups=CLASSES) for d in (4, 5)]
    with pytest.raises(ConfigError, match="the same classes, image size and network"):
        make_matcher("dm", {"kernel": "mixture"})(*sides)
