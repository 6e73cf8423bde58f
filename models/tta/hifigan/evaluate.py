"""How close vocoded clips are to the real ones, polished by Griffin-Lim or not, beside Griffin-Lim alone; or scores of
sounds that another vocoder or codec made.

B clips, M mel bands, T frames.
"""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import SpeechT5HifiGan

from sonolume.config.tta.hifigan import Config
from sonolume.models import inference
from sonolume.models.evaluation import heldout, reconstruction, results
from sonolume.models.evaluation.embedders.clips import is_clipped, is_silent
from sonolume.models.evaluation.heldout import Clips
from sonolume.models.evaluation.reconstruction import Values
from sonolume.models.evaluation.results import Result
from sonolume.models.tta.features import SILENCE
from sonolume.models.tta.hifigan.data import WaveDataset
from sonolume.models.tta.hifigan.inference import SHIPPED, load, resynthesise
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.spectrogram import spectrogram_grid

SHOWN = reconstruction.SHOWN
BATCH = 16  # clips vocoded at once
POLISH = 16  # rounds of Griffin-Lim from the vocoder's phases
OURS, POLISHED, GRIFFIN_LIM = "vocoder", "polished", "Griffin-Lim"


def run(config: Config, args: argparse.Namespace) -> None:
    """Write report.json, report.md and samples.png (real, vocoder, polished, Griffin-Lim)."""
    if args.generated is not None or args.reference is not None:
        reconstruction.run(args, MelSettings.of(config.preprocess))
        return
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    vocoder, settings = load(where, config, args.device, torch.float32)
    clips = _clips(config, args, where, settings).first(args.num_samples)
    facts = {"model": where, "clips": len(clips.uids), "of": clips.source["source"], "chance": "silence"}
    result = Result({}, facts=facts)
    shown = score(result, clips, vocoder, settings)
    folder = inference.make_folder(args.output_dir)
    columns = [mels.nan_to_num(SILENCE).numpy() for mels in shown.values()]
    spectrogram_grid(folder / "samples.png", columns, clips.uids[:SHOWN], list(shown))
    path = results.write(result, folder, ["samples.png"])
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(path)


def score(result: Result, clips: Clips, vocoder: SpeechT5HifiGan, settings: MelSettings) -> dict[str, Tensor]:
    """Fill in scores, conditions and counts; returns the first clips' mels (B, M, T), the real ones first."""
    mel = MelSpectrogram(settings)
    values: dict[str, list[Values]] = {}
    shown: dict[str, Tensor] = {}
    size = 0
    for uids, mels, real in _batches(clips):
        made = rebuild(mels, vocoder, settings)
        for name, waves in made.items():
            values.setdefault(name, []).append(reconstruction.compare_waves(real, waves, mel))
        values.setdefault("silence", []).append(reconstruction.compare_waves(real, torch.zeros_like(real), mel))
        shown = shown or {name: mel(waves[:SHOWN]) for name, waves in {"real": real, **made}.items()}
        reconstruction.list_broken(result, uids, made[OURS])
        _count(result, "real", real)
        _count(result, "generated", made[OURS])
        size = real.shape[1]
    found = {name: reconstruction.joined(batches) for name, batches in values.items()}
    beside = {name: found[name] for name in (POLISHED, GRIFFIN_LIM)}
    reconstruction.add(result, clips.uids, found[OURS], beside, found["silence"])
    window = size / settings.sample_rate
    result.conditions |= reconstruction.conditions(settings, clips.uids, "waves", window=window, data=clips.source)
    return shown


def rebuild(mels: Tensor, vocoder: SpeechT5HifiGan, settings: MelSettings) -> dict[str, Tensor]:
    """(B, M, T) -> waves (B, T * hop) by each way."""
    vocoded = resynthesise(vocoder, mels)
    polished = mel_to_wave(mels, settings, POLISH, start=vocoded.nan_to_num())
    return {OURS: vocoded, POLISHED: polished, GRIFFIN_LIM: mel_to_wave(mels, settings).clamp(-1, 1)}


def _clips(config: Config, args: argparse.Namespace, where: str, settings: MelSettings) -> Clips:
    preprocess = config.preprocess
    if heldout.is_world(config, preprocess, args.checkpoint, where, SHIPPED):
        return heldout.of_world(preprocess.miniworld, args.num_samples, settings)
    data = WaveDataset(config, "valid")
    uids = [row.uid for row in data.rows]
    return heldout.of_validation(config, preprocess, settings, uids, lambda index: data[0, index])


def _batches(clips: Clips) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Uids, mels (B, M, T) and waves (B, T * hop)."""
    for start in tqdm(range(0, len(clips.uids), BATCH), desc="vocode", unit="batch"):
        uids = clips.uids[start : start + BATCH]
        mels, waves = zip(*(clips.get(start + number) for number in range(len(uids))), strict=True)
        yield uids, torch.stack(mels), torch.stack(waves)


def _count(result: Result, side: str, waves: Tensor) -> None:
    for name, test in (("silent", is_silent), ("clipped", is_clipped)):
        found = sum(test(wave) for wave in waves.numpy())
        result.counts[f"{name} {side}"] = result.counts.get(f"{name} {side}", 0) + found
