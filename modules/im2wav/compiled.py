"""Sampling steps compiled for a CPU, where the time is that of reading the weights.

BLAS reads the weight of a product with one row at about half the speed of the memory. The loop that TorchInductor makes
of a sum of products is faster, reads int8 weights directly, and the layers between the products cost nothing. The first
step takes about 15 seconds, and later runs less: TorchInductor keeps its results on disk.
"""

import copy

import torch
from torch import Tensor, nn

from sonolume.modules.im2wav.linear import COLUMNS
from sonolume.modules.im2wav.quantized import Int8Linear
from sonolume.modules.im2wav.transformer import TokenTransformer

MOST_ROWS = COLUMNS  # for more rows, BLAS is faster
VARIANTS = 64  # compiled forms of one function: three attention patterns, for each prior and number of rows


class SummedLinear(nn.Module):
    """(R, in) -> (R, out) as sums of products in float32, a loop for each row; slow without compilation.

    Args:
        weight: (out, in), float or int8.
        bias: (out,) or None.
        scale: (out,) factor of the weight or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.scale = None if scale is None else scale.float()

    def forward(self, x: Tensor) -> Tensor:
        # two uses of a single row: an input with one use would be computed anew for every output
        parts = self.weight.float().chunk(2 if len(x) == 1 else 1)
        product = torch.stack([torch.cat([(part * row).sum(dim=1) for part in parts]) for row in x.float()])  # (R, out)
        if self.scale is not None:
            product = product * self.scale
        return (product if self.bias is None else product + self.bias).to(x.dtype)


def compile_for_rows(transformer: TokenTransformer, rows: int) -> TokenTransformer | None:
    """Copy of a transformer with a compiled `step`; it shares all tensors.

    None on other devices than a CPU, and for more than `MOST_ROWS` rows. Layers of `quantize_int8` must not be packed.
    """
    if rows > MOST_ROWS or transformer.places.device.type != "cpu":
        return None
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    tensors = [*transformer.parameters(), *transformer.buffers()]
    compiled = copy.deepcopy(transformer, {id(tensor): tensor for tensor in tensors})
    for module in list(compiled.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear | Int8Linear):
                setattr(module, name, _summed(child))
    compiled.output = compiled.output or SummedLinear(compiled.tokens.weight, None)
    compiled.output.compile(dynamic=False)
    for block in compiled.blocks:  # one by one: blocks of the same pattern share their code
        block.step = torch.compile(block.step, dynamic=False)  # type: ignore[method-assign, arg-type]
    return compiled


def _summed(layer: nn.Linear | Int8Linear) -> SummedLinear:
    if isinstance(layer, Int8Linear):
        return SummedLinear(layer.values, layer.bias, layer.scale)
    return SummedLinear(layer.weight, layer.bias)
