"""Evaluate a CLIP on unseen scenes of the miniature world: retrieval, zero-shot kinds and linear probes of frames.

A randomly initialised twin of the same architecture has the second column. N pictures, D dimensions.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from sonolume.config.mini.clip import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld import TEST_SEED, WORLD, world
from sonolume.preprocessors.miniworld.captions import NAMES
from sonolume.preprocessors.miniworld.pictures import appearances, even_windows, paint
from sonolume.preprocessors.miniworld.scene import COUNTABLE, KINDS, Scene
from sonolume.utils import checkpoint
from sonolume.utils.cache import content_hash

SHIPPED = "pretrained/mini/clip"
CANDIDATES = 64  # pictures or captions to retrieve from
PROBE_SEED = 2  # of the films that train a probe
BATCH_SIZE = 64
FRAMES = 77  # of a film
RANDOM_FRAMES = 16  # frames of a film that probes use, besides all onsets
RIDGE = 1e-3  # of the probe's regression, times the number of frames
PROBES = {"hit": 1 / 2, "silent": 1 / 2, "marks": 1 / 4, "kind": 1 / len(KINDS)}  # chance, if all classes are as common


class Clip:
    """A stock CLIP folder: unit vectors of pictures and texts."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        checkpoint.check_folder(folder, "CLIPModel")
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval().to(device)  # type: ignore[arg-type]
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    def untrained(self, seed: int = 0) -> "Clip":
        """Return a twin with random weights."""
        twin = copy.copy(self)
        torch.manual_seed(seed)
        twin.model = CLIPModel(self.model.config).eval().to(self.model.device)  # type: ignore[arg-type]
        return twin

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Encode N pictures (64, 64, 3) uint8 into (N, D) of length 1."""
        found = []
        for start in range(0, len(pictures), BATCH_SIZE):
            images = [Image.fromarray(one) for one in pictures[start : start + BATCH_SIZE]]
            pixels = self.processor(images=images, return_tensors="pt").pixel_values.to(self.model.device)
            found.append(self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output))
        return F.normalize(torch.cat(found), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encode N texts into (N, D) of length 1."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        state = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return F.normalize(self.model.text_projection(state), dim=-1).cpu()


def run(config: Config, options: EvaluationOptions) -> None:
    """Write and print the scores of a CLIP on test scenes."""
    folder = Path(runtime.find_checkpoint(options.checkpoint, config, SHIPPED))
    clip = Clip(folder, runtime.pick_device(options.device))
    scenes = list(world.scenes("test", options.num_samples, TEST_SEED))
    probed = list(world.scenes("valid", options.num_samples, PROBE_SEED))
    films = [[film_of(scene) for scene in some if not scene.relation] for some in (probed, scenes)]
    name = f"{folder.name}@{content_hash(folder / 'config.json', folder / 'model.safetensors')}"
    conditions = measurement_conditions([name], [scene.uid for scene in scenes], len(scenes), world=WORLD)
    report = Report(conditions, facts={"model": name, "scenes": len(scenes), "world": WORLD})
    shares, twin = (_shares(one, scenes, films) for one in (clip, clip.untrained()))
    for key, (share, chance) in shares.items():
        report.add_share(key, share, chance, {"untrained twin": twin[key][0]}, headline=key.startswith("zero-shot"))
    finish(report, runtime.make_folder(options.output_dir))


def _shares(clip: Clip, scenes: Sequence[Scene], films: list[list[dict[str, Any]]]) -> dict[str, tuple[Share, float]]:
    """Every score with its chance level."""
    found = dict(zip(("picture to caption", "caption to picture"), retrieval(clip, scenes), strict=True))
    shares = {key: (share, 1 / CANDIDATES) for key, share in found.items()}
    shares["zero-shot kind"] = (zero_shot(clip, [scene for scene in scenes if not scene.relation]), 1 / len(KINDS))
    for key, share in probes(clip, *films).items():
        shares[f"probe: {key}"] = (share, PROBES[key])
    return shares


def retrieval(clip: Clip, scenes: Sequence[Scene]) -> tuple[Share, Share]:
    """Retrieve the caption of each picture, in a held-out wording, among `CANDIDATES`, and the reverse."""
    pictures = clip.pictures([world.picture(scene) for scene in scenes])
    texts = clip.texts([world.captions(scene, 1, "test", mention=1.0)[0] for scene in scenes])
    right: list[list[Tensor]] = [[], []]
    for start in range(0, len(scenes) - len(scenes) % CANDIDATES or len(scenes), CANDIDATES):
        some = slice(start, start + CANDIDATES)
        cosines = pictures[some] @ texts[some].mT
        for found, matrix in zip(right, (cosines, cosines.mT), strict=True):
            found.append(matrix.argmax(1) == torch.arange(len(matrix)))
    return Share.of(torch.cat(right[0])), Share.of(torch.cat(right[1]))


def zero_shot(clip: Clip, scenes: Sequence[Scene]) -> Share:
    """Classify the pictures of single events by the prompts "a photo of ..."."""
    prompts = clip.texts([f"a photo of {NAMES[kind]}" for kind in KINDS])
    found = (clip.pictures([world.picture(scene) for scene in scenes]) @ prompts.mT).argmax(1)
    return Share.of(found == torch.tensor([KINDS.index(scene.events[0].kind) for scene in scenes]))


def film_of(scene: Scene) -> dict[str, Any]:
    """Draw some frames of a single event: all with an onset, and others at random; with the state of each."""
    states = [states[0] for states in appearances(scene, *even_windows(FRAMES))]
    random = np.random.default_rng([scene.seed, 9]).permutation(FRAMES)[:RANDOM_FRAMES]
    chosen = sorted({*random.tolist(), *(index for index, state in enumerate(states) if state.hit)})
    kind, counted = KINDS.index(scene.events[0].kind), scene.events[0].kind in COUNTABLE
    return {
        "pictures": [paint(scene, [states[index]]) for index in chosen],
        "hit": [int(states[index].hit) for index in chosen],
        "silent": [int(states[index].faint) for index in chosen],
        "marks": [states[index].marks if counted else -1 for index in chosen],
        "kind": [kind] * len(chosen),
    }  # fmt: skip


def probes(clip: Clip, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, Share]:
    """Predict the states of frames linearly from their vectors; classes are made equally common in both sets."""
    data = [{key: [value for film in films for value in film[key]] for key in films[0]} for films in (train, test)]
    vectors = [clip.pictures(columns["pictures"]) for columns in data]
    found = {}
    for key in PROBES:
        targets = [torch.tensor(columns[key]) for columns in data]
        chosen = [_balanced(target) for target in targets]
        (x, y), (x_test, y_test) = ((v[c], t[c]) for v, t, c in zip(vectors, targets, chosen, strict=True))
        found[key] = Share.of(_predict(x, y, x_test) == y_test)
    return found


def _balanced(target: Tensor) -> Tensor:
    """Indices of as many frames of each class as the rarest has, drawn from a fixed seed; -1 is no class."""
    random = torch.Generator().manual_seed(0)
    members = [(target == value).nonzero()[:, 0] for value in target.unique().tolist() if value >= 0]
    least = min(len(member) for member in members)
    return torch.cat([member[torch.randperm(len(member), generator=random)[:least]] for member in members])


def _predict(x: Tensor, y: Tensor, x_test: Tensor) -> Tensor:
    """Classes of test vectors, by logistic regression (L-BFGS) on standardised vectors."""
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(x), y) + RIDGE * layer.weight.square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)  # type: ignore[arg-type]  # returns a float, which L-BFGS takes too
    return layer(x_test).argmax(1)
