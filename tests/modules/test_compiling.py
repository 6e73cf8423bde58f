"""Compiled networks compute the same, and only the network itself is compiled."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sonolume.modules.compiling import check_compiler, compile_network


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3)).eval().requires_grad_(False)


def test_settings_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: given.append(settings))
    compile_network(network(), torch.device("cpu"))
    compile_network(network(), torch.device("cuda"))
    assert [one.get("mode") for one in given] == [None, "reduce-overhead"]
    assert all(one["dynamic"] is False for one in given) and given[0]["options"] == {"freezing": True}


@pytest.mark.full
def test_the_result_is_that_of_the_plain_network() -> None:
    try:
        check_compiler()
    except RuntimeError as error:
        pytest.skip(f"no compiler: {error}")
    plain, compiled, x = network(), network(), torch.randn(2, 3, 9, 7)
    compile_network(compiled, torch.device("cpu"))
    first = compiled._compiled_call_impl
    compile_network(compiled, torch.device("cpu"))
    assert compiled._compiled_call_impl is first
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), plain(x), atol=1e-5, rtol=1e-5)
    assert copy.deepcopy(compiled)._compiled_call_impl is None
