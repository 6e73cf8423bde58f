"""Contrastive training of the miniature CLIP. B pictures and captions, D dimensions of the common space."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from sonolume.config.mini.clip import Config, ModelConfig
from sonolume.models.mini.clip.data import PictureCaptions
from sonolume.models.mini.clip_text import END, START, build_tokenizer, save_tokenizer
from sonolume.models.mini.picture_judge import augment
from sonolume.models.training import Frozen, RecipeTask, step_generator
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.frame_captions import TEXTS
from sonolume.preprocessors.miniworld.pictures import SIZE

MAX_SCALE = 100.0  # of the cosines in the loss, as in CLIP


def contrastive_loss(cosines: Tensor, matches: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (Radford et al. 2021), in which several captions may match one picture, as in UniCL (Yang 2022).

    Args:
        cosines: (B, B) of pictures and captions.
        matches: (B, B) bool, symmetric, True at least on the diagonal.
        scale: () inverse temperature.
    """
    logits = scale.clamp(max=MAX_SCALE) * cosines
    target = matches / matches.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2


class Task(RecipeTask):
    """Train transformers' CLIPModel."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        torch.manual_seed(config.train.random_seed)
        self.tokenizer = build_tokenizer(config.model.max_tokens, TEXTS)
        self.clip = build(config.model, self.tokenizer)
        self.processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})

    def cosines(self, batch: PictureCaptions) -> Tensor:
        """Similarity (B, B) of every picture with every caption."""
        mean, std = (torch.tensor(values).to(batch.pixels)[:, None, None] for values in (
            self.processor.image_mean, self.processor.image_std))  # fmt: skip
        image_states = self.clip.vision_model(pixel_values=(batch.pixels - mean) / std).pooler_output
        text_states = self.clip.text_model(input_ids=batch.tokens, attention_mask=batch.mask).pooler_output
        pictures = F.normalize(self.clip.visual_projection(image_states).float(), dim=-1)  # (B, D)
        texts = F.normalize(self.clip.text_projection(text_states).float(), dim=-1)       # (B, D)
        with torch.autocast(pictures.device.type, enabled=False):
            return pictures @ texts.mT                                             # (B, B)

    def training_step(self, batch: PictureCaptions, batch_index: int) -> Tensor:
        random = step_generator(self.config.train.random_seed, self.global_step, self.global_rank)
        cosines = self.cosines(batch._replace(pixels=augment(batch.pixels, random)))
        loss = contrastive_loss(cosines, batch.matches, self.clip.logit_scale.exp())
        self.log_dict({"train/loss": loss, "train/scale": self.clip.logit_scale.exp()}, prog_bar=True)
        return loss

    def validation_step(self, batch: PictureCaptions, batch_index: int) -> None:
        cosines, how = self.cosines(batch), {"batch_size": len(batch.pixels), "sync_dist": True}
        self.log("val/loss", contrastive_loss(cosines, batch.matches, self.clip.logit_scale.exp()), **how)
        right = batch.matches.gather(1, cosines.argmax(1, keepdim=True)).float().mean()
        self.log("val/retrieval", right, prog_bar=True, **how)

    def export(self, folder: Path) -> None:
        """Write transformers' CLIPModel, CLIPTokenizer and CLIPImageProcessor into one folder."""
        self.clip.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, TEXTS)


def build(model: ModelConfig, tokenizer: Any) -> CLIPModel:
    """Build an untrained CLIPModel for 64 x 64 pictures and the texts of a tokenizer."""
    start, end = (tokenizer.get_vocab()[token] for token in (START, END))
    text, vision = (
        {
            "hidden_size": tower.hidden_size, "intermediate_size": tower.intermediate_size,
            "num_hidden_layers": tower.num_hidden_layers, "num_attention_heads": tower.num_attention_heads,
            "projection_dim": model.projection_dim,
        }
        for tower in (model.text, model.vision)
    )  # fmt: skip
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": model.max_tokens}
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision |= {"image_size": SIZE, "patch_size": model.patch_size}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=model.projection_dim)
    config.world = WORLD
    config._attn_implementation = "eager"  # on a CPU its backward pass is twice as fast as the fused one
    return CLIPModel(config)
