"""Which real images a config chooses: against plain loops over one image at a time, under random and trained networks."""

from dataclasses import replace

import pytest
import torch
from selection_oracles import events_of, herding_oracle, k_center_oracle
from small import coloured_source, small_config, small_selection
from torch.nn import functional as F

from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.embeddings import embed, embedding_network
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import chosen_pixels, forgetting_events, selected_set
from atom_plugin.errors import ConfigError, DivergenceError, SourceError
from atom_plugin.replay.suppliers import SelectingSupplier
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation

CPU = torch.device("cpu")
ORACLES = {"herding": herding_oracle, "k-center": k_center_oracle}


def config_for(method: str, **overrides) -> SelectConfig:
    return small_selection(method=method, ipc=4, precision="float32", **overrides)


def plainly_trained(config: SelectConfig, data, epochs: int):
    """One network trained by a loop of its own; also, for each image, whether it was right at each presentation."""
    generator = generator_for(config.seed, "initialise")
    network = config.network.build(data.image_shape, len(data.class_names))
    network.reset(generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    augmentation = Augmentation(strategy=config.augmentation)
    images = config.fit_preprocessing(data).forward(data.train.images)
    histories: list[list[bool]] = [[] for _ in data.train.labels]
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(256):
            logits = network(augmentation.per_sample(images[rows], generator))
            for row, guess in zip(rows.tolist(), logits.argmax(1).tolist(), strict=True):
                histories[row].append(guess == int(data.train.labels[row]))
            optimizer.zero_grad()
            F.cross_entropy(logits, data.train.labels[rows]).backward()
            optimizer.step()
    return network.eval(), images, histories


def chosen_of(images: torch.Tensor, among: torch.Tensor) -> list[int]:
    return [int((among == image).flatten(1).all(1).nonzero().item()) for image in images]


@pytest.mark.parametrize("method", ORACLES)
@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("normalisation", ["instance", "batch"])
def test_herding_and_k_center_are_the_literal_ones_on_embeddings_of_single_images(method, epochs, normalisation):
    data = coloured_source(per_class=20)
    network = {"normalisation": normalisation}
    config = config_for(method, embedding=f"trained:{epochs}" if epochs else "random", network=network)
    plain, images, _ = plainly_trained(config, data, epochs)
    if not epochs and normalisation == "batch":  # the moments of all 60 images, in one batch
        for layer in (module for module in plain.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            layer.train().momentum = 1.0
        plain(images)
        plain.eval()
    with torch.no_grad():
        embeddings = torch.cat([plain.features(image[None]).embedding for image in images])
    preprocessing = config.fit_preprocessing(data)
    chosen = preprocessing.forward(chosen_pixels(config, data, preprocessing, device=CPU))
    assert chosen_of(chosen, images) == ORACLES[method](embeddings, data.train.labels, 4)


def test_trained_embeddings_tell_classes_apart_and_another_network_chooses_others():
    data = coloured_source(per_class=40)
    preprocessing = config_for("herding").fit_preprocessing(data)
    spread, sets = {}, {}
    for state in ("random", "trained:20"):
        config = config_for("herding", embedding=state, augmentation="none")
        generator = generator_for(0, "initialise")
        network = embedding_network(config, data, preprocessing, generator=generator, device=CPU)
        assert not network.training
        rows = embed(network, data.train.images, preprocessing)
        means = torch.stack([rows[data.train.labels == label].mean(0) for label in range(3)])
        within = (rows - means[data.train.labels]).norm(dim=1).mean()
        spread[state] = float(torch.pdist(means).mean() / within)
        sets[state] = selected_set(config, data, device="cpu")
    assert spread["trained:20"] > 1.5 * spread["random"]
    assert not torch.equal(sets["random"].images, sets["trained:20"].images)


def test_an_embedding_does_not_depend_on_its_neighbours():
    data = coloured_source(per_class=30)
    config = config_for("herding", network={"normalisation": "batch"})
    preprocessing = config.fit_preprocessing(data)
    network = embedding_network(config, data, preprocessing, generator=generator_for(0, "x"), device=CPU)
    rows = embed(network, data.train.images, preprocessing)
    order = torch.randperm(90, generator=generator_for(0, "order"))
    torch.testing.assert_close(embed(network, data.train.images[order], preprocessing), rows[order])
    torch.testing.assert_close(embed(network, preprocessing.forward(data.train.images)), rows)
    # Normalised by the moments of real images: neither dead nor blown up.
    assert 0.05 < float(rows.std()) < 5


def test_forgetting_counts_what_a_plain_training_loop_forgets():
    data = coloured_source(per_class=30)
    config = config_for("forgetting", forgetting_epochs=8)
    _, images, histories = plainly_trained(config, data, 8)
    expected = [events_of(history) for history in histories]
    preprocessing = config.fit_preprocessing(data)
    found = forgetting_events(config, data, preprocessing, generator_for(0, "initialise"), device=CPU)
    assert found.tolist() == expected
    assert len(set(expected)) > 2
    chosen = chosen_of(preprocessing.forward(chosen_pixels(config, data, preprocessing, device=CPU)), images)
    for label in range(3):
        members = [expected[index] for index, of in enumerate(data.train.labels.tolist()) if of == label]
        assert [expected[index] for index in chosen[4 * label : 4 * label + 4]] == sorted(members, reverse=True)[:4]


@pytest.mark.parametrize(
    ("method", "options"),
    [("herding", {"embedding": "trained:2"}), ("k-center", {}), ("forgetting", {"forgetting_epochs": 3})],
)
def test_sets_say_what_chose_them_and_come_out_the_same_again(method, options):
    data, told = coloured_source(), []
    config = config_for(method, seed=3, **options)
    torch.manual_seed(1)
    first = selected_set(config, data, device="cpu", on_images=told.append)
    torch.manual_seed(2)
    again = selected_set(config, data, device="cpu")
    assert torch.equal(first.images, again.images)
    assert first.provenance == again.provenance
    assert (first.provenance.method, first.provenance.seed) == (method, 3)
    assert {**first.provenance.config, **options} == first.provenance.config
    assert SelectConfig.from_json(first.provenance.config).to_json() == config.to_json()
    assert sum(told) == config.choosing_epochs * len(data.train)
    if options:
        assert not torch.equal(first.images, selected_set(replace(config, seed=4), data, device="cpu").images)


def test_distillation_and_replay_may_start_from_forgotten_images():
    data = coloured_source()
    choice = {"ipc": 4, "forgetting_epochs": 2}
    start = Distiller(small_config(image_init="forgetting", **choice), data, device="cpu").images.detach()
    assert torch.equal(start, selected_set(config_for("forgetting", forgetting_epochs=2), data, device="cpu").images)
    overrides = {"network": {"width": 8}, "forgetting_epochs": 2, "precision": "float32"}
    supplier = SelectingSupplier(method="forgetting", overrides=overrides)
    held = supplier.supply(data, [0, 2], ipc=3, preprocessing=None)
    assert held.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert held.provenance.method == "forgetting"


def test_too_few_images_are_found_before_any_training(monkeypatch):
    def train(*_, **__):
        raise AssertionError("trained for nothing")

    monkeypatch.setattr("atom_plugin.distillation.matching_network.MatchingNetwork.pretrain", train)
    for method, options in (("forgetting", {}), ("herding", {"embedding": "trained:1"})):
        with pytest.raises(SourceError, match=r"class 'class 0' has 12 image\(s\), fewer than the 13"):
            selected_set(replace(config_for(method, **options), ipc=13), coloured_source(), device="cpu")


def test_training_that_blows_up_says_what_to_change():
    data = coloured_source()
    config = config_for("forgetting", forgetting_epochs=30, network={"normalisation": "none"})
    wild = replace(config.fit_preprocessing(data), std=torch.full((3,), 1e-12))
    with pytest.raises(DivergenceError, match="choose another preprocessing or normalisation"):
        chosen_pixels(config, data, wild, device=CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_init": "herding", "embedding": "trained"}, "embedding must be random or trained:EPOCHS"),
        ({"image_init": "random", "embedding": "trained:3"}, "embedding .trained:3. is only for herding and k-center"),
        ({"image_init": "random", "embedding": "random"}, "embedding .random. is only for herding and k-center"),
        (
            {"image_init": "forgetting", "embedding": "trained:3"},
            "embedding .trained:3. is only for herding and k-center",
        ),
        ({"image_init": "forgetting", "forgetting_epochs": 1}, "must be at least 2"),
        ({"image_init": "herding", "forgetting_epochs": 3}, "forgetting_epochs .3. is only for forgetting"),
        ({"image_init": "herding", "forgetting_epochs": 20}, "forgetting_epochs .20. is only for forgetting"),
    ],
)
def test_options_that_do_not_fit(options, message):
    for make in (small_config, lambda image_init, **others: small_selection(method=image_init, **others)):
        with pytest.raises(ConfigError, match=message) as caught:
            make(**options)
        assert "\n" not in str(caught.value)
