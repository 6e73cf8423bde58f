"""BEATs equals the official code, and refuses unusable waves."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from sonolume.models.convert import beats as official
from sonolume.modules.beats import beats
from sonolume.modules.beats.beats import DEVIATION, MEAN, BEATs, audioset_names

LAYERS = (4, 8, 12)


@pytest.fixture(scope="module")
def golden(goldens: SimpleNamespace) -> dict[str, Tensor]:
    arrays = np.load(goldens.AUDIOTOKEN / "beats_small.npz")
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def model(goldens: SimpleNamespace) -> BEATs:
    checkpoint = goldens.beats_checkpoint("small")
    small = BEATs(**official.beats_settings(checkpoint["cfg"], checkpoint["model"]))
    small.load_state_dict(official.beats_weights(checkpoint["model"]))
    return small.eval().requires_grad_(False)


@pytest.fixture
def official_features(goldens: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front end's official output, for the chirp whose noise floor depends on the machine's transform."""
    raw = torch.from_numpy(np.load(goldens.AUDIOTOKEN / "fbank.npz")["raw"])
    monkeypatch.setattr(beats, "fbank", lambda waves: (raw - MEAN) / (2 * DEVIATION))


def test_layers_and_tags(
    goldens: SimpleNamespace, golden: dict[str, Tensor], model: BEATs, official_features: None
):
    output = model(goldens.audiotoken_waves(), layers=LAYERS)
    goldens.assert_close(torch.cat(output.layers, -1), golden["cat"], 2e-5)
    assert torch.equal(output.hidden, output.layers[-1]) and output.token_mask is None
    goldens.assert_close(model.tags(goldens.audiotoken_waves()), golden["probs"], 1e-5)


def test_from_the_wave(goldens: SimpleNamespace, golden: dict[str, Tensor], model: BEATs):
    output = model(goldens.audiotoken_waves(), layers=LAYERS)
    goldens.assert_close(torch.cat(output.layers, -1)[0], golden["cat"][0], 1e-4)
    goldens.assert_close(model.tags(goldens.audiotoken_waves()), golden["probs"], 2e-4)
    output = model(goldens.audiotoken_wave10(), layers=LAYERS)
    rows = torch.cat(output.layers, -1)[0, [0, 1, 7, 8, 247, 248, 487, 495]]
    goldens.assert_close(rows, golden["cat10_rows"], 1e-4)


def test_padding_is_treated_as_officially(
    goldens: SimpleNamespace, golden: dict[str, Tensor], model: BEATs, official_features: None
):
    waves, mask = goldens.audiotoken_waves(), goldens.audiotoken_padding_mask()
    output = model(waves, mask, layers=LAYERS)
    assert torch.equal(output.token_mask, golden["token_mask"])
    goldens.assert_close(torch.cat(output.layers, -1), golden["cat_masked"], 2e-5)
    goldens.assert_close(model.tags(waves, mask), golden["probs_masked"], 1e-5)


