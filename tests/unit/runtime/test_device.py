"""What "auto" takes, on processors of both kinds; and that no test takes it without saying so."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from small import coloured_source, small_config

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.runtime.device import resolve_precision

CPU = torch.device("cpu")
BOTH = [pytest.param(kind, marks=pytest.mark.auto_precision(kind)) for kind in ("float32", "bfloat16")]
RESOLVE = (
    "import torch; from atom_plugin.runtime.device import *; print(resolve_precision('auto', torch.device('cpu')))"
)


def resolved_elsewhere() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RESOLVE], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("kind", BOTH)
def test_auto_takes_what_the_processor_is_fast_in_here_and_in_other_processes(kind):
    assert resolve_precision("auto", CPU) == kind
    assert resolved_elsewhere().stdout.split() == [kind]


@pytest.mark.parametrize("kind", BOTH)
def test_auto_takes_what_a_gpu_is_fast_in_whatever_the_processor(kind, monkeypatch):
    for fast, taken in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, fast=fast: fast)
        assert resolve_precision("auto", torch.device("cuda")) == taken
    assert resolve_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_precision_that_is_named_asks_no_processor(name):
    assert resolve_precision(name, CPU) == name


@pytest.mark.parametrize("kind", BOTH)
def test_the_precision_that_auto_took_stands_in_the_set(kind):
    auto = small_config(iterations=2, precision="auto")
    held = distill(auto, coloured_source(), device="cpu")
    assert DistillConfig.from_json(held.provenance.config).precision == kind
    stated = distill(small_config(iterations=2, precision=kind), coloured_source(), device="cpu")
    assert torch.equal(held.images, stated.images)


def test_a_test_that_does_not_state_its_precision_fails_here_and_in_other_processes():
    with pytest.raises(pytest.fail.Exception, match="auto_precision"):
        resolve_precision("auto", CPU)
    done = resolved_elsewhere()
    assert (done.returncode, done.stdout) == (1, "")
    assert "state it" in done.stderr
