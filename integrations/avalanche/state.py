"""Save a stream's strategy, memory and random states after an experience, and restore them in a new process.

Avalanche's ``save_checkpoint`` pickles the whole strategy, which fails on the optimisers of current torch releases (2.15);
this module replaces it. The memory is saved to an HDF5 file; network, optimiser, Avalanche's counters and random states to a
state file: a line with format, version and sha256, then data of ``torch.save`` that loads with ``weights_only=True``. The state
file names the memory's file, and is written last and atomically, so that an interruption leaves the state after one experience
or after the next. Avalanche's metric plugins are not included: keep the values that ``strategy.eval`` returns in ``record``.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.models.utils import avalanche_model_adaptation

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.integrations.avalanche.from_memory import TrainFromMemory
from atom_plugin.integrations.avalanche.storage_policy import SyntheticMemory
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.files import write_bytes

_FORMAT = "atom-plugin/stream-state"
_VERSION = 1
_COUNTERS = ("train_iterations", "train_exp_counter", "total_iterations")


def save_stream(
    path: str | Path, strategy: Any, policy: SyntheticMemory | None = None, *, record: Mapping[str, Any] | None = None
) -> None:
    """Write the state after an experience to ``path``, and the memory next to it; replaces the previous experience's files.

    ``record`` is plain JSON that :func:`load_stream` returns. Raises StoreError if writing fails, ConfigError in the middle of
    an experience of an online stream, and for a record that is not JSON.
    """
    target = Path(path)
    try:
        plain = bounded_json.parse(json.dumps(dict(record or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the record of a stream's state must hold JSON values: {error}") from None
    memory = None
    if policy is not None and len(policy.memory):
        memory = target.with_name(f"{target.name}.memory{strategy.clock.train_exp_counter}.h5")
        policy.save(memory, force=True)
    state = {
        "memory": None if memory is None else memory.name,
        "model": strategy.model.state_dict(),
        **_optimizer_state(strategy),
        "counters": {name: getattr(strategy.clock, name) for name in _COUNTERS},
        "plugins": [plugin.state_dict() for plugin in _stateful(strategy)],
        "random": _random_state(),
        "record": plain,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    write_bytes(target, f"{_FORMAT} {_VERSION} {digest}\n".encode() + buffer.getvalue(), force=True)
    for old in _memories(target):
        if old != memory:
            old.unlink(missing_ok=True)


def load_stream(
    path: str | Path, strategy: Any, policy: SyntheticMemory | None = None, *, train_stream: Iterable[Any] = ()
) -> dict[str, Any]:
    """Restore a new strategy, made in the same way as the saved one, and its policy from the state in ``path``.

    Returns the ``record``; ``strategy.clock.train_exp_counter`` is the number of finished experiences. Only models that grow
    with the stream need ``train_stream``: they are adapted to the finished experiences. Raises StoreError if a file is missing
    or damaged, ConfigError if the strategy or the policy differs.
    """
    source = Path(path)
    state = _read(source)
    if (policy is None) != (state["memory"] is None) and (policy is None or len(policy.memory)):
        found = "has a memory, but none was given" if policy is None else "has no memory, but one with images was given"
        raise ConfigError(f"{source}: {found}; give the same kind of policy as the saved one")
    if policy is not None and state["memory"] is not None:
        policy.load(source.parent / state["memory"])
    try:
        _restore_strategy(strategy, state, list(train_stream))
        _restore_random(state["random"])
        record: dict[str, Any] = state["record"]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"{source}: was saved from a different strategy ({text[:200]}); use the same model, optimiser and plugins"
        ) from error
    return record


def remove_stream(path: str | Path) -> None:
    """Delete the files of :func:`save_stream`, if there are any."""
    target = Path(path)
    target.unlink(missing_ok=True)
    for memory in _memories(target):
        memory.unlink(missing_ok=True)


def _memories(path: Path) -> list[Path]:
    """The memory files next to a state: normally one; two if an interruption came between the two writes."""
    name = re.compile(re.escape(path.name) + r"\.memory\d+\.h5")
    return [beside for beside in path.parent.iterdir() if name.fullmatch(beside.name)] if path.parent.is_dir() else []


def _stateful(strategy: Any) -> list[TrainFromMemory]:
    return [plugin for plugin in strategy.plugins if isinstance(plugin, TrainFromMemory)]


def _optimizer_state(strategy: Any) -> dict[str, Any]:
    """The optimiser's state with its parameters' names, by group: the order of a grown model's parameters may change.

    If an evaluation enlarged a parameter, the optimiser still has the old one. It takes the new parameter, without state, when
    training continues; so the old parameter's state is left out.
    """
    parameters = dict(strategy.model.named_parameters())
    names = {id(p): name for held in (strategy.optimized_param_id or {}, parameters) for name, p in held.items()}
    held = [parameter for group in strategy.optimizer.param_groups for parameter in group["params"]]
    if not all(names.get(id(parameter)) in parameters for parameter in held):
        raise ConfigError(
            "the optimiser has parameters that the model does not have, so its state cannot be saved; make it from "
            "model.parameters()"
        )
    state = strategy.optimizer.state_dict()
    for number, parameter in enumerate(held):
        if parameters[names[id(parameter)]] is not parameter:
            state["state"].pop(number, None)
    return {
        "optimizer": state,
        "kind": type(strategy.optimizer).__name__,
        "parameters": [[names[id(p)] for p in group["params"]] for group in strategy.optimizer.param_groups],
    }


def _restore_strategy(strategy: Any, state: dict[str, Any], train_stream: list[Any]) -> None:
    """Raises RuntimeError, ValueError or KeyError if the strategy differs from the saved one."""
    plugins = _stateful(strategy)
    if len(plugins) != len(state["plugins"]):
        raise ValueError(
            f"the saved strategy has {len(state['plugins'])} TrainFromMemory plugins, this one {len(plugins)}"
        )
    if type(strategy.optimizer).__name__ != state["kind"]:
        raise ValueError(f"the saved optimiser is {state['kind']}, this one is {type(strategy.optimizer).__name__}")
    done = state["counters"]["train_exp_counter"]
    for plugin, held in zip(plugins, state["plugins"], strict=True):
        initial = copy.deepcopy(strategy.model)
        if held["initial"] is not None:
            _grow(initial, held["initial"], done, train_stream)
        plugin.load_state_dict(held, initial)
    _grow(strategy.model, state["model"], done, train_stream)
    strategy.model.load_state_dict(state["model"])
    strategy.model.to(strategy.device)
    parameters = dict(strategy.model.named_parameters())
    groups = strategy.optimizer.param_groups
    if len(groups) != len(state["parameters"]):
        raise ValueError(
            f"the saved optimiser has {len(state['parameters'])} groups of parameters, this one has {len(groups)}"
        )
    for group, names in zip(groups, state["parameters"], strict=True):
        group["params"] = [parameters[name] for name in names]
    strategy.optimizer.load_state_dict(state["optimizer"])
    # Otherwise Avalanche would reset the optimiser and lose the loaded state.
    strategy.optimized_param_id = {name: parameters[name] for names in state["parameters"] for name in names}
    for name, value in state["counters"].items():
        setattr(strategy.clock, name, value)


def _grow(model: torch.nn.Module, saved: Mapping[str, Any], done: int, train_stream: list[Any]) -> None:
    """Adapt a model to the ``done`` experiences of its training, and to the additional ones of ``saved``'s evaluations."""
    for number, experience in enumerate(train_stream):
        if number >= done and _shapes(model.state_dict()) == _shapes(saved):
            break
        model.train(number < done)
        avalanche_model_adaptation(model, experience)
    model.train()


def _shapes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: there is no stream state; start the stream from its first experience") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}; name the state file") from error
    head, _, body = content.partition(b"\n")
    form, version, digest = ([*head.decode("ascii", "replace").split(), "", "", ""])[:3]
    if form != _FORMAT:
        raise StoreError(f"{path}: is not a stream state of this package; name another file")
    if version != str(_VERSION):
        raise StoreError(f"{path}: holds a stream state of version {version}, this release reads {_VERSION}; update")
    if hashlib.sha256(body).hexdigest() != digest:
        raise StoreError(f"{path}: the stream state is damaged (its checksum differs); delete it to start over")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load passes on any error of its zip and pickle readers
        raise StoreError(
            f"{path}: no readable stream state ({type(error).__name__}); delete it to start over"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("memory", 0), str | None):
        raise StoreError(f"{path}: holds no stream state after its header; delete it to start over")
    return state


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(words), gauss],
    }


def _restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
