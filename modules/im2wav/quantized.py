"""Weights in int8 for sampling on a CPU: a quarter of the memory, and about a third of the time of a step.

Each row of a weight (out, in) is int8 with one scale: weight = values * scale, scale = max |row| / 127. The first of
these kernels that works here is used:

- FBGEMM (x86 with exact 32-bit sums): rows of the input are rounded to 8 bits, too, each by its own largest value, so
  that a row does not depend on the others. Logits of transformers of published size with random weights differ by 1.4 %
  of their norm.
- `torch._weight_int8pack_mm`: few rows in bfloat16 with float32 sums (1 %). Its float32 kernel is many times slower,
  and sizes that are not multiples of 32 make it read past the end.
- Elsewhere, and for other rows and sizes, the dequantised weight in the type of the input, slower than float32.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sonolume.modules.im2wav.linear import replace_linears
from sonolume.modules.im2wav.transformer import TokenTransformer

MOST_ROWS = 32  # more rows use the dequantised weight instead of `_weight_int8pack_mm`
UNIT = 32  # of both sizes of a weight, for that kernel
LEVELS = 127  # largest int8 value of weights and inputs
ZERO = 128  # the kernel of FBGEMM takes inputs without sign
HAS_INT8PACK = hasattr(torch, "_weight_int8pack_mm")
FBGEMM = "linear_with_input_q_dq_qweight_dq_output_fp32"


class Int8Linear(nn.Module):
    """Linear layer with an int8 weight and one scale for each output.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        packed: use FBGEMM where it works, which keeps the weight in an order of its own.
    """

    values: Tensor  # (out, in) int8
    scale: Tensor  # (out,) bfloat16, the type of `_weight_int8pack_mm`
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: bool = True) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = (weight.abs().amax(dim=1) / LEVELS).clamp(min=1e-12).bfloat16()                    # (out,)
        values = (weight / scale[:, None].float()).round().clamp(-LEVELS, LEVELS)                  # (out, in)
        self.kernel = fbgemm() if packed and weight.device.type == "cpu" else None
        self.packed: Any = None
        if self.kernel:
            self.packed = _pack(values, scale.double())
            scale, values = scale[:0], values[:0]  # the packed weight replaces them
        self.register_buffer("values", values.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.has_int8pack = HAS_INT8PACK and not any(size % UNIT for size in weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel:
            largest = torch.linalg.vector_norm(x.float(), torch.inf, -1, keepdim=True).clamp_(min=1e-12)  # (..., 1)
            product = self.kernel(x / largest, 1 / LEVELS, ZERO, self.packed)                      # (..., out)
            return (product * largest if self.bias is None else torch.addcmul(self.bias, product, largest)).to(x.dtype)
        if x.device.type == "cpu" and self.has_int8pack and x.ndim == 2 and len(x) <= MOST_ROWS:
            product = torch._weight_int8pack_mm(x.bfloat16(), self.values, self.scale).to(x.dtype)
        else:
            product = x @ (self.values.to(x.dtype) * self.scale[:, None].to(x.dtype)).T
        return product if self.bias is None else product + self.bias.to(x.dtype)


def _pack(values: Tensor, scale: Tensor) -> Any:
    """Weight (out, in) of whole numbers with the scales (out,) in the order of FBGEMM's kernel."""
    zeros = torch.zeros(len(values), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # quantized tensors are deprecated, the kernel has no other input
        quantized = torch.quantize_per_channel(values * scale[:, None].float(), scale, zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(quantized, None)


@functools.cache
def fbgemm() -> Callable[..., Tensor] | None:
    """The kernel: float32 rows in -1 to 1, their scale and zero, packed weight -> float32.

    None where PyTorch lacks it, or the CPU adds its products in 16 bits, which overflow.
    """
    if torch.backends.quantized.engine not in ("x86", "fbgemm") or not hasattr(torch.ops.quantized, FBGEMM):
        return None
    kernel = getattr(torch.ops.quantized, FBGEMM).default
    packed = _pack(torch.full((UNIT, UNIT), float(LEVELS)), torch.ones(UNIT, dtype=torch.float64))
    exact = kernel(torch.ones(1, UNIT), 1 / LEVELS, ZERO, packed) == LEVELS * UNIT
    return kernel if bool(exact.all()) else None


def quantize_int8(transformer: TokenTransformer, packed: bool = True) -> None:
    """Replace the weights of all linear layers, and of the product with the token embedding, by int8, in place.

    Embeddings, norms and biases keep their type. For sampling only: the result has no gradients, and its state dict
    other keys. For a CPU; elsewhere it runs, without a gain. `compiled.py` takes weights that are not packed.
    """
    replace_linears(transformer, functools.partial(Int8Linear, packed=packed))
