from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from sonolume.config.tta.audioldm import AudioLDMConfig
from sonolume.models.tta.audioldm.components import build_unet
from sonolume.modules.deep_cache import deep_cache

SIZE = (4, 5, 10)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet(AudioLDMConfig(model_channels=8, num_heads=2, norm_num_groups=4, context_dim=8)).eval()


@pytest.fixture
def predict(unet: UNet2DConditionModel) -> Callable[..., Tensor]:
    context = torch.randn(1, 3, 8)

    @torch.no_grad()
    def call(x: Tensor, t: int) -> Tensor:
        return unet(x, t, context.expand(len(x), -1, -1)).sample

    return call


@pytest.fixture
def counts(unet: UNet2DConditionModel) -> dict[str, int]:
    """Number of runs of an outer and a deep layer."""
    found = {"outer": 0, "deep": 0}
    layers: list[tuple[str, Any]] = [("outer", unet.down_blocks[0].resnets[0]), ("deep", unet.mid_block.resnets[0])]
    for name, layer in layers:
        layer.register_forward_hook(lambda *_, name=name: found.update({name: found[name] + 1}))
    return found


def noise(count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))


def test_the_deep_layers_run_at_one_of_three_steps(unet, predict, counts):
    with deep_cache(unet, 3):
        for step in range(7):
            predict(noise(), 900 - step)
    assert counts == {"outer": 7, "deep": 3}


def test_a_step_takes_the_deep_output_of_the_one_before_and_computes_the_rest(unet, predict):
    first, second = noise(seed=1), noise(seed=2)
    deep: list[Tensor] = []
    hook = unet.up_blocks[-2].register_forward_hook(lambda *inputs: deep.append(inputs[-1]))
    whole = [predict(first, 900), predict(second, 800)]
    hook.remove()
    replaced = unet.up_blocks[-2].register_forward_hook(lambda *_: deep[0])  # all below it has no effect then
    expected = predict(second, 800)
    replaced.remove()
    with deep_cache(unet, 2):
        assert predict(first, 900).equal(whole[0])
        assert predict(second, 800).equal(expected)
        assert predict(second, 800).equal(whole[1])
    assert (expected - whole[1]).abs().max() > 1e-3


def test_equal_inputs_give_equal_outputs(unet, predict):
    with deep_cache(unet, 2):
        assert predict(noise(), 500).equal(predict(noise(), 500))


def test_another_batch_size_is_computed_as_a_whole(unet, predict, counts):
    whole = predict(noise(1, seed=3), 700)
    counts.update(deep=0)
    with deep_cache(unet, 4):
        predict(noise(2), 900)
        assert predict(noise(1, seed=3), 700).equal(whole)
    assert counts["deep"] == 2


def test_each_call_of_a_step_has_outputs_of_its_own(unet, predict):
    def two_steps(x: Tensor) -> Tensor:
        with deep_cache(unet, 2):
            return torch.stack([predict(x, 900), predict(0.5 * x, 800)])

    parts = [noise(seed=1), noise(seed=2)]
    alone = [two_steps(part) for part in parts]
    with deep_cache(unet, 2, calls_per_step=2):
        first = [predict(part, 900) for part in parts]
        second = [predict(0.5 * part, 800) for part in parts]
    for number in range(2):
        assert torch.stack([first[number], second[number]]).equal(alone[number])


def test_nothing_stays_behind(unet, predict, counts):
    others = unet.mid_block.forward
    unet.mid_block.forward = others  # as accelerate replaces it
    with pytest.raises(KeyError), deep_cache(unet, 2):
        predict(noise(), 900)
        raise KeyError
    assert unet.mid_block.forward is others
    assert all("forward" not in vars(block) for block in (*unet.down_blocks, *unet.up_blocks))
    counts.update(deep=0)
    for _ in range(3):
        predict(noise(), 900)
    assert counts["deep"] == 3


def test_an_interval_of_one_changes_nothing(unet, predict, counts):
    with deep_cache(unet, 1):
        predict(noise(), 900)
        predict(noise(), 800)
    assert counts["deep"] == 2


def test_what_is_refused(unet):
    wrong: list[Any] = [0, -1, 2.5, "2", True]
    for interval in wrong:
        message = f"cache_interval must be a whole number of at least 1, got {interval!r}"
        with pytest.raises(ValueError, match=message), deep_cache(unet, interval):
            pass
    flat = build_unet(AudioLDMConfig(model_channels=8, channel_mult=[1], attention_resolutions=[1], num_heads=2,
                                     norm_num_groups=4, context_dim=8))  # fmt: skip
    with pytest.raises(ValueError, match="has one level"), deep_cache(flat, 2):
        pass
    unet.compile()
    with pytest.raises(ValueError, match="is compiled"), deep_cache(unet, 2):
        pass
