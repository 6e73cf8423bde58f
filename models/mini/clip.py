"""mini/clip: train a CLIP on pictures and video frames with their captions, and evaluate it on unseen scenes.

The still picture and some frames of each scene are rendered once and cached. The evaluation measures retrieval,
zero-shot kinds and linear probes of frames; a randomly initialised twin of the same architecture has the second column.
B pictures and captions of a batch, L tokens, G pictures of one scene, N pictures, D dimensions of the common space.
"""

import copy
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from sonolume.config.mini.clip import Config, EvaluationOptions, FilmConfig, ModelConfig
from sonolume.models import runtime
from sonolume.models.evaluation.embedders.pretrained import ClipEmbedder
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.mini.clip_text import END, START, build_tokenizer, make_text, save_tokenizer
from sonolume.models.mini.picture_judge import augment
from sonolume.models.mini.scene_data import split_scenes
from sonolume.models.training import Frozen, RecipeTask, TrainingData, step_generator
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors import parallel
from sonolume.preprocessors.miniworld import TEST_SEED, WORLD, world
from sonolume.preprocessors.miniworld.captions import FRAME_TEXTS, NAMES, frame_caption, status
from sonolume.preprocessors.miniworld.drawings import Appearance
from sonolume.preprocessors.miniworld.pictures import SIZE, appearances, even_windows, paint, picture
from sonolume.preprocessors.miniworld.scene import COUNTABLE, KINDS, Scene
from sonolume.utils import checkpoint, files, paths
from sonolume.utils.cache import cached, content_hash

CACHE_VERSION = 1  # bump to invalidate cached pictures and captions
START_SECONDS = 10.0  # of a process, which imports Lightning and transformers
MAX_SCALE = 100.0  # of the cosines in the loss, as in CLIP
SHIPPED = "pretrained/mini/clip"
CANDIDATES = 64  # pictures or captions to retrieve from
PROBE_SEED = 2  # of the films that train a probe
BATCH_SIZE = 64
FRAMES = 77  # of a film
RANDOM_FRAMES = 16  # frames of a film that probes use, besides all onsets
RIDGE = 1e-3  # of the probe's regression, times the number of frames
PROBES = {"hit": 1 / 2, "silent": 1 / 2, "marks": 1 / 4, "kind": 1 / len(KINDS)}  # chance, if all classes are as common

Item = tuple[np.ndarray, list[str]]  # pictures (G, 64, 64, 3) uint8, and a caption of each
Rendered = tuple[bytes, list[list[str]]]  # compressed pictures of one scene, and the wordings of each


class PictureCaptions(NamedTuple):
    """A batch of pictures with one caption each."""

    pixels: Tensor  # (B, 3, 64, 64) in 0..1
    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L) 1 for text
    matches: Tensor  # (B, B) bool: picture i and caption j belong together; equal captions match each other's pictures


