import pytest
import torch

from atom_plugin.distillation.engine.cuda_inputs import Layout, StepInputs, point_at
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation

IMAGES = torch.arange(60, dtype=torch.uint8).view(20, 3, 1, 1)


class Batches:
    """Of five classes, two images each of a source's twenty, on the device or not."""

    seed, iterations, classes, per_class, image_shape, device = 3, 40, 5, 2, (3, 1, 1), torch.device("cpu")
    pixels = IMAGES

    def drawn(self, iteration):
        return torch.randint(20, (5, 2), generator=generator_for(4, iteration))

    def rows(self, indices, *, out):
        return torch.index_select(IMAGES, 0, indices, out=out)


def inputs(batches=None):
    return StepInputs(
        *(network(), Augmentation(), batches or Batches()),
        rate=lambda iteration: iteration / 10,
        draw_into=ConvNet.reset,
    )


def network():
    return ConvNetConfig(depth=2, width=4).build((3, 8, 8), classes=5, generator=generator_for(0, "network"))


def test_a_block_holds_what_the_plain_step_draws():
    made = inputs()
    views = made.layout.views(made.draw(7))
    generator = generator_for(3, "iteration", 7)
    expected, ours = network(), network()
    expected.reset(generator)
    draw = Augmentation().draw(5, generator)
    point_at(ours, views["parameters"])
    for one, other in zip(ours.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert ours.blocks[1].convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(views["plan"], draw.plan((1, 1)))
    assert torch.equal(views["indices"], torch.randint(20, (10,), generator=generator_for(4, 7)))
    assert views["rate"].item() == pytest.approx(0.7)


def test_images_travel_where_they_are_given():
    class OnTheHost(Batches):
        pixels = None

    with_indices, with_images = inputs(), inputs(OnTheHost())
    chosen = with_indices.layout.views(with_indices.draw(2))["indices"]
    assert torch.equal(with_images.layout.views(with_images.draw(2))["images"], IMAGES[chosen])


def test_drawn_ahead_or_not_in_turn_or_not_the_bytes_are_the_same():
    made = inputs()
    try:
        for iteration in (0, 1, 2, 17, 18, 5, 39, 39):
            assert torch.equal(parts(made, made.block(iteration)), parts(made, made.draw(iteration)))
        made.close()
        assert torch.equal(parts(made, made.block(4)), parts(made, made.draw(4)))
    finally:
        made.close()


def parts(made, block):
    return torch.cat([view.double().flatten() for view in made.layout.views(block).values()])


def test_errors_of_the_drawing_reach_the_caller():
    class Failing(Batches):
        def drawn(self, iteration):
            raise ValueError("no such images")

    made = inputs(Failing())
    with pytest.raises(ValueError, match="no such images"):
        made.block(0)
    made.close()


def test_sections_are_aligned_and_apart():
    layout = Layout(sections=(("a", torch.int64, (3,)), ("b", torch.float32, (65,)), ("c", torch.uint8, (2, 2))))
    assert layout.size == 256 + 512 + 256
    block = torch.zeros(layout.size, dtype=torch.uint8)
    views = layout.views(block)
    for number, view in enumerate(views.values(), start=1):
        view.fill_(number)
    assert [view.unique().tolist() for view in views.values()] == [[1], [2], [3]]
    assert all((view.data_ptr() - block.data_ptr()) % 256 == 0 for view in views.values())
