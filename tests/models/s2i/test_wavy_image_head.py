"""s2i/wavy's head image: equal to stock IP-Adapter in diffusers; its folder comes from that of stage 1."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    HubertConfig,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

from sonolume.bins import convert as bins_convert
from sonolume.models import pretrained
from sonolume.models.a2i import loading
from sonolume.models.a2i.pipeline import SETTINGS_FILE, AudioToImagePipeline
from sonolume.models.convert import ip_adapter
from sonolume.models.s2i.wavy.encoder import save
from sonolume.models.s2i.wavy.image_encoder import load_image_encoder
from sonolume.models.s2i.wavy.image_head import ImageHeadEncoder, mean_norm
from sonolume.modules.speech_clip import SpeechEncoder
from sonolume.utils import cli
from sonolume.utils.errors import UserError
from tests.models.conftest import make_stable_diffusion

VECTOR, NORM, WIDTH, TOKENS = 24, 8.0, 32, 4  # J, length of image vectors, D, K
WAVES = list(torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) / 10)
LAYERS = [16] * 4  # inner widths of the cross-attentions of the tiny U-Net


def published(vector: int = VECTOR, width: int = WIDTH) -> dict[str, dict[str, Tensor]]:
    """Random weights with the names and shapes of ip-adapter_sd15."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    image_proj = {
        "proj.weight": draw(TOKENS * width, vector), "proj.bias": draw(TOKENS * width) * 5,
        "norm.weight": 1 + draw(width), "norm.bias": draw(width),
    }  # fmt: skip
    attention = {f"{2 * place + 1}.to_{kind}_ip.weight": 2 * draw(size, width)
                 for place, size in enumerate(LAYERS) for kind in ("k", "v")}  # fmt: skip
    return {"image_proj": image_proj, "ip_adapter": attention}


def write(path: Path, parts: dict[str, Any]) -> Path:
    """An IP-Adapter file of either kind."""
    if path.suffix == ".bin":
        torch.save(parts, path)
    else:
        save_file({f"{part}.{name}": weight for part, one in parts.items() for name, weight in one.items()}, path)
    return path


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stable_diffusion(tmp_path_factory.mktemp("stable diffusion") / "tiny")


