"""Choices of inference that depend on the machine."""

import pytest
import torch
from torch import nn

from sonolume.models import runtime
from sonolume.modules.prepacking import SMALLEST, PrepackedConv2d, is_available


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
