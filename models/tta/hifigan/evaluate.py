"""Evaluate the vocoder: distances of vocoded clips to the real ones, next to Griffin-Lim with and without the vocoder.

B clips, M mel bands, T frames.
"""

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import SpeechT5HifiGan

from sonolume.config.tta.hifigan import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation import held_out, reconstruction
from sonolume.models.evaluation.figures import ROWS
from sonolume.models.evaluation.folders import score_folder
from sonolume.models.evaluation.held_out import Clips
from sonolume.models.evaluation.reconstruction import Values
from sonolume.models.evaluation.report import Report, finish
from sonolume.models.tta.features import SILENCE
from sonolume.models.tta.hifigan.data import WaveDataset
from sonolume.models.tta.hifigan.inference import SHIPPED, load, resynthesise
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.image import spectrogram_grid

BATCH_SIZE = 16
REFINE_ROUNDS = 16  # of Griffin-Lim, starting from the vocoder's phases
VOCODER, REFINED, GRIFFIN_LIM = "vocoder", "refined", "Griffin-Lim"


def run(config: Config, options: EvaluationOptions) -> None:
    """Vocode and score clips, or score a folder; write report.json, report.md and samples.png."""
    if options.generated is not None or options.reference is not None or options.embedder:
        score_folder(options, options.output_dir, options.device, mel=MelSettings.of(config.preprocess))
        return
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    vocoder, settings = load(where, config, options.device, torch.float32)

    def prepared() -> tuple[list[str], held_out.GetClip]:
        data = WaveDataset(config, "valid")
        return [row.uid for row in data.rows], lambda index: data[0, index]

    clips = held_out.clips(config, options, where, SHIPPED, settings, prepared)
    facts = {"model": where, "clips": len(clips.uids), "of": clips.source["source"], "chance": "silence"}
    report = Report({}, facts=facts)
    first = score(report, clips, vocoder, settings)
    folder = runtime.make_folder(options.output_dir)
    columns = [mels.nan_to_num(SILENCE).numpy() for mels in first.values()]
    spectrogram_grid(folder / "samples.png", columns, clips.uids[:ROWS], list(first), **settings.axes)
    finish(report, folder, ["samples.png"])


def score(report: Report, clips: Clips, vocoder: SpeechT5HifiGan, settings: MelSettings) -> dict[str, Tensor]:
    """Fill in scores, conditions and counts; return the first clips' mels (B, M, T) by column, the real ones first."""
    mel, values = MelSpectrogram(settings), dict[str, list[Values]]()
    first, seconds = dict[str, Tensor](), 0.0
    for start in tqdm(range(0, len(clips.uids), BATCH_SIZE), desc="vocode", unit="batch"):
        uids = clips.uids[start : start + BATCH_SIZE]
        mels, waves = zip(*(clips.get(start + number) for number in range(len(uids))), strict=True)
        real = torch.stack(waves)                                     # (B, T * hop)
        given = torch.stack(mels)                                     # (B, M, T)
        vocoded = resynthesise(vocoder, given)
        refined = mel_to_wave(given, settings, REFINE_ROUNDS, start=vocoded.nan_to_num())
        made = {VOCODER: vocoded, REFINED: refined, GRIFFIN_LIM: mel_to_wave(given, settings).clamp(-1, 1)}
        for name, rebuilt in {**made, "silence": torch.zeros_like(real)}.items():
            values.setdefault(name, []).append(reconstruction.compare_waves(real, rebuilt, mel))
        first = first or {name: mel(some[:ROWS]) for name, some in {"real": real, **made}.items()}
        reconstruction.leave_out_broken(report, uids, vocoded)
        reconstruction.count_faults(report, "real", real)
        reconstruction.count_faults(report, "generated", vocoded)
        seconds = real.shape[1] / settings.sample_rate
    found = {name: reconstruction.concatenate(batches) for name, batches in values.items()}
    baselines = {name: found[name] for name in (REFINED, GRIFFIN_LIM)}
    reconstruction.add_distances(report, clips.uids, found[VOCODER], baselines, found["silence"])
    report.conditions |= reconstruction.conditions(settings, clips.uids, "waves", window=seconds, data=clips.source)
    return first
