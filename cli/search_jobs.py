"""The jobs of ``atom-cli consume search``: read the sets, check the candidates, predict the time, train the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from atom_plugin.cli.evaluation_jobs import run
from atom_plugin.errors import ConfigError

VALIDATION = 0.1  # of each class, where the sets were made of all training images

if TYPE_CHECKING:
    import torch

    from atom_plugin.cli.search_options import Compared, Searched
    from atom_plugin.datasets import SourceData, SourceRequest
    from atom_plugin.evaluation import EvaluationCell, NetworkResultsFile, Outcome
    from atom_plugin.search.scores import SearchJob
    from atom_plugin.search.searching import Search
    from atom_plugin.search.space import Space
    from atom_plugin.search.workloads import ProxyPlan
    from atom_plugin.store.synthetic_set import SyntheticSet


def space_of(searched: Searched, seed: int) -> tuple[Space, str]:
    """The candidates, and a description of how they were chosen."""
    from atom_plugin.search.space import Space

    whole = Space.from_toml(searched.space) if searched.space.endswith(".toml") else Space.named(searched.space)
    space, words = whole, f"{whole.name}, {len(whole)} candidates"
    if searched.pick is not None:
        space = space.pick(searched.pick)
        words += f", of these {len(space)} with {searched.pick}"
    if searched.sample is not None:
        space = space.sample(searched.sample, seed=seed)
        words += f", of these a sample of {len(space)} (seed {seed})"
    return space, words


def short_names(files: Sequence[Path]) -> list[str]:
    """The files' names, without folders unless two names are equal."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else list(map(str, files))


def searched_source(
    files: Sequence[Path], sets: Sequence[SyntheticSet], dataset: str | None, request: SourceRequest
) -> tuple[SourceData, bool]:
    """The source of all sets with validation images, and whether the sets were made without them. The validation images are
    those held out of the sets, or else some that are held out now. Raises ConfigError if the sets have two sources or two
    validation parts.
    """
    from atom_plugin.datasets.validation import hold_out
    from atom_plugin.evaluation import check_validation_parts, load_test_sources

    names = list(map(str, files))
    # Of a source that is no unsplit folder the seed is that of the validation images alone, which are held out here.
    split_seed = request.seed if dataset == "folder" else None
    sources = load_test_sources(names, sets, dataset, replace(request, validation=None, seed=split_seed))
    if any(source.validation is not None for source in sources):
        check_validation_parts(names, sources)
        for name, given in (("--validation", request.validation), ("--split-seed", request.seed)):
            if given is not None:
                raise ConfigError(f"{names[0]}: was made without its own validation images; leave {name} out")
        return sources[0], True
    for name, source in zip(names, sources, strict=True):
        if source.fingerprint != sources[0].fingerprint:
            raise ConfigError(
                f"{name}: has other images ({source.name}) than {names[0]} ({sources[0].name}); search on sets of "
                "one source"
            )
    amount = VALIDATION if request.validation is None else request.validation
    return hold_out(sources[0], amount, seed=request.seed or 0), False


def prepared(
    space: Space,
    sets: Sequence[tuple[str, SyntheticSet]],
    source: SourceData,
    compared: Compared,
    plan: ProxyPlan,
) -> Search:
    """The search that the options describe. Raises AtomError for choices that do not fit together."""
    from atom_plugin.search.forecast import examine
    from atom_plugin.search.searching import Search
    from atom_plugin.search.workloads import proxies, reference

    kind, epochs = compared.reference
    by = reference(sets[0][1], source, epochs=epochs, ipc=compared.reference_ipc, seed=plan.seed) if epochs else None
    operations, unfit = examine(space, source.image_shape, len(source.class_names))
    return Search(
        space=space,
        unfit=unfit,
        operations=operations,
        source=source,
        proxies=proxies(sets, source, plan),
        reference=by,
        kind=kind,
        halves=compared.halving,
        tests_best=compared.test_best,
        seed=plan.seed,
        precision=plan.precision,
    )


def forecast(search: Search, finished: NetworkResultsFile | None, device: torch.device) -> str:
    """One line with the number of networks and the predicted time."""
    from atom_plugin.evaluation.training import TrainingRun
    from atom_plugin.runtime import distributed

    planned = search.planned()
    missing = [each for each in planned if finished is None or finished.outcome_of(each.job) is None]
    words = f"{len(search.fit)} candidates, {len(planned)} networks, {len(planned) - len(missing)} finished"
    seconds = search.predicted_seconds(missing, TrainingRun(device=device, precision=search.precision))
    if seconds is None:
        return f"{words}; the time cannot be predicted: no candidate could be timed"
    return f"{words}; predicted time: {_duration(seconds / distributed.count())}"


def described(search: Search, *, unseen: bool) -> dict[str, str]:
    """A description of images and training; ``unseen``: whether the sets were made without the validation images."""
    from atom_plugin.evaluation.results import augmentation_name

    source, training = search.source, search.proxies[0].training
    assert source.validation is not None
    words = {
        "images": f"{source.name}, {len(source.train):,} for training, {len(source.validation):,} for validation"
        f"{'' if unseen else ', which the sets were made from too'}",
        "proxies": f"recipe {training.recipe}, {training.epochs} epochs, batch {training.batch_size}, "
        f"augmentation {augmentation_name(training)}",
        "precision": search.precision,
    }
    if (by := search.reference) is not None:
        who = "every candidate" if search.kind == "full" else "each proxy's best"
        words["reference"] = (
            f"{who} on {len(by.subject):,} images for {by.training.epochs} epochs, recipe {by.training.recipe}"
        )
    return words


def train(
    jobs: Sequence[SearchJob], finished: NetworkResultsFile | None, device: torch.device, *, quiet: bool
) -> list[Outcome]:
    """The outcomes of the networks, from the file or trained now."""
    names = {id(each.job.cell): each.candidate.name for each in jobs}

    def name_of(cell: EvaluationCell) -> str:
        return names[id(cell)]

    return run([each.job for each in jobs], finished, device, quiet=quiet, name_of=name_of)


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