def preprocess(config: Config, options: object) -> None:
    """Fill the caches."""
    training_data(config, Frozen())


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `PictureCaptions`; an item is a scene, whose pictures are negatives of each other."""
    tokenizer = build_tokenizer(config.model.max_tokens, FRAME_TEXTS)
    return TrainingData.of(lambda split: FilmPictures(config, split), partial(collate, tokenizer=tokenizer))


class FilmPictures(Dataset[Item]):
    """The still picture and some of the cached frames of each scene, drawn and worded anew in every epoch."""

    def __init__(self, config: Config, split: str) -> None:
        mini, self.film = config.miniworld, config.film
        scenes = split_scenes(mini, split, mini.pairs)
        render = partial(render_scene, self.film, mini.captions_per_scene, split != "train")
        key = [CACHE_VERSION, WORLD, render.args[1:], self.film.frames, self.film.cached_frames, FRAME_TEXTS]
        key += [scene.to_dict() for scene in scenes]

        def make(folder: Path) -> None:
            rendered = parallel.run(render, scenes, config.train.num_workers, f"films, {split}", START_SECONDS)
            np.save(folder / "pictures.npy", np.frombuffer(b"".join(blob for blob, _ in rendered), np.uint8))
            np.save(folder / "ends.npy", np.cumsum([0, *(len(blob) for blob, _ in rendered)]))
            files.write_json(folder / "captions.json", {"captions": [captions for _, captions in rendered]})

        place = cached(paths.resolve(config.cache_dir), key, make, f"films_{split}")
        self.blob, self.ends = np.load(place / "pictures.npy", mmap_mode="r"), np.load(place / "ends.npy").tolist()
        self.captions: list[list[list[str]]] = files.read_json(place / "captions.json")["captions"]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = np.random.default_rng([epoch, index, 5])
        blob = self.blob[self.ends[index] : self.ends[index + 1]].tobytes()
        pictures = np.frombuffer(zlib.decompress(blob), np.uint8).reshape(-1, SIZE, SIZE, 3)
        captions = self.captions[index]
        chosen = [0, *(1 + rng.permutation(len(pictures) - 1)[: self.film.frames_per_scene])]  # the first is the still
        return pictures[chosen], [captions[one][rng.integers(len(captions[one]))] for one in chosen]


def render_scene(film: FilmConfig, wordings: int, held_out: bool, scene: Scene) -> Rendered:
    """Render and word the still picture and `cached_frames` frames of a scene, always the same ones."""
    rng, states = np.random.default_rng([scene.seed, 5]), appearances(scene, *even_windows(film.frames))
    chosen = [states[index] for index in choose_frames(scene, states, film.cached_frames, rng)]
    pictures = np.stack([picture(scene), *(paint(scene, frame) for frame in chosen)])
    captions = [[make_text(scene, number, held_out) for number in range(wordings)]]
    captions += [[frame_caption(scene, frame, rng, held_out) for _ in range(wordings)] for frame in chosen]
    return zlib.compress(pictures.tobytes(), 1), captions


def choose_frames(
    scene: Scene, states: list[tuple[Appearance, ...]], count: int, rng: np.random.Generator
) -> list[int]:
    """Draw `count` frames of a film; different states are equally likely, however long they last."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, frame in enumerate(states):
        pairs = zip(scene.events, frame, strict=True)
        groups.setdefault(tuple((status(event, state), state.marks) for event, state in pairs), []).append(index)
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(groups)).tolist()
    members = list(groups.values())
    return [int(rng.choice(members[group])) for group in order[:count]]


def collate(items: list[Item], tokenizer: CLIPTokenizer) -> PictureCaptions:
    """Put the pictures and captions of several scenes into one batch."""
    pixels = torch.from_numpy(np.concatenate([pictures for pictures, _ in items])).permute(0, 3, 1, 2) / 255
    texts = [text.lower().rstrip(".") for _, captions in items for text in captions]
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    numbers = torch.tensor([texts.index(text) for text in texts])
    return PictureCaptions(pixels, tokens.input_ids, tokens.attention_mask, numbers[:, None] == numbers)


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
        self.tokenizer = build_tokenizer(config.model.max_tokens, FRAME_TEXTS)
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
        save_tokenizer(self.tokenizer, folder, FRAME_TEXTS)


def build(model: ModelConfig, tokenizer: Any) -> CLIPModel:
    """Build an untrained CLIPModel for 64 x 64 pictures and the texts of a tokenizer."""
    start, end = (tokenizer.get_vocab()[token] for token in (START, END))
    text, vision = (asdict(tower) | {"projection_dim": model.projection_dim} for tower in (model.text, model.vision))
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": model.max_tokens}
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision |= {"image_size": SIZE, "patch_size": model.patch_size}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=model.projection_dim)
    config.world = WORLD
    config._attn_implementation = "eager"  # on a CPU its backward pass is twice as fast as the fused one
    return CLIPModel(config)


class Clip(ClipEmbedder):
    """A stock CLIP folder: unit vectors of pictures and texts."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        checkpoint.check_folder(folder, "CLIPModel")
        super().__init__("clip", str(folder), device)

    def untrained(self, seed: int = 0) -> "Clip":
        """Return a twin with random weights."""
        twin = copy.copy(self)
        torch.manual_seed(seed)
        twin.model = CLIPModel(self.config).eval().to(self.device)  # type: ignore[arg-type]
        return twin

    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Encode N pictures (64, 64, 3) uint8 into (N, D) of length 1."""
        return F.normalize(self.encode_images(list(map(Image.fromarray, pictures)), BATCH_SIZE).embeddings, dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encode N texts, in one batch, into (N, D) of length 1."""
        return F.normalize(self.encode_texts(texts, len(texts)).embeddings, dim=-1)


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
