import pytest
import torch

from atom_plugin.distillation.engine.cuda_inputs import Layout, StepInputs, point_at, point_at_channels_last
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation

IMAGES = torch.arange(60, dtype=torch.uint8).view(20, 3, 1, 1)


class Batches:
    """Of five classes, two images each of a source's twenty, on the device or not."""

    seed, iterations, classes, per_class, image_shape, device = 3, 40, 5, 2, (3, 1, 1), torch.device("cpu")
    held = IMAGES

    def drawn(self, iterations):
        return torch.stack([torch.randint(20, (5, 2), generator=generator_for(4, each)) for each in iterations])

    def rows(self, indices, *, out):
        return torch.index_select(IMAGES, 0, indices, out=out)


def inputs(batches=None):
    return StepInputs(
        *(network(), Augmentation(), batches or Batches()),
        rate=lambda iteration: iteration / 10,
        draw_into=ConvNet.reset,
    )


def put_channels_last(network, flat):
    weights = torch.empty_like(flat)
    order = point_at_channels_last(network, weights)
    weights.copy_(flat[order])


def drawn(made, iteration):
    return made.draw(range(iteration, iteration + 1))[0]


def network():
    return ConvNetConfig(depth=2, width=4).build((3, 8, 8), classes=5, generator=generator_for(0, "network"))


def test_a_block_holds_what_the_plain_step_draws():
    made = inputs()
    views = made.layout.views(drawn(made, 7))
    generator = generator_for(3, "iteration", 7)
    expected, ours = network(), network()
    expected.reset(generator)
    draw = Augmentation().draw(5, generator)
    for put in (point_at, put_channels_last):
        put(ours, views["parameters"])
        for one, other in zip(ours.parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, other)
    assert ours.blocks[1].convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(views["plan"], draw.plan((1, 1)))
    assert torch.equal(views["indices"], torch.randint(20, (10,), generator=generator_for(4, 7)))
    assert views["rate"].item() == pytest.approx(0.7)


def test_images_travel_where_they_are_given():
    class OnTheHost(Batches):
        held = None

    with_indices, with_images = inputs(), inputs(OnTheHost())
    chosen = with_indices.layout.views(drawn(with_indices, 2))["indices"]
    assert torch.equal(with_images.layout.views(drawn(with_images, 2))["images"], IMAGES[chosen])


def test_drawn_ahead_or_not_in_turn_or_not_the_bytes_are_the_same():
    made = inputs()
    try:
        for iteration in (0, 1, 2, 17, 18, 5, 39, 39):
            assert torch.equal(parts(made, made.block(iteration)), parts(made, drawn(made, iteration)))
        made.close()
        assert torch.equal(parts(made, made.block(4)), parts(made, drawn(made, 4)))
    finally:
        made.close()


def parts(made, block):
    return torch.cat([view.double().flatten() for view in made.layout.views(block).values()])


def test_a_block_is_the_same_whichever_others_are_drawn_with_it():
    made = inputs()
    for iteration, block in enumerate(made.draw(range(5, 13)), start=5):
        assert torch.equal(parts(made, block), parts(made, drawn(made, iteration)))


def test_large_images_are_not_drawn_many_together():
    class Large(Batches):
        held, image_shape = None, (3, 1024, 1024)

    assert inputs()._together > 1
    assert inputs(Large())._together == 2


def test_drawing_threads_take_one_core_each_and_others_keep_theirs():
    counts = []

    class Counting(Batches):
        def drawn(self, iterations):
            counts.append(torch.get_num_threads())
            return super().drawn(iterations)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = inputs(Counting())
        made.block(0)
        made.close()
        assert set(counts) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_errors_of_the_drawing_reach_the_caller():
    class Failing(Batches):
        def drawn(self, iterations):
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
