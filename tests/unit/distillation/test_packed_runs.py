"""Runs whose images are packed, or stored as pixels or halves."""

import pytest
import stopped
import torch
from small import coloured_source, small_config, small_selection
from torch.nn import functional as F

from atom_plugin.distillation import distiller
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.transforms.packing import unpack

FORMS = [{"factor": 2}, {"storage": "uint8"}, {"factor": 2, "storage": "uint8"}, {"factor": 4, "storage": "float16"}]


def losses_and_images(count=4, **overrides):
    run = Distiller(small_config(iterations=count, **overrides), coloured_source(per_class=40), device="cpu")
    with run.running():
        losses = [run.launch()() for _ in range(count)]
    return losses, run.images.clone()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("matcher", ["atom", "dm", "dc"])
def test_the_captured_step_equals_the_plain_one(monkeypatch, matcher, form):
    options = {"matcher": matcher, "network": {"normalisation": "instance"}, **form}
    plain, images = losses_and_images(**options)
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    captured, same = losses_and_images(**options)
    assert captured == pytest.approx(plain, rel=1e-4)
    torch.testing.assert_close(same, images, rtol=1e-3, atol=1e-4)


def test_an_unpacked_run_of_as_many_images_takes_the_same_step():
    """The gradient of a packed image is the sum over its tiles, taken back through the enlargement."""
    data = coloured_source(per_class=40)
    options = {"iterations": 1, "augmentation": "none", "network": {"normalisation": "instance"}, "image_momentum": 0.0}
    packed = Distiller(small_config(ipc=2, factor=2, **options), data, device="cpu")
    plain = Distiller(small_config(ipc=8, **options), data, device="cpu")
    before = packed.images.clone().requires_grad_()
    plain.images.copy_(unpack(before.detach(), 2))
    start = plain.images.clone()
    with packed.running(), plain.running():
        assert packed.step() == pytest.approx(plain.step(), rel=1e-5)
    moved = plain.images - start
    (expected,) = torch.autograd.grad((unpack(before, 2) * moved).sum(), before)
    torch.testing.assert_close(packed.images - before.detach(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_stopped_and_resumed_gives_the_same_bytes(tmp_path, form):
    data, config, path = coloured_source(per_class=40), small_config(**form), tmp_path / "run.checkpoint"
    whole = distill(config, data, device="cpu")
    stopped.stop_after(3, config, data, path)
    resumed = distill(config, data, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    assert (whole.storage, whole.factor) == (form.get("storage", "float32"), form.get("factor", 1))


def test_each_tile_starts_from_a_real_image_of_its_own():
    data = coloured_source(per_class=12)
    run = Distiller(small_config(factor=2), data, device="cpu")
    tiles = run.images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    real = F.avg_pool2d(run.preprocessing.forward(data.train.images), 2)
    chosen = [int((real - tile).abs().flatten(1).sum(1).argmin()) for tile in tiles]
    assert all(torch.allclose(real[index], tile, atol=1e-5) for index, tile in zip(chosen, tiles, strict=True))
    assert len(set(chosen)) == len(chosen) == 3 * 2 * 4
    assert data.train.labels[chosen].tolist() == [0] * 8 + [1] * 8 + [2] * 8


def test_pixels_stay_within_their_range_and_move_as_standardised_images_do():
    options = {"iterations": 1, "image_lr": 1e-3, "network": {"normalisation": "instance"}}
    data = coloured_source(per_class=40)
    runs = [Distiller(small_config(storage=storage, **options), data, device="cpu") for storage in ("uint8", "float32")]
    for run in runs:
        with run.running():
            run.step()
    pixels, standardised = (run.images for run in runs)
    inside = ((pixels > 0) & (pixels < 1)).float()
    expected = runs[1].preprocessing.inverse(standardised)
    torch.testing.assert_close(pixels * inside, expected * inside, rtol=0, atol=2e-6)
    wild = distill(small_config(storage="uint8", image_lr=1e4), data, device="cpu")
    assert wild.images.dtype == torch.uint8


def test_whitened_images_may_be_pixels_but_not_packed():
    data = coloured_source(per_class=40)
    made = distill(small_config(storage="uint8", zca=True), data, device="cpu")
    assert made.preprocessing.whitening is not None
    torch.testing.assert_close(made.decoded().images, made.preprocessing.forward(made.images))
    with pytest.raises(ConfigError, match="ZCA whitening together with a factor of 2"):
        small_config(factor=2, zca=True)


def test_a_selection_as_pixels_holds_the_real_images_to_the_bit():
    data = coloured_source()
    chosen = selected_set(small_selection(storage="uint8"), data, device="cpu")
    assert all(any(torch.equal(image, real) for real in data.train.images) for image in chosen.images)
    packed = selected_set(small_selection(storage="uint8", factor=2), data, device="cpu")
    assert (len(packed), len(packed.decoded())) == (6, 24)


def test_too_few_images_for_the_tiles_are_refused():
    with pytest.raises(SourceError, match="fewer than the 8 per class"):
        Distiller(small_config(factor=2), coloured_source(per_class=7), device="cpu")


def test_a_factor_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="factor of 3 for images of 8x8"):
        Distiller(small_config(factor=3), coloured_source(), device="cpu")
