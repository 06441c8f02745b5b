import pytest
import torch

from atom_plugin.distillation.engine import batchnorm, batchnorm_passes
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.randomness import generator_for

CLASSES, IPC, REAL = 5, 2, 4


def a_network(**choices):
    config = ConvNetConfig(depth=3, width=6, normalisation="batch", **choices)
    network = config.build((3, 12, 12), classes=CLASSES, generator=generator_for(0, "network")).double()
    affine = generator_for(0, "affine")
    for block in network.conv_blocks():
        with torch.no_grad():
            block.normalisation.weight.uniform_(0.5, 2.0, generator=affine)
            block.normalisation.bias.normal_(generator=affine)
    return network.requires_grad_(False)


def some_images(purpose, per_class):
    shape = (CLASSES * per_class, 3, 12, 12)
    scale = torch.arange(1, 1 + len(range(shape[0])), dtype=torch.float64).view(
        -1, 1, 1, 1
    )  # classes unlike each other
    return torch.randn(shape, generator=generator_for(0, purpose), dtype=torch.float64) * scale / CLASSES + 1


def by_chunks(images, per_class, sizes):
    return images.split([size * per_class for size in sizes])


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize(
    ("matcher", "choices"), [("atom", {}), ("dm", {"pooling": "max"}), ("feature", {"activation": "swish"})]
)
def test_loss_and_gradient_over_chunks_are_those_of_one_pass(sizes, matcher, choices):
    network, chosen = a_network(**choices), make_matcher(matcher)
    real = chosen.statistics(network.features(some_images("real", REAL), groups=CLASSES))
    images = some_images("synthetic", IPC)
    whole = images.clone().requires_grad_()
    expected = chosen.compare(real, chosen.statistics(network.features(whole, groups=CLASSES)))
    (gradient,) = torch.autograd.grad(expected, whole)

    def maker(part):
        def make():
            leaf = part.clone().requires_grad_()
            return leaf * 1.0, leaf

        return make

    targets = zip(*(statistic.split(sizes) for statistic in real), strict=True)
    loss, gradients = batchnorm_passes.loss_and_gradients(
        network,
        [maker(part) for part in by_chunks(images, IPC, sizes)],
        sizes,
        lambda features: chosen.compare(next(targets), chosen.statistics(features)),
        images=len(images),
    )
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-8, atol=1e-8 * float(gradient.abs().max()))


def test_moments_fix_what_the_network_would_measure():
    network, images = a_network(), some_images("real", REAL)
    moments = batchnorm_passes.moments_of(network, lambda: images.split(7))
    assert len(moments) == 3
    expected = network.features(images)
    with batchnorm_passes.fixed_moments(network, moments):
        found, few = network.features(images), network.features(images[:3])
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(few.embedding, expected.embedding[:3], rtol=1e-9, atol=1e-11)
    assert torch.equal(network.features(images).embedding, expected.embedding)


def test_features_of_all_are_the_plain_ones_and_so_is_their_gradient_where_a_process_is_alone():
    network, images = a_network(), some_images("synthetic", IPC).requires_grad_()
    matcher = make_matcher("atom")
    weigh = [torch.randn_like(s) for s in matcher.statistics(network.features(images, groups=CLASSES))]
    gradients = []
    for features in (
        network.features(images, groups=CLASSES),
        batchnorm_passes.features_of_all(network, images, groups=CLASSES),
    ):
        loss = sum((w * s).sum() for w, s in zip(weigh, matcher.statistics(features), strict=True))
        gradients.append(torch.autograd.grad(loss, images)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-11)


def test_sums_of_squares_stay_exact_in_a_loop_in_bfloat16():
    output = torch.randn(4, 6, 5, 5, generator=generator_for(0, "output"))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = batchnorm.channel_sums(output)
    assert torch.equal(narrow, batchnorm.channel_sums(output))
    torch.testing.assert_close(narrow[1], output.double().square().sum((0, 2, 3)), rtol=1e-6, atol=0)
