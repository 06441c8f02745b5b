"""Small sets for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from atom_plugin.store.provenance import Provenance
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening


def make_set(
    *,
    classes: int = 3,
    ipc: int = 2,
    shape: tuple[int, int, int] = (1, 4, 4),
    zca: bool = False,
    pixels: int = 0,
    factor: int = 1,
    soft: str | None = None,
    storage: str = "float32",
    class_names: tuple[str, ...] | None = None,
    labels: torch.Tensor | None = None,
    **provenance: Any,
) -> SyntheticSet:
    """A set of random pixels (``pixels`` is their seed), class-major unless ``labels`` says otherwise; ``soft`` is the kind of
    its soft labels.
    """
    generator = torch.Generator().manual_seed(pixels)
    channels, size = shape[0], shape[0] * shape[1] * shape[2]
    whitening = None
    if zca:
        root = torch.randn(size, size, generator=generator) / size
        matrix = root @ root.T + torch.eye(size)
        whitening = Whitening(mean=torch.randn(size, generator=generator), matrix=matrix, eps=0.1)
    preprocessing = Preprocessing(
        mean=torch.rand(channels, generator=generator),
        std=torch.rand(channels, generator=generator) + 0.1,
        image_shape=shape,
        whitening=whitening,
    )
    if labels is None:
        labels = torch.arange(classes).repeat_interleave(ipc)
    names = class_names if class_names is not None else tuple(f"class {label}" for label in range(classes))
    made = {"method": "atom", "seed": 0, "config": {"ipc": ipc}, "source": {"name": "digits"}, "iterations": 7}
    held = SyntheticSet(
        images=torch.randn(len(labels), *shape, generator=generator),
        labels=labels,
        class_names=names,
        preprocessing=preprocessing,
        provenance=Provenance(**(made | provenance)),
        factor=factor,
    ).stored_as(storage)
    return held if soft is None else with_soft_labels(held, soft, seed=pixels)


def with_soft_labels(held: SyntheticSet, kind: str, *, seed: int = 0) -> SyntheticSet:
    """The set with random soft labels."""
    generator = torch.Generator().manual_seed(seed + 1)
    values = torch.randn(len(held), len(held.class_names), generator=generator)
    return replace(
        held, soft_labels=SoftLabels(values=values.softmax(1) if kind == "probabilities" else values, kind=kind)
    )


def golden_set() -> SyntheticSet:
    """The set in golden/synthetic-set-v1.h5: values that any machine computes alike, without a random generator."""
    size = 16
    place = torch.arange(size)
    return SyntheticSet(
        images=(torch.arange(6 * size).view(6, 1, 4, 4) - 40) / 32,
        labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        class_names=("cat", "żółw", "a/b c"),
        preprocessing=Preprocessing(
            mean=torch.tensor([0.5]),
            std=torch.tensor([0.25]),
            image_shape=(1, 4, 4),
            whitening=Whitening(
                mean=(place - 8) / 64,
                matrix=torch.eye(size) * 2 + 1 / (8 + (place[:, None] - place[None]).abs()),
                eps=0.125,
            ),
        ),
        provenance=Provenance(
            method="atom",
            seed=2**63 + 5,
            config={"ipc": 2, "zca": True, "note": "zażółć"},
            source={"name": "digits", "options": {}, "fingerprint": "0123abcd"},
            versions={"torch": "2.11.0"},
            iterations=300,
            final_loss=0.8125,
        ),
    )


def golden_packed_set() -> SyntheticSet:
    """The set in golden/synthetic-set-v2.h5: packed pixels of a nested set, without whitening."""
    held = golden_set()
    return replace(
        held,
        images=(torch.arange(6 * 16).view(6, 1, 4, 4) * 5 % 256).to(torch.uint8),
        preprocessing=replace(held.preprocessing, whitening=None),
        factor=2,
        prefixes=(1, 2),
    )


def golden_soft_set() -> SyntheticSet:
    """The set in golden/synthetic-set-v3.h5: logits and a learned learning rate."""
    values = (torch.arange(6 * 3).view(6, 3) * 7 % 18 - 9) / 4
    return replace(golden_set(), soft_labels=SoftLabels(values=values, kind="logits"), learned_lr=0.03125)


def assert_equal_sets(found: SyntheticSet, expected: SyntheticSet) -> None:
    """Equal to the last bit, with the same types."""
    assert found.images.dtype == expected.images.dtype
    assert torch.equal(found.images, expected.images)
    assert found.labels.dtype == torch.int64
    assert torch.equal(found.labels, expected.labels)
    assert found.class_names == expected.class_names
    assert found.preprocessing.matches(expected.preprocessing)
    assert found.provenance == expected.provenance
    assert (found.factor, found.prefixes) == (expected.factor, expected.prefixes)
    assert found.learned_lr == expected.learned_lr
    assert (found.soft_labels is None) == (expected.soft_labels is None)
    if found.soft_labels is not None and expected.soft_labels is not None:
        assert found.soft_labels.kind == expected.soft_labels.kind
        assert torch.equal(found.soft_labels.values, expected.soft_labels.values)
