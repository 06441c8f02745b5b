"""The matcher in docs/extend/matcher.md is as short as it says, and works."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.matchers.set_matcher import SetMatcher, SetStep
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.features import Features

TEXT = (Path(__file__).parents[2] / "docs" / "extend" / "matcher.md").read_text()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> str:
    """The code of the page's two examples, run; their registration is forgotten after the test."""
    codes = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
    assert len(codes) == 2
    monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))
    exec(compile("".join(codes), "matcher.md", "exec"), {"__name__": "your_package.variation"})
    return "".join(codes)


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


def test_the_loss_of_the_whole_set_is_what_its_docstring_says(example: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = ConvNetConfig(width=4, depth=1).build((1, 8, 8), 2, generator=generator).requires_grad_(False)
    real, synthetic = (torch.randn(n, 1, 8, 8, generator=generator) for n in (4, 6))
    real_labels, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    step = SetStep(
        images=synthetic,
        labels=labels,
        learned={"temperature": torch.tensor([0.7])},
        carried={},
        network=network,
        real_images=real,
        real_labels=real_labels,
        generator=generator,
        augment=lambda images, generator: images,
    )
    theirs, own, expected = network(real), network(synthetic), 0.0
    for i in range(4):
        near = [math.exp(-float((theirs[i] - own[j]).norm()) / 0.7) for j in range(6)]
        share = sum(near[j] for j in range(6) if labels[j] == real_labels[i]) / sum(near)
        expected -= math.log(share) / 4
    matcher = make_matcher("neighbours")
    assert isinstance(matcher, SetMatcher)
    assert matcher.loss(step).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("matcher", "options"), [("variation", {"balance": 0.1}), ("neighbours", {})])
def test_the_loop_distils_with_it(example: str, matcher: str, options: dict[str, float]) -> None:
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
        matcher=matcher,
        matcher_options=options,
        iterations=2,
        real_batch=4,
        precision="float32",
        network=ConvNetConfig(width=8, normalisation="instance"),
    )
    losses: list[float] = []
    made = distill(config, data, device="cpu", on_progress=lambda progress: losses.append(progress.loss))
    assert made.images.shape == (2, 1, 8, 8)
    assert made.provenance.method == matcher
    assert all(loss > 0 for loss in losses)
    assert len(losses) == 2
