"""How well the autoencoder rebuilds log-mels that it never saw; or scores of sounds that another program rebuilt.

B clips, M mel bands, T frames.
"""

import argparse

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.tta.autoencoderkl import Config
from sonolume.models import inference
from sonolume.models.evaluation import heldout, reconstruction, results
from sonolume.models.evaluation.heldout import Clips
from sonolume.models.evaluation.results import Result
from sonolume.models.tta.autoencoderkl import model
from sonolume.models.tta.autoencoderkl.inference import SHIPPED, mel_settings, reconstruct
from sonolume.models.tta.features import SILENCE, MelDataset
from sonolume.modules.mel import MelSettings
from sonolume.utils.spectrogram import spectrogram_grid

SHOWN = reconstruction.SHOWN


def run(config: Config, args: argparse.Namespace) -> None:
    """Write report.json, report.md and samples.png (real beside reconstructed)."""
    if args.generated is not None or args.reference is not None:
        reconstruction.run(args, MelSettings.of(config.preprocess))
        return
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    vae = model.load(where, "--checkpoint").to(inference.pick_device(args.device))  # type: ignore[arg-type]
    settings, _ = mel_settings(where, config)
    clips = _clips(config, args, where, settings).first(args.num_samples)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    numbers = tqdm(range(len(clips.uids)), desc="read", unit="clip")
    real = torch.stack([_whole(clips.get(index)[0], factor) for index in numbers])                         # (B, M, T)
    rebuilt = torch.stack([reconstruct(vae, mel) for mel in tqdm(real, desc="reconstruct", unit="clip")])  # (B, M, T)
    result = score(clips, real, rebuilt, settings)
    result.facts = {"model": where, "clips": len(real), "of": clips.source["source"], "chance": "the others' mean"}
    folder = inference.make_folder(args.output_dir)
    columns = [mels[:SHOWN].nan_to_num(SILENCE).numpy() for mels in (real, rebuilt)]
    spectrogram_grid(folder / "samples.png", columns, clips.uids[:SHOWN], ["real", "reconstructed"])
    path = results.write(result, folder, ["samples.png"])
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(path)


def score(clips: Clips, real: Tensor, rebuilt: Tensor, settings: MelSettings) -> Result:
    """Of mels (B, M, T). A mel has no phases: scores of waves would be about whatever makes it sound again."""
    window = real.shape[2] * settings.hop_size / settings.sample_rate
    result = Result(reconstruction.conditions(settings, clips.uids, "mels", window=window, data=clips.source))
    reconstruction.list_broken(result, clips.uids, rebuilt)
    result.counts["silent real"], result.counts["silent reconstructed"] = _silent(real), _silent(rebuilt)
    others = (real.sum(dim=0) - real) / max(1, len(real) - 1)  # what one can say of a clip without hearing it
    chance = reconstruction.compare_mels(real, others) if len(real) > 1 else None
    reconstruction.add(result, clips.uids, reconstruction.compare_mels(real, rebuilt), {}, chance)
    return result


def _clips(config: Config, args: argparse.Namespace, where: str, settings: MelSettings) -> Clips:
    preprocess = config.preprocess
    if heldout.is_world(config, preprocess, args.checkpoint, where, SHIPPED):
        return heldout.of_world(preprocess.miniworld, args.num_samples, settings)
    data = MelDataset(preprocess, config.dataset, "valid")
    uids = [row.uid for row in data.rows]
    return heldout.of_validation(
        config, preprocess, settings, uids, lambda index: (data[0, index][0], torch.zeros(0))
    )


def _whole(mel: Tensor, factor: int) -> Tensor:
    """As many frames as make whole latent columns."""
    return mel[:, : mel.shape[1] // factor * factor]


def _silent(mels: Tensor) -> int:
    """How many never rise more than 1 neper above the floor."""
    return int((mels.amax(dim=(1, 2)) < SILENCE + 1).sum())
