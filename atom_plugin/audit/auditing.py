"""An audit from its sets to its results: shadow networks, attacked networks, the rates of attacks, and copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from atom_plugin.audit.attacks import Array, lira_scores, loss_scores
from atom_plugin.audit.copies import REAL, Copies, distance_scores, embedding_copies, pixel_copies
from atom_plugin.audit.members import Examined, begun_from, check_made_of, examine
from atom_plugin.audit.rates import FEWEST, AttackRates
from atom_plugin.audit.result import ALL, OWN, START, Audit, AuditConfig, AuditedSet
from atom_plugin.audit.shadows import (
    Shadows,
    Training,
    given_shadow_set,
    random_images,
    shadow_sets,
    train_shadows,
    train_targets,
)
from atom_plugin.audit.whitening import whitening_scores
from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training import TrainingRun
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.progress import phase
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

NamedSet = tuple[str, SyntheticSet]
NamedShadow = tuple[str, SyntheticSet, SourceData]


def with_baselines(sets: Sequence[NamedSet], source: SourceData, config: AuditConfig) -> list[NamedSet]:
    """The sets, followed by equally many random real images for each size and preprocessing, unless already among the sets."""
    found = list(sets)
    for _, like in sets if config.baseline else ():
        made = random_images(like, source, seed=config.seed)
        if not any(torch.equal(made.images, held.images) for _, held in found):
            found.append((f"random IPC {like.ipc}", made))
    return found


def networks_to_train(sets: Sequence[NamedSet], shadows: Sequence[NamedShadow], config: AuditConfig) -> int:
    """The number of networks that :func:`audit` trains, each for all its epochs."""
    groups = _groups([each for _, each in sets], config, given=bool(shadows))
    return config.networks * len(sets) + max(config.networks, len(shadows)) * len(groups)


def audit(
    sets: Sequence[NamedSet],
    source: SourceData,
    config: AuditConfig,
    *,
    shadows: Sequence[NamedShadow] = (),
    on_epoch: Callable[[int], object] | None = None,
) -> Audit:
    """Audit ``sets``, all made from the training images of ``source``; :func:`with_baselines` adds baselines.

    Shadow networks are trained on ``shadows``, each with the source of the images that it was made from, or by default on
    random non-members. Raises ConfigError and SourceError for sets and images that do not fit.
    """
    sets = [(name, each.with_class_labels("an audit")) for name, each in sets]
    shadows = [(name, each.with_class_labels("an audit"), made_of) for name, each, made_of in shadows]
    for name, each in sets:
        check_made_of(name, each, source)
    device = resolve_device(config.device)
    run = TrainingRun(device=device, precision=resolve_precision(config.precision, device), on_epoch=on_epoch)
    training = Training(config=config.training, networks=config.networks, seed=config.seed, run=run)
    begun = [begun_from(each, source) for _, each in sets]
    examined = examine(source, most=config.images, halve=not shadows, seed=config.seed)
    asked = _asked_about(examined, begun, config)
    trained = _all_shadows([each for _, each in sets], shadows, asked, training)
    copies = _all_copies([each for _, each in sets], trained, asked)
    whitenings = _all_whitenings([each for _, each in sets], asked.images)
    found = []
    for named, own, shadow, near, white in zip(sets, begun, trained, copies, whitenings, strict=True):
        target = train_targets(named[1], config.network(named[1]), asked.images, training)
        found.append(_audited(named, own, target, shadow, asked, copies=near, whitening=white))
    return replace(asked, sets=found, control={} if shadows else _control(trained[0], asked))


def _control(shadows: Shadows, asked: Audit) -> dict[str, AttackRates]:
    """Attacks on shadow networks and sets, which saw no member: the result of chance for these images."""
    scores = {
        "loss": loss_scores(shadows.confidences),
        "distance": np.mean([distance_scores(asked.images, each) for each in shadows.sets], axis=0),
    }
    sides = asked.is_member & asked.drawn, ~asked.is_member
    return {attack: asked.rates(values, *sides) for attack, values in scores.items()}


def _asked_about(examined: Examined, begun: Sequence[torch.Tensor | None], config: AuditConfig) -> Audit:
    """An audit of the examined images, without sets yet."""
    train, outside = examined.source.train, examined.outside
    more = {row for rows in begun if rows is not None for row in rows.tolist()} - {*examined.members.tolist()}
    members = torch.cat([examined.members, torch.tensor(sorted(more), dtype=torch.int64)])
    images = Split(
        images=torch.cat([train.rows(members), outside.rows(examined.others)]),
        labels=torch.cat([train.labels[members], outside.labels[examined.others]]),
    )
    place = np.arange(len(images))
    is_member = place < len(members)
    return Audit(
        config=config,
        examined=examined,
        images=images,
        rows=torch.cat([members, examined.others]),
        is_member=is_member,
        drawn=~is_member | (place < len(examined.members)),
    )


def _all_shadows(
    sets: Sequence[SyntheticSet], given: Sequence[NamedShadow], asked: Audit, training: Training
) -> list[Shadows]:
    """The shadows of each set; sets with equal options share theirs."""
    found: dict[int, Shadows] = {}
    made = [given_shadow_set(*each, asked.images.images) for each in given]
    for group in _groups(sets, asked.config, given=bool(given)):
        like = sets[group[0]]
        used = made or shadow_sets(like, asked.examined, training, len(asked.images))
        shadows = train_shadows(used, asked.config.network(like), asked.images, training)
        found |= dict.fromkeys(group, shadows)
    return [found[number] for number in range(len(sets))]


def _groups(sets: Sequence[SyntheticSet], config: AuditConfig, *, given: bool) -> list[list[int]]:
    """The indices of sets that share their shadow networks."""
    groups: list[list[int]] = []
    for number, each in enumerate(sets):
        for group in groups:
            if _alike(sets[group[0]], each, config, given=given):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _alike(one: SyntheticSet, other: SyntheticSet, config: AuditConfig, *, given: bool) -> bool:
    if config.network(one) != config.network(other):
        return False
    kinds = [(each.ipc, each.factor, each.storage) for each in (one, other)]
    return given or (kinds[0] == kinds[1] and one.preprocessing.matches(other.preprocessing))


def _audited(
    named: NamedSet,
    begun: torch.Tensor | None,
    target: Array,
    shadows: Shadows,
    asked: Audit,
    *,
    copies: tuple[Copies, Copies],
    whitening: Array | None,
) -> AuditedSet:
    """The scores of the confidences ``target`` compared with ``shadows``."""
    name, synthetic_set = named
    own = None if begun is None else asked.is_member & np.isin(asked.rows.numpy(), begun.numpy())
    scores = {
        "loss": loss_scores(target),
        "lira": lira_scores(target, shadows.confidences, shadows.saw),
        "distance": distance_scores(asked.images, synthetic_set),
        **({} if whitening is None else {"whitening": whitening}),
    }
    told = _told(name, scores["lira"], asked)
    groups = {ALL: asked.is_member & asked.drawn}
    if own is not None and (own & told).sum() >= FEWEST:
        groups[OWN if synthetic_set.provenance.method in METHODS else START] = own
    sides = {group: (members & told, ~asked.is_member & told) for group, members in groups.items()}
    return AuditedSet(
        name=name,
        synthetic_set=synthetic_set,
        rates={
            (group, attack): asked.rates(values, *side)
            for group, side in sides.items()
            for attack, values in scores.items()
        },
        scores=scores,
        own=own,
        networks=len(target),
        shadows=len(shadows.confidences),
        pixels=copies[0],
        embedding=copies[1],
    )


def _told(name: str, lira: Array, asked: Audit) -> Array:
    """The images with a score, bool (n,), on which all attacks are evaluated. Raises ConfigError if they are too few."""
    told = ~np.isnan(lira)
    sides = [int((told & side).sum()) for side in (asked.is_member, ~asked.is_member)]
    if min(sides) < FEWEST:
        raise ConfigError(
            f"{name}: at least two shadow networks were trained without {sides[0]} of its members and {sides[1]} "
            f"non-members, expected {FEWEST} or more of each; give other sets with --shadow, or more of them"
        )
    return told


def _all_copies(sets: Sequence[SyntheticSet], trained: Sequence[Shadows], asked: Audit) -> list[tuple[Copies, Copies]]:
    """For each set the copies in pixels, and in the embeddings of the first of its shadow networks."""
    members = asked.examined.source.train
    others = asked.examined.outside.rows(asked.examined.others[_spread(len(asked.examined.others), REAL)])
    with phase(f"looking for the nearest of {len(members):,} members"):
        pixels = pixel_copies(sets, members, others)
        embeddings: dict[int, Copies] = {}
        for shadows in {id(each): each for each in trained}.values():
            group = [number for number, each in enumerate(trained) if each is shadows]
            alike = [sets[number] for number in group]
            found = embedding_copies(alike, members, others, shadows.embedder, shadows.preprocessing)
            embeddings |= zip(group, found, strict=True)
    return [(each, embeddings[number]) for number, each in enumerate(pixels)]


def _all_whitenings(sets: Sequence[SyntheticSet], images: Split) -> list[Array | None]:
    """For each set the scores by its whitening, computed once for each preprocessing; None if it has none."""
    known: list[tuple[Preprocessing, Array | None]] = []
    found = []
    for preprocessing in (each.preprocessing for each in sets):
        held = next((scores for other, scores in known if other.matches(preprocessing)), None)
        if held is None:
            held = whitening_scores(images, preprocessing)
            known.append((preprocessing, held))
        found.append(held)
    return found


def _spread(count: int, most: int) -> torch.Tensor:
    """At most ``most`` of ``count`` indices, evenly spaced."""
    return torch.arange(min(count, most)) * count // min(count, most)
