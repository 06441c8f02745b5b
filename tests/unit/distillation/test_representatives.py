"""Real batches of the images nearest to k-means centres: which images they are, for how long, and resuming."""

import itertools

import pytest
import stopped
import torch
from groups import in_processes
from sklearn.cluster import KMeans
from small import coloured_source, small_config

from atom_plugin.distillation import distiller, representatives
from atom_plugin.distillation.capture import is_captured
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.chunking import PassSize
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.representatives import nearest_to_centres
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import make_matcher
from atom_plugin.runtime import distributed
from atom_plugin.runtime.randomness import generator_for

DATA = coloured_source(per_class=40)
INSTANCE = {"normalisation": "instance"}


def one_class():
    """A budget for one class at a time."""
    network = small_config(network=INSTANCE).network.build((3, 8, 8), 3)
    engine = PlainEngine(network, network.features)
    return PassSize.of(make_matcher("atom"), engine, (3, 8, 8), real_batch=5, ipc=2).bytes_of(1)


def batches_of(count, data=DATA, **options):
    """The real batch of each of the first iterations."""
    run, found = Distiller(small_config(iterations=count, **options), data, device="cpu"), []
    for iteration in range(count):
        run.step()
        found.append(run._batches.choose(iteration).clone())
    return found


def test_of_every_cluster_the_image_nearest_to_its_mean_is_taken():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    spread = torch.tensor([[0.1, 0.0], [-3.0, 0.2], [3.0, -0.2]])  # the mean is 0.03 to the right: the first is nearest
    rows = (centres[:, None] + spread).flatten(0, 1)
    assert sorted(nearest_to_centres(rows, 3, seed=0).tolist()) == [0, 3, 6]


@pytest.mark.parametrize("normalisation", ["instance", "none"])
def test_the_batch_is_of_the_nearest_under_the_network_that_began_the_period(normalisation):
    (batch,) = batches_of(1, cluster_every=1, network={"normalisation": normalisation})
    config = small_config(network={"normalisation": normalisation})
    network = config.network.build((3, 8, 8), 3)
    network.reset(generator_for(config.seed, "iteration", 0))
    images = config.fit_preprocessing(DATA).forward(DATA.train.images)
    with torch.no_grad():
        embeddings = network.features(images).embedding
    generator = generator_for(config.seed, "clusters", 0)
    order = torch.randperm(120, generator=generator)
    for label in range(3):
        rows = order[DATA.train.labels[order] == label]
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        own = embeddings[rows].numpy()
        centres = torch.from_numpy(KMeans(5, n_init=1, random_state=seed).fit(own).cluster_centers_)
        nearest = torch.cdist(centres.double(), embeddings[rows].double()).argmin(1)
        assert batch[label].tolist() == rows[nearest].tolist()
        assert len(set(batch[label].tolist())) == 5


@pytest.mark.parametrize(
    ("options", "period"), [({}, 2), ({"inner_loop": 2}, 4), ({"inner_loop": 2, "share_real": True}, 4)]
)
def test_a_batch_serves_a_period_of_draws(options, period):
    found = batches_of(9, cluster_every=2, **options)
    same = [torch.equal(a, b) for a, b in itertools.pairwise(found)]
    assert same == [(number + 1) % period != 0 for number in range(8)]


def test_a_class_of_fewer_images_repeats_all_of_them():
    (batch,) = batches_of(1, coloured_source(per_class=3), cluster_every=1)
    for label, row in enumerate(batch.tolist()):
        assert set(row) == set(range(3 * label, 3 * label + 3))
        assert row[3:] == row[:2]


FORMS = {
    "plain": {"cluster_every": 3},
    "kept": {"cluster_every": 2, "inner_loop": 2},
    "shared": {"cluster_every": 1, "inner_loop": 4, "share_real": True},
    "trained between": {"cluster_every": 2, "inner_loop": 2, "network_epochs": 1},
    "trained": {"cluster_every": 3, "network_state": "trained:1", "network_pool": 2},
    "gradients": {"cluster_every": 3, "matcher": "dsa"},
    "one class at a time": {"cluster_every": 3, "network": INSTANCE, "memory_budget": one_class()},
    "bfloat16": {"cluster_every": 3, "precision": "bfloat16"},
    "another network": {"cluster_every": 3, "matching_model": "resnet10"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_stopped_and_resumed_anywhere_gives_the_same_bytes(tmp_path, form):
    config = small_config(iterations=6, **form)
    stored = stopped.check_resumes(config, DATA, (1, 3, 5), tmp_path).provenance.config
    assert stored["cluster_every"] == form["cluster_every"]
    assert DistillConfig.from_json(stored).to_json() == stored
    assert "cluster_every" not in small_config().to_json()


def test_choosing_within_a_period_leaves_the_network_of_the_moment_alone():
    config = small_config(cluster_every=3, inner_loop=1)
    run = Distiller(config, DATA, device="cpu")
    run._draws(1)
    fresh = config.network.build((3, 8, 8), 3)
    fresh.reset(generator_for(config.seed, "iteration", 1))
    for ours, theirs in zip(run.network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_engine_for_cuda_takes_the_plain_step(monkeypatch):
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    run = Distiller(small_config(cluster_every=2), DATA, device="cpu")
    assert not is_captured(run.config, run.engine, run.matcher, run.chunks)
    run.step()
    plain = Distiller(small_config(), DATA, device="cpu")
    assert is_captured(plain.config, plain.engine, plain.matcher, plain.chunks)


@pytest.mark.parametrize("matcher", ["dd", "frepo", "mmd-pixel"])
def test_matchers_without_a_drawn_network_or_classes_are_refused(matcher):
    with pytest.raises(ConfigError, match=f"cluster_every has no effect on the matcher '{matcher}'.*leave it out"):
        Distiller(small_config(matcher=matcher, cluster_every=2), DATA, device="cpu")


def test_embeddings_that_exceed_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(representatives, "machine_memory", lambda: 1000)
    with pytest.raises(
        ConfigError, match=r"embeddings of 120 images in memory, .*500 B; leave it out, or choose a narrower"
    ):
        Distiller(small_config(cluster_every=2), DATA, device="cpu")


def refusal_in_a_group():
    with distributed.joined("cpu"), pytest.raises(ConfigError) as caught:
        Distiller(small_config(cluster_every=2), DATA, device="cpu")
    return str(caught.value)


def test_several_processes_are_refused():
    for message in in_processes(2, refusal_in_a_group):
        assert "found 2 processes" in message and "start one" in message
