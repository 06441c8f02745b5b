"""The processor that tests see, in this process and in every Python that one starts: Python imports this by itself.

The suite must not depend on the processor that it runs on. So whether that multiplies in bfloat16, which a precision of "auto"
asks of torch, is here what the test's mark ``auto_precision`` says; without the mark, asking is an error.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

_FAST = "ATOM_PLUGIN_TESTS_FAST_PRECISION"  # what the mark names; subprocesses inherit it


def _get_capabilities() -> dict[str, bool]:
    if not os.environ.get(_FAST):
        import pytest

        # What this raises is no Exception, so that nothing on the way to the test takes it for a failure of its own.
        pytest.fail(
            'this test leaves the precision to the processor ("auto"): state it (precision="float32", --precision float32), '
            'or mark the test auto_precision("float32") or ("bfloat16") if it is about "auto"'
        )
    return {"avx512_bf16": os.environ[_FAST] == "bfloat16"}


class _TorchCpu(importlib.abc.MetaPathFinder):
    """Changes ``torch.cpu`` as it is imported; to import torch here would slow down every Python."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch.cpu":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_change(module: ModuleType) -> None:
                load(module)
                module.get_capabilities = _get_capabilities

            spec.loader.exec_module = load_and_change
        return spec


sys.meta_path.insert(0, _TorchCpu())
