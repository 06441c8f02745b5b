"""Functions run in several processes that share a run, as torchrun would start them, without its half minute."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed

_DEADLINE = 300.0  # seconds; a loaded machine is no hang


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns in each of ``count`` processes; AssertionError where one fails or hangs.

    A process that dies without a word gives None. The function is one of a module's own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["atom_plugin.distillation.loop", "torch.distributed", "small"])
    # As with torchrun, the key-value store belongs to none of the processes.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []
    for rank in range(count):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(send, rank, count, store.port, function, arguments), daemon=True)
        process.start()
        send.close()
        started.append((process, receive))
    results = []
    try:
        for process, receive in started:
            assert receive.poll(_DEADLINE), "a process hangs"
            try:
                kind, value = pickle.loads(receive.recv_bytes())
            except EOFError:
                kind, value = "returned", None
            assert kind == "returned", value
            results.append(value)
            process.join(_DEADLINE)
    finally:
        for process, _ in started:
            process.kill()
    return results


def _run(send: Any, rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    try:
        torch.set_num_threads(1)
        found = ("returned", function(*arguments))
    except BaseException:
        found = ("raised", traceback.format_exc())
    send.send_bytes(pickle.dumps(found))  # by value: torch hands tensors over in memory that ends with the process
