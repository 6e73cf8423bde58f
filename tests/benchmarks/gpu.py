"""Speed of every recipe on one device, with random weights of the published sizes: one call, under eight minutes.

    python tests/benchmarks/gpu.py                              # the GPU, published sizes; nothing is downloaded
    python tests/benchmarks/gpu.py --device cpu --size mini     # the same code, as a check

Writes outputs/gpu/gpu.md and gpu.json. Shapes are static. A row "generate" is the sum of the parts of a clip or a
picture, each measured alone and multiplied by its calls, so what the sampler computes between calls is not in it. In
the mode reduce-overhead the part with the most calls is compiled (CUDA graphs), the others are not; "warm-up" is the
time of the first three calls, with compilation. A row "train" is one step (forward, backward, AdamW); for the GANs, and
for AudioToken behind its frozen U-Net, the losses are stand-ins of the same cost. bfloat16 is autocast in training and
the type of the weights in generation; float32 products use TF32. The shares compare with two floors of this device,
measured in the same call: "compute", the multiplications at the speed of a large matrix product of that type, and
"bandwidth", reading the weights once per network call at the speed of a large copy. Each recipe runs in a process of
its own; a row that fails, or for which no time is left, says so.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DTYPES = ("bfloat16", "float32")
STEPS = 20  # calls of a denoising network, each with guidance
MEASURED = {"cuda": 0.5, "cpu": 0.02}  # seconds of one measurement, at least 2 calls
RESERVE = 20.0  # seconds of the whole limit that are kept for the floors and the table
HEADER = ("recipe", "what", "type", "mode", "batch", "s", "per s", "warm-up s", "GiB", "compute", "bandwidth", "note")


@dataclass
class Part:
    """A network of a recipe, and what it does for one clip or picture."""

    name: str
    network: Any
    bind: Callable[[int, Any, Any], tuple[Callable[..., Any], tuple[Any, ...]]]  # batch, device, dtype -> call, inputs
    calls: int = 1


@dataclass
class Recipe:
    unit: str
    parts: list[Part]
    batch: int  # of a training step
    trained: list[Any]  # networks
    loss: Callable[[int, Any], Any]  # batch, device -> scalar


@dataclass
class Row:
    recipe: str
    what: str
    dtype: str
    mode: str
    batch: int
    seconds: float = 0.0  # of a batch, or a step
    per_second: float = 0.0  # clips, pictures or items
    warmup: float = 0.0
    memory: float = 0.0  # peak, GiB
    compute: float = 0.0  # share of the floor
    bandwidth: float = 0.0
    note: str = ""
    parts: dict[str, float] = field(default_factory=dict)  # seconds of each for the batch


def plain(network: Any, *shapes: tuple[int, ...], method: str = "forward", make: Any = None) -> Any:
    """`Part.bind` of a network that takes random numbers of `shapes`, each without its batch."""

    def bind(batch: int, device: Any, dtype: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import torch

        inputs = [torch.randn(batch, *shape, device=device, dtype=dtype) for shape in shapes]
        return (network if method == "forward" else getattr(network, method)), tuple(make(*inputs) if make else inputs)

    return bind


def denoiser(unet: Any, latent: tuple[int, ...], tokens: int) -> Part:
    """A U-Net with guidance: twice the batch."""
    width = unet.config.cross_attention_dim

    def make(x: Any, states: Any) -> tuple[Any, ...]:
        import torch

        times = torch.full((2 * len(x),), 500, device=x.device)
        return torch.cat([x, x]), times, torch.cat([states, states])

    return Part("denoising", unet, plain(unet, latent, (tokens, width), make=make), STEPS)


def token_ids(network: Any, count: int) -> Any:
    """`Part.bind` of a text encoder."""

    def make(x: Any) -> tuple[Any, ...]:
        import torch

        return (torch.ones(len(x), count, dtype=torch.long, device=x.device),)

    return plain(network, (1,), make=make)


def text_to_audio(full: bool) -> tuple[Any, Any, Any, Any]:
    """U-Net, VAE, vocoder and text encoder of 4 x 5 x 39 latents."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

    from sonolume.config.tta.audioldm import AudioLDMConfig
    from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
    from sonolume.models.tta.audioldm.components import build_unet
    from sonolume.models.tta.autoencoderkl.model import build

    shrink = 1 if full else 32
    width = 768 if full else 24
    groups, heads = (32, 8) if full else (4, 2)
    unet = build_unet(AudioLDMConfig(model_channels=256 // shrink, context_dim=width, norm_num_groups=groups,
                                     num_heads=heads, use_checkpoint=False))  # fmt: skip
    vae = build(AutoencoderKLConfig(ch=128 // shrink, ch_mult=[1, 1, 2, 2, 4], norm_num_groups=groups))
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(
        upsample_initial_channel=512 // shrink, upsample_rates=[8, 8, 2, 2], upsample_kernel_sizes=[16, 16, 4, 4],
        normalize_before=False,
    ))  # fmt: skip
    text = T5EncoderModel(T5Config(vocab_size=32128 // shrink, d_model=width, d_kv=64 // shrink, d_ff=3072 // shrink,
                                   num_layers=12 if full else 1, num_heads=12 if full else 2))  # fmt: skip
    return unet, vae, vocoder, text


def audioldm(full: bool) -> Recipe:
    import torch

    unet, vae, vocoder, text = text_to_audio(full)
    latent, frames, width = ((4, 5, 39), 624, unet.config.cross_attention_dim) if full else ((4, 2, 4), 64, 24)
    parts = [
        denoiser(unet, latent, 20), Part("VAE", vae, plain(vae, latent, method="decode")),
        Part("vocoder", vocoder, plain(vocoder, (frames, 80))), Part("text", text, token_ids(text, 20)),
    ]  # fmt: skip

    def loss(batch: int, device: Any) -> Any:
        x, states = torch.randn(batch, *latent, device=device), torch.randn(batch, 20, width, device=device)
        return unet(x, torch.full((batch,), 500, device=device), states).sample.float().square().mean()

    return Recipe("clip", parts, 12, [unet], loss)


def autoencoderkl(full: bool) -> Recipe:
    import torch

    vae = text_to_audio(full)[1]
    mel = (1, 80, 624) if full else (1, 80, 64)

    def loss(batch: int, device: Any) -> Any:
        x = torch.randn(batch, *mel, device=device)
        return (vae(x).sample.float() - x).abs().mean()

    return Recipe("clip", [Part("VAE", vae, plain(vae, mel))], 8, [vae], loss)


def hifigan(full: bool) -> Recipe:
    import torch

    from sonolume.modules.vocoder_loss import WaveformDiscriminator

    vocoder, frames = text_to_audio(full)[2], 32
    discriminator = WaveformDiscriminator(width=1.0 if full else 1 / 32)

    def loss(batch: int, device: Any) -> Any:
        wave = vocoder(torch.randn(batch, frames, 80, device=device))
        logits, _ = discriminator(wave.flatten(1).float())
        return wave.abs().mean() + sum(one.float().square().mean() for one in logits)

    part = Part("vocoder", vocoder, plain(vocoder, (624 if full else 64, 80)))
    return Recipe("clip", [part], 32, [vocoder, discriminator], loss)


def stable_diffusion(full: bool, latent: tuple[int, ...], tokens: int) -> list[Part]:
    """U-Net and VAE of Stable Diffusion 1."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    if full:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=down,
                            up_block_types=up)  # fmt: skip
    else:
        unet = UNet2DConditionModel(
            block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=32, norm_num_groups=4,
            attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=4, down_block_types=down,
                            up_block_types=up)  # fmt: skip
    return [denoiser(unet, latent, tokens), Part("VAE", vae, plain(vae, latent, method="decode"))]


def audiotoken(full: bool) -> Recipe:
    import torch

    from sonolume.modules.audiotoken import AudioTokenEmbedder
    from sonolume.modules.beats.beats import BEATs

    latent = (4, 40, 64) if full else (4, 4, 4)  # 512 x 320
    parts = stable_diffusion(full, latent, 77)
    unet = parts[0].network
    small = {"embed_dim": 32, "encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 32,
             "encoder_attention_heads": 2, "conv_pos": 16, "conv_pos_groups": 4}  # fmt: skip
    beats = BEATs(**{} if full else small)  # type: ignore[arg-type]
    features, width = (2304, 768) if full else (96, 32)
    embedder = AudioTokenEmbedder(features, width, 0.0)
    parts.append(Part("BEATs", beats, plain(beats, (16000 * 5,))))

    def loss(batch: int, device: Any) -> Any:
        unet.requires_grad_(False)
        token = embedder(torch.randn(batch, 248 if full else 8, features, device=device))[:, None]
        states = torch.cat([torch.randn(batch, 76, width, device=device, dtype=token.dtype), token], 1)
        x = torch.randn(batch, *latent, device=device)
        return unet(x, torch.full((batch,), 500, device=device), states).sample.float().square().mean()

    return Recipe("picture", parts, 4, [embedder, unet], loss)


def audio2img(full: bool) -> Recipe:
    import torch
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {} if full else small
    encoder = Wav2Vec2BertModel(Wav2Vec2BertConfig(
        add_adapter=True, num_adapter_layers=2, output_hidden_size=768 if full else 32, layerdrop=0.0,
        apply_spec_augment=False, **size,
    ))  # fmt: skip
    parts = stable_diffusion(full, (4, 64, 64) if full else (4, 4, 4), 48)
    parts.append(Part("encoder", encoder, plain(encoder, (188, 160))))

    def loss(batch: int, device: Any) -> Any:
        return encoder(torch.randn(batch, 188, 160, device=device)).last_hidden_state.float().square().mean()

    return Recipe("picture", parts, 8, [encoder], loss)


def wavy(full: bool) -> Recipe:
    import torch
    from transformers import HubertConfig, HubertModel

    from sonolume.modules.speech_clip import SpeechEncoder

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
             "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}  # fmt: skip
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
             "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip
    hubert = HubertModel(HubertConfig(**large if full else small, apply_spec_augment=False))  # type: ignore[arg-type]
    states, width = (25, 1024) if full else (2, 32)
    encoder = SpeechEncoder(num_states=states, width=width, output_size=768 if full else 32)
    parts = stable_diffusion(full, (4, 64, 64) if full else (4, 4, 4), 77)
    parts.append(Part("HuBERT", hubert, plain(hubert, (102400 if full else 16000,))))  # 6.4 s

    def loss(batch: int, device: Any) -> Any:
        hidden = torch.randn(batch, states, 319, width, device=device)  # cached, as in training
        vectors = encoder(hidden, torch.full((batch,), 319, device=device)).float()
        return (vectors @ vectors.T).square().mean()

    return Recipe("picture", parts, 64, [encoder], loss)


def im2wav(full: bool) -> Recipe:
    import torch

    from sonolume.modules.im2wav.sampler import TokenSampler, TokenSampling
    from sonolume.modules.im2wav.transformer import Condition, TokenTransformer
    from sonolume.modules.im2wav.vqvae import VQVAE

    def transformer(positions: int) -> Any:
        width, depth, blocks, codes = (1024, 48, 64, 2048) if full else (32, 3, 8, 16)
        return TokenTransformer(codes, positions, width, depth, 1, blocks, 0.25, 1.0, 0.7)

    def step(model: Any, guidance: float) -> Any:
        def bind(batch: int, device: Any, dtype: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            places = model.places
            conditions = [Condition(places.new_zeros(batch, places.shape[1]), places.new_zeros(batch, *places.shape))
                          for _ in range(1 if guidance == 1 else 2)]  # fmt: skip
            sampler = TokenSampler(model, batch, TokenSampling(guidance=guidance))
            sampler.start(*conditions)
            middle = len(places) // 2

            def call() -> None:
                sampler.position.fill_(middle)
                sampler.step()

            return call, ()

        return bind

    low, up = (transformer(count) for count in ((2048, 8192) if full else (32, 128)))
    vqvae = VQVAE() if full else VQVAE(embedding_width=4, codes=16, width=4, depth=1)

    def tokens(x: Any) -> tuple[Any, ...]:
        return torch.zeros(len(x), len(up.places), dtype=torch.long, device=x.device), 0

    parts = [
        Part("up tokens", up, step(up, 1.0), len(up.places)), Part("low tokens", low, step(low, 3.0), len(low.places)),
        Part("VQ-VAE", vqvae, plain(vqvae, (1,), method="decode", make=tokens)),
    ]  # fmt: skip

    def loss(batch: int, device: Any) -> Any:
        places = low.places
        ids = torch.zeros(batch, len(places), dtype=torch.long, device=device)
        condition = Condition(torch.randn(batch, places.shape[1], device=device),
                              torch.randn(batch, *places.shape, device=device))  # fmt: skip
        return torch.nn.functional.cross_entropy(low(ids, condition).flatten(0, 1), ids.flatten())

    return Recipe("clip", parts, 4, [low], loss)


RECIPES: dict[str, Callable[[bool], Recipe]] = {
    "tta/audioldm": audioldm, "a2i/audiotoken": audiotoken, "i2a/im2wav": im2wav, "tta/hifigan": hifigan,
    "tta/autoencoderkl": autoencoderkl, "a2i/audio2img": audio2img, "s2i/wavy": wavy,
}  # fmt: skip
SHARES = {"tta/audioldm": 2.5, "a2i/audiotoken": 2.5}  # of the time; the others 1: their U-Net is the same


def synchronize(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], device: Any) -> tuple[float, float]:
    """Seconds of a call in a row of calls, and of the first three, which are not counted."""
    start = time.perf_counter()
    for _ in range(3):  # CUDA graphs are recorded in the second
        call()
    synchronize(device)
    warmup, start = time.perf_counter() - start, time.perf_counter()
    call()
    synchronize(device)
    count = max(2, min(50, int(MEASURED[device.type] / max(1e-6, time.perf_counter() - start))))
    start = time.perf_counter()
    for _ in range(count):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / count, warmup


def floors(device: Any) -> dict[str, float]:
    """Operations per second of a large matrix product of each type, and bytes per second of a large copy."""
    import torch

    large, found = device.type == "cuda", {}
    for dtype in DTYPES:
        a = torch.randn(8192 if large else 256, 8192 if large else 256, device=device, dtype=getattr(torch, dtype))
        best = min(seconds_of(lambda a=a: a @ a, device)[0] for _ in range(3))
        found[dtype] = 2 * len(a) ** 3 / best
    source = torch.empty(2**30 if large else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["bandwidth"] = 2 * len(source) / min(seconds_of(lambda: target.copy_(source), device)[0] for _ in range(3))
    return found


def operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions of a call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def compiled(call: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """`call` in a mode: plain, eager (traced, no code is generated; for tests), or one of torch.compile's."""
    import torch

    if mode == "plain":
        return call
    how: dict[str, Any] = {"backend": "eager"} if mode == "eager" else {"mode": mode}
    traced = torch.compile(call, dynamic=False, **how)

    def run(*inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return traced(*inputs)

    return run


def peak_memory(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux; of the whole process so far


def generation(recipe: Recipe, row: Row, device: Any, peak: dict[str, float]) -> None:
    """Fill a row with the time of a batch of results."""
    import torch

    dtype, work, weights = getattr(torch, row.dtype), 0.0, 0.0
    for number, part in enumerate(recipe.parts):
        torch.nn.Module.to(part.network, device, dtype).eval()  # diffusers' own warns of a cast
        with torch.no_grad():
            call, inputs = part.bind(row.batch, device, dtype)
            work += part.calls * operations(lambda call=call, inputs=inputs: call(*inputs))
            fast = compiled(call, row.mode if number == 0 else "plain")
            found, warmup = seconds_of(lambda fast=fast, inputs=inputs: fast(*inputs), device)
        row.parts[part.name] = part.calls * found
        row.warmup += warmup
        weights += part.calls * sum(one.numel() * one.element_size() for one in part.network.parameters())
    row.seconds = sum(row.parts.values())
    row.per_second = row.batch / row.seconds
    row.compute, row.bandwidth = work / peak[row.dtype] / row.seconds, weights / peak["bandwidth"] / row.seconds


def training(recipe: Recipe, row: Row, device: Any, peak: dict[str, float]) -> None:
    """Fill a row with the time of a training step."""
    import torch

    for network in recipe.trained:
        torch.nn.Module.to(network, device, torch.float32).train().requires_grad_(True)
    recipe.loss(1, device)  # freezes what the recipe does not train
    weights = [one for network in recipe.trained for one in network.parameters() if one.requires_grad]
    adamw = torch.optim.AdamW(weights, 1e-6, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=row.dtype == "bfloat16"):
            loss = recipe.loss(row.batch, device)
        loss.backward()
        adamw.step()
        adamw.zero_grad()

    work = operations(step)
    row.seconds, row.warmup = seconds_of(step, device)
    row.per_second = row.batch / row.seconds
    traffic = sum(7 * one.numel() * one.element_size() for one in weights)  # AdamW: weight, both moments, gradient
    row.compute, row.bandwidth = work / peak[row.dtype] / row.seconds, traffic / peak["bandwidth"] / row.seconds


def planned(name: str, batches: list[int], modes: list[str], size: str) -> Iterator[Row]:
    """The rows of a recipe, the most wanted first."""
    for mode in modes:
        for dtype in DTYPES:
            for batch in batches if mode == "plain" else batches[:2]:
                yield Row(name, "generate", dtype, mode, batch)
        if mode == "plain":
            for dtype in DTYPES:
                yield Row(name, "train", dtype, mode, 0 if size == "published" else 2)


def measure(name: str, options: argparse.Namespace) -> None:
    """Measure a recipe, a line of json for each row; a row that fails says why."""
    import torch

    end = time.monotonic() + options.seconds
    device = torch.device(options.device)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    peak = json.loads(options.floors)
    with device:  # a CPU draws a billion random weights in ten seconds
        recipe = RECIPES[name](options.size == "published")
    for row in planned(name, options.batches, options.modes, options.size):
        row.batch = row.batch or recipe.batch
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            if time.monotonic() > end:
                row.note = "no time left"
            else:
                (training if row.what == "train" else generation)(recipe, row, device, peak)
                row.memory = peak_memory(device)
        except Exception as error:  # noqa: BLE001  # such as no memory: the other rows go on
            row.note = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80] if str(error) else ''}"
            for network in recipe.trained:
                network.zero_grad()
        print(json.dumps(asdict(row)), flush=True)


def child(options: argparse.Namespace, recipe: str, seconds: float, peak: str) -> Iterator[dict[str, Any]]:
    """Lines of json of another process, which is killed with its compiler's processes some seconds after its time."""
    command = [sys.executable, __file__, "--recipe", recipe, "--device", options.device, "--size", options.size,
               "--seconds", f"{seconds:.0f}", "--floors", peak,
               "--batches", *map(str, options.batches), "--modes", *options.modes]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):  # they have ended
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds + 5, kill)  # processes that are left would hold its stdout open
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    yield json.loads(line)
        finally:
            timer.cancel()
            kill()


