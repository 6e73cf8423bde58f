"""Names of LoRA weights as other tools write them."""

import pytest
import torch

from sonolume.modules import lora_formats

LAYERS = ("conv_in", "time_embedding.linear_1", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
          "mid_block.resnets.0.conv1")  # fmt: skip
OUT = LAYERS[2]
OLD = f"{OUT.removesuffix('.to_out.0')}.processor.to_out_lora"


def weights(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(4.0) if name.endswith("alpha") else torch.ones(2, 2) for name in names}


@pytest.mark.parametrize(
    ("down", "up", "layer"),
    [
        (f"unet.{OUT}.lora_A.weight", f"unet.{OUT}.lora_B.weight", OUT),
        (f"unet.{OUT}.lora.down.weight", f"unet.{OUT}.lora.up.weight", OUT),
        *((f"lora_unet_{one.replace('.', '_')}.lora_down.weight", f"lora_unet_{one.replace('.', '_')}.lora_up.weight",
           one) for one in LAYERS),
        *((f"{prefix}{OLD}.down.weight", f"{prefix}{OLD}.up.weight", OUT) for prefix in ("unet.", "")),
    ],
)  # fmt: skip
def test_known_formats(down: str, up: str, layer: str) -> None:
    renamed, alphas = lora_formats.to_peft(weights(down, up), LAYERS)
    assert set(renamed) == {f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"} and not alphas


def test_alphas_belong_to_layers() -> None:
    kohya = weights("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.alpha", f"unet.{OUT}.alpha")
    renamed, alphas = lora_formats.to_peft(kohya, LAYERS)
    assert set(renamed) == {"unet.conv_in.lora_A.weight"} and alphas == {"conv_in": 4.0, OUT: 4.0}
    with pytest.raises(ValueError, match=r"damaged: lora_unet_conv_in.alpha is \(3,\), not one number"):
        lora_formats.to_peft({"lora_unet_conv_in.alpha": torch.ones(3)}, LAYERS)


def test_text_encoders_are_left_out() -> None:
    mixed = weights("lora_te_text_model_q.lora_down.weight", "text_encoder.q.lora_A.weight", "unet.a.lora_A.weight")
    assert set(lora_formats.to_peft(mixed, LAYERS)[0]) == {"unet.a.lora_A.weight"}


def test_another_network_and_unknown_names() -> None:
    with pytest.raises(ValueError, match="belongs to another network: this U-Net has no input_blocks_4_1_proj_in"):
        lora_formats.to_peft(weights("lora_unet_input_blocks_4_1_proj_in.lora_down.weight"), LAYERS)
    unknown = weights("encoder.weight", "unet.a.lora_C.weight", "x")
    assert lora_formats.to_peft(unknown, LAYERS)[0] == unknown
