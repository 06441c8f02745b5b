"""Stage 1: select and distil the sets that are missing, those that can share a real branch at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from atom_plugin.cli.interrupts import stop_requests
from atom_plugin.distillation.assembly import fit_preprocessing, selected_set
from atom_plugin.distillation.joint import OWN_CHOICES, distill_jointly
from atom_plugin.distillation.loop import Progress, distill
from atom_plugin.errors import AtomError, Interrupted, StoreError
from atom_plugin.matchers import MeanMatcher, make_matcher
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing
from study.plan import Job
from study.sets import SetFolder, Wanted, wanted


def make_sets(jobs: Iterable[Job], folder: SetFolder, *, device: str, joint: bool, quiet: bool) -> list[str]:
    """Make what ``folder`` lacks; returns a line for each set that failed.

    With ``joint``, runs that can share a real branch do: much faster for many, but a stopped one starts again. Others keep
    checkpoints beside their sets and go on from there. Raises StoreError where a set cannot be written, Interrupted.
    """
    maker, failed = _Maker(folder, device, quiet), []
    for group in _groups([want for want in wanted(jobs) if want not in folder], joint=joint):
        if len(group) > 1 and maker.together(group):
            continue
        for want in group:
            try:
                maker.alone(want)
            except (StoreError, Interrupted):
                raise
            except AtomError as error:
                failed.append(f"{want.name}: {error}")
    return failed


def _groups(missing: list[Wanted], *, joint: bool) -> list[list[Wanted]]:
    """Runs that may be distilled jointly, together; everything else by itself."""
    found: list[list[Wanted]] = []
    for want in missing:
        fitting = [group for group in found if _can_share(group[0], want)] if joint and _shareable(want) else []
        if fitting:
            fitting[0].append(want)
        else:
            found.append([want])
    return found


def _shareable(want: Wanted) -> bool:
    matcher = make_matcher(want.config.matcher, want.config.matcher_options)
    return want.selection is None and isinstance(matcher, MeanMatcher) and not want.config.network_epochs


def _can_share(first: Wanted, other: Wanted) -> bool:
    differing = {line.partition(":")[0] for line in first.config.differences(other.config)}
    return _shareable(first) and differing <= OWN_CHOICES


class _Maker:
    def __init__(self, folder: SetFolder, device: str, quiet: bool) -> None:
        self.folder, self.device, self.quiet = folder, device, quiet
        self._fitted: dict[tuple[bool, float | None], Preprocessing] = {}

    def together(self, group: list[Wanted]) -> bool:
        """Distil the runs of ``group`` from one real branch. False, and nothing stored, where one of them fails."""
        self._say("at once: " + "; ".join(want.name for want in group))
        configs = [want.config for want in group]
        try:
            with self._bar(max(config.iterations for config in configs)) as bar:
                made = distill_jointly(
                    configs,
                    self.folder.data,
                    device=self.device,
                    preprocessing=self._preprocessing(group[0]),
                    on_progress=lambda iteration, losses: bar.update(iteration - bar.n),
                )
        except AtomError as error:
            print(f"{error}; going on one by one", file=sys.stderr)
            return False
        for want, synthetic_set in zip(group, made, strict=True):
            self.folder.add(want, synthetic_set)
        return True

    def alone(self, want: Wanted) -> None:
        """Select or distil one set."""
        self._say(want.name)
        preprocessing = self._preprocessing(want)
        if want.selection is not None:
            self.folder.add(
                want, selected_set(want.config, self.folder.data, preprocessing=preprocessing, device=self.device)
            )
        else:
            self.folder.add(want, self._distilled(want, preprocessing))
            self._checkpoint(want).unlink(missing_ok=True)

    def _distilled(self, want: Wanted, preprocessing: Preprocessing) -> SyntheticSet:
        with self._bar(want.config.iterations) as bar, stop_requests() as stop_signal:

            def show(progress: Progress) -> None:
                bar.update(progress.iteration - bar.n)

            return distill(
                want.config,
                self.folder.data,
                device=self.device,
                preprocessing=preprocessing,
                checkpoint=self._checkpoint(want),
                resume=True,
                on_progress=show,
                stop_signal=stop_signal,
            )

    def _checkpoint(self, want: Wanted) -> Path:
        return self.folder.path(want).with_suffix(".checkpoint")

    def _preprocessing(self, want: Wanted) -> Preprocessing:
        """Fitted once for all sets that share it: a whitening takes longer than many a selection."""
        key = want.config.standardise, want.config.zca_eps
        if key not in self._fitted:
            self._fitted[key] = fit_preprocessing(want.config, self.folder.data)
        return self._fitted[key]

    def _bar(self, total: int) -> tqdm[None]:
        return tqdm(total=total, disable=self.quiet, unit="step")

    def _say(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr)
