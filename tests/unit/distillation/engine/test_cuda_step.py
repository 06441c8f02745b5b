"""The captured step against the plain one: here on the CPU, uncaptured; as a CUDA graph where there is a GPU."""

import math

import pytest
import stopped
import torch
from small import BFLOAT16_LOSS, coloured_source, small_config

from atom_plugin.distillation import distiller
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine import choose_engine, cuda_step
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.matchers import MATCHERS, MeanMatcher, make_matcher

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def everywhere(monkeypatch):
    """Runs take CUDA's engine on the CPU too, where nothing is captured, unless the plain one is asked for."""

    def choose(name, network, features, device):
        return PlainEngine(network, features) if name == "plain" else CudaEngine(network)

    monkeypatch.setattr(distiller, "choose_engine", choose)


def steps(count, *, engine="auto", device="cpu", **overrides):
    run = Distiller(small_config(iterations=count, **overrides), coloured_source(), device=device, engine=engine)
    with run.running():
        losses = [run.launch()() for _ in range(count)]
    return losses, run.synthetic_set().images


@pytest.mark.parametrize("normalisation", ["batch", "instance", "group", "layer", "none"])
@pytest.mark.parametrize("matcher", ["atom", "atom-channel", "datadam", "dm", "feature"])
def test_it_equals_the_plain_step(everywhere, matcher, normalisation):
    options = {"matcher": matcher, "network": {"normalisation": normalisation}, "image_schedule": "cosine"}
    (plain, images), (ours, same) = (steps(4, engine=engine, **options) for engine in ("plain", "auto"))
    assert ours == pytest.approx(plain, rel=1e-4)
    torch.testing.assert_close(same, images, rtol=1e-3, atol=1e-4)
    start = Distiller(small_config(**options), coloured_source(), device="cpu").images
    assert not torch.equal(images, start)


@pytest.mark.parametrize(
    "options",
    [
        {"zca": True, "augmentation": "none"},
        {"matcher_options": {"kernel": "mixture"}},
        {"image_init": "noise", "precision": "bfloat16", "network": {"pooling": "max"}},
    ],
)
def test_other_choices_too(everywhere, options):
    (plain, _), (ours, _) = (steps(2, engine=engine, **options) for engine in ("plain", "auto"))
    assert ours == pytest.approx(plain, rel=BFLOAT16_LOSS if options.get("precision") else 1e-4)


def test_images_that_stay_on_the_host_make_the_same_step(everywhere, monkeypatch):
    here = steps(3)
    monkeypatch.setattr(RealBatches, "held", None)
    there = steps(3)
    assert there[0] == here[0]
    assert torch.equal(there[1], here[1])


@pytest.mark.parametrize("stop_after", [1, 4])
def test_stopped_and_resumed_gives_the_same_bytes(everywhere, tmp_path, stop_after):
    data, config, path = coloured_source(), small_config(), tmp_path / "run.checkpoint"
    whole = distill(config, data, device="cpu")
    stopped.stop_after(stop_after, config, data, path)
    resumed = distill(config, data, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    assert resumed.provenance == whole.provenance


def test_the_loss_of_each_iteration_is_told_once_and_in_order(everywhere, monkeypatch):
    monkeypatch.setattr(cuda_step, "_AHEAD", 3)
    run = Distiller(small_config(), coloured_source(), device="cpu")
    told: list[int] = []
    note = run._note_loss
    monkeypatch.setattr(run, "_note_loss", lambda i, value: (told.append(i), note(i, value)))
    pending = [run.launch() for _ in range(5)]
    assert told == [0, 1]
    assert run.synthetic_set().provenance.final_loss == pending[-1]()
    assert told == [0, 1, 2, 3, 4]
    assert all(loss.ready for loss in pending)


def test_a_loss_that_is_not_finite_is_noticed_late_but_never_stored(everywhere, tmp_path):
    path = tmp_path / "run.checkpoint"
    config = small_config(image_lr=1e38, matcher="dm", augmentation="none", iterations=50)
    with pytest.raises(DivergenceError, match="lower --image-lr"):
        distill(config, coloured_source(), device="cpu", checkpoint=path, checkpoint_every=5)
    assert not path.exists()


def test_a_loss_without_a_gradient_is_refused(everywhere, monkeypatch):
    monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))

    @MATCHERS.register("deaf")
    class Deaf(MeanMatcher):
        def describe_map(self, feature_map):
            return ()

        def describe_embedding(self, embedding):
            return (embedding.detach(),)

        def compare(self, real, synthetic):
            return (real[0] - synthetic[0]).square().sum()

    with pytest.raises(ConfigError, match="does not depend on the synthetic images"):
        distill(small_config(matcher="deaf"), coloured_source(), device="cpu")


def test_what_is_captured_is_a_whole_step_of_class_means_under_a_fresh_network():
    network = small_config().network.build((3, 8, 8), 3)
    on_cuda, on_cpu = CudaEngine(network), choose_engine("auto", network, network.features, torch.device("cpu"))
    atom = make_matcher("atom")
    suits = cuda_step.suits_captured_step
    assert suits(on_cuda, atom, whole=True, fresh_networks=True)
    assert not suits(on_cpu, atom, whole=True, fresh_networks=True)
    assert not suits(on_cuda, make_matcher("dc"), whole=True, fresh_networks=True)
    assert not suits(on_cuda, atom, whole=False, fresh_networks=True)
    assert not suits(on_cuda, atom, whole=True, fresh_networks=False)


@needs_gpu
@pytest.mark.parametrize("normalisation", ["batch", "instance"])
@pytest.mark.parametrize("matcher", ["atom", "datadam", "dm"])
def test_a_captured_step_equals_the_plain_one(matcher, normalisation):
    options = {"matcher": matcher, "network": {"normalisation": normalisation}, "device": "cuda"}
    for precision, tolerance in (("float32", 1e-2), ("bfloat16", 0.1)):
        plain, ours = (steps(3, engine=engine, precision=precision, **options)[0] for engine in ("plain", "cuda"))
        assert ours == pytest.approx(plain, rel=tolerance)
        assert all(map(math.isfinite, ours))


@needs_gpu
def test_any_device_will_do_whichever_is_the_current_one():
    device = f"cuda:{torch.cuda.device_count() - 1}"
    run = Distiller(small_config(), coloured_source(), device=device, engine="cuda")
    loss = run.launch()()
    assert run.captured_step.recorded
    assert run.captured_step.fused == ("blocks", "augmentation")
    assert loss == pytest.approx(steps(1, engine="plain")[0][0], rel=1e-2)


@needs_gpu
def test_a_captured_run_repeats_to_the_byte_and_is_captured():
    first, again = (steps(20, device="cuda", engine="cuda") for _ in range(2))
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    run = Distiller(small_config(), coloured_source(), device="cuda")
    run.launch()
    assert run.captured_step.recorded
    assert run.captured_step.fused == ("blocks", "augmentation")
    run = Distiller(small_config(), coloured_source(), device="cuda", fused_kernels=False)
    run.launch()
    assert run.captured_step.recorded
    assert run.captured_step.fused == ()
