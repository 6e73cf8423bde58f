"""Tiny models with random weights, saved as folders: the classes and the front ends are the real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers as tf

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "bell", "rings", "twice", "rain", "dog", "barks"]
SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 8,
}  # fmt: skip


def tokenizer(length: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return tf.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **special)


def clap(fused: bool = False) -> list[Any]:
    audio = tf.ClapAudioConfig(
        patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[1, 2], hidden_size=16, enable_fusion=fused,
    )  # fmt: skip
    text = tf.ClapTextConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    config = tf.ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=12)
    return [tf.ClapModel(config), tf.ClapFeatureExtractor(), tokenizer(512)]


def ast() -> list[Any]:
    config = tf.ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=128,
        num_labels=3, id2label={0: "bell", 1: "rain", 2: "dog"}, label2id={"bell": 0, "rain": 1, "dog": 2},
    )  # fmt: skip
    with pytest.warns(UserWarning, match="all zero"):  # so it is in the published setting
        return [tf.ASTForAudioClassification(config), tf.ASTFeatureExtractor(max_length=128)]


def clip(siglip: bool = False) -> list[Any]:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = size | {"vocab_size": len(WORDS), "max_position_embeddings": 8, "eos_token_id": 2, "pad_token_id": 1}
    vision = size | {"image_size": 32, "patch_size": 16}
    scale = {"height": 32, "width": 32}
    if siglip:
        config = tf.SiglipConfig(text_config=text | {"projection_size": 16}, vision_config=vision)
        return [tf.SiglipModel(config), tf.SiglipImageProcessorPil(size=scale), tokenizer(64)]
    config = tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return [tf.CLIPModel(config), tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=scale), tokenizer(77)]


def speech(model: Any, config: Any, norm: str) -> list[Any]:
    extractor = tf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
    return [model(config(**SPEECH, feat_extract_norm=norm)), extractor]


def encodec(**settings: Any) -> list[Any]:
    size = {"num_filters": 2, "hidden_size": 8, "codebook_size": 16, "upsampling_ratios": [4, 2], "num_lstm_layers": 1}
    return [tf.EncodecModel(tf.EncodecConfig(**size, **settings))]


def dac() -> list[Any]:
    size = {"encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 4], "codebook_size": 8}
    return [tf.DacModel(tf.DacConfig(**size))]


MAKERS: dict[str, Callable[[], list[Any]]] = {
    "clap": clap,
    "clap_fused": lambda: clap(fused=True),
    "ast": ast,
    "clip": clip,
    "siglip": lambda: clip(siglip=True),
    "wav2vec2": lambda: speech(tf.Wav2Vec2Model, tf.Wav2Vec2Config, "group"),
    "wav2vec2_masked": lambda: speech(tf.Wav2Vec2Model, tf.Wav2Vec2Config, "layer"),
    "hubert": lambda: speech(tf.HubertModel, tf.HubertConfig, "layer"),
    "wavlm": lambda: speech(tf.WavLMModel, tf.WavLMConfig, "group"),
    "wavlm_layer": lambda: speech(tf.WavLMModel, tf.WavLMConfig, "layer"),
    "encodec": encodec,
    "encodec_48k": lambda: encodec(
        audio_channels=2, normalize=True, sampling_rate=48000, chunk_length_s=1.0, overlap=0.01
    ),
    "dac": dac,
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """model_folder("clap"): the folder of a tiny model, made on first use; tests copy it before they damage it."""
    root = tmp_path_factory.mktemp("tiny models")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            torch.manual_seed(0)
            for part in MAKERS[name]():
                part.save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """noise(seconds, rate, seed=0): float32 (n,)."""
    return lambda seconds, rate, seed=0: (
        np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    )


@pytest.fixture
def wav(tmp_path: Path) -> Callable[..., Path]:
    """wav(name, wave, rate=16000): a 32-bit float file in the test's own folder."""

    def write(name: str, wave: np.ndarray, rate: int = 16000) -> Path:
        path = tmp_path / name
        soundfile.write(path, wave, rate, subtype="FLOAT")
        return path

    return write
