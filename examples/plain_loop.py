"""ATOM in a user's own loop, with a user's own network.

The loop below is plain distribution matching: per iteration a new network, per class a batch of real and one of synthetic
images, one loss, one step of SGD. It uses only the matcher and the extractor of features from this package.

    python examples/plain_loop.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from atom_plugin.matchers import make_matcher
from atom_plugin.models.features import FeatureExtractor


def foreign_network() -> nn.Module:
    """An ordinary module; any other works too."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.InstanceNorm2d(32, affine=True),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.InstanceNorm2d(32, affine=True),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def main(iterations: int = 100, ipc: int = 2, real_batch: int = 32) -> tuple[float, float]:
    """Distil scikit-learn's digits; returns the mean loss of the first and of the last ten iterations."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 * 2 - 1
    labels = torch.tensor(digits.target)
    synthetic = torch.randn(10 * ipc, 1, 8, 8, requires_grad=True)  # class-major: ipc images of 0, ipc of 1, …
    optimizer = torch.optim.SGD([synthetic], lr=0.1, momentum=0.5)
    atom = make_matcher("atom", {"p_s": 4.0, "p_c": 4.0, "task_balance": 0.01, "loss_scale": 10.0})
    losses = []
    for _ in range(iterations):
        picks = [torch.nonzero(labels == k).flatten() for k in range(10)]
        real = torch.cat([images[members[torch.randperm(len(members))[:real_batch]]] for members in picks])
        # The ReLU outputs are matched ("2" and "6", all but the last as attention), the last pooling is the embedding.
        with FeatureExtractor(foreign_network(), maps=["2", "6"], embedding="7") as extract:
            with torch.no_grad():
                real_features = extract(real, groups=10)
            loss = atom(real_features, extract(synthetic, groups=10))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    print(f"loss {first:.2f} -> {last:.2f} in {iterations} iterations")
    return first, last


if __name__ == "__main__":
    main()
