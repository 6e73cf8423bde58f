"""Does the sound have what the text says? Scored in the miniature world by frozen judges of sound.

One sample per caption, in wordings that training never showed, with every attribute said; beside chance and the upper
bounds: real renderings of the same scenes, and their reconstructions by the VAE and the vocoder.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config
from sonolume.models import inference
from sonolume.models.evaluation import folders
from sonolume.models.mini import scores
from sonolume.models.mini.scores import Share
from sonolume.models.mini.sound_judge import pipeline as sound_judge
from sonolume.models.tta.audioldm.inference import SHIPPED, load
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import world
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.spectrogram import spectrogram_grid

JUDGES = ("pretrained/mini/sound_judge", "pretrained/mini/sound_judge_second")
SHOWN = 8  # generated beside real spectrograms in the report
TEST_SEED = 1


def run(config: Config, args: argparse.Namespace) -> None:
    """Generate, listen, and write report.json, report.md and samples.png; or score a folder of sounds."""
    if args.generated is not None:
        folders.run(args)
        return
    if "miniworld" not in config.dataset:
        raise UserError(f"{config.exp_name}: only the miniature world has judges: use tiny.json (dataset: miniworld)")
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    pipe = load(where, args.device)
    if args.preset:
        pipe.use_preset(args.preset)
    mini = config.preprocess.miniworld
    scenes = list(world.scenes("test", args.num_samples, TEST_SEED, list(mini.kinds), mini.pairs))
    captions = [world.captions(scene, 1, "test", mention=1.0)[0] for scene in scenes]
    real = torch.from_numpy(np.stack([world.render(scene) for scene in scenes]))
    mel = MelSpectrogram(pipe.mel_settings)
    heard = {
        "generated": listen(generate(pipe, captions, args), mel),
        "VAE": listen(reconstruct(pipe, listen(real, mel), args.batch_size), mel),
        "real": listen(real, mel),
    }
    judges = [sound_judge.load(paths.root() / folder) for folder in JUDGES]
    judged = {name: [sound_judge.listen(judge, mels) for judge in judges] for name, mels in heard.items()}
    table = {name: scores.rows(outputs[0], scenes) for name, outputs in judged.items()}
    second = scores.rows(judged["generated"][1], scenes)
    folder = inference.make_folder(args.output_dir)
    write_report(folder, where, table, second, pipe, args)
    pairs = [mels[:SHOWN].numpy() for mels in (heard["real"], heard["generated"])]
    spectrogram_grid(folder / "samples.png", pairs, captions[:SHOWN])
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(folder / "report.json")


def generate(pipe: TextToAudioPipeline, captions: list[str], args: argparse.Namespace) -> Tensor:
    """One wave per caption, (N, samples)."""
    pipe.set_progress_bar_config(disable=True)
    waves = []
    for start in tqdm(range(0, len(captions), args.batch_size), desc="generate", unit="batch"):
        texts = captions[start : start + args.batch_size]
        output = pipe(
            texts,
            num_inference_steps=args.num_steps,
            guidance_scale=args.guidance_scale,
            generator=inference.generators(args.seed + start, len(texts)),
            output_type="pt",
        )
        waves.append(output.audios.float().cpu())
    return torch.cat(waves)


@torch.no_grad()
def reconstruct(pipe: TextToAudioPipeline, mels: Tensor, batch_size: int) -> Tensor:
    """Through the VAE and the vocoder: (N, M, T) -> waves (N, samples)."""
    waves = []
    for start in tqdm(range(0, len(mels), batch_size), desc="reconstruct", unit="batch"):
        x = mels[start : start + batch_size, None].to(pipe.device)
        waves.append(pipe.vocode(pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample[:, 0]).cpu())
    return torch.cat(waves)


@torch.no_grad()
def listen(waves: Tensor, mel: MelSpectrogram) -> Tensor:
    """Waves (N, samples) -> log-mels (N, M, T)."""
    return torch.cat([mel(chunk) for chunk in waves.split(64)])


def write_report(
    folder: Path,
    where: str,
    table: dict[str, dict[str, Share]],
    second: dict[str, Share],
    pipe: TextToAudioPipeline,
    args: argparse.Namespace,
) -> None:
    """report.json and report.md: one row per score, with its 95 % interval."""
    columns = list(table)
    lines = [
        f"{args.num_samples} captions, {args.num_steps or pipe.config.num_steps} steps, guidance "
        f"{args.guidance_scale or pipe.config.guidance_scale:g}, one sample each, seed {args.seed}.",
        "",
        f"| score | chance | {' | '.join(columns)} | generated, second judge | N |",
        "|---|---|" + "---|" * (len(columns) + 2),
    ]
    for name, share in table["generated"].items():
        cells = [_cell(table[column][name]) for column in columns] + [f"{100 * second[name].value:.1f}"]
        lines.append(f"| {name} | {100 * scores.CHANCE[name]:.1f} | {' | '.join(cells)} | {share.total} |")
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    everything = table | {"generated, second judge": second}
    facts = inference.describe(
        model=where,
        captions=args.num_samples,
        num_steps=args.num_steps or pipe.config.num_steps,
        guidance_scale=args.guidance_scale or pipe.config.guidance_scale,
        scheduler=type(pipe.scheduler).__name__,
        seed=args.seed,
        judges=list(JUDGES),
        scores={
            column: {name: [share.value, share.low, share.high, share.total] for name, share in rows.items()}
            for column, rows in everything.items()
        },
    )
    files.write_json(folder / "report.json", facts)


def _cell(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.0f}-{100 * share.high:.0f})"