@pytest.fixture(scope="module")
def ours(stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline with the head image, on a stand-in for the speech encoder: vectors of the waves' first samples."""
    path = write(tmp_path_factory.mktemp("adapter") / "ip-adapter_sd15.safetensors", published())
    vectors: Any = SimpleNamespace(
        width=VECTOR, sample_rate=16000, min_seconds=0.1, to=lambda _: None,
        encode=lambda waves: F.normalize(torch.stack([wave[:VECTOR] for wave in waves]), dim=-1),
    )  # fmt: skip
    encoder = ImageHeadEncoder(vectors, ip_adapter.read(path, str(stable_diffusion)), NORM, "a dog, <*>")
    pipe = AudioToImagePipeline(encoder, loading.load_stable_diffusion(str(stable_diffusion), "", torch.float32))
    pipe.sd.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def stock(stable_diffusion: Path, ours: Any) -> Any:
    """diffusers' own pipeline with the same IP-Adapter and sampler."""
    pretrained.use_pil_processors()
    pipe = loading.load_stable_diffusion(str(stable_diffusion), "", torch.float32)
    weights: Any = published()
    pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.scheduler = ours.sd.scheduler.from_config(ours.sd.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(2)]


def draw(pipe: Any, **settings: Any) -> Tensor:
    return pipe(num_inference_steps=2, guidance_scale=5.0, output_type="latent", **settings).images


def expect(stock: Any, vectors: Tensor, scale: float, **settings: Any) -> Tensor:
    """Latents by diffusers of one prompt with image vectors (images, J); its batches share their image vectors."""
    stock.set_ip_adapter_scale(scale)
    return draw(stock, ip_adapter_image_embeds=[torch.stack([torch.zeros_like(vectors), vectors])], **settings)


def check(found: Tensor, wanted: Tensor) -> None:
    """Equal up to 1e-5 of the largest value."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_it_draws_what_stock_ip_adapter_draws(ours: Any, stock: Any, strength: float):
    """Also with a scale: the attention weights do not depend on it, and both halves of guidance have it."""
    vectors, words = NORM * ours.encoder.vectors.encode(WAVES), {"prompt": "a dog", "negative_prompt": "rain"}
    wanted = torch.cat([expect(stock, vector[None], strength, generator=one, **words)
                        for vector, one in zip(vectors, noise(), strict=True)])  # fmt: skip
    settings: dict[str, Any] = {"sounds": WAVES, "negative_prompt": "rain"}
    check(draw(ours, audio_strength=strength, generator=noise(), **settings), wanted)
    assert (draw(ours, audio_strength=0.75, generator=noise(), **settings) - wanted).abs().max() > 1e-2


def test_sounds_together_are_stock_pictures_together(ours: Any, stock: Any):
    vectors = NORM * ours.encoder.vectors.encode(WAVES)
    wanted = expect(stock, vectors, 1.0, prompt="a dog and", generator=noise()[0])
    tokens = torch.cat(list(ours.encode_audio(WAVES)))[None]                             # (1, 2 K, D)
    check(draw(ours, sounds=tokens, prompt="a dog <*> and <*>", generator=noise()[0]), wanted)


def test_strength_mix_and_negatives(ours: Any):
    tokens = ours.encode_audio(WAVES)
    positive, negative = ours.encode_prompt(tokens)
    torch.testing.assert_close(positive[:, 77:], tokens)
    empty = ours.encoder.head(torch.zeros(1, VECTOR)).detach()
    torch.testing.assert_close(negative[:, 77:], empty.expand(2, -1, -1))
    positive, negative = ours.encode_prompt(tokens, text="rain", mix=0.25, audio_strength=0.5)
    torch.testing.assert_close(positive[:, 77:], 0.375 * tokens)
    torch.testing.assert_close(negative[:, 77:], 0.375 * empty.expand(2, -1, -1))
    _, negative = ours.encode_prompt(tokens, negative_sounds=tokens[1:])
    torch.testing.assert_close(negative[0, 77:], tokens[1])
    words = ours.encode_texts(["a dog"] * 2, 77)
    without = draw(ours, sounds=WAVES, audio_strength=0.0, generator=noise())
    torch.testing.assert_close(without, draw(ours, prompt_embeds=words, generator=noise()))


def test_the_vectors_have_the_norm_of_the_image_encoder(ours: Any):
    """The U-Net sees K tokens of them and the state that tells the strength."""
    tokens = ours.encode_audio(WAVES)
    vectors = NORM * ours.encoder.vectors.encode(WAVES)
    assert tokens.shape == (2, TOKENS + 1, WIDTH) and tokens[:, -1].eq(1).all()
    weights = published()["image_proj"]
    rows = F.linear(vectors, weights["proj.weight"], weights["proj.bias"]).unflatten(1, (TOKENS, WIDTH))
    wanted = F.layer_norm(rows, (WIDTH,), weights["norm.weight"], weights["norm.bias"])
    torch.testing.assert_close(tokens[:, :-1], wanted)


# the command


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of stage 1 that holds its HuBERT; the image encoder lies beside it."""
    root = tmp_path_factory.mktemp("stage 1")
    torch.manual_seed(0)
    hubert = HubertModel(HubertConfig(
        conv_dim=[4] * 7, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
    ))  # fmt: skip
    for part in (hubert, Wav2Vec2FeatureExtractor(return_attention_mask=True)):
        part.save_pretrained(root / "run" / "hubert")
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=VECTOR,
    ))  # fmt: skip
    size = {"height": 32, "width": 32}
    for part in (clip, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)):
        part.save_pretrained(root / "clip")
    settings = {"stage": "encoder", "hubert": "hubert", "image_encoder": str(root / "clip")}
    save(root / "run", SpeechEncoder(3, 16, VECTOR, num_heads=2), settings)
    return root / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


