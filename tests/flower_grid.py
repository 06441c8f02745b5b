"""Flower's grid without a network or processes: every message goes straight to a ClientApp, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

try:  # newer releases make messages only within a run of their own
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:
    pass
else:
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1

NODES = (101, 102, 103)


def context_of(partition: int, partitions: int) -> Context:
    config: Any = {"partition-id": partition, "num-partitions": partitions}
    return Context(run_id=1, node_id=partition, node_config=config, state=RecordDict(), run_config={})


class StraightGrid(Grid):
    """``nodes`` run ``app``. ``meddle`` is given each message and its reply, and returns another, or None for silence."""

    def __init__(
        self,
        app: ClientApp,
        nodes: Iterable[int] = NODES,
        meddle: Callable[[Message, Message], Message | None] = lambda asked, reply: reply,
    ) -> None:
        self.app = app
        self.nodes = list(nodes)
        self.meddle = meddle
        self.sent: list[Message] = []

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            self.sent.append(message)
            node = message.metadata.dst_node_id
            context = context_of(self.nodes.index(node), len(self.nodes))
            try:
                reply = self.app(message, context)
            except Exception as error:  # as Flower's own runtime does
                reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
            meddled = self.meddle(message, reply)
            replies += [] if meddled is None else [meddled]
        return replies

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    run = property(set_run)  # type: ignore[assignment]

    def create_message(self, *args: object, **given: object) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError
