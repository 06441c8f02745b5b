"""The matcher in docs/extend/matcher.md is as short as it says, and works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.features import Features

TEXT = (Path(__file__).parents[2] / "docs" / "extend" / "matcher.md").read_text()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> str:
    """The example's code, run; its registration is forgotten after the test."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
    monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))
    exec(compile(code, "matcher.md", "exec"), {"__name__": "your_package.variation"})
    return str(code)


def test_its_loss_is_what_its_docstring_says(example: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def features() -> Features:
        maps = [torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
        embedding = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        return Features(maps=tuple(maps), embedding=embedding, groups=2)

    real, synthetic = features(), features()
    expected = 0.0
    for first in (0, 3):  # the images of class 0, and of class 1
        images = range(first, first + 3)
        for channel in range(3):
            spread = [sum(f.maps[0][i, channel].var() for i in images) / 3 for f in (real, synthetic)]
            expected += float(spread[0] - spread[1]) ** 2
        mean = [sum(f.embedding[i] for i in images) / 3 for f in (real, synthetic)]
        expected += 0.5 * float((mean[0] - mean[1]).square().sum())
    loss = make_matcher("variation", {"balance": 0.5})(real, synthetic)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_the_loop_distils_with_it(example: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(6)
    images = torch.randint(0, 100, (12, 1, 8, 8), generator=generator, dtype=torch.uint8) + 100 * labels.view(
        -1, 1, 1, 1
    )
    split = Split(images=images.to(torch.uint8), labels=labels)
    data = SourceData(
        name="two", train=split, test=split, class_names=("dark", "bright"), fingerprint="0" * 64, options={}
    )
    config = DistillConfig(
        ipc=1,
        matcher="variation",
        matcher_options={"balance": 0.1},
        iterations=2,
        real_batch=4,
        precision="float32",
        network=ConvNetConfig(width=8, normalisation="instance"),
    )
    losses: list[float] = []
    made = distill(config, data, device="cpu", on_progress=lambda progress: losses.append(progress.loss))
    assert made.images.shape == (2, 1, 8, 8)
    assert made.provenance.method == "variation"
    assert all(loss > 0 for loss in losses)
    assert len(losses) == 2
