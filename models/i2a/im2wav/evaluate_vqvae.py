"""Evaluate the VQ-VAE: distances of reconstructed sounds to the real ones, kinds that are kept, and use of the codes.

B clips, n samples, M mel bands, T frames.
"""

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.i2a.im2wav import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation import held_out, reconstruction
from sonolume.models.evaluation.figures import ROWS
from sonolume.models.evaluation.held_out import Clips
from sonolume.models.evaluation.reconstruction import Values
from sonolume.models.evaluation.report import Report, finish
from sonolume.models.i2a.im2wav import data, parts
from sonolume.models.i2a.im2wav.inference import SHIPPED
from sonolume.models.mini import judges
from sonolume.modules.im2wav.losses import perplexity
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils.errors import UserError
from sonolume.utils.image import spectrogram_grid

LEVELS = ("fine", "coarse")


def run(config: Config, options: EvaluationOptions) -> None:
    """Reconstruct held-out clips from the tokens of each level; write report.json, report.md and samples.png."""
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    folder, stored = parts.read_settings(where)
    if stored["sample_rate"] != config.preprocess.sample_rate:
        raise UserError(f"{where}: has {stored['sample_rate']} Hz, preprocess.sample_rate is "
                        f"{config.preprocess.sample_rate}: choose another --checkpoint or --config")  # fmt: skip
    vqvae = parts.load(folder, "vqvae", "--checkpoint").to(runtime.pick_device(options.device))
    settings = MelSettings(sample_rate=stored["sample_rate"])

    def prepared() -> tuple[list[str], held_out.GetClip]:
        return data.validation_clips(config, MelSpectrogram(settings))

    clips = held_out.clips(config, options, where, SHIPPED, settings, prepared)
    facts = {"model": where, "clips": len(clips.uids), "of": clips.source["source"], "chance": "silence"}
    report = Report({}, facts=facts)
    first = score(report, clips, vqvae, settings)
    output = runtime.make_folder(options.output_dir)
    columns = [mels.numpy() for mels in first.values()]
    spectrogram_grid(output / "samples.png", columns, clips.uids[:ROWS], list(first), **settings.axes)
    finish(report, output, ["samples.png"])


@torch.no_grad()
def score(report: Report, clips: Clips, vqvae: Any, settings: MelSettings) -> dict[str, Tensor]:
    """Fill in scores, conditions and counts; return the first clips' mels (B, M, T) by column, the real ones first."""
    mel, values, mels = MelSpectrogram(settings), dict[str, list[Values]](), dict[str, list[Tensor]]()
    used = [torch.zeros(vqvae.config.codes) for _ in LEVELS]
    for index in tqdm(range(len(clips.uids)), desc="reconstruct", unit="clip"):
        wave = clips.get(index)[1]  # (n,)
        real = wave[None, : len(wave) // vqvae.hops[-1] * vqvae.hops[-1]]  # (1, n)
        made = {"silence": torch.zeros_like(real)}
        for level, name in enumerate(LEVELS):
            tokens = vqvae.encode(real.to(vqvae.device), level)  # (1, T)
            used[level] += torch.bincount(tokens.flatten().cpu(), minlength=len(used[level]))
            made[name] = vqvae.decode(tokens, level).float().cpu()  # (1, n)
        for name, rebuilt in made.items():
            values.setdefault(name, []).append(reconstruction.compare_waves(real, rebuilt, mel))
        for name, one in {"real": real, **made}.items():
            mels.setdefault(name, []).append(mel(one))
        reconstruction.leave_out_broken(report, [clips.uids[index]], made["fine"])
        reconstruction.count_faults(report, "real", real)
        reconstruction.count_faults(report, "generated", made["fine"])
    found = {name: reconstruction.concatenate(batches) for name, batches in values.items()}
    baselines = {"coarse level": found["coarse"]}
    reconstruction.add_distances(report, clips.uids, found["fine"], baselines, found["silence"])
    for name, counts in zip(LEVELS, used, strict=True):
        report.facts |= {f"{name} codes used": f"{int((counts > 0).sum())} of {len(counts)}",
                         f"{name} perplexity": round(perplexity(counts), 1)}  # fmt: skip
    report.conditions |= reconstruction.conditions(settings, clips.uids, "waves", data=clips.source)
    if clips.scenes:
        add_kept_kinds(report, clips.scenes, mels)
    shown = min(mel.shape[-1] for mel in mels["real"][:ROWS])  # recordings have different lengths
    return {name: torch.cat([mel[..., :shown] for mel in mels[name][:ROWS]]) for name in ("real", *LEVELS)}


def add_kept_kinds(report: Report, scenes: list[Scene], mels: dict[str, list[Tensor]]) -> None:
    """Add the judges' shares of reconstructions that still match their scenes."""
    columns = {name: torch.cat(mels[name]) for name in ("coarse", "real")}
    judges.add_sound_shares(report, scenes, torch.cat(mels["fine"]), columns)
    report.conditions["judges"] = judges.versions(*judges.SOUND_JUDGES)
