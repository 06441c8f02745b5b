"""A set of half the images extended to --ipc, compared with a set made at once: `python benchmarks/growing.py`.

Compares the extended sets, with old images frozen and thawed, with the old set, a set made at once at equal steps, and real
images at random and by herding. Lines and options are as in any_ipc.py; the seconds of an extended set are those of the
extension.

    python benchmarks/growing.py --ipc 20 --out runs/growing.jsonl      # digits, 10 to 20 images per class
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from any_ipc import arguments, measure

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.store.synthetic_set import SyntheticSet


def sets(data: SourceData, given: argparse.Namespace, seed: int) -> Iterator[tuple[str, int, SyntheticSet, float]]:
    """Kind, images per class, the set, and the seconds of its distillation."""
    common: dict[str, Any] = {"image_shape": data.image_shape, "seed": seed}

    def made(ipc: int, **options: Any) -> tuple[SyntheticSet, float]:
        config = DistillConfig.from_recipe("atom", ipc=ipc, iterations=given.iterations, **options, **common)
        began = time.perf_counter()
        return distill(config, data, device=given.device), time.perf_counter() - began

    half = given.ipc // 2
    old, seconds = made(half)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old.h5"
        old.save(path)
        yield "before", half, old, seconds
        yield "grown, frozen", given.ipc, *made(given.ipc, extend=str(path))
        yield "grown, thawed", given.ipc, *made(given.ipc, extend=str(path), thaw=True)
    yield "at once", given.ipc, *made(given.ipc)
    for method in ("herding", "random"):
        config = SelectConfig.from_recipe("atom", ipc=given.ipc, method=method, **common)
        chosen = selected_set(config, data, preprocessing=old.preprocessing, device=given.device)
        for count in (half, given.ipc):
            yield method, count, chosen.first(count), 0.0


if __name__ == "__main__":
    measure(arguments(__doc__), sets)
