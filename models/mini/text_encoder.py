"""mini/text_encoder: train a byte-level T5 encoder on captions of the miniature world, for text to audio.

`CaptionTask` trains any text encoder: heads, which are discarded afterwards, predict kinds, counts, attributes and
order of the events from its states. B captions, L tokens, D width, K kinds, T time steps.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ByT5Tokenizer, PreTrainedModel, T5Config, T5EncoderModel

from sonolume.config.base import MiniworldConfig, RunConfig
from sonolume.config.mini.text_encoder import Config
from sonolume.models.mini.judges import BANDS, DIRECTIONS, RELATIONS, STEPS, activity
from sonolume.models.mini.scene_data import SceneDataset
from sonolume.models.training import Frozen, RecipeTask, TrainingData
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.captions import caption
from sonolume.preprocessors.miniworld.scene import KINDS, Scene, band

MAX_BYTES = 512  # longest text, as T5's
HEADS = {"kind": 1, "count": 4, "pitch": 3, "loudness": 3, "direction": 3, "relation": 3}  # classes; kind: K + "none"
NO_EVENT = {"kind": len(KINDS)}  # class of an absent second event; -1, ignored, for all other heads

Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]  # B texts -> tokens (B, L) and attention mask (B, L)
MakeText = Callable[[Scene, int, bool], str]  # scene, epoch, whether to use held-out wordings -> caption


class Captions(NamedTuple):
    """A batch of captions with targets."""

    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L)
    activity: Tensor  # (B, K, T) 1 where a kind sounds
    slots: dict[str, Tensor]  # head -> (B, 2) classes, -1 where there is no event


def collate(items: list[tuple[str, Scene]], tokenize: Tokenize) -> Captions:
    """Turn (caption, scene) pairs into a batch."""
    texts, scenes = zip(*items, strict=True)
    classes = [slot_classes(scene) for scene in scenes]
    slots = {name: torch.tensor([one[name] for one in classes]) for name in classes[0]}
    return Captions(*tokenize(list(texts)), torch.stack([activity(scene, STEPS) for scene in scenes]), slots)


def slot_classes(scene: Scene) -> dict[str, list[int]]:
    """Classes of the first and the second event: ordered by time for "then", by kind for "over"."""
    by_kind = sorted(scene.events, key=lambda event: KINDS.index(event.kind))
    events = by_kind if scene.relation == "over" else scene.events
    values = {
        "kind": [KINDS.index(event.kind) for event in events],
        "count": [event.count for event in events],
        "pitch": [BANDS.index(band(event.pitch)) for event in events],
        "loudness": [BANDS.index(band(event.loudness)) for event in events],
        "direction": [DIRECTIONS.index(event.direction) for event in events],
        "relation": [RELATIONS.index(scene.relation)] * len(events),
    }
    return {name: (value + [NO_EVENT.get(name, -1)])[:2] for name, value in values.items()}


def caption_data(config: MiniworldConfig, make_text: MakeText, tokenize: Tokenize) -> TrainingData:
    """Captions of fixed scenes, worded anew in every epoch; held-out wordings in the validation split."""
    return TrainingData.of(
        lambda split: SceneDataset(config, split, partial(_item, make_text=make_text, held_out=split != "train")),
        partial(collate, tokenize=tokenize),
    )


def _item(scene: Scene, epoch: int, make_text: MakeText, held_out: bool) -> tuple[str, Scene]:
    return make_text(scene, epoch, held_out), scene


class CaptionReading(NamedTuple):
    """Logits of the heads."""

    activity: Tensor  # (B, K, T) one for each kind and time step
    slots: dict[str, Tensor]  # head -> (B, 2, classes) for the first and the second event


class CaptionReader(nn.Module):
    """Auxiliary heads, discarded after training: learned queries for each time step and two event slots."""

    def __init__(self, width: int, kinds: int, steps: int) -> None:
        super().__init__()
        self.time = nn.Parameter(torch.randn(steps, width))
        self.slot = nn.Parameter(torch.randn(2, width))
        self.attend_time = nn.MultiheadAttention(width, 4, batch_first=True)
        self.attend_slot = nn.MultiheadAttention(width, 4, batch_first=True)
        self.activity = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, kinds))
        sizes = HEADS | {"kind": kinds + 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, states: Tensor, mask: Tensor) -> CaptionReading:
        """Predict from states (B, L, D) and a mask (B, L) with 1 for text."""
        batch, padding = len(states), mask == 0
        time = self.time.expand(batch, -1, -1)                                      # (B, T, D)
        slot = self.slot.expand(batch, -1, -1)                                      # (B, 2, D)
        time, _ = self.attend_time(time, states, states, key_padding_mask=padding)  # (B, T, D)
        slot, _ = self.attend_slot(slot, states, states, key_padding_mask=padding)  # (B, 2, D)
        return CaptionReading(self.activity(time).mT, {name: head(slot) for name, head in self.heads.items()})


class CaptionTask(RecipeTask):
    """An encoder (tokens, attention_mask) -> states of `width`, and prediction heads that are discarded afterwards."""

    def __init__(self, encoder: PreTrainedModel, width: int, config: RunConfig) -> None:
        super().__init__(config)
        self.encoder: PreTrainedModel = encoder
        self.reader = CaptionReader(width, len(KINDS), STEPS)

    def forward(self, batch: Captions) -> CaptionReading:
        return self.reader(self.encoder(batch.tokens, attention_mask=batch.mask).last_hidden_state, batch.mask)

    def training_step(self, batch: Captions, batch_index: int) -> Tensor:
        losses = caption_losses(self(batch), batch)
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Captions, batch_index: int) -> None:
        reading = self(batch)
        loss = torch.stack(list(caption_losses(reading, batch).values())).sum()
        self.log("val/loss", loss, batch_size=len(batch.tokens))
        right = (reading.slots["kind"].argmax(-1) == batch.slots["kind"]).all(dim=1)  # (B,) both in their order
        for relation, name in enumerate(("one", "then", "over")):
            chosen = right[batch.slots["relation"][:, 0] == relation].float()
            if len(chosen):
                self.log(f"val/kinds_{name}", chosen.mean(), prog_bar=True, batch_size=len(chosen))


def caption_losses(reading: CaptionReading, batch: Captions) -> dict[str, Tensor]:
    """Loss of each head, and of the activity map."""
    losses = {"activity": 4 * F.binary_cross_entropy_with_logits(reading.activity, batch.activity)}
    for name, logits in reading.slots.items():
        losses[name] = F.cross_entropy(logits.flatten(0, 1), batch.slots[name].flatten(), ignore_index=-1)
    return losses


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `Captions`."""
    return caption_data(config.miniworld, make_text, tokenize)


def make_text(scene: Scene, epoch: int, held_out: bool) -> str:
    """Word a caption of a scene."""
    return caption(scene, np.random.default_rng([scene.seed, epoch]), held_out)


def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Bytes (B, L), padded to the longest text, and their mask."""
    tokens = ByT5Tokenizer()(texts, padding=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


class Task(CaptionTask):
    """Train a T5 encoder (gated GELU, relative positions) for ByT5's 384 tokens."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        model = config.model.text_encoder
        t5 = T5Config(
            vocab_size=384, **asdict(model), d_kv=model.d_model // model.num_heads, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", relative_attention_max_distance=64,
        )  # fmt: skip
        t5.world = WORLD
        super().__init__(T5EncoderModel(t5), model.d_model, config)

    def export(self, folder: Path) -> None:
        """Write transformers' T5EncoderModel and ByT5Tokenizer into one folder."""
        self.encoder.save_pretrained(folder)
        ByT5Tokenizer(model_max_length=MAX_BYTES).save_pretrained(folder)
