"""Arguments of another type, from Python: an error of this package that names the argument, as a wrong option does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small import coloured_source, small_config, small_selection
from synthetic_sets import make_set

from atom_plugin import (
    DistillConfig,
    SourceRequest,
    TrainConfig,
    distill,
    evaluate,
    export_set,
    load_source,
    make_matcher,
)
from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import AtomError
from atom_plugin.models import build_model
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.store.concatenation import concatenate
from atom_plugin.transforms.preprocessing import Preprocessing

DATA, CONFIG, HELD = coloured_source(), small_config(), make_set()
IMAGES = torch.zeros(2, 1, 4, 4)
SOURCE = {"name": "x", "train": DATA.train, "test": DATA.test, "class_names": ("a",), "fingerprint": "", "options": {}}
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: distill(None, DATA), "config must be a DistillConfig, not NoneType"),
    (lambda: distill(CONFIG, None), "data must be a SourceData, not NoneType"),
    (lambda: Distiller(CONFIG, "digits", device="cpu"), "data must be a SourceData, not str"),
    (lambda: selected_set(None, DATA), "config must be a SelectConfig"),
    (lambda: selected_set(small_selection(), None), "data must be a SourceData"),
    (lambda: load_source(None, SourceRequest()), "no image source is called None"),
    (lambda: load_source("digits", None), "request must be a SourceRequest"),
    (lambda: SourceRequest(image_size="32"), "image_size must be a whole number, not '32'"),
    (lambda: SourceRequest(data_dir=3), "data_dir must be a Path, not 3"),
    (lambda: SourceRequest(test_fraction=float("nan")), "test_fraction must be finite"),
    (lambda: SourceRequest(sise=3), "no field of SourceRequest is called 'sise'; did you mean"),
    (
        lambda: DistillConfig(ipc=1, iteration=3),
        "no field of DistillConfig is called 'iteration'; did you mean 'iterations'",
    ),
    (DistillConfig, "DistillConfig was given no ipc"),
    (lambda: DistillConfig(ipc=1.5), "ipc must be a whole number, not 1.5"),
    (lambda: DistillConfig(ipc=True), "ipc must be a whole number, not True"),
    (lambda: DistillConfig(ipc=10**400), "ipc must be at most 2,147,483,647, not a number of 1329 bits"),
    (lambda: DistillConfig(ipc=1, seed=2**64), "seed must be at least 0 and at most"),
    (lambda: DistillConfig(ipc=1, image_lr=float("inf")), "image_lr must be finite in float32"),
    (lambda: DistillConfig(ipc=1, image_lr=10**400), "image_lr must be finite in float32"),
    (lambda: DistillConfig(ipc=1, matcher_options={"a": float("nan")}), "matcher_options must be JSON values"),
    (lambda: DistillConfig.from_json(None), "the stored DistillConfig must be a Mapping, not NoneType"),
    (lambda: SelectConfig.from_json([]), "must be a Mapping, not list"),
    (lambda: ConvNetConfig.from_json("convnet"), "the stored ConvNetConfig must be a Mapping, not str"),
    (lambda: TrainConfig(epochs="3"), "epochs must be a whole number, not '3'"),
    (lambda: TrainConfig(epoch=3), "no field of TrainConfig is called 'epoch'; did you mean 'epochs'"),
    (lambda: TrainConfig(lr=float("inf")), "lr must be finite in float32"),
    (lambda: evaluate(None, DATA.test, TrainConfig()), "synthetic_set must be a SyntheticSet"),
    (lambda: evaluate(HELD, DATA, TrainConfig()), "test must be a Split, not SourceData"),
    (lambda: evaluate(HELD, DATA.test, None), "config must be a TrainConfig"),
    (lambda: export_set(None, "x", format="npz"), "synthetic_set must be a SyntheticSet"),
    (lambda: export_set(HELD, "x", format=None), "no format is called None"),
    (lambda: make_matcher(None, {}), "no matcher is called None"),
    (lambda: build_model(None, (3, 8, 8), 3), "the model's name must be a str"),
    (lambda: Split(images=None, labels=None), "images must be a Tensor"),
    (lambda: SourceData(**{**SOURCE, "train": None}), "train must be a Split"),
    (lambda: SourceData(**{**SOURCE, "class_names": ["a"]}), "class_names must be a tuple"),
    (lambda: concatenate([None]), "a set to concatenate must be a SyntheticSet"),
    (lambda: ReplayMemory(None), "budget must be a Budget"),
    (lambda: ReplayMemory(Budget(ipc=1)).add(None), "the set to add must be a SyntheticSet"),
    (lambda: Preprocessing.fit(None), "images must be a Tensor"),
    (lambda: HELD.preprocessing(None), "images must be a Tensor, not NoneType"),
    (lambda: HELD.preprocessing(IMAGES.to_sparse()), "found a sparse_coo tensor of images"),
    (lambda: HELD.preprocessing.inverse(IMAGES.to("meta")), "found a meta tensor of images"),
    (lambda: HELD.preprocessing(torch.zeros(3, 4, 4)), r"found images of shape \(3, 4, 4\), expected \(..., 1, 4, 4\)"),
]


@pytest.mark.parametrize(("call", "words"), CALLS, ids=[words[:40] for _, words in CALLS])
def test_a_wrong_argument_is_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(AtomError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
