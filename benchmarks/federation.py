"""The methods of examples/flower_digits.py on a part of another dataset: `python benchmarks/federation.py --data photos`.

In Flower's simulation, as the example; prints its table. The parts are drawn by seed 0, class by class.

    python benchmarks/federation.py --data cifar --images 5000 --test-images 2000 --rounds 5
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from images import load_images

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.validation import hold_out

EXAMPLE = Path(__file__).parents[1] / "examples" / "flower_digits.py"


def part_of(data: SourceData, images: int, test_images: int) -> SourceData:
    """The given numbers of training and test images of ``data``, in proportion to its classes."""

    def some(split: Split, count: int) -> Split:
        held = hold_out(replace(data, train=split), count).validation
        assert held is not None
        return held

    return replace(data, train=some(data.train, images), test=some(data.test, test_images))


def main(arguments: list[str] | None = None, run: Callable[..., None] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder, archive or .npz of images (default: the digits)")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=50)
    given = parser.parse_args(arguments)
    data = part_of(load_images(given.data), given.images, given.test_images)
    example = runpy.run_path(str(EXAMPLE))
    results = example["main"](run, data, rounds=given.rounds, iterations=given.iterations, epochs=given.epochs)
    example["print_table"](results)


if __name__ == "__main__":
    main()
