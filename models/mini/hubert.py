"""mini/hubert: train a small HuBERT with a CTC head on the speech of the miniature world, and evaluate its spelling.

It stands for facebook/hubert-large-ls960-ft, which was fine-tuned with CTC (Graves et al. 2006), too. The evaluation
counts the wrong letters in voices and wordings that training does not contain. B recordings, n samples, T frames, V
letters of the alphabet.
"""

import copy
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.functional.text import char_error_rate
from tqdm import tqdm
from transformers import (
    HubertConfig,
    HubertForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from sonolume.config.mini.hubert import AugmentationConfig, Config, EvaluationOptions, ModelConfig
from sonolume.config.options import PreprocessOptions
from sonolume.models import runtime
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.speech_recognition import Recogniser, count_wrong_letters
from sonolume.models.training import Frozen, RecipeTask, TrainingData
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors import speech_pictures
from sonolume.preprocessors.miniworld import SAMPLE_RATE, TEST_SEED, WORLD, world
from sonolume.preprocessors.miniworld.spoken import Utterance, utterances
from sonolume.preprocessors.miniworld.voice import DIGITS
from sonolume.utils import audio, files
from sonolume.utils.cache import content_hash
from sonolume.utils.manifest import Row

SHIPPED = "pretrained/mini/hubert"
SPECIAL = ("<pad>", "<unk>", "|")  # the blank of CTC, and the space between words
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IGNORED = -100  # label of padding


class Speech(NamedTuple):
    """A batch of recordings with their letters."""

    waves: Tensor  # (B, n) normalised, zero-padded
    mask: Tensor  # (B, n) 1 for speech
    labels: Tensor  # (B, L) ids of letters, `IGNORED` after the end


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Speak the captions of scenes, as s2i/wavy does."""
    assert options.dataset is not None
    speech_pictures.prepare(config.preprocess, options.dataset, options.input, options.audio_dir)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `Speech`."""
    processor = build_processor()

    def collate(items: list[tuple[np.ndarray, str]]) -> Speech:
        waves, texts = zip(*items, strict=True)
        return batch_of(processor, waves, texts)

    return TrainingData.of(lambda split: Recordings(config, split), collate)


class Recordings(Dataset[tuple[np.ndarray, str]]):
    """Whole recordings (n,) with their text, changed in training."""

    def __init__(self, config: Config, split: str) -> None:
        self.rows: list[Row] = speech_pictures.read_split(config.preprocess, config.dataset, split)
        self.augmentation = config.augmentation if split == "train" else None
        self.seed = config.train.random_seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[np.ndarray, str]:
        epoch, index = item
        row = self.rows[index]
        assert row.audio is not None
        wave = audio.load(row.audio, SAMPLE_RATE)
        if self.augmentation:
            wave = augment(wave, self.augmentation, np.random.default_rng([self.seed, epoch, index]))
        return wave, row.captions[0]


def augment(wave: np.ndarray, config: AugmentationConfig, random: np.random.Generator) -> np.ndarray:
    """Change the speed of a wave (n,) by linear interpolation, and add white noise."""
    count = round(len(wave) / random.uniform(1 - config.speed, 1 + config.speed))
    faster = np.interp(np.linspace(0, len(wave) - 1, count), np.arange(len(wave)), wave)
    return (faster + random.uniform(0, config.noise) * random.standard_normal(count)).astype(np.float32)


def build_processor() -> Wav2Vec2Processor:
    """Build a processor of waves at 16 kHz and of capital letters, as that of the published model."""
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, do_normalize=True, return_attention_mask=True)
    with tempfile.TemporaryDirectory() as folder:  # the tokenizer reads its alphabet from a file only
        path = Path(folder) / "vocab.json"
        files.write_json(path, {symbol: number for number, symbol in enumerate((*SPECIAL, *LETTERS))})
        none: Any = {"bos_token": None, "eos_token": None}
        tokenizer = Wav2Vec2CTCTokenizer(path, **none)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def spelling(text: str) -> str:
    """Reduce a text to the letters that are spoken: capitals and single spaces; digits become words."""
    words = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit.group())]} ", text)
    return " ".join(re.findall(r"[A-Z]+", words.upper().replace("'", "")))


