"""Evaluate the autoencoder: distances of reconstructed log-mels of held-out clips. B clips, M mel bands, T frames."""

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.tta.autoencoderkl import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation import held_out, reconstruction
from sonolume.models.evaluation.figures import ROWS
from sonolume.models.evaluation.folders import score_folder
from sonolume.models.evaluation.held_out import Clips
from sonolume.models.evaluation.report import Report, finish
from sonolume.models.tta.autoencoderkl import model
from sonolume.models.tta.autoencoderkl.inference import SHIPPED, mel_settings, reconstruct
from sonolume.models.tta.features import SILENCE, MelDataset
from sonolume.modules.mel import MelSettings
from sonolume.utils.image import spectrogram_grid


def run(config: Config, options: EvaluationOptions) -> None:
    """Reconstruct and score clips, or score a folder; write report.json, report.md and samples.png."""
    if options.generated is not None or options.reference is not None or options.embedder:
        score_folder(options, options.output_dir, options.device, mel=MelSettings.of(config.preprocess))
        return
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    vae = model.load(where, "--checkpoint").to(runtime.pick_device(options.device))  # type: ignore[arg-type]
    settings, _ = mel_settings(where, config)

    def prepared() -> tuple[list[str], held_out.GetClip]:
        data = MelDataset(config.preprocess, config.dataset, "valid")
        return [row.uid for row in data.rows], lambda index: (data[0, index][0], torch.zeros(0))

    clips = held_out.clips(config, options, where, SHIPPED, settings, prepared)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)  # frames of a latent column
    mels = (clips.get(index)[0] for index in tqdm(range(len(clips.uids)), desc="read", unit="clip"))
    real = torch.stack([mel[:, : mel.shape[1] // factor * factor] for mel in mels])                        # (B, M, T)
    rebuilt = torch.stack([reconstruct(vae, mel) for mel in tqdm(real, desc="reconstruct", unit="clip")])  # (B, M, T)
    report = score(clips, real, rebuilt, settings)
    report.facts = {"model": where, "clips": len(real), "of": clips.source["source"], "chance": "the others' mean"}
    folder = runtime.make_folder(options.output_dir)
    columns = [some[:ROWS].nan_to_num(SILENCE).numpy() for some in (real, rebuilt)]
    spectrogram_grid(folder / "samples.png", columns, clips.uids[:ROWS], ["real", "reconstructed"], **settings.axes)
    finish(report, folder, ["samples.png"])


def score(clips: Clips, real: Tensor, rebuilt: Tensor, settings: MelSettings) -> Report:
    """Score mels (B, M, T). Waves are not scored: a mel has no phases, so they would depend on the vocoder."""
    window = real.shape[2] * settings.hop_size / settings.sample_rate
    report = Report(reconstruction.conditions(settings, clips.uids, "mels", window=window, data=clips.source))
    reconstruction.leave_out_broken(report, clips.uids, rebuilt)
    for side, mels in (("real", real), ("reconstructed", rebuilt)):  # silent: nowhere 1 neper above the floor
        report.counts[f"silent {side}"] = int((mels.amax(dim=(1, 2)) < SILENCE + 1).sum())
    others = (real.sum(dim=0) - real) / max(1, len(real) - 1)  # the best guess without seeing the clip
    chance = reconstruction.compare_mels(real, others) if len(real) > 1 else None
    reconstruction.add_distances(report, clips.uids, reconstruction.compare_mels(real, rebuilt), {}, chance)
    return report
