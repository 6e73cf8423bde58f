import json
from types import SimpleNamespace

import pytest
import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sonolume.models.convert.amphion import hifigan_weights, vae_weights


@torch.no_grad()
def test_the_vocoder_equals_the_official_one(goldens: SimpleNamespace):
    config = SpeechT5HifiGanConfig(
        model_in_dim=80, upsample_initial_channel=32, upsample_rates=[8, 8, 2, 2],
        upsample_kernel_sizes=[16, 16, 4, 4], normalize_before=False,
    )  # fmt: skip
    vocoder = SpeechT5HifiGan(config)
    vocoder.load_state_dict(hifigan_weights(goldens.weights_for("hifigan_small")), strict=True)
    golden = goldens.golden("hifigan_small")
    for frames in (1, 32):
        mel = goldens.log_mel_like(f"voc.mel.{frames}", (2, 80, frames))
        goldens.assert_close(vocoder.eval()(mel.mT), golden[f"wav_{frames}"][:, 0], 5e-6)


def test_no_name_is_lost(goldens: SimpleNamespace):
    for table in ("vae_4_5_39_small", "vae_4_10_78_small"):
        names = json.loads((goldens.AMPHION / f"keys_{table}.json").read_text())
        assert len(vae_weights(dict.fromkeys(names, torch.zeros(1)))) == len(names)


def test_a_weight_of_another_model_is_refused():
    with pytest.raises(ValueError, match="encoder.mid.attn_1.q.weight: not a weight"):
        vae_weights({"encoder.mid.attn_1.q.weight": torch.zeros(1)})