def batch_of(processor: Any, waves: Sequence[np.ndarray], texts: Sequence[str]) -> Speech:
    """Normalise and pad recordings, and turn their texts into letters."""
    inputs = processor(list(waves), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    letters = processor.tokenizer([spelling(text) for text in texts], padding=True, return_tensors="pt")
    labels = letters.input_ids.masked_fill(letters.attention_mask == 0, IGNORED)
    return Speech(inputs.input_values, inputs.attention_mask, labels)


def build(model: ModelConfig, processor: Wav2Vec2Processor) -> HubertForCTC:
    """Build the network with fresh weights."""
    config = HubertConfig(
        vocab_size=len(processor.tokenizer), pad_token_id=processor.tokenizer.pad_token_id,
        hidden_size=model.hidden_size, intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers, num_attention_heads=model.num_attention_heads,
        conv_dim=list(model.conv_dim), num_conv_pos_embeddings=model.num_conv_pos_embeddings,
        num_conv_pos_embedding_groups=model.num_conv_pos_embedding_groups,
        conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True, feat_proj_layer_norm=True,
        hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
        layerdrop=0.0, apply_spec_augment=False, mask_time_prob=0.0,
        ctc_loss_reduction="mean", ctc_zero_infinity=True,
    )  # fmt: skip
    config.world = WORLD
    return HubertForCTC(config)


class Task(RecipeTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        self.processor = build_processor()
        self.hubert = build(config.model, self.processor)

    def forward(self, batch: Speech) -> Any:
        """Spell recordings -> transformers' output with `loss` and `logits` (B, T, V)."""
        return self.hubert(batch.waves, attention_mask=batch.mask, labels=batch.labels)

    def training_step(self, batch: Speech, batch_index: int) -> Tensor:
        loss = self(batch).loss
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.waves))
        return loss

    def validation_step(self, batch: Speech, batch_index: int) -> None:
        output = self(batch)
        wanted = self.processor.batch_decode(batch.labels.clamp(min=0), group_tokens=False)
        wrong = char_error_rate(decode(self.hubert, self.processor, output.logits, batch.mask), wanted)
        values = {"val/loss": output.loss, "val/letters_wrong": wrong.to(output.loss)}
        self.log_dict(values, prog_bar=True, batch_size=len(batch.waves), sync_dist=True)

    def export(self, folder: Path) -> None:
        """Write the folder that transformers' HubertForCTC and AutoProcessor read."""
        self.hubert.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def decode(model: Any, processor: Any, logits: Tensor, mask: Tensor) -> list[str]:
    """Texts of the likeliest letters of `logits` (B, T, V), without the frames of padding of `mask` (B, n)."""
    lengths = model._get_feat_extract_output_lengths(mask.sum(dim=1))                              # (B,)
    is_speech = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]             # (B, T)
    letters = logits.argmax(dim=-1).masked_fill(~is_speech, processor.tokenizer.pad_token_id)      # (B, T)
    return processor.batch_decode(letters)


def run(config: Config, options: EvaluationOptions) -> None:
    """Evaluate the spelling of captions in voices and wordings that training does not contain."""
    folder = Path(runtime.find_checkpoint(options.checkpoint, config, SHIPPED))
    recogniser = load_recogniser(folder, runtime.pick_device(options.device))
    scenes = list(world.scenes("test", options.num_samples, TEST_SEED))
    spoken = [utterances(scene, 1, "test", mention=1.0)[0] for scene in scenes]
    waves = [one.render() for one in tqdm(spoken, "speech", unit="caption")]
    name = f"{folder.name}@{content_hash(folder / 'config.json', folder / 'model.safetensors')}"
    uids = [scene.uid for scene in scenes]
    conditions = measurement_conditions([name], uids, len(scenes), seed=TEST_SEED, world=WORLD)
    voices = ", ".join(sorted({one.voice for one in spoken}))
    report = Report(conditions, facts={"model": name, "recordings": len(scenes), "voices": voices, "world": WORLD})
    counts = wrong_letters(recogniser, waves, spoken)                                              # (N, 2)
    random = wrong_letters(untrained(recogniser), waves, spoken)                                   # (N, 2)
    twin, note = {"untrained twin": (random[:, 0] / random[:, 1])}, "edits over letters and spaces"
    shares = counts[:, 0] / counts[:, 1]                                                           # (N,)
    report.add_mean("letters wrong", shares, uids, "down", headline=True, unit="%", baselines=twin, note=note)
    right, by_chance = Share.of(counts[:, 0] == 0), {"untrained twin": Share.of(random[:, 0] == 0)}
    report.add_share("captions without a mistake", right, baselines=by_chance)
    finish(report, runtime.make_folder(options.output_dir))


def load_recogniser(folder: Path, device: torch.device | str = "cpu") -> Recogniser:
    """Load an exported folder."""
    recogniser = Recogniser(str(folder), "--checkpoint")
    recogniser.model.to(device)
    return recogniser


def untrained(recogniser: Recogniser, seed: int = 0) -> Recogniser:
    """Return a twin with random weights."""
    twin, model = copy.copy(recogniser), recogniser.model
    torch.manual_seed(seed)
    twin.model = type(model)(model.config).to(model.device).eval()
    return twin


def wrong_letters(recogniser: Recogniser, waves: Sequence[np.ndarray], spoken: Sequence[Utterance]) -> Tensor:
    """Wrong letters, and letters and spaces, of each recording (N, 2)."""
    return count_wrong_letters(recogniser.transcribe(waves), [spelling(one.text) for one in spoken])
