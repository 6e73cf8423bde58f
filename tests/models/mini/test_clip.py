"""The miniature CLIP: a stock folder whose vectors carry kinds and the states of video frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from sonolume.bins import evaluate
from sonolume.config.load import load_config
from sonolume.config.mini.clip import Config
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.mini import clip as recipe
from sonolume.models.mini.clip import Clip, Task, contrastive_loss, film_of, probes, retrieval, zero_shot
from sonolume.models.training import Frozen
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import KINDS
from sonolume.utils import cli

SMALL = [
    "model.vision.hidden_size=16", "model.vision.num_hidden_layers=1", "model.vision.num_attention_heads=2",
    "model.text.hidden_size=16", "model.text.num_hidden_layers=1", "model.text.num_attention_heads=2",
    "film.cached_frames=3", "film.frames_per_scene=2", "miniworld.train_scenes=8", "miniworld.valid_scenes=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "clip"


@pytest.fixture(scope="module")
def config(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    cache = tmp_path_factory.mktemp("clip")
    return load_config(root / "egs" / "mini" / "clip.json", [*SMALL, f"cache_dir='{cache}'"])  # type: ignore[return-value]


def test_items_are_pictures_of_one_scene_with_their_captions(config: Config) -> None:
    frozen = recipe.training_data(config, Frozen())
    pictures, texts = frozen.train[1, 3]
    scene = list(world.scenes("train", 4))[3]
    assert pictures.shape == (3, 64, 64, 3) and len(texts) == 3 and isinstance(texts[0], str)
    np.testing.assert_array_equal(pictures[0], world.picture(scene))
    again = recipe.training_data(config, Frozen()).train[1, 3]  # from the cache
    np.testing.assert_array_equal(pictures, again[0])
    assert texts == again[1]
    chosen = {len(np.unique(frozen.train[epoch, 3][0], axis=0)) for epoch in range(3)}
    assert chosen <= {2, 3}


def test_equal_captions_match_the_pictures_of_each_other(config: Config) -> None:
    black = np.zeros((2, 64, 64, 3), np.uint8)
    collate = recipe.training_data(config, Frozen()).collate
    batch = collate([(black, ["A bell.", "rain"]), (black, ["a bell", "a dog"])])
    wanted = torch.eye(4, dtype=torch.bool)
    wanted[0, 2] = wanted[2, 0] = True
    assert torch.equal(batch.matches, wanted) and batch.pixels.shape == (4, 3, 64, 64)


def test_the_loss_is_that_of_clip_where_every_caption_is_another() -> None:
    cosines, scale = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)), torch.tensor(10.0)
    numbers = torch.arange(5)
    wanted = [torch.nn.functional.cross_entropy(scale * one, numbers) for one in (cosines, cosines.mT)]
    eye = torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(contrastive_loss(cosines, eye, scale), (wanted[0] + wanted[1]) / 2)
    same = torch.ones(5, 5, dtype=torch.bool)  # all captions are equal: nothing can be told apart
    assert contrastive_loss(torch.zeros(5, 5), same, scale).item() == pytest.approx(np.log(5))


def test_training_lowers_the_loss_and_writes_a_stock_folder(config: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, pairs = Task(config, Frozen()), recipe.training_data(config, Frozen())
    batch = pairs.collate([pairs.train[0, index] for index in range(8)])
    adam, losses = torch.optim.Adam(task.parameters(), 3e-3), []
    for _ in range(40):
        loss = contrastive_loss(task.cosines(batch), batch.matches, task.clip.logit_scale.exp())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    task.export(tmp_path)
    clip = Clip(tmp_path, torch.device("cpu"))
    pictures = [(255 * one).byte().permute(1, 2, 0).numpy() for one in batch.pixels[:2]]
    seen = task.eval().cosines(batch)[:2]
    texts = task.tokenizer.batch_decode(batch.tokens, skip_special_tokens=True)
    torch.testing.assert_close(clip.pictures(pictures) @ clip.texts(texts).mT, seen, rtol=0, atol=0.02)


def test_the_shipped_folder_is_a_stock_clip_of_one_megabyte(shipped: Path) -> None:
    model, info = CLIPModel.from_pretrained(shipped, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = AutoImageProcessor.from_pretrained(shipped, backend="pil")
    tokens = AutoTokenizer.from_pretrained(shipped)(["a dog barks now"], return_tensors="pt")
    assert tokens.input_ids.shape == (1, 6) and int(tokens.input_ids[0, -1]) == model.config.text_config.eos_token_id
    pixels = processor(images=[Image.new("RGB", (90, 70))], return_tensors="pt").pixel_values
    output = model.float().eval()(pixel_values=pixels, **tokens)
    assert output.logits_per_image.shape == (1, 1) and torch.isfinite(output.logits_per_image).all()
    assert sum(path.stat().st_size for path in shipped.iterdir()) <= 1_000_000


def test_the_shipped_folder_beats_chance_and_its_untrained_twin(shipped: Path) -> None:
    clip = Clip(shipped, torch.device("cpu"))
    scenes = list(world.scenes("test", 64, seed=8))
    assert all(share.value > 3 / 64 for share in retrieval(clip, scenes))
    single = [scene for scene in scenes if not scene.relation]
    assert zero_shot(clip, single).value > 0.6
    films = [film_of(scene) for scene in world.scenes("valid", 48, seed=8, pairs=False)]
    found, twin = (probes(one, films[:32], films[32:]) for one in (clip, clip.untrained()))
    assert found["hit"].value > 0.85 and found["kind"].value > twin["kind"].value + 0.2, (found, twin)


def test_it_is_an_embedder_of_pictures_and_texts(shipped: Path) -> None:
    (embedder,) = load_all([f"clip:{shipped}"], torch.device("cpu"))
    dogs = [world.picture(scene) for scene in world.scenes("test", 4, kinds=["dog"], pairs=False)]
    pictures = embedder.image_features([Image.fromarray(dog) for dog in dogs]).embeddings
    texts = embedder.text_features([f"a photo of a {kind}" for kind in ("dog", "bell")])
    cosines = torch.nn.functional.normalize(pictures, dim=-1) @ torch.nn.functional.normalize(texts, dim=-1).mT
    assert (cosines[:, 0] > cosines[:, 1]).all() and embedder.dim == 64


def test_the_evaluation_reports_every_score(root: Path, shipped: Path, tmp_path: Path) -> None:
    argv = ["--config", str(root / "egs" / "mini" / "clip.json"), "--checkpoint", str(shipped)]
    argv += ["--num_samples", "40", "--device", "cpu", "--output_dir", str(tmp_path)]
    assert cli.run(evaluate.main, argv) == 0
    text = (tmp_path / "report.md").read_text()
    assert all(f"probe: {key}" in text for key in ("hit", "silent", "marks", "kind")) and len(KINDS) == 12
