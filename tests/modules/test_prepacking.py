"""Layers with prepacked weights give the numbers of plain ones, and stay plain where they cannot be used."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonolume.modules import prepacking
from sonolume.modules.prepacking import PrepackedConv2d, prepack

pytestmark = pytest.mark.skipif(not prepacking.is_available(), reason="this PyTorch has no oneDNN operators")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small layers as well, from the first call on."""
    monkeypatch.setattr(prepacking, "SMALLEST", 0)
    monkeypatch.setattr(prepacking, "PLAIN_CALLS", 0)
    with torch.no_grad():
        yield


def assert_equal_numbers(layer: nn.Module, x: Tensor) -> None:
    expected = copy.deepcopy(layer)(x)
    assert prepack(layer) == 1
    for _ in range(2):
        found = layer(x)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(2, 5, 39), (1, 2, 10), (3, 16, 16)])
@pytest.mark.parametrize(
    "settings",
    [{"padding": 1}, {"padding": 1, "stride": 2}, {"groups": 4, "padding": (1, 0)}, {"bias": False, "dilation": 2}],
)
def test_convolutions(size: tuple[int, int, int], settings: dict[str, Any]) -> None:
    if settings.get("dilation") and size[1] < 5:
        size = (1, 7, 10)
    batch, height, width = size
    x = torch.randn(batch, 16, height + 2, width)
    assert_equal_numbers(nn.Conv2d(16, 24, 3, **settings), x)
    assert_equal_numbers(nn.Conv2d(16, 24, 3, **settings), x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("shape", [(1,), (2, 7), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(shape: tuple[int, ...], bias: bool) -> None:
    assert_equal_numbers(nn.Linear(24, 40, bias=bias), torch.randn(*shape, 24))


def test_the_weight_is_reordered_for_each_size_and_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(16, 16, 3, padding=1)
    prepack(layer)
    for size in ((2, 16, 5, 9), (1, 16, 5, 9), (1, 16, 8, 8)):
        assert_equal_numbers(copy.deepcopy(layer), torch.randn(size))
        layer(torch.randn(size))
    x = torch.randn(1, 16, 8, 8)
    packed: Any = layer._packed
    layer(x)
    assert layer._packed is packed
    layer.weight.add_(1)
    assert torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=1), atol=1e-4)
    layer.weight.data *= 2  # cannot be seen
    prepack(layer)
    assert torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=1), atol=1e-4)


def test_state_copies_and_conversions() -> None:
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16, 8))
    before = copy.deepcopy(network)
    assert prepack(network) == 2
    x = torch.randn(2, 16, 3, 3)
    expected = network(x)
    assert network.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(one, before.state_dict()[name]) for name, one in network.state_dict().items())
    copied = copy.deepcopy(network)
    assert isinstance(copied[0], PrepackedConv2d) and copied[0]._packed is None and network[0]._packed is not None
    copied[0].weight.zero_()
    assert torch.equal(network(x), expected)
    network.double()  # of which the operators know nothing
    assert network[0]._packed is None
    assert torch.allclose(network(x.double()), before.double()(x.double()))


def test_plain_layers_where_the_operators_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(4, 4, 3)
    prepack(layer)
    x = torch.randn(1, 4, 5, 5)
    with torch.enable_grad():
        layer(x).sum().backward()
    assert layer.weight.grad is not None and layer._packed is None
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16 and layer._packed is None
    assert prepack(nn.Conv2d(4, 4, 3, padding="same")) == 0
    assert prepack(nn.Conv2d(4, 4, 3, padding_mode="reflect")) == 0
    assert prepack(nn.Conv2d(4, 4, 3).half()) == 0
    assert prepack(nn.Conv2d(4, 4, 3, device="meta")) == 0
    monkeypatch.setattr(prepacking, "OPERATORS", ("_no_such_operator",))
    assert prepack(nn.Conv2d(4, 4, 3)) == 0
    assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias)) and layer._packed is None


def test_only_large_weights_after_some_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacking, "SMALLEST", 16 * 16 * 9 * 4)
    monkeypatch.setattr(prepacking, "PLAIN_CALLS", 2)
    layer, x = nn.Conv2d(16, 16, 3), torch.randn(1, 16, 4, 4)
    assert prepack(nn.Sequential(layer, nn.Conv2d(8, 16, 3))) == 1
    assert [layer(x) is None or layer._packed is None for _ in range(3)] == [True, True, False]
