import json
from dataclasses import replace

import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, DivergenceError, SourceError
from atom_plugin.evaluation import check_test_source, evaluate, find_test_source, network_of
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.store.concatenation import concatenate

CPU = torch.device("cpu")


def real_set(ipc: int = 8, **overrides):
    data = coloured_source()
    return data, selected_set(small_selection(ipc=ipc, **overrides), data)


@pytest.mark.parametrize("normalisation", ["instance", "batch", "none"])
def test_networks_learn_an_easy_set(normalisation):
    data, chosen = real_set()
    network = ConvNetConfig(width=16, depth=2, normalisation=normalisation)
    trained = train(chosen, network, TrainConfig(epochs=60, lr=0.05), seed=0)
    assert accuracy(trained, chosen.preprocessing, data.test, device=CPU) > 0.9
    untrained = train(chosen, network, TrainConfig(epochs=1, lr=1e-9), seed=0)
    assert accuracy(untrained, chosen.preprocessing, data.test, device=CPU) < 0.9


def test_training_repeats_by_seed():
    _, chosen = real_set()
    config = TrainConfig(epochs=3, batch_size=7)

    def weights(seed):
        return train(chosen, network_of(chosen), config, seed=seed).classifier.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("normalisation", ["instance", "batch", "none"])
def test_training_in_bfloat16_learns_as_well_and_repeats_by_seed(normalisation):
    data, chosen = real_set()
    network = ConvNetConfig(width=16, depth=2, normalisation=normalisation)
    config = TrainConfig(epochs=60, lr=0.05)
    narrow, again, whole = (
        train(chosen, network, config, seed=0, run=TrainingRun(precision=precision))
        for precision in ("bfloat16", "bfloat16", "float32")
    )
    assert torch.equal(narrow.classifier.weight, again.classifier.weight)
    assert not torch.equal(narrow.classifier.weight, whole.classifier.weight)
    # 18 test images, and more than 0.9 right in float32 too: one more may be wrong.
    assert accuracy(narrow, chosen.preprocessing, data.test, device=CPU) >= 16 / 18


def test_learning_rate_drops_at_half(monkeypatch):
    _, chosen = real_set()
    rates: list[float] = []
    plain = torch.optim.SGD.step

    def noting(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    train(chosen, network_of(chosen), TrainConfig(epochs=4, batch_size=12), seed=0)
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 4)  # two batches of 24 images an epoch


def test_accuracy_counts_right_answers():
    data, chosen = real_set()

    class Always(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.full((len(images),), 1), 3).float()

    assert accuracy(Always(), chosen.preprocessing, data.test, device=CPU) == pytest.approx(1 / 3)


def test_evaluation_reports_each_network_and_its_budget():
    data, chosen = real_set()
    epochs: list[int] = []
    result = evaluate(
        chosen,
        data.test,
        TrainConfig(epochs=4),
        repeats=3,
        device="cpu",
        precision="float32",
        on_epoch=lambda: epochs.append(1),
    )
    assert len(epochs) == 12
    assert len(result.accuracies) == 3
    written = json.loads(json.dumps(result.to_json()))
    assert written["mean"] == pytest.approx(sum(result.accuracies) / 3)
    assert written["training"]["epochs"] == 4
    assert written["network"]["normalisation"] == "instance"
    assert "3 networks" in result.describe()
    other = evaluate(
        chosen, data.test, TrainConfig(epochs=4), repeats=1, normalisation="batch", device="cpu", precision="float32"
    )
    assert other.network.normalisation == "batch"
    assert other.std is None


def test_network_of_a_merged_or_foreign_set():
    _, chosen = real_set(network={"width": 12})
    assert network_of(concatenate([chosen, chosen])).width == 12
    foreign = replace(chosen, provenance=replace(chosen.provenance, config={}))
    assert network_of(foreign) == ConvNetConfig(normalisation="instance")
    newer = replace(chosen, provenance=replace(chosen.provenance, config={"network": {"heads": 8}}))
    with pytest.raises(ConfigError, match="update"):
        network_of(newer)


def test_the_test_source_is_found_and_checked():
    data = load_source("digits", SourceRequest())
    chosen = selected_set(small_selection(ipc=1), data)
    assert find_test_source(chosen, "a.h5", SourceRequest()).fingerprint == data.fingerprint
    lost = replace(chosen, provenance=replace(chosen.provenance, source={}))
    with pytest.raises(SourceError, match=r"a\.h5: names no image source"):
        find_test_source(lost, "a.h5", SourceRequest())
    source = {**chosen.provenance.source, "fingerprint": "0" * 32}
    changed = replace(chosen, provenance=replace(chosen.provenance, source=source))
    with pytest.raises(SourceError, match="not those it was made from"):
        find_test_source(changed, "a.h5", SourceRequest())
    with pytest.raises(ConfigError, match="has images of 1x8x8, but the test images of 'coloured' are 3x8x8"):
        check_test_source(chosen, "a.h5", coloured_source())
    with pytest.raises(ConfigError, match="its classes"):
        check_test_source(chosen, "a.h5", coloured_source(channels=1))


def test_classes_in_another_order_are_told_as_such():
    data, chosen = real_set()
    reordered = replace(data, class_names=data.class_names[::-1])
    with pytest.raises(ConfigError, match=r"another order.*--class-order"):
        check_test_source(chosen, "a.h5", reordered)


def test_a_training_that_blows_up_says_so():
    _, chosen = real_set(network={"normalisation": "none"})
    with pytest.raises(DivergenceError, match="lower --lr"):
        train(chosen, network_of(chosen), TrainConfig(epochs=30, lr=1e12), seed=0)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"augmentation": "blur"}])
def test_impossible_training_is_refused(options):
    with pytest.raises(ConfigError):
        TrainConfig(**options)
