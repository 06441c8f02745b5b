"""Values that nobody should give, and values with one place changed into such a one."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import torch

TEXTS = [
    *(
        "",
        " ",
        "-1",
        "0",
        "1",
        "2",
        "1.5",
        "1e300",
        "1e-320",
        "nan",
        "inf",
        "-inf",
        "9" * 400,
        "-" + "9" * 5000,
        "x" * 5000,
    ),
    *(
        "true",
        "null",
        "[1,2",
        "[]",
        "{}",
        '{"a": 1}',
        "a=b",
        "=",
        "a=",
        ",",
        "a,b",
        "-",
        "--",
        "*",
        "..",
        "/dev/null",
        "/",
        "~",
    ),
    *(
        "[" * 900 + "]" * 900,
        "[" * 50_000,
        '{"a":' * 900 + "1" + "}" * 900,
        "żółw",
        "😀",
        "\x1b[31m",
        "%s%n",
        "\udcff",
        "a\nb",
    ),
    *(
        "trained:0",
        "trained:" + "9" * 5000,
        "timm:",
        "timm:nowhere",
        "convnet",
        "color_crop",
        "digits",
        "1,2,3",
        "0.5,0.5",
    ),
]
# json.dumps has no form for these; the marks are replaced in its text.
_RAW = {
    '"@deep"': "[" * 900 + "]" * 900,
    '"@deeper"': '{"a":' * 20_000 + "1" + "}" * 20_000,
    '"@huge"': "9" * 400,
    '"@digits"': "9" * 5000,
    '"@inf"': "1e999",
    '"@nan"': "NaN",
}
_JSON: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        7,
        2**31,
        2**63,
        2**64,
        10**30,
        1.5,
        -0.0,
        1e300,
        "",
        "convnet",
        "x" * 5000,
        "a\0b",
        "\ud800",
    ),
    *([], {}, [None], [[]], {"": ""}, {"name": None}, [1] * 1000, *(mark.strip('"') for mark in _RAW)),
]


def text(chance: random.Random) -> str:
    return chance.choice(TEXTS)


def json_text(value: Any) -> str:
    """``value`` as JSON, its marks replaced by what no encoder writes."""
    found = json.dumps(value)
    for mark, raw in _RAW.items():
        found = found.replace(mark, raw)
    return found


def changed_json(value: Any, chance: random.Random) -> Any:
    """A copy of plain JSON with one or two places replaced, removed, or added."""
    held = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2))):
        if not isinstance(held, dict | list) or not held or chance.random() < 0.03:
            return chance.choice(_JSON)
        _change_in(held, chance, chance.choice(_JSON))
    return held


def _change_in(held: Any, chance: random.Random, new: Any) -> None:
    """Change one place below ``held``, a list or an object that is not empty."""
    key = chance.choice(list(held) if isinstance(held, dict) else range(len(held)))
    inner = held[key]
    if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
        _change_in(inner, chance, new)
    elif isinstance(held, dict) and chance.random() < 0.2:
        held[chance.choice(["", "of later", "network", "merged", "x" * 300])] = new
    elif chance.random() < 0.2:
        del held[key]
    else:
        held[key] = new


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """``data`` with a few bytes flipped, zeroed, lost or put in; or cut short."""
    held = bytearray(data)
    for _ in range(chance.choice((1, 1, 3))):
        place, length = chance.randrange(len(held) + 1), chance.choice((1, 2, 8, 100))
        way = chance.randrange(5)
        if way == 0:
            held[place : place + length] = chance.randbytes(length)
        elif way == 1:
            held[place : place + length] = bytes(length)
        elif way == 2:
            del held[place : place + length]
        elif way == 3:
            held[place:place] = chance.randbytes(length)
        else:
            del held[place:]
    return bytes(held)


def changed_array(array: Any, chance: random.Random) -> Any:
    """``array`` with other values, of another type, or of another shape."""
    held = np.array(array)
    way = chance.randrange(6)
    if way <= 1 and held.dtype.kind in "fiu" and held.size:
        odd = (
            [np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-45, 0.0, -1.0]
            if held.dtype.kind == "f"
            else [-1, 0, 2**31, 2**62]
        )
        flat = held.reshape(-1)
        flat[chance.randrange(held.size) if way else slice(None)] = np.array(chance.choice(odd)).astype(held.dtype)
        return held
    if way == 2:
        kind = chance.choice(["f2", "f8", "i1", "u8", "i4", "<f4", "?", "c8"])
        with np.errstate(all="ignore"):
            return held.astype(kind) if held.dtype.kind in "fiu" else np.zeros(held.shape, kind)
    if way == 3:
        return held[:0] if held.ndim else held.reshape(1)
    if way == 4:
        return held[None] if chance.random() < 0.5 else held.reshape(-1)
    return np.concatenate([held, held]) if held.ndim else np.array(chance.choice([b"", b"\xff", b"a\0b", b"x" * 500]))


def changed_tensor(tensor: torch.Tensor, chance: random.Random) -> Any:
    """As :func:`changed_array`, and of layouts that numpy has not."""
    way = chance.randrange(8)
    if way == 0:
        return tensor.to_sparse() if tensor.ndim else tensor
    if way == 1:
        return tensor.flatten()[:1].expand(chance.choice([1, 10**6, 10**12]))
    if way == 2:
        return tensor.to(chance.choice([torch.bfloat16, torch.float64, torch.complex64, torch.bool, torch.int8]))
    if way == 3:
        return tensor.to("meta")
    if way == 4:
        return torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor.numpy()
    array = changed_array(tensor.numpy(), chance)
    return (
        torch.from_numpy(np.ascontiguousarray(array)) if array.dtype.kind in "fiub" and array.dtype != "u8" else array
    )


def changed_values(value: Any, chance: random.Random) -> Any:
    """A value of dicts, lists and tensors, as torch saves them, with one place changed."""
    if isinstance(value, torch.Tensor):
        return changed_tensor(value, chance) if chance.random() < 0.8 else _odd(chance)
    if isinstance(value, dict) and value and chance.random() < 0.95:
        held = dict(value)
        key = chance.choice(list(held))
        if chance.random() < 0.15:
            del held[key]
        else:
            held[key] = changed_values(held[key], chance)
        return held
    if isinstance(value, list | tuple) and value and chance.random() < 0.95:
        items = list(value)
        place = chance.randrange(len(items))
        if chance.random() < 0.15:
            del items[place]
        else:
            items[place] = changed_values(items[place], chance)
        return items
    return _odd(chance)


def _odd(chance: random.Random) -> Any:
    endless: list[Any] = []
    endless += [endless, endless]
    nested: Any = 1
    for _ in range(100):
        nested = [nested]
    odd = [
        endless,
        nested,
        2**70,
        -1,
        float("nan"),
        10**400,
        b"bytes",
        (1, 2),
        {1: 2},
        {"a": {}},
        torch.zeros(()),
        *TEXTS[:4],
    ]
    return chance.choice(odd)