def test_the_bias_of_every_pair(model: BEATs):
    """Looked up for each pair, one by one, by the published formula."""
    table = model.encoder.layers[0].self_attn.relative_attention_bias.weight
    bias, (count, furthest) = model.encoder.bias(200), (len(table), model.config.max_distance)
    for i, j in ((0, 0), (5, 4), (4, 5), (0, 7), (9, 0), (0, 8), (30, 10), (0, 63), (0, 199), (199, 0)):
        distance, exact = abs(i - j), count // 4
        far = exact + int(np.log(max(distance, 1) / exact) / np.log(furthest / exact) * exact) if distance else 0
        row = distance if distance < exact else min(count // 2 - 1, far)
        assert torch.equal(bias[:, i, j], table[row + (count // 2 if j > i else 0)])


def test_every_official_name_of_the_real_size_fits(goldens: SimpleNamespace):
    """Without memory: on the meta device."""
    table = json.loads((goldens.AUDIOTOKEN / "keys_beats_full.json").read_text())
    assert len(table["keys"]) == 252
    place = torch.zeros(320, 12)  # one tensor under twelve names, as in the file
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in table["keys"].items()}
        weights |= {name: place for name in weights if name.endswith(official.TABLE)}
        real = BEATs(**official.beats_settings(table["config"], weights))
        ours = official.beats_weights(weights)
    assert {name: weight.shape for name, weight in ours.items()} == {
        name: weight.shape for name, weight in real.state_dict().items()
    }
    assert sum(weight.numel() for weight in real.state_dict().values()) == 90_311_664 + 527 * 769  # and its head
    assert real.min_samples == 2800 and real.config.max_distance == 800


def test_folded_weight_norm_is_the_same_function(goldens: SimpleNamespace):
    weights = goldens.beats_checkpoint("small")["model"]
    conv = torch.nn.Conv1d(32, 32, 16, padding=8, groups=4)
    normed = torch.nn.utils.parametrizations.weight_norm(conv, dim=2)
    gain, direction = (weights[f"encoder.pos_conv.0.weight_{letter}"] for letter in "gv")
    normed.parametrizations.weight.original0.data.copy_(gain)  # type: ignore[union-attr]
    normed.parametrizations.weight.original1.data.copy_(direction)  # type: ignore[union-attr]
    goldens.assert_close(official.beats_weights(weights)["encoder.pos_conv.0.weight"], normed.weight.detach(), 1e-6)
    new = {name: weight for name, weight in weights.items() if "weight_" not in name}
    new["encoder.pos_conv.0.parametrizations.weight.original0"] = gain
    new["encoder.pos_conv.0.parametrizations.weight.original1"] = direction
    goldens.assert_close(official.beats_weights(new)["encoder.pos_conv.0.weight"], normed.weight.detach(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_near(goldens: SimpleNamespace, model: BEATs, dtype: torch.dtype):
    half = BEATs.from_config(model.config).eval().to(dtype)
    half.load_state_dict(model.state_dict())
    loud = goldens.audiotoken_waves() * 5
    output = half(loud, layers=LAYERS)
    assert output.hidden.dtype == dtype and output.hidden.isfinite().all()
    torch.testing.assert_close(half.tags(loud), model.tags(loud), rtol=0, atol=0.02)


def test_silence_is_finite(model: BEATs):
    assert model(torch.zeros(1, 16000)).hidden.isfinite().all() and model.tags(torch.zeros(1, 2800)).isfinite().all()


def test_a_batch_is_its_sounds(model: BEATs):
    waves = torch.randn(3, 8000) / 10
    one_by_one = torch.cat([model(wave[None]).hidden for wave in waves])
    torch.testing.assert_close(model(waves).hidden, one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("waves", "options", "message"),
    [
        (torch.zeros(1, 2799), {}, "at least 2800 samples"),
        (torch.zeros(16000), {}, r"must be \(B, n\)"),
        (torch.full((1, 16000), torch.nan), {}, "NaN"),
        (torch.full((1, 16000), torch.inf), {}, "NaN"),
        (torch.zeros(2, 16000), {"padding_mask": torch.zeros(1, 16000, dtype=torch.bool)}, "padding_mask is"),
        (torch.zeros(1, 16000), {"padding_mask": torch.ones(1, 16000, dtype=torch.bool)}, "all padding"),
        (torch.zeros(1, 16000), {"layers": (0, 4, 13)}, r"layers \[0, 13\]"),
    ],
)
def test_unusable_input_is_refused(model: BEATs, waves: Tensor, options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        model(waves, **options)


def test_without_a_head_there_are_no_tags():
    bare = BEATs(embed_dim=8, encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=8,
                 encoder_attention_heads=2, conv_pos=4, conv_pos_groups=2)  # fmt: skip
    assert bare.labels == () and bare.post_extract_proj is None
    with pytest.raises(ValueError, match="no classification head"):
        bare.tags(torch.zeros(1, 16000))


def test_labels_are_audioset_in_words(tmp_path: Path):
    names = audioset_names()
    assert len(names) == 527 and list(names.values())[:2] == ["Speech", "Male speech, man speaking"]
    small = BEATs(embed_dim=8, encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=8,
                  encoder_attention_heads=2, conv_pos=4, conv_pos_groups=2, predictor_class=2,
                  labels=["/m/05tny_", "a squeak of ours"])  # fmt: skip
    assert small.labels == ("Bark", "a squeak of ours")
    small.save_pretrained(tmp_path)
    again = BEATs.from_pretrained(tmp_path)
    assert again.labels == small.labels and again.config.labels[0] == "/m/05tny_"
    waves = torch.randn(1, 8000)
    assert torch.equal(again.eval().tags(waves), small.eval().tags(waves))
    with pytest.raises(ValueError, match="1 labels for 2 classes"):
        BEATs(predictor_class=2, labels=["one"])
