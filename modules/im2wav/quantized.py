"""Weight-only int8 for sampling on a CPU: a quarter of the memory, and half the time of a step.

Each row of a weight (out, in) is stored as int8 with one scale: weight = values * scale, scale = max |row| / 127.
`torch._weight_int8pack_mm` computes the product of few rows in bfloat16 with float32 sums; its float32 kernel is many
times slower, and sizes that are not multiples of 32 make it read past the end. More rows (a prefix), other sizes and
builds of PyTorch without the operator use the dequantised weight in the type of the input, with the same values but the
time of float32 and more. Logits of transformers of published size with random weights differ by 1 % of their norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.modules.im2wav.linear import replace_linears
from sonolume.modules.im2wav.transformer import TokenTransformer

MOST_ROWS = 32  # more rows use the dequantised weight
UNIT = 32  # of both sizes of a weight, for the kernel
HAS_KERNEL = hasattr(torch, "_weight_int8pack_mm")


class Int8Linear(nn.Module):
    """Linear layer with an int8 weight and one scale for each output.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    values: Tensor  # (out, in) int8
    scale: Tensor  # (out,) bfloat16, the kernel's type
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12).bfloat16()                       # (out,)
        values = (weight / scale[:, None].float()).round().clamp(-127, 127)                        # (out, in)
        self.register_buffer("values", values.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.has_kernel = HAS_KERNEL and not any(size % UNIT for size in weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and self.has_kernel and x.ndim == 2 and len(x) <= MOST_ROWS:
            product = torch._weight_int8pack_mm(x.bfloat16(), self.values, self.scale)
            return product.to(x.dtype) if self.bias is None else product + self.bias.to(x.dtype)
        return F.linear(x, self.values.to(x.dtype) * self.scale[:, None].to(x.dtype), self.bias)


def quantize_int8(transformer: TokenTransformer) -> None:
    """Replace the weights of all linear layers, and of the product with the token embedding, by int8, in place.

    Embeddings, norms and biases keep their type. For sampling only: the result has no gradients, and its state dict
    other keys. For a CPU; elsewhere it runs, without a gain.
    """
    replace_linears(transformer, Int8Linear)
