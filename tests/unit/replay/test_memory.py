"""The replay memory: budgets, classes that come and come again, its file, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin import store
from atom_plugin.cli.main import main
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.arrangement import first_images
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

IMAGE_BYTES = 4 * 16  # float32, 1x4x4
NAMES = tuple(f"class {label}" for label in range(6))


def numbered(*classes: int, ipc: int = 4, start: int = 0, **changes) -> SyntheticSet:
    """Images of one grey level each: ``100 * label + start + index``, so that they can be told apart."""
    labels = torch.tensor(classes, dtype=torch.int64).repeat_interleave(ipc)
    made = make_set(class_names=NAMES, labels=labels)
    levels = 100 * labels + start + torch.arange(ipc).repeat(len(classes))
    return replace(made, images=levels.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), **changes)


def levels(memory: ReplayMemory, label: int) -> list[int]:
    return memory.images.images[memory.images.labels == label, 0, 0, 0].int().tolist()


def filled(budget: Budget, *sets: SyntheticSet) -> ReplayMemory:
    memory = ReplayMemory(budget)
    for each in sets:
        memory.add(each)
    return memory


def state_of(memory: ReplayMemory) -> tuple:
    held = memory.images
    return held.images.tolist(), held.labels.tolist(), held.provenance, asdict(memory.budget), dict(memory.tasks)


@pytest.mark.parametrize(
    ("budget", "image_bytes", "classes", "shares"),
    [
        (Budget(ipc=5), 1, 1000, [5] * 1000),
        (Budget(max_images=20), 1, 1, [20]),
        (Budget(max_images=20), 1, 3, [7, 7, 6]),
        (Budget(max_images=25), 1, 6, [5, 4, 4, 4, 4, 4]),
        (Budget(max_images=25, classes=10), 1, 6, [3, 3, 3, 3, 3, 2]),
        (Budget(max_images=20, classes=10), 1, 3, [2, 2, 2]),
        (Budget(max_images=20, classes=2), 1, 3, [7, 7, 6]),  # more classes than were announced
        (Budget(max_bytes=1000), 64, 3, [5, 5, 5]),
        (Budget(max_bytes=1100), 64, 3, [6, 6, 5]),
        (Budget(max_bytes=1000, classes=5), 64, 3, [3, 3, 3]),
        (Budget(ipc=5, max_images=20, max_bytes=1000), 64, 2, [5, 5]),
        (Budget(ipc=5, max_images=20, max_bytes=1000), 64, 4, [4, 4, 4, 3]),
        (Budget(ipc=5, max_images=9, max_bytes=1000), 64, 2, [5, 4]),
    ],
)
def test_each_bound_of_a_budget_holds_and_the_tightest_is_used_up(budget, image_bytes, classes, shares):
    assert budget.shares(range(classes), image_bytes) == dict(enumerate(shares))


def test_what_does_not_divide_goes_to_the_lowest_ids_in_whatever_order_classes_are_named():
    assert Budget(max_images=11).shares([7, 3, 40, 9], 1) == {3: 3, 7: 3, 9: 3, 40: 2}
    assert Budget(max_images=11).shares((9, 40, 3, 7, 3), 1) == {3: 3, 7: 3, 9: 3, 40: 2}


@pytest.mark.parametrize("announced", [{}, {"classes": 9}])
def test_no_share_grows_as_classes_come(announced):
    budget, shares = Budget(max_images=25, **announced), {}
    for count in range(1, 10):
        arrived = [8, 2, 5, 0, 7, 1, 6, 3, 4][:count]
        later = budget.shares(arrived, 1)
        assert all(later[label] <= share for label, share in shares.items())
        assert not announced or all(later[label] == share for label, share in shares.items())
        shares = later
    assert sum(shares.values()) == 25


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(ipc=3, max_images=3), "max_images 3 has no room for one image of each of 4 classes; give it 4 or more"),
        (Budget(max_bytes=100), "max_bytes 100 has no room for one image of each of 4 classes; give it 256 or more"),
        (Budget(max_images=9, classes=10), "of each of 10 classes; give it 10 or more"),
    ],
)
def test_a_budget_without_room_for_every_class_says_what_it_needs(budget, words):
    with pytest.raises(ConfigError, match=words):
        budget.shares(range(4), 64)


@pytest.mark.parametrize("given", [{}, {"classes": 10}])
def test_a_budget_needs_a_bound(given):
    with pytest.raises(ConfigError, match="budget is missing; give ipc"):
        Budget(**given)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5"])
@pytest.mark.parametrize("name", ["ipc", "max_images", "max_bytes", "classes"])
def test_a_budget_takes_whole_numbers_above_zero(name, value):
    with pytest.raises(ConfigError, match=f"a memory's {name} must be a whole number of at least 1"):
        Budget(**{"ipc": 1, name: value})


def test_an_empty_memory():
    memory = ReplayMemory(Budget(ipc=2))
    assert (len(memory), memory.classes, memory.preprocessing, memory.bytes, memory.tasks) == (0, [], None, 0, {})
    with pytest.raises(ConfigError, match="the replay memory is empty; add a set"):
        _ = memory.images
    memory.add(numbered(ipc=0))
    assert len(memory) == 0


def test_images_per_class_stay_and_the_first_are_kept():
    memory = filled(Budget(ipc=3), numbered(4, 1), numbered(0))
    assert memory.classes == [0, 1, 4]
    assert memory.images.labels.tolist() == [0, 0, 0, 1, 1, 1, 4, 4, 4]
    assert [levels(memory, label) for label in (0, 1, 4)] == [[0, 1, 2], [100, 101, 102], [400, 401, 402]]
    assert memory.bytes == 9 * IMAGE_BYTES
    assert memory.images.class_names == NAMES


def test_adaptive_shares_shrink_as_classes_come_and_the_budget_is_used_up():
    memory = ReplayMemory(Budget(max_images=8))
    shares = []
    for label in (3, 0, 5, 2):
        memory.add(numbered(label, ipc=9))
        assert len(memory) == 8
        shares.append({held: len(levels(memory, held)) for held in memory.classes})
    assert shares == [{3: 8}, {0: 4, 3: 4}, {0: 3, 3: 3, 5: 2}, {0: 2, 2: 2, 3: 2, 5: 2}]
    assert levels(memory, 3) == [300, 301]


def test_fixed_shares_stay():
    memory = ReplayMemory(Budget(max_images=8, classes=4))
    for count, label in enumerate((3, 0, 5, 2), start=1):
        memory.add(numbered(label, ipc=9))
        assert len(memory) == 2 * count


def test_bytes_are_kept_to():
    memory = ReplayMemory(Budget(max_bytes=10 * IMAGE_BYTES - 1))
    for label in range(4):
        memory.add(numbered(label, ipc=9))
        assert memory.bytes <= 10 * IMAGE_BYTES - 1
    assert Counter(memory.images.labels.tolist()) == {0: 3, 1: 2, 2: 2, 3: 2}


def test_too_few_images_are_taken_as_they_are():
    memory = filled(Budget(ipc=10), numbered(0, ipc=2), numbered(1, ipc=5))
    assert (levels(memory, 0), len(levels(memory, 1))) == ([0, 1], 5)


def test_a_set_in_any_order_is_held_class_major():
    labels = torch.tensor([3, 1, 3, 1])
    memory = filled(Budget(ipc=5), make_set(labels=labels, class_names=NAMES))
    assert memory.images.labels.tolist() == [1, 1, 3, 3]
    given = make_set(labels=labels, class_names=NAMES)
    assert torch.equal(memory.images.images, given.images[[1, 3, 0, 2]])
    assert torch.equal(first_images(given, {1: 1, 3: 1}).images, given.images[[1, 0]])


def test_a_class_seen_again_shares_its_places_between_the_times():
    memory = ReplayMemory(Budget(ipc=6))
    for start in (0, 10, 20):
        memory.add(numbered(1, ipc=9, start=start))
    times = Counter(level // 10 for level in levels(memory, 1))
    assert times == {10: 2, 11: 2, 12: 2}
    for time in (10, 11, 12):  # the first of each time
        assert [level for level in levels(memory, 1) if level // 10 == time] == [10 * time, 10 * time + 1]


def test_a_class_seen_twice_keeps_images_of_both_times_when_its_share_shrinks():
    memory = filled(Budget(max_images=8), numbered(1, ipc=9), numbered(1, ipc=9, start=10), numbered(2, ipc=9))
    assert Counter(level // 10 for level in levels(memory, 1)) == {10: 2, 11: 2}


def test_a_class_seen_again_fills_the_places_left_free():
    memory = filled(Budget(ipc=6), numbered(1, ipc=1), numbered(1, ipc=9, start=10))
    assert sorted(levels(memory, 1)) == [100, 110, 111, 112, 113, 114]


def test_of_one_place_the_last_time_has_it():
    memory = filled(Budget(ipc=1), numbered(1, 2), numbered(1, start=10))
    assert (levels(memory, 1), levels(memory, 2)) == ([110], [200])


def test_other_classes_are_left_alone_when_one_is_seen_again():
    memory = filled(Budget(ipc=4), numbered(1, 2), numbered(2, 3, start=10))
    assert levels(memory, 1) == [100, 101, 102, 103]
    assert len(memory) == 12


def test_resize_up_and_down():
    memory = filled(Budget(ipc=4), numbered(0, 1))
    memory.resize(Budget(max_images=3))
    assert (levels(memory, 0), levels(memory, 1)) == ([0, 1], [100])
    memory.resize(Budget(ipc=4))
    assert len(memory) == 3
    memory.add(numbered(2))
    assert len(levels(memory, 2)) == 4
    assert memory.images.provenance.config["replay_memory"]["budget"]["ipc"] == 4


def test_class_names_may_grow_with_the_stream():
    memory = ReplayMemory(Budget(ipc=2))
    memory.add(replace(numbered(0, 1), class_names=NAMES[:2]))
    memory.add(numbered(3))
    memory.add(replace(numbered(2), class_names=NAMES[:3]))
    assert memory.images.class_names == NAMES


def other_preprocessing(made: SyntheticSet) -> SyntheticSet:
    return replace(made, preprocessing=replace(made.preprocessing, mean=made.preprocessing.mean + 0.25))


def larger(made: SyntheticSet) -> SyntheticSet:
    preprocessing = Preprocessing(
        mean=made.preprocessing.mean, std=made.preprocessing.std, image_shape=(1, 5, 5), whitening=None
    )
    return replace(made, images=torch.zeros(len(made), 1, 5, 5), preprocessing=preprocessing)


@pytest.mark.parametrize(
    ("budget", "new", "task", "words"),
    [
        (
            Budget(ipc=2),
            other_preprocessing(numbered(2)),
            None,
            r"the memory and the set to add .* 0\.496.* against .*0\.746",
        ),
        (Budget(ipc=2), larger(numbered(2)), None, r"images are \(1, 4, 4\), those of the set to add \(1, 5, 5\)"),
        (Budget(ipc=2), replace(numbered(2), class_names=tuple("abcdef")), None, "'class 0' against 'a'"),
        (Budget(max_images=2), numbered(2), None, "no room for one image of each of 3 classes"),
        (Budget(ipc=2), numbered(2), 0, "come with one, but those in the memory without one, of task labels"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_and_changes_nothing(budget, new, task, words):
    memory = filled(budget, numbered(0, 1))
    before = state_of(memory)
    with pytest.raises(ConfigError, match=words) as caught:
        memory.add(new, task=task)
    assert "\n" not in str(caught.value)
    assert state_of(memory) == before
    memory.resize(Budget(ipc=2))
    memory.add(numbered(1, start=10))  # counted as the second time, not the third
    assert Counter(level // 10 for level in levels(memory, 1)) == {10: 1, 11: 1}


def test_a_budget_that_is_too_small_is_refused_and_changes_nothing():
    memory = filled(Budget(ipc=2), numbered(0, 1))
    before = state_of(memory)
    with pytest.raises(ConfigError, match="no room"):
        memory.resize(Budget(max_images=1))
    assert state_of(memory) == before


def test_tasks_belong_to_classes():
    memory = ReplayMemory(Budget(ipc=2))
    memory.add(numbered(0, 1), task=7)
    memory.add(numbered(3), task=5)
    memory.add(numbered(3), task=5)
    assert memory.tasks == {0: 7, 1: 7, 3: 5}
    before = state_of(memory)
    for task, words in ((4, "class 3 comes with the task label 4, but is in the memory with 5"), (None, "without one")):
        with pytest.raises(ConfigError, match=words):
            memory.add(numbered(2, 3), task=task)
    assert state_of(memory) == before


def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(tmp_path):
    memory = ReplayMemory(Budget(max_images=9, classes=3))
    memory.add(numbered(2, 0), task=1)
    memory.add(numbered(2, start=10), task=1)
    memory.save(tmp_path / "memory.h5")
    again = ReplayMemory.load(tmp_path / "memory.h5")
    assert_equal_sets(again.images, memory.images)
    assert state_of(again) == state_of(memory)
    for each in (memory, again):
        each.add(numbered(2, start=20), task=1)
        each.add(numbered(5), task=3)
    assert state_of(again) == state_of(memory)
    assert Counter(level // 10 for level in levels(again, 2)) == {20: 1, 21: 1, 22: 1}
    again.save(tmp_path / "again.h5")
    memory.save(tmp_path / "memory.h5", force=True)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "memory.h5").read_bytes()


def test_provenance_tells_what_it_was_filled_from():
    memory = filled(
        Budget(ipc=2),
        numbered(0),
        numbered(1, provenance=replace(numbered(1).provenance, method="herding", source={"name": "else"})),
    )
    provenance = memory.images.provenance
    assert (provenance.method, provenance.iterations, provenance.source) == ("atom + herding", 14, {})
    assert [part["source"]["name"] for part in provenance.config["merged"]] == ["digits", "else"]
    assert filled(Budget(ipc=1), numbered(0), numbered(1)).images.provenance.source == {"name": "digits"}


def test_its_file_is_an_ordinary_set(tmp_path, capsys):
    path = tmp_path / "memory.h5"
    filled(Budget(ipc=2), numbered(0, 1), numbered(4)).save(path)
    assert main(["store", "verify", str(path)]) == 0
    assert main(["store", "info", str(path)]) == 0
    assert "class 4" in capsys.readouterr().out
    assert store.read(path).classes == [0, 1, 4]
    with pytest.raises(StoreError, match="exists"):
        filled(Budget(ipc=2), numbered(0)).save(path)


def test_an_empty_memory_cannot_be_saved(tmp_path):
    with pytest.raises(ConfigError, match="the replay memory is empty"):
        ReplayMemory(Budget(ipc=2)).save(tmp_path / "memory.h5")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "memory.h5"
    numbered(0, 1).save(path)
    with pytest.raises(StoreError, match="is a synthetic set but not a saved replay memory"):
        ReplayMemory.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(StoreError, match=r"memory\.h5"):
        ReplayMemory.load(path)
    with pytest.raises(StoreError, match="absent"):
        ReplayMemory.load(tmp_path / "absent.h5")
    filled(Budget(ipc=2), numbered(0, 1)).save(path, force=True)
    data = path.read_bytes()
    for cut in (len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(StoreError) as caught:
            ReplayMemory.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("version", 2, "of version 2, expected 1; update"),
        ("version", None, "of version None"),
        ("budget", {"ipc": 0}, "damaged"),
        ("budget", {"images": 5}, "damaged"),
        ("budget", None, "damaged"),
        ("sightings", {"0": 1}, r"damaged \(sightings of the classes \[0\], images of \[0, 1\]\)"),
        ("sightings", [1, 2], "damaged"),
        ("sightings", {"zero": 1}, "damaged"),
        ("tasks", {"0": 1}, "damaged"),
        ("tasks", {"0": "x", "1": 2}, "damaged"),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(tmp_path, key, value, words):
    held = filled(Budget(ipc=2), numbered(0, 1)).images
    config = {**held.provenance.config, "replay_memory": {**held.provenance.config["replay_memory"], key: value}}
    store.write(replace(held, provenance=replace(held.provenance, config=config)), tmp_path / "memory.h5")
    with pytest.raises(StoreError, match=words) as caught:
        ReplayMemory.load(tmp_path / "memory.h5")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "merged", [{}, {"merged": [{"matcher": "atom"}]}, {"merged": [{"method": "atom", "seed": None}]}]
)
def test_a_memory_without_its_parts_is_damaged(tmp_path, merged):
    held = filled(Budget(ipc=2), numbered(0, 1)).images
    config = {"replay_memory": held.provenance.config["replay_memory"], **merged}
    store.write(replace(held, provenance=replace(held.provenance, config=config)), tmp_path / "memory.h5")
    with pytest.raises(StoreError, match="damaged"):
        ReplayMemory.load(tmp_path / "memory.h5")


def test_soft_labels_do_not_go_in_and_take_no_places(caplog):
    memory = filled(Budget(max_bytes=6 * IMAGE_BYTES), make_set(soft="logits"))
    assert "soft labels are not used: a replay memory" in caplog.text
    assert (len(memory), memory.bytes, memory.images.soft_labels) == (6, 6 * IMAGE_BYTES, None)
