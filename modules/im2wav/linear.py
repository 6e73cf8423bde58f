"""Linear layers for the few rows of a sampling step on a CPU, where the time is that of reading the weights.

`for_rows` replaces the linear layers of a float32 transformer by those that are fastest for R rows, with the same
weights: results differ by rounding only. On one core of an AMD EPYC (AVX-512), the 151 million weights of a published
transformer take 47 ms as `F.linear` of one row and 40 as `ColumnLinear`, 80 and 36 ms at two rows, 86 and 52 to 87 ms
as `PackedLinear` at eight.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.modules import prepacking
from sonolume.modules.im2wav.transformer import TokenTransformer

COLUMNS = 3  # up to so many rows, weight @ x^T is faster than x @ weight^T


class ColumnLinear(nn.Module):
    """(R, in) -> (R, out) as weight @ x^T, which BLAS computes faster for 2 and 3 columns; a single row is doubled.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > COLUMNS:
            return F.linear(x, self.weight, self.bias)
        if len(x) == 1:
            product = torch.mm(self.weight, torch.cat([x, x]).T).select(1, 0).unsqueeze(0)         # (1, out)
            return product if self.bias is None else product + self.bias
        product = torch.mm(self.weight, x.contiguous().T).T.contiguous()  # a strided x takes BLAS four times as long
        return product if self.bias is None else product + self.bias


class PackedLinear(nn.Module):
    """(R, in) -> (R, out) by oneDNN, with a copy of the weight in the order of its kernel for R rows.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        rows: R; other numbers of rows give the same result, more slowly.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        super().__init__()
        self.packed, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows), bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.float(), self.packed, self.bias, "none", [], "")

    @staticmethod
    def is_available() -> bool:
        """Whether this build of PyTorch has the two operators."""
        return prepacking.is_available()


def for_rows(transformer: TokenTransformer, rows: int) -> TokenTransformer:
    """Copy of a transformer for `step` with `rows` rows; it shares all tensors but packed weights.

    A transformer that is not in float32 on a CPU is returned as it is. With more than `COLUMNS` rows, the copy takes as
    much memory as the weights of the linear layers.
    """
    tensors = [*transformer.parameters(), *transformer.buffers()]
    weights = [tensor for tensor in tensors if tensor.is_floating_point()]
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in weights):
        return transformer
    replaced = copy.deepcopy(transformer, {id(tensor): tensor for tensor in tensors})
    replace_linears(replaced, lambda weight, bias: _layer(weight, bias, rows))
    return replaced


def replace_linears(transformer: TokenTransformer, layer: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Replace every linear layer by layer(weight, bias), and the product with the token embedding as well."""
    for module in list(transformer.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, layer(child.weight, child.bias))
    if transformer.output is None:
        transformer.output = layer(transformer.tokens.weight, None)


def _layer(weight: Tensor, bias: Tensor | None, rows: int) -> nn.Module:
    if rows > COLUMNS and PackedLinear.is_available():
        return PackedLinear(weight, bias, rows)
    return ColumnLinear(weight, bias)
