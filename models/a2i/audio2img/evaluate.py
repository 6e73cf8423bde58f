"""Evaluation of audio2img: the pictures of sounds, and the alignment of their states with the states of the captions.

N sounds, b in a batch, S distinct texts, K states of a sound, D width.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sonolume.config.a2i.audio2img import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.a2i import evaluate, loading
from sonolume.models.a2i.audio2img.data import Tokens, encode
from sonolume.models.a2i.audio2img.encoder import RECIPE
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.report import Report, finish
from sonolume.models.evaluation.samples import weights_version
from sonolume.modules.metrics.interval import Share
from sonolume.modules.sequence_alignment import METRICS, RECALLS, AlignmentMetrics, position_metrics
from sonolume.utils import audio
from sonolume.utils.audio import SoundError
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.text import message

NAMES = {"cosine": "cosine", "E_mse": "MSE", "euclidean_distance": "Euclidean distance"}  # of METRICS, in the report
WAYS = {"audio_to_text": "sound to text", "text_to_audio": "text to sound"}  # likewise, of retrieval
TEXT_BATCH_SIZE = 16
MEAN_TEXT = "mean text"  # column of an encoder that returns the same states for every sound


def run(config: Config, options: EvaluationOptions) -> None:
    """Score pictures and alignment, or with --alignment_only the latter alone; write report.json and report.md."""
    if options.alignment_only:
        score_alignment(config, options)
    else:
        evaluate.run(config, options, partial(add_alignment, batch_size=options.batch_size))


def score_alignment(config: Config, options: EvaluationOptions) -> None:
    """Score the alignment alone; neither U-Net nor VAE is loaded."""
    where, in_world = evaluate.find_model(config, options)
    pipe, components = loading.load_encoders(where, RECIPE, options.device)
    if limit := _missing_positions(pipe):
        raise UserError(f"{where}: {limit}")
    if options.preset:
        pipe.encoder.use_preset(options.preset)
    folder = runtime.make_folder(options.output_dir)
    tests = evaluate.collect_tests(config, options, folder, pipe, in_world, pictures=False)
    facts = components | {"weights": weights_version(where), "sounds": len(tests.sounds), "of": tests.source["source"]}
    report = Report(evaluate.conditions(tests, {}, [], options), facts=facts)
    report.leave_out(tests.left_out)
    add_alignment(report, pipe, tests, where, options.batch_size)
    finish(report, folder)


@torch.no_grad()
def add_alignment(
    report: Report, pipe: AudioToImagePipeline, tests: HeldOut, where: str, batch_size: int
) -> None:
    """Add the distances of sounds from their captions in the text encoder's states, and the retrieval both ways.

    Sounds are encoded as for their pictures, captions as in training. Chance is the distance from the caption of
    another sound; the column "mean text" is that of one answer to all sounds, the mean state of their captions.

    Args:
        where: folder or hub id of the model.

    Raises:
        UserError: not one sound can be encoded.
    """
    if limit := _missing_positions(pipe):
        message(f"alignment is not scored: {limit}")
        return
    uids = list(tests.sounds)
    texts = {text: number for number, text in enumerate(dict.fromkeys(tests.captions[uid] for uid in uids))}
    numbers = torch.tensor([texts[tests.captions[uid]] for uid in uids])
    states, name = text_states(report, pipe, list(texts), where)                              # (S, K, D)
    found, others, scored = list[Tensor](), list[Tensor](), list[int]()
    metrics = AlignmentMetrics()
    for indices in torch.arange(len(uids)).split(batch_size):
        waves = _encodable(report, pipe, tests, [uids[index] for index in indices])
        if not waves:
            continue
        kept = torch.tensor([index for index in indices.tolist() if uids[index] in waves])
        sounds = pipe.encode_audio(list(waves.values()))                                      # (b, K, D)
        own = states[numbers[kept]].float()                                                   # (b, K, D)
        metrics.update(sounds, own, numbers[kept])
        found.append(_means(sounds, own))
        others.append(_means(sounds, states[numbers[(kept + 1) % len(uids)]].float()))
        scored += kept.tolist()
    if not scored:
        raise UserError(f"not one of {len(uids)} sounds can be encoded: {report.left_out[-1][1]}")
    mean = states[numbers[scored]].float().mean(dim=0, keepdim=True)                          # (1, K, D)
    constant = torch.cat([_means(mean, states[number][None].float()) for number in numbers[scored]])  # (N, metrics)
    columns = torch.cat(found).T, torch.cat(others).T, constant.T                             # (metrics, N) each
    for key, values, chance, same in zip(METRICS, *columns, strict=True):
        report.add_mean(
            f"alignment {NAMES[key]}, {name}", values, [uids[index] for index in scored],
            better="up" if key == "cosine" else "down", list_worst=key == "cosine", baselines={MEAN_TEXT: same},
            chance=float(chance.mean()) if len(texts) > 1 else None, note=f"over {len(mean[0])} states of each sound",
        )  # fmt: skip
    _add_retrieval(report, metrics, name)


def _add_retrieval(report: Report, metrics: AlignmentMetrics, name: str) -> None:
    """Add R@1, 5 and 10 by the mean states of sounds and texts; every share of one side among all of the other."""
    found = metrics.compute()
    counts = {"audio_to_text": (len(metrics.sounds), len(metrics.texts), "texts"),
              "text_to_audio": (len(metrics.texts), len(metrics.sounds), "sounds")}  # fmt: skip
    for way, (queries, answers, what) in counts.items():
        for k in (k for k in RECALLS if k < answers):
            key = f"R@{k}_{way}"
            share = Share(round(found[key] * queries), queries)
            more = {"note": f"among {answers} {what}", "headline": key == "R@1_audio_to_text"}
            report.add_share(f"R@{k} {WAYS[way]}, {name}", share, found[f"chance_{key}"], **more)


def text_states(
    report: Report, pipe: AudioToImagePipeline, texts: list[str], where: str
) -> tuple[Tensor, str]:
    """Encode texts as in training -> states (S, K, D) float16 on the CPU, and a name of the targets with their hash.

    Texts that are cut to K + 1 tokens are counted in the report.
    """
    settings = loading.read_settings(where, [RECIPE], "--checkpoint")[1]
    tokenizer, text_encoder, length = pipe.sd.tokenizer, pipe.sd.text_encoder, pipe.encoder.num_tokens + 1
    uses_mask = settings.get("text_mask", True)
    batches = DataLoader(Tokens(texts, tokenizer, length, uses_mask), TEXT_BATCH_SIZE)
    states = torch.cat([encode(text_encoder, batch.to(text_encoder.device)).half().cpu() for batch in batches])
    cut = sum(len(tokenizer(text, verbose=False).input_ids) > length for text in texts)
    if cut:
        report.counts[f"texts cut to {length} tokens, of {len(texts)} in the alignment"] = cut
    version = content_hash([length, uses_mask], text_encoder.parameters())
    return states, f"{Path(settings['stable_diffusion']).name}@{version}"


def _encodable(
    report: Report, pipe: AudioToImagePipeline, tests: HeldOut, uids: list[str]
) -> dict[str, Tensor]:
    """Read the waves (n,) of the sounds that can be encoded; the others are listed in the report."""
    waves = dict[str, Tensor]()
    for uid in uids:
        wave = torch.from_numpy(audio.load(tests.sounds[uid], pipe.encoder.sample_rate))
        try:
            pipe.encoded_seconds(wave, name="its sound")
        except SoundError as error:
            report.leave_out([(uid, f"{error}: it is not in the alignment")])
        else:
            waves[uid] = wave
    return waves


def _missing_positions(pipe: AudioToImagePipeline) -> str:
    """Say that the text encoder has fewer states than the encoder of sounds; "" if it has enough."""
    tokenizer, settings = pipe.sd.tokenizer, pipe.sd.text_encoder.config
    count, limit = pipe.encoder.num_tokens, min(tokenizer.model_max_length, settings.max_position_embeddings) - 1
    return f"its encoder makes {count} states of a sound, the text encoder has {limit}" if count > limit else ""


def _means(sounds: Tensor, texts: Tensor) -> Tensor:
    """Mean over the positions of each of the `METRICS` of states (b, K, D), (b, metrics)."""
    return torch.stack([values.mean(dim=1) for values in position_metrics(sounds, texts).values()], dim=1)