def test_the_command_makes_a_folder_that_draws(
    stage_1: Path, stable_diffusion: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "models").mkdir()
    write(tmp_path / "models" / "ip-adapter_sd15.bin", published())
    flags = ["--ip_adapter", str(tmp_path), "--stable_diffusion", str(stable_diffusion), "--images", str(pictures)]
    made = tmp_path / "made"
    assert cli.run(bins_convert.main, ["speech-ip-adapter", str(stage_1), str(made), *flags]) == 0
    assert "experimental" in capsys.readouterr().err
    settings = json.loads((made / SETTINGS_FILE).read_text())
    clip = settings["image_encoder"]
    norms = [load_image_encoder(clip, "").encode_images([Image.open(one)]).norm().item() for one in pictures.iterdir()]
    assert settings["image_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5) and (made / "hubert").is_dir()
    assert (settings["stage"], settings["head"], settings["prompt"]) == ("head", "image", "<*>")
    pipe, _ = loading.load(str(made), "s2i/wavy", "cpu")
    pipe.sd.set_progress_bar_config(disable=True)
    vectors = pipe.encoder.norm * pipe.encoder.vectors.encode(WAVES)  # type: ignore[attr-defined]
    assert vectors.norm(dim=-1).tolist() == pytest.approx([settings["image_norm"]] * 2, rel=1e-5)
    assert draw(pipe, sounds=WAVES, generator=noise()).isfinite().all()
    assert not list(made.rglob("*.bin"))


def refuse(stage_1: Path, stable_diffusion: Path, folder: Path, file: Path, images: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        ip_adapter.convert(str(stage_1), folder / "no", str(file), str(stable_diffusion), images, "<*>")
    assert not (folder / "no").exists() and "\n" not in str(error.value)
    return str(error.value)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_what_does_not_fit_is_named(
    stage_1: Path, stable_diffusion: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def refusal(parts: Any, suffix: str = ".bin", images: Path | None = pictures) -> str:
        return refuse(stage_1, stable_diffusion, tmp_path, write(tmp_path / f"file{suffix}", parts), images)

    found = refusal(published(vector=20), ".safetensors")
    assert "reads vectors of width 20" in found and "makes 24" in found
    assert "width 16, --stable_diffusion" in refusal(published(width=16))
    plus = published()
    plus["image_proj"] = {"latents": torch.ones(1, 16, WIDTH)}
    assert "more than one vector" in refusal(plus)
    short, wide = published(), published()
    del short["ip_adapter"]["7.to_v_ip.weight"]
    wide["ip_adapter"]["9.to_k_ip.weight"] = torch.ones(16, WIDTH)
    assert "it has no projections.3.to_v.weight" in refusal(short)
    assert "it has projections.4.to_k.weight" in refusal(wide)
    assert "no IP-Adapter" in refusal({"image_proj": {"a": torch.ones(1)}})
    assert "length of the image encoder's vectors is unknown" in refusal(published(), images=None)
    assert "no pictures" in refusal(published(), images=stable_diffusion / "unet")
    assert "refused" in refusal({"image_proj": Evil()}) and "executed" not in capsys.readouterr().out
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    assert "damaged" in refuse(stage_1, stable_diffusion, tmp_path, tmp_path / "cut.safetensors")
    assert "no models/ip-adapter_sd15" in refuse(stage_1, stable_diffusion, tmp_path, pictures)


def changed(stage_1: Path, folder: Path, network: Any, **settings: Any) -> Path:
    save(folder, network, json.loads((stage_1 / SETTINGS_FILE).read_text()) | settings)
    return folder


def test_speech_encoders_that_do_not_fit(stage_1: Path, stable_diffusion: Path, pictures: Path, tmp_path: Path):
    file = write(tmp_path / "file.bin", published())
    projected = changed(stage_1, tmp_path / "projected", SpeechEncoder(3, 16, VECTOR, num_heads=2, image_size=20))
    assert "projector" in refuse(projected, stable_diffusion, tmp_path, file, pictures)
    head = changed(stage_1, tmp_path / "head", SpeechEncoder(3, 16, VECTOR, num_heads=2), stage="head")
    assert "has a head already" in refuse(head, stable_diffusion, tmp_path, file, pictures)
    measured = changed(stage_1, tmp_path / "measured", SpeechEncoder(3, 16, VECTOR, num_heads=2), image_norm=5.5)
    ip_adapter.convert(str(measured), tmp_path / "made", str(file), str(stable_diffusion), None, "<*>")
    assert json.loads((tmp_path / "made" / SETTINGS_FILE).read_text())["image_norm"] == 5.5


def test_the_mean_norm_is_over_all_pictures(pictures: Path):
    lengths = iter([3.0, 4.0, 8.0])
    images: Any = SimpleNamespace(encode_images=lambda batch: torch.tensor([[next(lengths), 0.0] for _ in batch]))
    build: Callable[..., float] = mean_norm
    assert build(images, sorted(pictures.iterdir())) == pytest.approx(5.0)
