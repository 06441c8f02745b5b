"""One run in several processes: their ranks, and how they exchange tensors.

``torchrun`` starts the processes and describes them in their environment; :func:`joined` makes them a group (NCCL between GPUs,
gloo between CPUs). Outside it, and without torchrun, a process is alone: the functions here do nothing, and torch.distributed
is not initialised. When a process ends, the next exchange of the others raises ProcessError, and torchrun stops processes that
wait for no exchange.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from atom_plugin.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

# How long an exchange waits for a process that is late. One that has died is noticed at once, by its closed connection.
TIMEOUT = timedelta(minutes=10)
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


_rank, _count = 0, 1


def rank() -> int:
    """The rank of this process, from 0; 0 if it is alone."""
    return _rank


def count() -> int:
    """The number of processes in the run."""
    return _count


def leads() -> bool:
    """Whether this process is the one that writes files, logs and prints."""
    return _rank == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of independent items: every count-th item."""
    return items[_rank::_count]


def launched() -> bool:
    """Whether torchrun (or a similar launcher) started this process as one of several."""
    return all(name in os.environ for name in _ENVIRONMENT) and os.environ["WORLD_SIZE"] not in ("", "0", "1")


def launched_first() -> bool:
    """Whether this process is the first that torchrun started, or the only one."""
    return not launched() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Within: the processes that torchrun started are one group, for work on ``device``, a name as in :mod:`.device`.

    On CUDA each process takes the GPU of its local rank. Does nothing if torchrun started one process or none, and if called
    within itself. Raises ConfigError for a device that a process cannot have, ProcessError if the others cannot be reached.
    """
    if not launched() or _count > 1:
        yield
        return
    import torch.distributed

    backend = _backend(device)
    with contact():
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        with _known(torch.distributed.get_rank(), torch.distributed.get_world_size()):
            yield
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def dealt(device: str = "auto") -> Iterator[None]:
    """Within: the processes know their ranks, and :func:`share` divides independent runs among them, without a group.

    torch.distributed is not initialised, and processes wait for each other only at a :func:`.meetings.barrier`, without a time
    limit. Run the work in here :func:`alone`. Devices and errors as in :func:`joined`.
    """
    if not launched() or _count > 1:
        yield
        return
    _backend(device)
    with _known(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])):
        yield


@contextlib.contextmanager
def _known(rank: int, count: int) -> Iterator[None]:
    global _rank, _count  # a process has one number
    before = _rank, _count
    _rank, _count = rank, count
    try:
        yield
    finally:
        _rank, _count = before


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within: this process is alone, although in a group: for an independent run that :func:`share` gave it."""
    with _known(0, 1):
        yield


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of all processes' ``values``, in place, with the same bytes in each process."""
    if _count > 1:
        import torch.distributed

        with contact():
            torch.distributed.all_reduce(values)
    return values


def highest(value: float) -> float:
    """The largest of all processes' values; infinite if one is not a number."""
    if _count == 1:
        return value
    import torch.distributed

    found = torch.tensor(value, dtype=torch.float64).nan_to_num_(nan=float("inf"))
    with contact():
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return float(found)


def gathered(part: torch.Tensor, parts: Sequence[range]) -> torch.Tensor:
    """The whole of which each process has a part along the first dimension; ``parts`` are its rows, by process."""
    if _count == 1:
        return part
    import torch.distributed

    whole = part.new_empty(parts[-1].stop, *part.shape[1:])
    whole[parts[_rank].start : parts[_rank].stop] = part
    with contact():
        for owner, rows in enumerate(parts):
            torch.distributed.broadcast(whole[rows.start : rows.stop], src=owner)
    return whole


def agree(tensors: Sequence[torch.Tensor]) -> None:
    """Copy the first process's ``tensors`` to every process, in place, because different processors round differently."""
    if _count > 1:
        import torch.distributed

        with contact():
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)


def _backend(device: str) -> str:
    import torch

    from atom_plugin.runtime.device import resolve_device

    kind = resolve_device(device).type
    if kind == "cpu":
        return "gloo"
    if kind != "cuda":
        raise ConfigError(f"several processes compute on cuda or cpu, not on {kind}; give --device cpu")
    if local_rank() >= torch.cuda.device_count():
        here = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
        raise ConfigError(
            f"{here} processes on a machine with {torch.cuda.device_count()} GPUs; start one per GPU with "
            "--nproc-per-node, or give --device cpu"
        )
    torch.cuda.set_device(local_rank())
    return "cpu:gloo,cuda:nccl"


def local_rank() -> int:
    """The rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))


@contextlib.contextmanager
def contact() -> Iterator[None]:
    """Within: the RuntimeErrors of torch.distributed, which fill a page, become ProcessErrors of one line."""
    try:
        yield
    except RuntimeError as error:
        where = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        reason = re.sub(r"^\[[^\]]*\] *", "", str(error).strip().partition("\n")[0])  # without its place in C++
        raise ProcessError(
            f"{where} lost the others: one of them ended, or was silent for {TIMEOUT.seconds // 60} minutes ({reason[:120]})"
        ) from error
