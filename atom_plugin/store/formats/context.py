"""Information for an import that other toolkits' files lack: class names and preprocessing."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from atom_plugin.errors import ConfigError, StoreError, listed, shape_text
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.formats.class_ids import mapped_soft, names_of, table_of
from atom_plugin.store.formats.coding import Constants, convert, standardised
from atom_plugin.store.formats.plausibility import odd_coding
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData

_BLOCK = 1 << 20
_WAYS = "--like FILE.h5 (a set of the same source), --dataset NAME"
_FLAGS = {
    "like": "--like",
    "dataset": "--dataset",
    "class_names": "--classes",
    "class_map": "--class-map",
    "constants": "--mean, --std",
    "method": "--method",
}


@dataclass(kw_only=True, eq=False)
class ImportContext:
    """Information besides the file: a set ``like`` it, or the ``dataset`` it was made from, or class names and constants by
    hand.

    ``load_dataset`` reads the source named ``dataset``, and is called only if a format needs it. ``constants`` are the mean and
    std of the imported set. ``class_map`` names the classes by the file's ids: if classes are given as well, labels are mapped
    to their ids by name. ``method`` is the method that made the images, if known. ``notes`` collects what an import converted
    or assumed. Raises ConfigError if both ``like`` and ``dataset`` are given.
    """

    like: SyntheticSet | None = None
    dataset: str | None = None
    load_dataset: Callable[[], SourceData] | None = None
    class_names: tuple[str, ...] | None = None
    class_map: Mapping[int, str] | None = None
    constants: Constants | None = None
    method: str | None = None
    notes: list[str] = field(default_factory=list)
    _digests: dict[str, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _loaded: SourceData | None = None

    def __post_init__(self) -> None:
        if self.like is not None and self.dataset is not None:
            raise ConfigError(
                "found both --like and --dataset, expected one of them; --like already includes the source"
            )

    def note(self, text: str) -> None:
        """Keep ``text`` as a note for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def opened(self, path: Path) -> Iterator[BinaryIO]:
        """A file of the import, open for reading; its sha256 goes into the provenance. Raises StoreError."""
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise StoreError(f"{path}: is not a regular file; give the name of a file")
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(_BLOCK):
                    digest.update(block)
                file.seek(0)
                self._digests[str(path.absolute())] = digest.hexdigest()
                yield file
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror or error}); check the name") from error

    def names(self, carried: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Class names by class id: those that the file ``carried``, or those given. ConfigError for none, or for both."""
        given = self._given_names()
        if given is None and carried is None:
            raise ConfigError(
                f"the file has no class names; pass {_WAYS}, --classes A,B,… in the order of the ids, or --class-map FILE"
            )
        if given is not None and carried is not None and given != carried:
            raise ConfigError(
                f"the file names the classes {listed(carried, most=3)}, but {listed(given, most=3)} were given; "
                "leave --classes, --like or --dataset out, or give the classes of the file's source"
            )
        return given or carried or ()

    def given_constants(self) -> Constants | None:
        """The constants of ``--mean`` and ``--std``."""
        self._use("constants")
        return self.constants

    def template(self) -> SyntheticSet | None:
        """The set of ``--like``."""
        self._use("like")
        return self.like

    def dataset_name(self) -> str | None:
        """The name of the source that the images were made from, if known."""
        if self.dataset is not None:
            self._use("dataset")
            return self.dataset
        template = self.template()
        return None if template is None else template.provenance.source.get("name")

    def source(self) -> SourceData | None:
        """The real images of ``--dataset``, loaded once; None without it."""
        if self.dataset is None or self.load_dataset is None:
            return None
        self._use("dataset")
        if self._loaded is None:
            self._loaded = self.load_dataset()
        return self._loaded

    def pixel_preprocessing(self, image_shape: tuple[int, int, int]) -> Preprocessing:
        """The preprocessing for images in [0, 1]: as ``like``, or standardised by given constants, or none, with a note."""
        template, constants = self.template(), self.given_constants()
        if constants is None and template is not None:
            return template.preprocessing
        source = self.source() if constants is None else None
        if source is not None:
            self._check_shape(image_shape)
            return Preprocessing.fit(source.train.images, mean=source.mean, std=source.std)
        if constants is None:
            self.note("images stay on the [0, 1] scale; --mean and --std, --dataset or --like would standardise them")
        neutral = ((0.0,) * image_shape[0], (1.0,) * image_shape[0])
        return standardised(constants or neutral, image_shape)

    def assemble(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        coding: Preprocessing | None,
        *,
        carried_names: tuple[str, ...] | None = None,
        soft: SoftLabels | None = None,
        learned_lr: float | None = None,
    ) -> SyntheticSet:
        """The set of ``images`` (N, C, H, W), float32 or uint8, in the coding ``coding`` (None: [0, 1]); class-major.

        ``labels`` (N,) and ``soft`` use the ids of the file. The set has the preprocessing of ``--like``, or else of the file.
        Raises ConfigError if labels, class names or shapes do not fit each other.
        """
        shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
        self._check_shape(shape)
        template = self.template()
        if coding is None:
            result = self.pixel_preprocessing(shape)
        else:
            result = coding if template is None or self.constants is not None else template.preprocessing
        names = self.names(carried_names)
        if soft is not None:
            soft = mapped_soft(soft, self.class_map, names)
        labels = self._mapped(labels, names)
        if odd := odd_coding(images, coding):
            self.note(odd)
        if len(labels) and int(labels.max()) >= len(names):
            raise ConfigError(
                f"the file's labels go up to {int(labels.max())}, but there are {len(names)} class names "
                f"({listed(names, most=3)}); give the class names of the file's source"
            )
        self._use("method")
        order = labels.argsort(stable=True)
        if not torch.equal(order, torch.arange(len(labels))):
            self.note("images were sorted by class")
        return SyntheticSet(
            images=convert(images, coding, result)[order],
            labels=labels[order],
            class_names=names,
            preprocessing=result,
            soft_labels=None if soft is None else soft.at(order),
            learned_lr=learned_lr,
            provenance=Provenance(
                method=self.method or "unknown", seed=0, source=self._origin(), versions=package_versions()
            ),
        )

    def refuse_unused(self, format: str) -> None:
        """Raise ConfigError for given information that the format does not use."""
        unused = [flag for name, flag in _FLAGS.items() if getattr(self, name) is not None and name not in self._used]
        if unused:
            raise ConfigError(
                f"the format {format!r} already contains what {' and '.join(unused)} would give; leave that out"
            )

    def with_origin(self, held: SyntheticSet, *, format: str, path: Path, options: dict[str, Any]) -> SyntheticSet:
        """``held`` with ``config["imported"]``: format, file name, sha256 (of a folder: see docs/formats.md), options."""
        lines = [f"{digest}  {self._relative(name, path)}\n" for name, digest in self._digests.items()]
        single = path.is_file() and len(lines) == 1
        digest = (
            next(iter(self._digests.values()))
            if single
            else hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
        )
        origin = {
            "format": format,
            "file": path.absolute().name,
            "sha256": digest,
            "files": len(lines),
            "options": options,
        }
        provenance = held.provenance
        if "imported" in provenance.config:
            origin["before"] = provenance.config["imported"]
        return replace(held, provenance=replace(provenance, config={**provenance.config, "imported": origin}))

    def _mapped(self, labels: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        """The ids of ``names`` for the ids of the file, by name. Raises ConfigError for a class that is in neither."""
        if self.class_map is None:
            return labels
        self._use("class_map")
        table = table_of(self.class_map, sorted(set(labels.tolist())), names)
        moved = [found for found, label in table.items() if found != label]
        if moved:
            self.note(f"class ids were mapped by name: {moved[0]} in the file is {table[moved[0]]} here, and so on")
        return torch.tensor([table[found] for found in labels.tolist()], dtype=torch.int64)

    def _given_names(self) -> tuple[str, ...] | None:
        if self.class_names is not None:
            self._use("class_names")
            return self.class_names
        template = self.template()
        if template is not None:
            return template.class_names
        source = self.source()
        if source is not None:
            return source.class_names
        return None if self.class_map is None else names_of(self.class_map)

    def _origin(self) -> dict[str, Any]:
        if self._loaded is not None:
            loaded = self._loaded
            return {"name": loaded.name, "options": loaded.options, "fingerprint": loaded.fingerprint}
        return dict(self.like.provenance.source) if self.like is not None else {}

    def _check_shape(self, shape: tuple[int, int, int]) -> None:
        template, source = self.template(), self.source()
        known = {
            "--like": None if template is None else template.preprocessing.image_shape,
            "--dataset": None if source is None else source.image_shape,
        }
        for flag, expected in known.items():
            if expected is not None and expected != shape:
                raise ConfigError(
                    f"the file has images of {shape_text(shape)}, but the images of {flag} are "
                    f"{shape_text(expected)}; name the file's source"
                )

    def _use(self, name: str) -> None:
        self._used.add(name)

    def _relative(self, name: str, path: Path) -> str:
        root = path.absolute()
        return Path(name).relative_to(root).as_posix() if Path(name).is_relative_to(root) else Path(name).name
