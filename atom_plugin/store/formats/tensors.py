"""Files of `torch.save`, opened without running code in them, and their tensors checked.

A file is loaded with ``weights_only=True``: tensors, numbers, text, lists and dicts. The accuracies that distillation scripts
save with the images are numpy scalars; they are read by substitutes that call no numpy code.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats.archives import refuse_bomb
from atom_plugin.store.formats.context import ImportContext

_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_LAYOUTS = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "b1": "?"}


class _Dtype:
    """Substitute for ``numpy.dtype`` while a file is read: keeps the type's name, and takes its byte order."""

    def __init__(self, name: Any, *flags: Any) -> None:
        if name not in _LAYOUTS:
            raise ValueError(f"numpy values of type {name!r} are not read")
        self.layout, self.order = _LAYOUTS[name], "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """Substitute for numpy's ``scalar``: a Python number from its bytes."""
    if not isinstance(dtype, _Dtype):
        raise ValueError("numpy values of an unknown type are not read")
    return struct.unpack(dtype.order + dtype.layout, data)[0]


_NUMPY_SCALARS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 names it
    (_scalar, "numpy._core.multiarray.scalar"),  # as numpy 2 does
    (_Dtype, "numpy.dtype"),
]


def load(path: Path, context: ImportContext, *, trust_pickle: bool = False) -> Any:
    """The object that `torch.save` wrote to ``path``, on the CPU. ``trust_pickle`` lets the file run any code.

    Raises StoreError for a file that is damaged, or that contains more than data.
    """
    if not isinstance(trust_pickle, bool):
        raise ConfigError(f"trust_pickle must be true or false, not {trust_pickle!r}")
    with context.opened(path) as file:
        head = file.read(4)
        file.seek(0)
        if not head.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive, or a pickle
            raise StoreError(
                f"{path}: cannot be read as a file of torch.save (it starts with {head!r}); try another --format"
            )
        refuse_bomb(path, file)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY_SCALARS):
                warnings.simplefilter("ignore")  # of odd but readable pickles; what is in them is checked afterwards
                return torch.load(file, map_location="cpu", weights_only=not trust_pickle)
        except MemoryError as error:
            raise StoreError(f"{path}: does not fit in memory; read it on a larger machine") from error
        except Exception as error:  # torch has no one exception for a file it can't read
            raise StoreError(f"{path}: {_reason(error, trusted=trust_pickle)}") from error


def one_array(path: Path, context: ImportContext) -> Any:
    """The array of a .npy file. Raises StoreError for anything else, and for Python objects."""
    with context.opened(path):
        try:
            # Mapped first: if the file has fewer numbers than its header declares, no memory is allocated for them.
            return np.array(np.lib.format.open_memmap(path, mode="r"))
        except (Exception, MemoryError) as error:
            what = " ".join(str(error).split())[:160] or type(error).__name__
            raise StoreError(f"{path}: cannot be read as .npy ({what}); it is damaged, or not this format") from error


def dumps(value: Any) -> memoryview:
    """The bytes of `torch.save`: equal values give equal bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()


def checked_images(value: Any, where: str) -> torch.Tensor:
    """``value`` as finite float32 images (N, C, H, W). Raises StoreError, naming ``where``."""
    images = plain_tensor(value, where, "(N, C, H, W)")
    if not images.is_floating_point():
        raise StoreError(
            f"{where}: found images of type {_name(images)}, expected floating-point numbers; not this format?"
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise StoreError(
            f"{where}: found images of shape {tuple(images.shape)}, expected (N, C, H, W); not this format?"
        )
    images = images.to(torch.float32).contiguous()
    if not bool(torch.isfinite(images).all()):
        raise StoreError(
            f"{where}: found images with values that are not finite; the distillation diverged, or it is damaged"
        )
    return images


def plain_tensor(value: Any, where: str, shape: str) -> torch.Tensor:
    """``value``, an array or a tensor of numbers, as a tensor that holds all of them. Raises StoreError, naming ``where``.

    Unsigned types of more than 8 bits, which few of torch's operations support, are converted to int64.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    if (
        type(value) not in (torch.Tensor, torch.nn.Parameter)
        or value.layout != torch.strided
        or value.device.type != "cpu"
    ):
        raise StoreError(f"{where}: found {_kind(value)}, expected a tensor {shape}; not this format?")
    tensor: torch.Tensor = value.detach()
    if tensor.is_quantized or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        # An expanded or quantised tensor: a few bytes that would fill the memory once copied.
        raise StoreError(
            f"{where}: a tensor {tuple(tensor.shape)} declares more values than the file has; it is damaged"
        )
    return tensor.to(torch.int64) if tensor.dtype in _WIDE_UNSIGNED else tensor


def _reason(error: Exception, *, trusted: bool) -> str:
    if isinstance(error, pickle.UnpicklingError) and isinstance(error.__context__, Exception):
        error = error.__context__  # what was wrong, without torch's page on what to do
    text = " ".join(str(error).split())[:160] or type(error).__name__
    if trusted or not isinstance(error, pickle.UnpicklingError):
        return f"cannot be read as a file of torch.save ({text}); it is damaged, or not this format"
    needed = re.search(r"GLOBAL (\S+)", text)
    if needed:
        found = f"contains more than data: reading it would call {needed[1]}"
    else:
        found = f"is damaged, or its pickle contains more than data ({text})"
    return f"{found}; no code was run; if you trust whoever made it, pass --trust-pickle"


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.layout} tensor on {value.device}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"a {type(value).__name__}" if value is not None else "nothing"


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