def table(rows: Iterable[dict[str, Any]], device: str, peak: dict[str, float]) -> str:
    """The markdown table with the floors."""
    speeds = ", ".join(f"{dtype} {peak[dtype] / 1e12:.3g} TFLOP/s" for dtype in DTYPES)
    lines = [f"{device}: {speeds}, copy {peak['bandwidth'] / 1e9:.0f} GB/s", "",
             f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]  # fmt: skip
    for row in rows:
        given = [row["recipe"], row["what"], row["dtype"], row["mode"], str(row["batch"])]
        numbers = [f"{row['seconds']:.4g}", f"{row['per_second']:.4g}", f"{row['warmup']:.1f}", f"{row['memory']:.1f}",
                   f"{row['compute']:.0%}", f"{row['bandwidth']:.0%}"]  # fmt: skip
        lines.append(f"| {' | '.join([*given, *([''] * 6 if row['note'] else numbers), row['note']])} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default: cuda)")
    parser.add_argument("--size", choices=("published", "mini"), default="published")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--modes", nargs="+", default=None, choices=("plain", "eager", "reduce-overhead", "default"),
                        help="default: plain and, on a GPU, reduce-overhead")  # fmt: skip
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=450, help="limit of all (default: 450)")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--recipe", help=argparse.SUPPRESS)  # of a child process
    parser.add_argument("--floors", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.modes = options.modes or ["plain", *(["reduce-overhead"] if options.device.startswith("cuda") else [])]
    return options


def main() -> None:
    options, start = parse(), time.monotonic()
    if options.recipe:
        measure(options.recipe, options)
        return
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("error: torch.cuda.is_available() is false: run this on a GPU, or try it by --device cpu --size mini")
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    torch.set_float32_matmul_precision("high")
    peak = floors(device)
    rows: list[dict[str, Any]] = []
    for number, recipe in enumerate(options.recipes):
        shares = [SHARES.get(other, 1.0) for other in options.recipes[number:]]
        left = options.seconds - RESERVE - (time.monotonic() - start)
        seconds = max(5.0, left * shares[0] / sum(shares) - 5)
        done = []
        for row in child(options, recipe, seconds, json.dumps(peak)):
            done.append(row)
            shown = row["note"] or f"{row['per_second']:.3g}/s"
            print(f"{recipe} {row['what']} {row['dtype']} {row['mode']} batch {row['batch']}: {shown}", flush=True)
        if len(done) < (expected := len(list(planned(recipe, options.batches, options.modes, options.size)))):
            done.append(asdict(Row(recipe, "", "", "", 0, note=f"{expected - len(done)} rows not reached in time")))
        rows += done
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "gpu.md").write_text(text := table(rows, name, peak), encoding="utf-8")
    content = {"device": name, "torch": torch.__version__, "size": options.size, "floors": peak, "rows": rows}
    (options.output_dir / "gpu.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    took = time.monotonic() - start
    print(f"\n{text}\n{took:.0f} s; {options.output_dir / 'gpu.md'}, gpu.json; median row "
          f"{statistics.median([row['seconds'] for row in rows if not row['note']] or [0]):.2g} s")  # fmt: skip


if __name__ == "__main__":
    main()
