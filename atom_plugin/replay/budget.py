"""The limits of a replay memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from atom_plugin.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a memory: images per class, images in total, bytes of pixels in total; all given limits apply.

    ``ipc`` limits each class, for any number of classes. ``max_images`` and ``max_bytes`` are divided equally among the classes
    in the memory, so each class's share shrinks as classes are added, or among ``classes`` if their number is known beforehand:
    then the share is constant. The remainder goes to the lowest class ids, an image each. Bytes are of the stored pixels and
    of the logits kept with them; shared data (the preprocessing) is not counted. Raises ConfigError unless at least one of the
    three is given, and all are at least 1.
    """

    ipc: int | None = None
    max_images: int | None = None
    max_bytes: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given.keys() - {"classes"}:
            raise ConfigError("a memory's budget is missing; give ipc (images per class), max_images or max_bytes")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"a memory's {name} must be a whole number of at least 1, not {value!r}")

    def shares(self, classes: Iterable[int], image_bytes: int) -> dict[int, int]:
        """Images that each of the ``classes`` may have. Raises ConfigError if there is no room for one of each."""
        labels = sorted(set(classes))
        shared_by = max(len(labels), self.classes or 0)
        bounds = {
            "ipc": self.ipc and self.ipc * shared_by,
            "max_images": self.max_images,
            "max_bytes": self.max_bytes and self.max_bytes // image_bytes,
        }
        name, most = min(
            ((name, most) for name, most in bounds.items() if most is not None), key=lambda bound: bound[1]
        )
        share, rest = divmod(most, shared_by)
        if share < 1:
            need = shared_by * (image_bytes if name == "max_bytes" else 1)
            raise ConfigError(
                f"a memory of {name} {getattr(self, name)} has no room for one image of each of {shared_by} classes; "
                f"give it {need} or more"
            )
        # Announced classes have their places from the start: by id, so that shares stay as the others come.
        places = labels if shared_by == self.classes else range(len(labels))
        return {label: share + (place < rest) for label, place in zip(labels, places, strict=True)}
