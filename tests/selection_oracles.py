"""Herding, k-center and forgetting written out in loops over single numbers: oracles that several tests share."""

from __future__ import annotations

import itertools
import math

import torch


def distance(one: list[float], other: list[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))


def mean_of(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def herding_oracle(embeddings: torch.Tensor, labels: torch.Tensor, ipc: int) -> list[int]:
    rows, chosen = embeddings.double().tolist(), []
    for label in sorted(set(labels.tolist())):
        members = [index for index, of in enumerate(labels.tolist()) if of == label]
        goal = mean_of([rows[index] for index in members])
        picked: list[int] = []
        for _ in range(ipc):
            best, best_distance = -1, math.inf
            for index in members:
                if index in picked:
                    continue
                away = distance(goal, mean_of([rows[other] for other in [*picked, index]]))
                if away < best_distance:
                    best, best_distance = index, away
            picked.append(best)
        chosen += picked
    return chosen


def k_center_oracle(embeddings: torch.Tensor, labels: torch.Tensor, ipc: int) -> list[int]:
    rows, chosen = embeddings.double().tolist(), []
    for label in sorted(set(labels.tolist())):
        members = [index for index, of in enumerate(labels.tolist()) if of == label]
        goal = mean_of([rows[index] for index in members])
        picked = [min(members, key=lambda index: distance(goal, rows[index]))]
        while len(picked) < ipc:
            best, best_distance = -1, -math.inf
            for index in members:
                if index in picked:
                    continue
                away = min(distance(rows[index], rows[other]) for other in picked)
                if away > best_distance:
                    best, best_distance = index, away
            picked.append(best)
        chosen += picked
    return chosen


def events_of(history: list[bool]) -> float:
    """Toneva et al.: right at one presentation, wrong at the next; never right counts as forgotten without end."""
    if not any(history):
        return math.inf
    return float(sum(before and not after for before, after in itertools.pairwise(history)))
