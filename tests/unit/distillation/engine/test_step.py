"""Chunked = unchunked, through the loop itself."""

import dataclasses
import itertools

import pytest
import torch
from small import BFLOAT16_LOSS, BFLOAT16_WAY, coloured_source, small_config

from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine import choose_engine
from atom_plugin.distillation.engine.chunking import PassSize
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, Interrupted
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import NORMALISATIONS
from atom_plugin.transforms.augmentation import Draw

CLASSES = 5


def budgeted(config, data, classes):
    """The config with a budget for that many classes in a pass."""
    network = config.network.build(data.image_shape, CLASSES)
    engine = choose_engine("auto", network, network.features, torch.device("cpu"))
    matcher = make_matcher(config.matcher, config.matcher_options)
    size = PassSize.of(matcher, engine, data.image_shape, real_batch=config.real_batch, ipc=config.ipc)
    return dataclasses.replace(config, memory_budget=size.bytes_of(classes) + 1)


def both(config, *, classes, steps=3):
    """Losses and images of a few steps, in one pass and in chunks of at most ``classes``."""
    data = coloured_source(classes=CLASSES)
    found = []
    for each in (config, budgeted(config, data, classes)):
        distiller = Distiller(each, data, device="cpu")
        losses = [distiller.step() for _ in range(steps)]
        found.append((losses, distiller.images, distiller.chunks.own_chunks))
    return found


@pytest.mark.parametrize("normalisation", sorted(set(NORMALISATIONS) - {"batch"}))
@pytest.mark.parametrize("ipc", [1, 3])
@pytest.mark.parametrize(("classes", "sizes"), [(2, [1, 2, 2]), (4, [2, 3]), (1, [1] * 5)])
def test_chunks_of_every_normalisation(normalisation, ipc, classes, sizes):
    config = small_config(ipc=ipc, network={"normalisation": normalisation})
    (losses, images, whole), (chunked_losses, chunked, chunks) = both(config, classes=classes)
    assert [len(chunk) for chunk in whole] == [CLASSES]
    assert [len(chunk) for chunk in chunks] == sizes
    assert chunked_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(chunked, images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("matcher", "options"),
    [
        ("atom-channel", {}),
        ("datadam", {"layers": [2], "error_s": "cosine"}),
        ("dm", {"kernel": "mixture"}),
        ("dm", {}),
        ("feature", {"normalise": False, "loss_scale": 0.01}),
        ("cafe", {"discrimination_weight": 0.0, "loss_scale": 0.01}),
        ("atom", {"kernel": "gaussian"}),
    ],
)
def test_chunks_of_every_mean_matcher(matcher, options):
    config = small_config(matcher=matcher, matcher_options=options)
    (losses, images, _), (chunked_losses, chunked, _) = both(config, classes=2)
    assert chunked_losses == pytest.approx(losses, rel=2e-4)
    torch.testing.assert_close(chunked, images, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("matcher", ["dc", "dsa", "mmd-pixel"])
def test_chunks_of_matchers_of_images(matcher):
    (losses, images, _), (chunked_losses, chunked, chunks) = both(small_config(matcher=matcher), classes=2)
    assert len(chunks) == 3
    assert chunked_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(chunked, images, rtol=1e-3, atol=1e-4)


def test_chunks_in_bfloat16():
    config = small_config(precision="bfloat16", network={"width": 32})
    start = Distiller(config, coloured_source(classes=CLASSES), device="cpu").images
    (losses, images, _), (chunked_losses, chunked, _) = both(config, classes=2)
    assert chunked_losses == pytest.approx(losses, rel=BFLOAT16_LOSS)
    assert (chunked - images).norm() < BFLOAT16_WAY * (images - start).norm()


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_no_forward_pass_keeps_its_precision_in_bfloat16(chunked, monkeypatch):
    data = coloured_source(classes=CLASSES)
    config = small_config(precision="bfloat16")
    distiller = Distiller(budgeted(config, data, 2) if chunked else config, data, device="cpu")
    narrow = []

    def noted(function):
        def run(*given, **options):
            narrow.append(torch.is_autocast_enabled("cpu"))
            return function(*given, **options)

        return run

    monkeypatch.setattr(distiller._batches, "fetch", noted(distiller._batches.fetch))
    monkeypatch.setattr(Draw, "apply", noted(Draw.apply))
    monkeypatch.setattr(torch.autograd, "grad", noted(torch.autograd.grad))
    distiller.step()
    assert len(narrow) >= 4
    assert not any(narrow)


def test_a_budget_for_all_classes_changes_no_byte():
    data, config = coloured_source(classes=CLASSES), small_config()
    plain, roomy = (distill(each, data, device="cpu") for each in (config, budgeted(config, data, CLASSES)))
    assert torch.equal(plain.images, roomy.images)


def test_a_chunked_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path):
    data = coloured_source(classes=CLASSES)
    config = budgeted(small_config(), data, 2)
    whole = distill(config, data, device="cpu")
    path, calls = tmp_path / "run.checkpoint", iter([0, 0, 2])
    with pytest.raises(Interrupted):
        distill(config, data, device="cpu", checkpoint=path, stop_signal=lambda: next(calls))
    resumed = distill(config, data, device="cpu", checkpoint=path, resume=True)
    assert torch.equal(resumed.images, whole.images)
    with pytest.raises(ConfigError, match="memory_budget: None given"):
        distill(dataclasses.replace(config, memory_budget=None), data, device="cpu", checkpoint=path, resume=True)


def test_only_a_chunk_of_real_images_is_fetched_at_a_time(monkeypatch):
    data = coloured_source(classes=CLASSES)
    distiller = Distiller(budgeted(small_config(), data, 2), data, device="cpu")
    fetch, asked = distiller._batches.fetch, []
    monkeypatch.setattr(
        distiller._batches,
        "fetch",
        lambda rows, *, ahead: asked.append((rows.clone(), ahead)) or fetch(rows, ahead=ahead),
    )
    distiller.step()
    distiller.step()
    assert [len(rows) for rows, _ in asked] == [1, 2, 2] * 2
    for (_, ahead), (rows, _) in itertools.pairwise(asked):
        assert torch.equal(ahead, rows)
