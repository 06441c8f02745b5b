"""Endings of file names that imply a kind of file, so that files of other kinds do not get these endings."""

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
"""The endings of this package's files except pictures (:mod:`~atom_plugin.runtime.picture_files`), by kind, the usual first."""

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
    """Raise ConfigError if ``path``, the name of a new file of ``kind``, has the ending of another kind of file.

    Unknown endings, and names without an ending, are accepted.
    """
    ending = path.suffix.lower()
    promised = {each for name, endings in ENDINGS.items() if name != kind for each in endings} | {*_OTHERS}
    if ending in promised:
        raise ConfigError(
            f"{path}: ends in {ending!r}, but {option} holds {kind}; name it {path.stem}{ENDINGS[kind][0]}"
        )
