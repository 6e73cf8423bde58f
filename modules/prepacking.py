"""Large layers with weights in the order of oneDNN's kernels, for inference on a CPU.

PyTorch reorders the weight of a convolution at each call, which for a large weight and a small picture takes longer
than the convolution. `prepack` lets such layers keep the reordered weight, with the operators to which TorchInductor's
freezing compiles them; these are not public, so that layers stay as they are where the operators are missing.
B pictures or rows, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise")
SMALLEST = 4 * 2**20  # bytes of a weight; the order of smaller ones takes no time worth mentioning
PLAIN_CALLS = 8  # of a layer with inputs of one size before its weight is reordered, which costs what eight calls save


def is_available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of PyTorch has the operators, and this CPU multiplies numbers of the type."""
    operators: Any = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not all(hasattr(operators, name) for name in OPERATORS):
        return False
    if dtype == torch.bfloat16:
        return bool(getattr(operators, "_is_mkldnn_bf16_supported", lambda: False)())
    return dtype == torch.float32


def prepack(network: nn.Module) -> int:
    """Let the large convolutions and linear layers of a network use oneDNN's operators, in place; return their number.

    Results differ by rounding only, about 4e-6 of the largest value. Names, parameters and `state_dict` stay. A layer
    computes as before on another device, with gradients, under autocast or in a compiled network. The reordered
    weights of the convolutions take as much memory as the weights; they are made at the ninth call with inputs of one
    size, and made anew if size or weight change, but a weight that is changed through `.data` needs another `prepack`.
    """
    count = 0
    for layer in network.modules():
        kind = PREPACKED.get(type(layer))
        if kind is not None and _is_suitable(layer):
            layer.__class__ = kind
            layer.__dict__.update(CLEARED if kind is PrepackedConv2d else {})
            count += 1
    return count


def _is_suitable(layer: Any) -> bool:
    weight, padding = layer.weight, getattr(layer, "padding", 0)
    size = weight.numel() * weight.element_size()
    is_plain = getattr(layer, "padding_mode", "zeros") == "zeros" and not isinstance(padding, str)
    return size >= SMALLEST and is_plain and weight.device.type == "cpu" and is_available(weight.dtype)


def _is_usable(layer: nn.Conv2d | nn.Linear, x: Tensor) -> bool:
    """Whether a call can use the operators, which know neither gradients nor autocast."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    weight = layer.weight
    same = weight.device.type == x.device.type == "cpu" and weight.dtype == x.dtype
    return same and is_available(x.dtype) and not weight.is_inference() and x.numel() > 0


CLEARED: dict[str, Any] = {"_packed": None, "_packed_for": None, "_calls": 0}


class PrepackedConv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, C', H', W') as `nn.Conv2d`; its weight is reordered for the size of the input.

    oneDNN chooses the order by the size of the input. A weight in the order for another size would be converted by a
    loop that takes up to a hundred times as long as the convolution.
    """

    _packed: Tensor | None
    _packed_for: tuple[Any, ...] | None  # size of the input, and the state of the weight
    _calls: int  # with this size

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Conv2d
        if not _is_usable(self, input) or input.ndim != 4:
            return super().forward(input)
        key = (tuple(input.shape), self.weight.data_ptr(), self.weight._version)
        if key != self._packed_for:
            self.__dict__.update(CLEARED, _packed_for=key)
        self._calls += 1
        if self._calls <= PLAIN_CALLS:
            return super().forward(input)
        geometry = self.padding, self.stride, self.dilation, self.groups
        if self._packed is None:
            weight = self.weight.detach()
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(input.shape))
        return torch.ops.mkldnn._convolution_pointwise(input, self._packed, self.bias, *geometry, "none", [], "")

    def _apply(self, *arguments: Any, **settings: Any) -> Any:
        """Move or convert the layer, without the reordered weight."""
        self.__dict__.update(CLEARED)
        return super()._apply(*arguments, **settings)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the reordered weight out of copies and files."""
        return self.__dict__ | CLEARED


class OnednnLinear(nn.Linear):
    """(..., C) -> (..., C') as `nn.Linear`, by oneDNN in place of the BLAS; nothing is kept."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        if not _is_usable(self, input):
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")


PREPACKED = {
    nn.Conv2d: PrepackedConv2d, PrepackedConv2d: PrepackedConv2d, nn.Linear: OnednnLinear, OnednnLinear: OnednnLinear
}  # fmt: skip
