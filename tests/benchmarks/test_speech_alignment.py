"""Alignment of speech on cached features against the seed's way, and other speeds: pytest -m benchmark -s <this file>

HuBERT large and CLIP's ViT-L/14 have their published sizes with random weights, 4 recordings of 6.4 s, float32, one
thread. The seed's way takes each recording through HuBERT and each picture through the image encoder in every step, one
by one. All ways take the same items and weights (the learning rate is 0), turn by turn, so that they have the same loss
and the same load of the machine. Then the last transformer layer at the CLS position only, and 8 recordings to 8
pictures with one load of the networks against 8.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BATCH, SECONDS, RATE = 4, 6.4, 16000
STEPS = 2  # of each way, of which the fastest counts
CLIPS, DRAWN_STEPS = 8, 10
HUBERT = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "layerdrop": 0.0,
}  # fmt: skip
CLIP = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
SHIPPED = Path("pretrained/mini/stable_diffusion")


def networks(folder: Path) -> None:
    """Write HuBERT large and the vision transformer of CLIP with random weights."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        HubertConfig,
        HubertModel,
        Wav2Vec2FeatureExtractor,
    )

    torch.manual_seed(0)
    HubertModel(HubertConfig(**HUBERT)).save_pretrained(folder / "hubert")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder / "hubert")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)).save_pretrained(folder / "clip")
    CLIPImageProcessorPil().save_pretrained(folder / "clip")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The task as it is in a training on random recordings and pictures, with everything cached."""
    import numpy as np
    import torch
    from PIL import Image

    from sonolume.config.load import load_config
    from sonolume.models import training
    from sonolume.utils import audio

    folder = tmp_path_factory.mktemp("wavy")
    networks(folder)
    random, rows, data = np.random.default_rng(0), [], folder / "data/noise"
    for uid in map(str, range(BATCH)):
        audio.save_wav(data / f"audio/{uid}.wav", random.normal(0, 0.1, int(SECONDS * RATE)), RATE)
        (data / f"frames/{uid}").mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (375, 500, 3), np.uint8)).save(data / f"frames/{uid}/still.png")
        rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Image": f"frames/{uid}", "Duration": SECONDS})
    (data / "train.json").write_text(json.dumps(rows))
    (data / "valid.json").write_text(json.dumps(rows[:1]))
    content = {
        "recipe": "s2i/wavy", "exp_name": "run", "log_dir": str(folder), "dataset": ["noise"],
        "preprocess": {"processed_dir": str(folder / "data"), "cache_features": "always"},
        "model": {"speech_encoder": {"hubert": str(folder / "hubert"), "dropout": 0.0},
                  "image_encoder": {"model": str(folder / "clip")}},
        "train": {"batch_size": BATCH, "num_workers": 0, "accelerator": "cpu"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    torch.set_num_threads(1)
    task, loaders = training.build(load_config(folder / "config.json"))
    parts = SimpleNamespace(data=loaders, config=folder / "config.json")
    task.trainer = SimpleNamespace(training=True, world_size=1, datamodule=parts)  # type: ignore[assignment]
    task.on_fit_start()
    return task


def seeds_batch(task: Any, data: Any) -> Any:
    """Read and encode each recording and each picture by itself."""
    import torch

    from sonolume.utils import audio
    from sonolume.utils.image import open_image

    states, images = [], []
    with torch.no_grad():
        for number in range(BATCH):
            wave = torch.from_numpy(audio.load(data.rows[number].audio, RATE))
            states.append(task.hubert.layers([wave])[0][0])
            images.append(task.images.encode_images([open_image(data.files[number])])[0])
    batch = [data[0, number] for number in range(BATCH)]
    return torch.utils.data.default_collate(
        [one._replace(speech=speech, image=image) for one, speech, image in zip(batch, states, images, strict=True)]
    )


def one_step(task: Any, adam: Any, make_batch: Callable[[], Any]) -> tuple[float, float]:
    """Loss, and processor seconds."""
    start = time.process_time()
    loss = task.losses(make_batch())[1]["loss"]
    loss.backward()
    adam.step()
    adam.zero_grad()
    return loss.item(), time.process_time() - start


@pytest.mark.benchmark
def test_alignment_step(task: Any, print_table: Callable[..., None]) -> None:
    import torch
    from torch.utils.data import default_collate

    from sonolume.config.load import load_config
    from sonolume.models.s2i.wavy.data import training_data

    parts = task.trainer.datamodule
    computed = training_data(load_config(parts.config, ["preprocess.cache_features=never"]), task.frozen).train
    cached = parts.data.train
    ways: dict[str, Callable[[], Any]] = {
        "cached": lambda: default_collate([cached[0, number] for number in range(BATCH)]),
        "only pictures cached": lambda: default_collate([computed[0, number] for number in range(BATCH)]),
        "the seed's way": lambda: seeds_batch(task, cached),
    }
    adam = torch.optim.AdamW(task.encoder.parameters(), lr=0.0, weight_decay=0.0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(STEPS):
        for name, steps in found.items():
            steps.append(one_step(task, adam, ways[name]))
    losses = {name: steps[0][0] for name, steps in found.items()}
    for loss in losses.values():
        assert loss == pytest.approx(losses["cached"], rel=2e-3)  # hidden states are kept in half precision
    seconds = {name: min(took for _, took in steps) for name, steps in found.items()}
    slow = seconds["the seed's way"]
    rows = [[name, f"{took:.2f}", f"{slow / took:.1f}x", f"{losses[name]:.5f}"] for name, took in seconds.items()]
    size = sum(weight.numel() for weight in task.encoder.parameters()) / 1e6
    title = f"alignment step, {BATCH} x {SECONDS} s, HuBERT large, ViT-L/14, {size:.1f} M trained, processor seconds"
    print_table(title, ["", "s per step", "the seed's way / this", "loss"], rows)


@pytest.mark.benchmark
def test_last_layer_at_the_cls_position(print_table: Callable[..., None]) -> None:
    """Forward and backward pass of the published layer, equal to nn.TransformerEncoderLayer."""
    import torch

    from sonolume.modules.speech_clip import SpeechEncoder, cls_output

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = SpeechEncoder().pool.layers[0].eval()
    x = torch.randn(BATCH, 320, 1024, requires_grad=True)
    padding = torch.arange(320) >= torch.tensor([320, 250, 100, 319])[:, None]
    ways: dict[str, Callable[[], Any]] = {
        "all positions": lambda: layer(x, src_key_padding_mask=padding)[:, 0],
        "CLS position": lambda: cls_output(layer, x, padding),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, list[Any]] = {}
    for _ in range(3):
        for name, way in ways.items():
            start = time.process_time()
            output = way()
            gradients = torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])
            seconds[name].append(time.process_time() - start)
            results[name] = [output, *gradients]
    for one, other in zip(*results.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    least = {name: min(took) for name, took in seconds.items()}
    rows = [[name, f"{took:.3f}"] for name, took in least.items()]
    rows.append(["ratio", f"{least['all positions'] / least['CLS position']:.2f}x"])
    outputs = [found[0] for found in results.values()]
    rows.append(["largest difference of the outputs", f"{(outputs[0] - outputs[1]).abs().max():.1e}"])
    print_table(f"last layer, {BATCH} x 320 x 1024, forward and backward, processor seconds", ["", "s"], rows)


@pytest.fixture(scope="module")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of the head token on a small random HuBERT and the shipped Stable Diffusion."""
    from tests.models.s2i import tiny

    folder = tmp_path_factory.mktemp("exported")
    hubert = tiny.make_hubert(folder / "hubert")
    made = tiny.make_encoder(folder / "head", hubert, folder / "no image encoder is read", head="token")
    path = made / "audio_to_image.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stable_diffusion": str(root / SHIPPED)}))
    return made


