"""The storage policy on Avalanche's streams: layouts, class orders, transforms, preprocessing, online streams."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from avalanche_streams import (
    DATA,
    MEAN,
    QUICK,
    SELECTED,
    SMALL,
    STANDARDISED,
    STD,
    STEPS,
    is_among,
    processed_policy,
    split_online_stream,
    stream_of,
)
from synthetic_sets import assert_equal_sets
from torchvision import transforms as T

from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.integrations.avalanche import PreprocessingTransform, SyntheticMemory
from atom_plugin.integrations.avalanche.stream_samples import infer_preprocessing
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.replay.suppliers import PrecomputedSupplier, SelectingSupplier
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

NORMALISE = T.Normalize(MEAN, STD)
TO_FLOAT = T.ConvertImageDtype(torch.float32)
EVALUATION = {
    "uint8": T.Compose([TO_FLOAT, NORMALISE]),
    "floats": NORMALISE,
    "pil": T.Compose([T.ToTensor(), NORMALISE]),
    "processed": None,
}
AUGMENTED = {
    "uint8": T.Compose([T.RandomCrop(8, padding=2), T.RandomHorizontalFlip(), TO_FLOAT, NORMALISE]),
    "floats": T.Compose([T.RandomCrop(8, padding=2), T.RandomHorizontalFlip(), NORMALISE]),
    "pil": T.Compose([T.RandomCrop(8, padding=2), T.RandomHorizontalFlip(), T.ToTensor(), NORMALISE]),
}
WHITENED = Preprocessing.fit(DATA.train.images, zca_eps=0.1)


def whole_set(preprocessing: Preprocessing = STANDARDISED, ipc: int = 3) -> SyntheticSet:
    return SELECTED.supply(DATA, range(6), ipc=ipc, preprocessing=preprocessing)


def real_images(preprocessing: Preprocessing, label: int) -> torch.Tensor:
    return preprocessing.forward(DATA.train.images[DATA.train.labels == label])


def adapted(policy: SyntheticMemory, benchmark) -> SyntheticMemory:
    for experience in benchmark.train_stream:
        policy.post_adapt(None, experience)
    return policy


@pytest.mark.parametrize("kind", ["xy", "nc", "tasks"])
def test_the_buffer_looks_like_the_stream(kind):
    benchmark = stream_of(kind)
    policy = processed_policy(Budget(ipc=2))
    assert len(policy.buffer) == 0
    seen = []
    for step, experience in enumerate(benchmark.train_stream):
        policy.post_adapt(None, experience)
        seen += STEPS[step]
        assert policy.memory.classes == sorted(seen)
    sample, theirs = policy.buffer[0], benchmark.train_stream[0].dataset[0]
    assert [type(part) for part in sample] == [type(part) for part in theirs]
    assert (sample[0].dtype, sample[0].shape) == (theirs[0].dtype, theirs[0].shape)
    assert list(policy.buffer.targets) == [label for label in range(6) for _ in range(2)]
    assert all(type(label) is int for label in policy.buffer.targets)
    assert torch.equal(torch.stack([sample[0] for sample in policy.buffer]), policy.memory.images.images)
    if kind != "xy":
        task_of = {label: step if kind == "tasks" else 0 for step, labels in enumerate(STEPS) for label in labels}
        assert all(task == task_of[label] for _, label, task in policy.buffer)
        assert list(policy.buffer.targets_task_labels) == [task_of[label] for label in policy.buffer.targets]


@pytest.mark.parametrize("kind", ["xy", "nc", "tasks"])
@pytest.mark.parametrize("form", ["uint8", "floats", "pil"])
def test_raw_images_are_found_behind_the_transforms_and_their_preprocessing_too(kind, form):
    policy = SyntheticMemory(Budget(ipc=2), SELECTED)
    adapted(policy, stream_of(kind, form, train=AUGMENTED[form], evaluation=EVALUATION[form]))
    found = policy.memory.images
    assert torch.allclose(found.preprocessing.mean, STANDARDISED.mean, atol=1e-4)
    assert torch.allclose(found.preprocessing.std, STANDARDISED.std, atol=1e-4)
    for image, label in zip(found.images, found.labels.tolist(), strict=True):
        assert (real_images(STANDARDISED, label) - image).abs().flatten(1).amax(1).min() < 1e-3
    assert found.class_names == tuple("012345")


def test_images_in_0_1_need_no_transforms():
    policy = adapted(SyntheticMemory(Budget(ipc=1), SELECTED, class_names=DATA.class_names), stream_of(form="floats"))
    assert policy.memory.preprocessing.describe() == "none (images in [0, 1])"
    assert policy.memory.images.class_names == DATA.class_names


@pytest.mark.parametrize("preprocessing", [STANDARDISED, WHITENED], ids=["standardised", "whitened"])
@pytest.mark.parametrize("form", ["uint8", "pil", "floats"])
def test_a_sets_own_preprocessing_as_the_streams_transform(preprocessing, form):
    transform = PreprocessingTransform(preprocessing)
    policy = SyntheticMemory(Budget(ipc=2), PrecomputedSupplier([whole_set(preprocessing)]))
    adapted(policy, stream_of(form=form, train=transform, evaluation=transform))
    assert_images_are(policy, whole_set(preprocessing, ipc=2))


def assert_images_are(policy: SyntheticMemory, expected: SyntheticSet) -> None:
    assert torch.equal(policy.memory.images.images, expected.images)
    assert torch.equal(policy.memory.images.labels, expected.labels)


def test_precomputed_sets_one_for_all_or_one_per_experience():
    one = whole_set()
    for sets in ([one], [one.subset(classes) for classes in reversed(STEPS)]):
        policy = processed_policy(Budget(ipc=2), supplier=PrecomputedSupplier(sets))
        adapted(policy, stream_of())
        assert_images_are(policy, whole_set(ipc=2))


def test_a_streams_processed_images_need_their_preprocessing_and_source_stated():
    benchmark = stream_of(form="processed")
    words = (
        "hold values from .* before any transform, expected 8-bit .* stream_preprocessing= and give the real images as"
    )
    for options in ({}, {"stream_preprocessing": STANDARDISED}):
        with pytest.raises(ConfigError, match=words):
            SyntheticMemory(Budget(ipc=1), SELECTED, **options).check(benchmark.train_stream[0])
    policy = adapted(processed_policy(Budget(ipc=1), supplier=SELECTED), benchmark)
    assert policy.memory.preprocessing is STANDARDISED
    for image, label in zip(policy.memory.images.images, policy.memory.images.labels.tolist(), strict=True):
        assert is_among(image, real_images(STANDARDISED, label))


def shifted(by: float) -> Preprocessing:
    return replace(STANDARDISED, mean=STANDARDISED.mean + by)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (
            shifted(0.1),
            r"mean 0\.350/0\.400/0\.450, .*but the stream's transforms do standardised \(mean 0\.250/0\.300/0\.350",
        ),
        (
            replace(STANDARDISED, std=STANDARDISED.std * 2),
            r"std 0\.400/0\.500/1\.000\), but the stream's transforms do .*std 0\.200/0\.250/0\.500\)",
        ),
        (WHITENED, r"ZCA whitened \(eps 0\.1\), but the stream's transforms do standardised \(mean 0\.250"),
    ],
    ids=["mean", "std", "zca"],
)
def test_a_set_of_another_preprocessing_is_refused_and_both_are_named(held, words):
    experience = stream_of(form="uint8", train=EVALUATION["uint8"], evaluation=EVALUATION["uint8"]).train_stream[0]
    with pytest.raises(ConfigError, match=words) as caught:
        SyntheticMemory(Budget(ipc=1), PrecomputedSupplier([whole_set(held)])).check(experience)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"mean .* the stream's standardised \(mean 0\.250"):
        processed_policy(Budget(ipc=1), supplier=PrecomputedSupplier([whole_set(held)])).check(
            stream_of().train_stream[0]
        )


def test_a_whitened_stream_and_a_plain_set():
    transform = PreprocessingTransform(WHITENED)
    experience = stream_of(form="uint8", train=transform, evaluation=transform).train_stream[0]
    with pytest.raises(ConfigError, match=r"preprocessing is standardised .*transforms do no standardisation"):
        SyntheticMemory(Budget(ipc=1), PrecomputedSupplier([whole_set()])).check(experience)
    with pytest.raises(ConfigError, match=r"no standardisation .*state their preprocessing with stream_preprocessing="):
        SyntheticMemory(Budget(ipc=1), SELECTED).check(experience)


def test_images_of_another_size_are_refused_and_both_sizes_are_named():
    small = SyntheticSet(
        images=torch.zeros(6, 3, 6, 6),
        labels=torch.arange(6),
        class_names=DATA.class_names,
        preprocessing=replace(STANDARDISED, image_shape=(3, 6, 6)),
        provenance=whole_set().provenance,
    )
    experience = stream_of(form="uint8", train=EVALUATION["uint8"], evaluation=EVALUATION["uint8"]).train_stream[0]
    with pytest.raises(ConfigError, match=r"images are \(3, 6, 6\), the stream's \(3, 8, 8\)"):
        SyntheticMemory(Budget(ipc=1), PrecomputedSupplier([small])).check(experience)
    with pytest.raises(ConfigError, match=r"for \(3, 6, 6\), the stream's .* for \(3, 8, 8\)"):
        processed_policy(Budget(ipc=1), supplier=PrecomputedSupplier([small])).check(experience)
    stated = {"stream_preprocessing": small.preprocessing}
    with pytest.raises(ConfigError, match=r"gives images of \(3, 6, 6\), but its transforms give \(3, 8, 8\)"):
        SyntheticMemory(Budget(ipc=1), PrecomputedSupplier([small]), **stated).check(experience)
    resized = T.Compose([T.Resize(6), EVALUATION["pil"]])
    experience = stream_of(form="pil", train=resized, evaluation=resized).train_stream[0]
    with pytest.raises(ConfigError, match=r"change images of \(3, 8, 8\) to \(3, 6, 6\); resize"):
        SyntheticMemory(Budget(ipc=1), SELECTED).check(experience)


def test_transforms_that_give_no_tensors_are_refused():
    with pytest.raises(ConfigError, match="do not give tensors; add ToTensor"):
        SyntheticMemory(Budget(ipc=1), SELECTED).check(stream_of(form="pil").train_stream[0])


def test_a_set_of_other_classes_is_refused():
    other = replace(whole_set(), class_names=("class 1", "class 0", *DATA.class_names[2:]))
    policy = processed_policy(Budget(ipc=1), supplier=PrecomputedSupplier([other]))
    with pytest.raises(ConfigError, match=r"class names .* differ: .*'class 0' against 'class 1'"):
        policy.post_adapt(None, stream_of().train_stream[0])
    assert len(policy.memory) == 0


def test_too_few_class_names_are_refused():
    policy = SyntheticMemory(Budget(ipc=1), SELECTED, class_names=("a", "b"))
    with pytest.raises(ConfigError, match="class ids run from 0 to 3, but there are 2 class names"):
        policy.post_adapt(None, stream_of(form="floats").train_stream[0])


def test_inferred_preprocessing_is_exact():
    benchmark = stream_of(form="floats", train=AUGMENTED["floats"], evaluation=NORMALISE)
    found = infer_preprocessing(benchmark.train_stream[1].dataset)
    assert (found.mean.tolist(), found.std.tolist()) == (
        pytest.approx(list(MEAN), abs=1e-5),
        pytest.approx(list(STD), abs=1e-5),
    )


class Pixels:
    """What suppliers say of themselves."""

    preprocessing = None
    needs_images = True

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        return "uint8"

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        return 1


def random_states() -> tuple:
    return torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]


@pytest.mark.parametrize("where", ["check", "post_adapt"])
def test_random_states_stay_and_gradients_are_there(where):
    class Spy(Pixels):
        def supply(self, data, classes, *, ipc, preprocessing):
            assert torch.is_grad_enabled()
            torch.rand(3), np.random.rand(3), random.random()
            return SELECTED.supply(data, classes, ipc=ipc, preprocessing=preprocessing)

    experience = stream_of(form="pil", train=AUGMENTED["pil"], evaluation=EVALUATION["pil"]).train_stream[0]
    policy = SyntheticMemory(Budget(ipc=1), Spy())
    before = random_states()
    with torch.no_grad():
        policy.check(experience) if where == "check" else policy.post_adapt(None, experience)
        assert not torch.is_grad_enabled()
    assert random_states() == before


def test_random_states_stay_when_the_supplier_fails():
    class Broken(Pixels):
        def supply(self, data, classes, *, ipc, preprocessing):
            torch.rand(3), np.random.rand(3), random.random()
            raise SourceError("too few")

    policy, before = processed_policy(Budget(ipc=1), supplier=Broken()), random_states()
    with pytest.raises(SourceError, match="too few"):
        policy.post_adapt(None, stream_of().train_stream[0])
    assert random_states() == before
    assert (len(policy.memory), policy.gathering) == (0, False)


def test_distillation_is_the_same_whatever_the_global_seed():
    sets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        policy = SyntheticMemory(Budget(ipc=1), QUICK)
        benchmark = stream_of("nc", "pil", train=AUGMENTED["pil"], evaluation=EVALUATION["pil"])
        sets.append(adapted(policy, benchmark).memory.images)
    assert_equal_sets(*sets)
    assert not torch.equal(sets[0].images, whole_set(ipc=1).images)


def test_class_seen_again_shares_places_where_images_are_new_and_stays_where_sets_are_given():
    steps = ([0, 1], [2, 3])
    data = replace(
        DATA, class_names=DATA.class_names[:4], train=only_classes(DATA.train, 4), test=only_classes(DATA.test, 4)
    )
    first = stream_of(form="uint8", data=data, steps=steps, train=EVALUATION["uint8"], evaluation=EVALUATION["uint8"])
    again = first.train_stream[0]
    selected = SyntheticMemory(Budget(ipc=4), SELECTED, class_names=data.class_names)
    given = SyntheticMemory(Budget(ipc=3), PrecomputedSupplier([whole_set()]), class_names=DATA.class_names)
    for policy in (selected, given):
        adapted(policy, first)
        before = policy.memory.images
        policy.post_adapt(None, again)
        assert Counter(policy.memory.images.labels.tolist()) == Counter(before.labels.tolist())
        assert (policy.memory.images is before) == (policy is given)


def only_classes(split, most: int):
    keep = split.labels < most
    return replace(split, images=split.images[keep], labels=split.labels[keep])


@pytest.mark.parametrize("size", [4, 7], ids=["parts with a rest", "parts without a rest"])
def test_online_parts_are_gathered_until_their_experience_ends(size):
    data = replace(DATA, train=first_of_each(DATA.train, 7 if size == 7 else 9))
    benchmark = stream_of(form="uint8", data=data, train=EVALUATION["uint8"], evaluation=EVALUATION["uint8"])
    calls = []

    class Spy(Pixels):
        def supply(self, data, classes, *, ipc, preprocessing):
            calls.append((sorted(classes), len(data.train)))
            return SELECTED.supply(data, classes, ipc=ipc, preprocessing=preprocessing)

    policy = SyntheticMemory(Budget(ipc=2), Spy())
    per_experience = 2 * (7 if size == 7 else 9)
    for part in split_online_stream(benchmark.train_stream, size, access_task_boundaries=True, seed=0):
        with_old = len(policy.memory)
        policy.post_adapt(None, part)
        assert policy.gathering == (len(policy.memory) == with_old)
    assert calls == [(sorted(classes), per_experience) for classes in STEPS]
    assert not policy.gathering


def first_of_each(split, count: int):
    keep = torch.cat([(split.labels == label).nonzero().flatten()[:count] for label in range(6)])
    return replace(split, images=split.images[keep], labels=split.labels[keep])


def test_online_streams_that_hide_their_boundaries_are_refused_with_the_reason():
    part = next(iter(split_online_stream(stream_of().train_stream, 4, seed=0)))
    policy = processed_policy(Budget(ipc=1))
    for call in (policy.check, lambda part: policy.post_adapt(None, part)):
        with pytest.raises(ConfigError, match=r"hides where an experience ends.*access_task_boundaries=True"):
            call(part)
    assert not policy.gathering


def test_sets_made_before_need_no_boundaries():
    policy = processed_policy(Budget(ipc=2), supplier=PrecomputedSupplier([whole_set()]))
    for part in split_online_stream(stream_of().train_stream, 4, seed=0):
        policy.post_adapt(None, part)
    assert_images_are(policy, whole_set(ipc=2))


def test_an_online_experience_that_was_not_finished_is_noticed(tmp_path):
    stream = stream_of().train_stream
    policy = processed_policy(Budget(ipc=1))
    parts = iter(split_online_stream(stream, 4, access_task_boundaries=True, seed=0))
    first = next(parts)
    policy.post_adapt(None, first)
    with pytest.raises(ConfigError, match=r"only some parts .* experience; save it after"):
        policy.save(tmp_path / "memory.h5")
    for other in (first, stream[1]):
        with pytest.raises(ConfigError, match="stopped after 1 parts and another begins"):
            policy.post_adapt(None, other)


@pytest.mark.parametrize("kind", ["nc", "tasks"])
def test_memory_and_stream_must_be_of_one_kind(kind, tmp_path):
    plain = adapted(processed_policy(Budget(ipc=1)), stream_of())
    with_tasks = adapted(processed_policy(Budget(ipc=1)), stream_of(kind))
    with pytest.raises(ConfigError, match=r"samples are \(x, y, task\), the memory's are \(x, y\)"):
        plain.check(stream_of(kind).train_stream[0])
    with pytest.raises(ConfigError, match=r"samples are \(x, y\), the memory's are \(x, y, task\)"):
        with_tasks.check(stream_of().train_stream[0])


def test_classes_that_change_their_task_are_refused():
    policy = processed_policy(Budget(ipc=1))
    policy.post_adapt(None, stream_of("tasks").train_stream[0])
    with pytest.raises(ConfigError, match=r"class 0 comes with the task label 1.*its own id"):
        policy.post_adapt(None, stream_of("tasks", steps=([5, 1], [3, 0], [4, 2])).train_stream[1])


def test_saved_and_loaded_in_the_middle_of_a_stream(tmp_path):
    stream = stream_of("tasks").train_stream
    through, stopped = (processed_policy(Budget(max_images=13)) for _ in range(2))
    for policy in (through, stopped):
        policy.post_adapt(None, stream[0])
    stopped.save(tmp_path / "memory.h5")
    resumed = processed_policy(Budget(ipc=1))
    resumed.load(tmp_path / "memory.h5")
    assert resumed.max_size == 13
    for experience in stream[1:]:
        for policy in (through, resumed):
            policy.post_adapt(None, experience)
    assert_equal_sets(resumed.memory.images, through.memory.images)
    assert [sample[1:] for sample in resumed.buffer] == [sample[1:] for sample in through.buffer]


def test_a_loaded_memory_of_another_preprocessing_is_refused():
    memory = ReplayMemory(Budget(ipc=1))
    memory.add(whole_set(shifted(0.1)))
    with pytest.raises(ConfigError, match=r"memory's .*mean 0\.350.* the supplier's is .*mean 0\.250"):
        SyntheticMemory(memory, PrecomputedSupplier([whole_set()])).check(stream_of().train_stream[0])
    with pytest.raises(ConfigError, match=r"mean 0\.350.* the stream's .*mean 0\.250"):
        processed_policy(memory).check(stream_of().train_stream[0])


def test_the_buffer_follows_the_memory():
    policy = adapted(processed_policy(Budget(ipc=3)), stream_of())
    assert policy.max_size == 18
    buffer = policy.buffer
    assert policy.buffer is buffer
    policy.resize(None, 6)
    assert (len(policy.buffer), policy.max_size, policy.memory.budget) == (6, 6, Budget(ipc=3, max_images=6))
    with pytest.raises(ConfigError, match="no room"):
        policy.resize(None, 5)
    assert (len(policy.buffer), policy.max_size) == (6, 6)
    policy.memory = ReplayMemory(Budget(ipc=1))
    assert len(policy.buffer) == 0
    policy.memory.add(whole_set())
    assert len(policy.buffer) == 6


def test_the_buffer_is_counted_and_its_labels_are_read_without_decoding_images(monkeypatch):
    packed = SelectingSupplier(overrides={**SMALL, "storage": "uint8", "factor": 2})
    policy = adapted(processed_policy(Budget(ipc=2), supplier=packed), stream_of())
    labels = policy.memory.images.decoded().labels.tolist()
    with monkeypatch.context() as patched:
        patched.delattr(SyntheticSet, "decoded")
        assert len(policy.buffer) == len(labels) == 6 * 2 * 4
        assert list(policy.buffer.targets) == labels
        assert [len(dataset) for dataset in policy.buffer_datasets] == [8] * 6
    images = torch.stack([image for image, _ in policy.buffer])
    assert torch.equal(images, policy.memory.images.decoded().images)


@pytest.mark.parametrize(
    ("budget", "options", "expected"),
    [
        (Budget(max_images=20), {}, 20),
        (Budget(ipc=2), {"class_names": DATA.class_names}, 12),
        (Budget(ipc=2), {"source": DATA}, 12),
        (Budget(max_images=20, ipc=2), {"source": DATA}, 20),
    ],
)
def test_avalanches_memory_size(budget, options, expected):
    assert SyntheticMemory(budget, SELECTED, **options).max_size == expected
    assert SyntheticMemory(Budget(ipc=2), SELECTED).max_size > 10**9
