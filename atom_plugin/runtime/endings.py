"""Endings of file names that promise a kind of file, so that nothing of another kind is written under them."""

from __future__ import annotations

from pathlib import Path

from atom_plugin.errors import ConfigError

ENDINGS = {
    "HDF5": (".h5", ".hdf5"),
    "safetensors": (".safetensors",),
    "ONNX": (".onnx",),
    "HTML": (".html", ".htm"),
    "CSV": (".csv",),
    "JSON lines": (".jsonl", ".json"),
    "a pool": (".pool",),
    "npz": (".npz",),
    "a torch file": (".pt", ".pth"),
}
"""What this package writes beside pictures (:mod:`~atom_plugin.runtime.picture_files`), the usual ending first."""

_OTHERS = (
    ".gif",
    ".jpeg",
    ".jpg",
    ".npy",
    ".pdf",
    ".pickle",
    ".pkl",
    ".png",
    ".svg",
    ".tar",
    ".tex",
    ".toml",
    ".webp",
    ".zip",
)


def refuse_other_ending(path: Path, kind: str, *, option: str = "the file") -> None:
    """Raise ConfigError where ``path``, which is to hold ``kind``, ends as another kind of file does.

    An ending that promises nothing, and none at all, are left to the user.
    """
    ending = path.suffix.lower()
    promised = {each for name, endings in ENDINGS.items() if name != kind for each in endings} | {*_OTHERS}
    if ending in promised:
        raise ConfigError(
            f"{path}: ends in {ending!r}, but {option} holds {kind}; name it {path.stem}{ENDINGS[kind][0]}"
        )
