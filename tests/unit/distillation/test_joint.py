from dataclasses import replace

import pytest
import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.joint import distill_jointly
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.models.convnet import ConvNetConfig
from tests.small import coloured_source


def config(**choices):
    network = ConvNetConfig(width=8, depth=2, normalisation=choices.pop("normalisation", "instance"))
    chosen = {"ipc": 1, "iterations": 3, "real_batch": 4, "precision": "float32", "network": network, **choices}
    return DistillConfig(**chosen)


@pytest.mark.parametrize("normalisation", ["instance", "batch"])
def test_each_set_is_the_one_distilled_alone(normalisation):
    data = coloured_source()
    configs = [
        config(normalisation=normalisation),
        config(normalisation=normalisation, matcher="dm", iterations=2, ipc=2),
        config(normalisation=normalisation, matcher="feature", image_lr=0.1, initialiser="noise"),
        config(normalisation=normalisation, matcher="datadam", image_schedule="cosine", image_momentum=0.9),
    ]
    told = []
    sets = distill_jointly(configs, data, device="cpu", on_progress=lambda *seen: told.append(seen))
    for found, each in zip(sets, configs, strict=True):
        alone = distill(each, data, device="cpu")
        torch.testing.assert_close(found.images, alone.images, rtol=0, atol=1e-6)
        assert found.provenance.config == alone.provenance.config
        assert found.provenance.iterations == each.iterations
        assert found.provenance.final_loss == pytest.approx(alone.provenance.final_loss, rel=1e-5)
    assert [iteration for iteration, _ in told] == [1, 2, 3]
    assert [len(losses) for _, losses in told] == [4, 4, 3]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 1}, "seed: 0, not 1"),
        ({"real_batch": 5}, "real_batch: 4, not 5"),
        ({"augmentation": "none"}, "augmentation: "),
        ({"normalisation": "batch"}, "network: "),
        ({"matcher": "dc"}, "'dc' does not reduce to class means"),
    ],
)
def test_what_cannot_share_is_refused_in_one_line(other, says):
    with pytest.raises(ConfigError) as error:
        distill_jointly([config(), config(**other)], coloured_source(), device="cpu")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_trained_on_a_runs_images_are_refused():
    trained = replace(config(), inner_loop=2, network_epochs=1)
    with pytest.raises(ConfigError, match="one by one"):
        distill_jointly([trained], coloured_source(), device="cpu")
    with pytest.raises(ConfigError, match="at least one"):
        distill_jointly([], coloured_source(), device="cpu")


def test_a_run_that_diverges_is_named():
    with pytest.raises(DivergenceError, match=r"ran away|loss became"):
        distill_jointly([config(), config(image_lr=1e30)], coloured_source(), device="cpu")
