"""Attention over the states of a sound beside that over the text, in a U-Net of a few thousand random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.decoupled_attention import (
    AudioAttention,
    cross_attention_layers,
    cross_attention_sizes,
    install,
    installed,
)

WIDTH, TEXT, STATES = 12, 5, 4  # D, L, K
NOISY = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TEXTS = torch.randn(2, TEXT, WIDTH, generator=torch.Generator().manual_seed(2))
SOUNDS = torch.randn(2, STATES, WIDTH, generator=torch.Generator().manual_seed(3))


def make_unet(channels: tuple[int, int] = (8, 16)) -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=channels, layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).requires_grad_(False)  # fmt: skip


def make_head(unet: Any, trained: bool = True, input_size: int = WIDTH) -> Any:
    torch.manual_seed(4)
    head = AudioAttention(cross_attention_sizes(unet), WIDTH, TEXT, STATES, input_size)
    if trained:
        for projection in head.projections:
            torch.nn.init.normal_(projection.to_v.weight)  # type: ignore[union-attr, arg-type]
    return head


def predict(unet: Any, states: Tensor) -> Tensor:
    return unet(NOISY[: len(states)], torch.tensor(500), states).sample


def test_only_cross_attention_layers_have_projections_and_the_unet_gets_no_weights():
    unet = make_unet()
    names, weights = cross_attention_sizes(unet), list(unet.state_dict())
    assert len(names) == 4 and all(name.endswith("attn2") for name in names) and sorted(set(names.values())) == [8, 16]
    install(make_head(unet), unet)
    assert list(unet.state_dict()) == weights


def test_a_fresh_head_changes_no_bit():
    unet = make_unet()
    stock = predict(unet, TEXTS)
    install(make_head(unet, trained=False), unet)
    assert predict(unet, torch.cat([TEXTS, SOUNDS], dim=1)).equal(stock)


def test_without_a_sound_a_trained_head_changes_no_bit():
    """Text states alone, and zeros behind them, as in the negative half of guidance."""
    unet = make_unet()
    stock = predict(unet, TEXTS)
    install(make_head(unet), unet)
    halves = torch.cat([TEXTS, torch.stack([torch.zeros_like(SOUNDS[0]), SOUNDS[1]])], dim=1)
    assert predict(unet, TEXTS).equal(stock)
    found = predict(unet, halves)
    torch.testing.assert_close(found[0], stock[0], rtol=0, atol=1e-6)  # the other half moves nothing in it
    assert (found[1] - stock[1]).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_the_formula(scale: float):
    """W_out (softmax(q k / sqrt(d)) v + scale softmax(q k' / sqrt(d)) v') + b, head by head."""
    unet = make_unet()
    head = make_head(unet)
    install(head, unet)
    (layer, *_), hidden = cross_attention_layers(unet).values(), torch.randn(2, 6, 8)
    layer: Any
    projection: Any = head.projections[0]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size, parts = 8 // layer.heads, []
        for first in range(0, 8, size):
            q, k, v = (one[..., first : first + size] for one in (query, key, value))
            parts.append((q @ k.transpose(1, 2) / size**0.5).softmax(dim=-1) @ v)
        return torch.cat(parts, dim=-1)

    query, normalised = layer.to_q(hidden), F.layer_norm(SOUNDS, (WIDTH,))
    texts = attend(query, layer.to_k(TEXTS), layer.to_v(TEXTS))
    sounds = attend(query, projection.to_k(normalised), projection.to_v(SOUNDS))
    wanted = layer.to_out[0](texts + scale * sounds)
    found = layer(hidden, torch.cat([TEXTS, scale * SOUNDS], dim=1))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (scale * sounds).abs().max() > 0.1


def test_gradients_reach_the_head_only_also_with_checkpointing():
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        unet = make_unet()
        unet.train()
        head = make_head(unet, input_size=7)
        install(head, unet)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        sounds = head(SOUNDS[..., :7])
        predict(unet, torch.cat([TEXTS, sounds], dim=1)).square().mean().backward()
        assert all(weight.grad is None for weight in unet.parameters())
        return {name: weight.grad for name, weight in head.named_parameters()}

    plain, again = gradients(False), gradients(True)
    assert all(gradient is not None and gradient.any() for gradient in plain.values()) and len(plain) == 4 + 2 * 4
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def test_the_processors_return_after_the_block():
    unet = make_unet()
    before = [layer.processor for layer in cross_attention_layers(unet).values()]
    first, second = make_head(unet), make_head(unet, trained=False)
    both, stock = torch.cat([TEXTS, SOUNDS], dim=1), predict(unet, TEXTS)
    with installed(first, unet):
        assert not predict(unet, both).allclose(stock)
        with installed(second, unet):  # replaces the first
            assert predict(unet, both).equal(stock)
        assert not predict(unet, both).allclose(stock)
    with pytest.raises(RuntimeError, match="inside"), installed(first, unet):
        raise RuntimeError("inside")
    assert [layer.processor for layer in cross_attention_layers(unet).values()] == before
    with installed(None, unet):
        assert predict(unet, TEXTS).equal(stock)


def test_another_unet_is_refused():
    head: Any = make_head(make_unet())
    install_: Callable[..., None] = install
    with pytest.raises(ValueError, match="attn2 is 8 wide in the head, 16 in the U-Net"):
        install_(head, make_unet((16, 16)))