@pytest.mark.benchmark
def test_eight_recordings(exported: Path, root: Path, print_table: Callable[..., None]) -> None:
    """The pictures are equal; the seed draws with AudioToken's script, which keeps its networks, but builds a pipeline
    around them for every recording, and draws one by one.
    """
    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline

    from sonolume.models.a2i.pipeline import AudioToImagePipeline
    from sonolume.modules.sampling import generators

    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    waves = [0.1 * torch.randn(5 * RATE, generator=random) for _ in range(CLIPS)]

    def draw(pipe: Any, *numbers: int) -> list[Any]:
        pipe.set_progress_bar_config(disable=True)
        chosen = [waves[number] for number in numbers]
        return pipe(chosen, num_inference_steps=DRAWN_STEPS, generator=generators(numbers)).images

    def one_by_one() -> list[Any]:
        first, images = AudioToImagePipeline.from_pretrained(exported), []
        parts = {name: getattr(first, name) for name in ("tokenizer", "text_encoder", "vae", "unet")}
        for number in range(CLIPS):
            sd = StableDiffusionPipeline.from_pretrained(root / SHIPPED, **parts)
            pipe = AudioToImagePipeline(first.encoder, sd)
            pipe.sd.scheduler = first.sd.scheduler
            images += draw(pipe, number)
        return images

    draw(AudioToImagePipeline.from_pretrained(exported), 0)  # imports are not counted
    ways: dict[str, Callable[[], list[Any]]] = {
        "a pipeline for each": one_by_one,
        "one batch": lambda: draw(AudioToImagePipeline.from_pretrained(exported), *range(CLIPS)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    pictures: dict[str, Any] = {}
    for _ in range(3):
        for name, way in ways.items():
            start = time.process_time()
            pictures[name] = np.stack([np.asarray(image).astype(int) for image in way()])
            seconds[name].append(time.process_time() - start)
    one, other = pictures.values()
    difference = np.abs(one - other).max()
    assert difference <= 1, f"the pictures differ by {difference} of 255"
    slow, quick = (min(took) for took in seconds.values())
    rows = [[name, f"{min(took):.2f}"] for name, took in seconds.items()] + [["ratio", f"{slow / quick:.2f}x"]]
    title = f"{CLIPS} recordings of 5 s to pictures, {SHIPPED}, {DRAWN_STEPS} steps, 1 thread, processor seconds"
    print_table(title, ["", "s"], rows)
