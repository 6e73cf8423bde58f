"""transformers' feature extractor gives the numbers that audio2img was trained with."""

from types import SimpleNamespace

import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor


@pytest.fixture(scope="module")
def extractor() -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor(
        feature_size=80, num_mel_bins=80, sampling_rate=16000, padding_value=1, stride=2
    )


@pytest.mark.parametrize("clip", ["noise_1s", "chirp_3.77s", "noise_10s", "silence_0.5s"])
def test_features_and_mask_are_the_official_ones(
    goldens: SimpleNamespace, extractor: SeamlessM4TFeatureExtractor, clip: str
):
    wanted = goldens.golden("frontend", goldens.AUDIO2IMG)
    found = extractor(
        goldens.audio2img_waves()[clip], sampling_rate=16000, truncation=True, padding="max_length", max_length=375,
        return_tensors="pt",
    )  # fmt: skip
    features, mask = found["input_features"], found["attention_mask"]
    assert list(features.shape) == wanted[f"{clip}.shape"].tolist() == [1, 188, 160]
    valid = int(wanted[f"{clip}.mask_sum"])
    assert mask[0].tolist() == [1] * valid + [0] * (188 - valid)
    goldens.assert_close(features.mean(), wanted[f"{clip}.input_features_mean"], 1e-4)
    rows, stored = wanted["rows"], wanted[f"{clip}.input_features_rows"]
    goldens.assert_close(features[0, rows], stored, 1e-4)
    assert torch.all(features[0, valid + 1 :] == 1)  # the padding value; half of one feature may be padding
