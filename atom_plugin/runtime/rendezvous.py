"""Barriers between the processes of a run, and agreement on which one prints, with torchrun's key-value store.

Unlike an exchange of :mod:`.processes` this needs no group, and has no time limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from atom_plugin.runtime import distributed
from atom_plugin.runtime.distributed import contact

_POLL = 0.05  # seconds
_WAIT = timedelta(seconds=10)  # for an answer of the store

_turns = itertools.count(1)


def barrier() -> None:
    """Continue when every process has arrived here, without a time limit."""
    if distributed.count() > 1:
        key = _next_key()
        with contact():
            store = _store()
            store.add(key, 1)
            while store.add(key, 0) < distributed.count():  # polled: a blocking wait would hear no signal
                time.sleep(_POLL)


def collected(own: Sequence[Any]) -> list[Any]:
    """All processes' items, plain JSON, in the order of the processes: results of divided runs."""
    if distributed.count() == 1:
        return list(own)
    key = _next_key()
    with contact():
        _store().set(f"{key}-{distributed.rank()}", json.dumps(list(own)))
    barrier()
    with contact():
        return [item for number in range(distributed.count()) for item in json.loads(_store().get(f"{key}-{number}"))]


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Within: the first process of each machine goes first and alone, to download or decode files for the others."""
    if distributed.count() == 1:
        yield
        return
    machine = os.environ.get("GROUP_RANK", "0")
    first, key = distributed.local_rank() == 0, f"{_next_key()}-{machine}"
    with contact():
        store = _store()
        while not first and not store.check([key]):
            time.sleep(_POLL)
    yield
    if first:
        with contact():
            store.set(key, "done")


def first_to_say(line: str, *, unless_explained: bool = False) -> bool:
    """Whether no process has printed ``line`` before; with ``unless_explained``, whether none has printed anything.

    All processes meet the same error if the options are wrong; one line is enough.
    """
    if not distributed.launched():
        return True
    try:
        store = _store()
        if unless_explained and store.add(f"{_prefix()}/said", 0):
            return False
        store.add(f"{_prefix()}/said", 1)
        said = store.add(f"{_prefix()}/said/{hashlib.sha256(line.encode()).hexdigest()}", 1)
    except RuntimeError:  # torchrun is gone, or never came
        return True
    return bool(said == 1)


def _prefix() -> str:
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"atom-plugin/{restarts}"


def _next_key() -> str:
    """A name for the next meeting, the same in every process, because all come to the same meetings in order."""
    return f"{_prefix()}/{next(_turns)}"


def _store() -> Any:
    """The key-value store with which torchrun's processes find each other."""
    import torch.distributed

    stores: Any = torch.distributed  # which does not say that it exports this one
    return stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_WAIT)
