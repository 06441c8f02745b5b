"""What candidates cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation.training import TrainingRun
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.search import Space
from atom_plugin.search.forecast import examine, predicted_seconds, seconds_per_image
from atom_plugin.search.scores import plan_search
from atom_plugin.search.workloads import reference

SHAPE = (3, 8, 8)


def grid(tmp_path: Path, text: str) -> Space:
    (tmp_path / "space.toml").write_text(text)
    return Space.from_toml(tmp_path / "space.toml")


def test_operations_are_those_of_convolutions_and_classifier(tmp_path):
    space = grid(tmp_path, "[convnet]\ndepth = [1, 2]\nwidth = 4\npooling = ['avg', 'none']\n")
    operations, reasons = examine(space, SHAPE, 5)
    first = 2 * 4 * 3 * 9 * 64  # a product and a sum for every weight and place
    assert reasons == {}
    assert list(operations.values()) == [
        first + 2 * 4 * 16 * 5,
        first + 2 * 4 * 64 * 5,
        first + 2 * 4 * 4 * 9 * 16 + 2 * 4 * 4 * 5,
        first + 2 * 4 * 4 * 9 * 64 + 2 * 4 * 64 * 5,
    ]


def test_who_cannot_take_the_images_has_a_reason_and_nothing_is_drawn_from_the_global_state(tmp_path):
    space = grid(tmp_path, 'models = ["timm:inception_v4"]\n[convnet]\ndepth = [3, 4]\nwidth = 4\n')
    before = torch.random.get_rng_state()
    operations, reasons = examine(space, SHAPE, 5)
    assert torch.equal(before, torch.random.get_rng_state())
    assert list(operations) == ["depth=3,width=4"]
    assert list(reasons) == ["depth=4,width=4", "timm:inception_v4"]
    assert "4 pooling blocks leave nothing of 8x8 images" in reasons["depth=4,width=4"]


def test_all_candidates_have_a_time_between_those_of_the_cheapest_and_the_dearest(tmp_path):
    space = grid(tmp_path, "[convnet]\ndepth = [1, 2]\nwidth = [4, 8, 16, 32, 64]\n")
    operations, _ = examine(space, SHAPE, 3)
    held = selected_set(small_selection(ipc=2), coloured_source())
    seconds = seconds_per_image(list(space), operations, held, TrainConfig(), TrainingRun())
    assert list(seconds) == [each.name for each in space]
    assert all(0 < each < 1 for each in seconds.values())


def test_a_search_takes_what_its_networks_take_shown_images_and_tests(tmp_path):
    space = grid(tmp_path, "[convnet]\nwidth = [4, 8]\n")
    data = coloured_source(classes=3, per_class=12)
    held = hold_out(data, 0.25)
    workload = reference(selected_set(small_selection(ipc=2), data), held, epochs=5)
    planned = plan_search(space, [workload])
    predicted = predicted_seconds(planned, {"width=4": 0.01, "width=8": 0.1})
    assert predicted == pytest.approx((0.01 + 0.1) * (5 * 27 + 9 / 3))
