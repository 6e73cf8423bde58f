"""Choices of inference that depend on the machine."""

import pytest
import torch
from torch import nn

from sonolume.models import runtime
from sonolume.modules.prepacking import SMALLEST, PrepackedConv2d, is_available
from sonolume.utils.errors import UserError


@pytest.mark.parametrize("supported", [True, False])
def test_emulated_bfloat16_is_reported(
    supported: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: supported)
    assert runtime.pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert ("float32 is faster" in capsys.readouterr().err) == (not supported)
    assert runtime.pick_dtype("float32", torch.device("cpu")) == torch.float32
    assert not capsys.readouterr().err


@pytest.mark.skipif(not is_available(), reason="this PyTorch has no oneDNN operators")
def test_commands_prepack_large_layers_only() -> None:
    large, small = nn.Conv2d(SMALLEST // 4, 1, 1), nn.Conv2d(4, 4, 3)
    runtime.speed_up(nn.Sequential(large, small), None)
    assert isinstance(large, PrepackedConv2d) and type(small) is nn.Conv2d


def test_compilation_is_announced_and_needs_a_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("InvalidCxxCompiler: no C++ compiler found\nmore")

    network, cpu = nn.Linear(2, 2), torch.device("cpu")
    runtime.compile_unet(network, False, cpu)
    assert network._compiled_call_impl is None and not capsys.readouterr().err
    monkeypatch.setattr(runtime, "check_compiler", fail)
    with pytest.raises(UserError, match=r"--compile: .*no C\+\+ compiler found\): install a C\+\+ compiler"):
        runtime.compile_unet(network, True, cpu)
    monkeypatch.setattr(runtime, "check_compiler", lambda: None)
    runtime.compile_unet(network, True, cpu)
    runtime.compile_unet(network, True, cpu)
    assert network._compiled_call_impl is not None and capsys.readouterr().err.count("--compile: the first call") == 1
