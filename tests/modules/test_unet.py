from types import SimpleNamespace

import pytest
import torch

from sonolume.config.tta.audioldm import AudioLDMConfig
from sonolume.models.convert.amphion import unet_weights
from sonolume.models.tta.audioldm.components import build_unet
from sonolume.modules.unet import use_crop_upsampling, with_positions, zero_init

SMALL = AudioLDMConfig(model_channels=32, context_dim=24, use_checkpoint=False)
SIZES = ["5x39", "10x78", "8x16"]


@pytest.fixture(scope="module")
def unet(goldens: SimpleNamespace):
    unet = build_unet(SMALL)
    unet.load_state_dict(unet_weights(goldens.weights_for("unet_small")), strict=True)
    return unet.eval()


def inputs(goldens: SimpleNamespace, size: str) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = map(int, size.split("x"))
    return goldens.input_for(f"unet.lat.{size}", (2, 4, height, width)), goldens.input_for("unet.ctx.24", (2, 9, 24))


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_equals_the_official_network(unet, goldens: SimpleNamespace, size: str):
    golden = goldens.golden("unet_small")
    x, context = inputs(goldens, size)
    goldens.assert_close(unet(x, golden["t"], context).sample, golden[f"y_{size}"], 1e-5)


@torch.no_grad()
def test_diffusers_own_upsampling_differs_at_odd_sizes(unet, goldens: SimpleNamespace):
    stock = type(unet).from_config(unet.config).eval()
    stock.load_state_dict(unet.state_dict())
    golden = goldens.golden("unet_small")

    def error(network, size: str) -> float:
        x, context = inputs(goldens, size)
        return (network(x, golden["t"], context).sample - golden[f"y_{size}"]).abs().max().item()

    assert error(stock, "5x39") > 0.1
    assert error(stock, "8x16") < 1e-5
    assert error(use_crop_upsampling(stock), "5x39") < 1e-5


def test_crop_upsampling_keeps_the_names_of_weights(unet):
    stock = type(unet).from_config(unet.config)
    assert stock.state_dict().keys() == use_crop_upsampling(use_crop_upsampling(stock)).state_dict().keys()


def test_zero_init_makes_every_residual_branch_silent():
    unet = build_unet(AudioLDMConfig(model_channels=8, num_heads=2, norm_num_groups=4, context_dim=8)).eval()
    x = torch.randn(1, 4, 5, 39)
    context = torch.randn(1, 3, 8)
    assert unet(x, 3, context).sample.abs().max() > 1e-3
    zero_init(unet)
    assert not unet(x, 3, context).sample.any()
    zeroed = {name for name, weight in unet.named_parameters() if not weight.any() and name.endswith("weight")}
    branches = [name for name in unet.state_dict() if name.endswith(("conv2.weight", "proj_out.weight"))]
    assert zeroed == {*branches, "conv_out.weight"}


def test_positions_are_time_then_frequency():
    x = torch.randn(2, 4, 3, 5)
    assert with_positions(x, 4) is x
    one = with_positions(x, 5)
    assert one.shape == (2, 5, 3, 5)
    torch.testing.assert_close(one[1, 4, 2], torch.tensor([-1, -0.5, 0, 0.5, 1]))
    both = with_positions(x, 6)
    torch.testing.assert_close(both[:, :4], x)
    torch.testing.assert_close(both[0, 5, :, 3], torch.tensor([-1.0, 0, 1]))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="input_blocks.x"):
        unet_weights({"unet.input_blocks.x": torch.zeros(1)})
