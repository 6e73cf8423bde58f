"""Random parts of a few thousand weights: HuBERT, CLIP, Whisper, and exported folders of both stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPImageProcessorPil,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from sonolume.config.mini import clip as clip_config
from sonolume.config.mini.hubert import ModelConfig
from sonolume.models.mini import clip
from sonolume.models.mini.clip_text import build_tokenizer, save_tokenizer
from sonolume.models.mini.hubert import build, build_processor
from sonolume.models.s2i.wavy.encoder import save
from sonolume.modules.speech_clip import SequenceHead, SpeechEncoder, TokenHead
from sonolume.preprocessors.miniworld.captions import FRAME_TEXTS
from sonolume.utils import audio

WIDTH = 8  # of the common space
STABLE_DIFFUSION = "pretrained/mini/stable_diffusion"


def make_hubert(folder: Path) -> Path:
    """A HubertForCTC with its processor."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "conv_dim": [4] * 7, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    processor = build_processor()
    build(ModelConfig(**sizes), processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_clip(folder: Path) -> Path:
    """A CLIPModel with its processors."""
    torch.manual_seed(0)
    tokenizer, tower = build_tokenizer(56, FRAME_TEXTS), clip_config.TowerConfig(8, 8, 1, 2)
    model = clip_config.ModelConfig(tower, tower, projection_dim=WIDTH, patch_size=16)
    clip.build(model, tokenizer).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size).save_pretrained(folder)
    save_tokenizer(tokenizer, folder, FRAME_TEXTS)
    return folder


def make_whisper(folder: Path) -> Path:
    """A WhisperForConditionalGeneration that writes at most four word pieces, with its processor."""
    torch.manual_seed(0)
    words = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", "\u0120"]
    more = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"),
                                 additional_special_tokens=more)  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=8, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=1, decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8,
        max_source_positions=100, max_target_positions=8, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=len(words), suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = 6
    model.save_pretrained(folder)
    WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def make_encoder(folder: Path, hubert: Path, images: Path, head: str = "") -> Path:
    """An exported folder of stage 1, or of a head with the shipped Stable Diffusion of the miniature world."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"stage": "encoder", "hubert": str(hubert), "image_encoder": str(images)}
    if head:
        settings |= {"stage": "head", "head": head, "stable_diffusion": STABLE_DIFFUSION, "prompt": "a photo of <*>"}
    network = SpeechEncoder(3, 16, WIDTH, num_heads=2)  # before the head, so that both stages have the same weights
    heads = {"token": TokenHead(WIDTH, 128, 2), "sequence": SequenceHead(16, 128, 5, 8, 1, 2)}
    save(folder, network, settings, heads.get(head))
    return folder


def write_sound(path: Path, seconds: float = 0.5, seed: int = 0) -> Path:
    """A wav of noise."""
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))
    audio.save_wav(path, wave.astype(np.float32), 16000)
    return path
