"""Evaluation of audio2img: the pictures of sounds, and the alignment of their states with the states of the captions.

N sounds, b in a batch, S distinct texts, K states of a sound, D width.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sonolume.config.a2i.audio2img import Config, EvaluationOptions, Head
from sonolume.models import runtime
from sonolume.models.a2i import evaluate, loading
from sonolume.models.a2i.audio2img.encoder import RECIPE
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.a2i.text_states import Tokens, encode
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.report import Report, finish
from sonolume.models.evaluation.samples import weights_version
from sonolume.modules.metrics.interval import Share
from sonolume.modules.metrics.retrieval import RECALLS
from sonolume.modules.sequence_alignment import METRICS, AlignmentMetrics, position_metrics
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
    settings = _settings(where)
    if settings.get("head") == Head.attention:
        raise UserError(f"{where}: its head attention has no states that belong to texts: score its sound_encoder, "
                        f"{settings.get('sound_encoder')}")  # fmt: skip
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
    if not report.scores:
        raise UserError(f"{tests.source['source']}: there is no sound to score: {report.left_out[-1][1]}")
    finish(report, folder)


@torch.no_grad()
def add_alignment(report: Report, pipe: AudioToImagePipeline, tests: HeldOut, where: str, batch_size: int) -> None:
    """Add the distances of sounds from their captions in the text encoder's states, and the retrieval both ways.

    Sounds are encoded as for their pictures, captions as in training. Chance is the distance from the caption of
    another sound; the column "mean text" is that of one answer to all sounds, the mean state of their captions. The
    head attention has no such states: nothing is added.

    Args:
        where: folder or hub id of the model.
    """
    settings = _settings(where)
    if settings.get("head") == Head.attention:
        return
    if limit := _missing_positions(pipe):
        message(f"alignment is not scored: {limit}")
        return
    captions = [tests.captions[uid] for uid in tests.sounds]
    texts = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([texts[caption] for caption in captions])                          # (N,)
    states, name = text_states(report, pipe, list(texts), settings)                           # (S, K, D)
    metrics, scored, found, others = AlignmentMetrics(), list[int](), list[Tensor](), list[Tensor]()
    for indices, sounds in _encoded_sounds(report, pipe, tests, batch_size):                  # (b,), (b, K, D)
        target, other = (states[numbers[one % len(numbers)]].float() for one in (indices, indices + 1))
        metrics.update(sounds, target, numbers[indices])
        found.append(_means(sounds, target))
        others.append(_means(sounds, other))
        scored += indices.tolist()
    if not scored:
        message(f"alignment is not scored: not one of {len(captions)} sounds can be encoded")
        return
    mean = states[numbers[scored]].float().mean(dim=0, keepdim=True)                          # (1, K, D)
    constant = [_means(mean, states[number][None].float()) for number in numbers[scored]]     # (1, metrics) each
    uids = [list(tests.sounds)[index] for index in scored]
    _add_distances(report, name, uids, torch.cat(found), torch.cat(others), torch.cat(constant))
    _add_retrieval(report, metrics, name)


def _add_distances(
    report: Report, name: str, uids: list[str], found: Tensor, others: Tensor, constant: Tensor
) -> None:
    """Add the means of the `METRICS` (N, metrics) of sounds, of other captions, and of one answer to all sounds."""
    for number, key in enumerate(METRICS):
        report.add_mean(
            f"alignment {NAMES[key]}, {name}", found[:, number], uids, better="up" if key == "cosine" else "down",
            list_worst=key == "cosine", baselines={MEAN_TEXT: constant[:, number]},
            chance=float(others[:, number].mean()) if len(uids) > 1 else None, note="over all states of each sound",
        )  # fmt: skip


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
    report: Report, pipe: AudioToImagePipeline, texts: list[str], settings: dict[str, Any]
) -> tuple[Tensor, str]:
    """Encode texts as in training -> states (S, K, D) float16 on the CPU, and a name of the targets with their hash.

    Texts that are cut to K + 1 tokens are counted in the report.
    """
    tokenizer, text_encoder, length = pipe.sd.tokenizer, pipe.sd.text_encoder, pipe.encoder.num_tokens + 1
    uses_mask = settings.get("text_mask", True)
    batches = DataLoader(Tokens(texts, tokenizer, length, uses_mask), TEXT_BATCH_SIZE)
    states = torch.cat([encode(text_encoder, batch.to(text_encoder.device)).half().cpu() for batch in batches])
    cut = sum(len(tokenizer(text, verbose=False).input_ids) > length for text in texts)
    if cut:
        report.counts[f"texts cut to {length} tokens, of {len(texts)} in the alignment"] = cut
    version = content_hash([length, uses_mask], text_encoder.parameters())
    return states, f"{Path(settings['stable_diffusion']).name}@{version}"


def _settings(where: str) -> dict[str, Any]:
    """Read the settings of an exported folder."""
    return loading.read_settings(where, [RECIPE], "--checkpoint")[1]


def _encoded_sounds(
    report: Report, pipe: AudioToImagePipeline, tests: HeldOut, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Encode the sounds in batches -> their indices (b,) and states (b, K, D); list those that cannot be encoded."""
    uids, rate = list(tests.sounds), pipe.encoder.sample_rate
    for indices in torch.arange(len(uids)).split(batch_size):
        waves = dict[int, Tensor]()
        for index in indices.tolist():
            wave = torch.from_numpy(audio.load(tests.sounds[uids[index]], rate))              # (n,)
            try:
                pipe.encoded_seconds(wave, name="its sound")
            except SoundError as error:
                report.leave_out([(uids[index], f"{error}: it is not in the alignment")])
            else:
                waves[index] = wave
        if waves:
            yield torch.tensor(list(waves)), pipe.encode_audio(list(waves.values()))


def _missing_positions(pipe: AudioToImagePipeline) -> str:
    """Say that the text encoder has fewer states than the encoder of sounds; "" if it has enough."""
    tokenizer, settings = pipe.sd.tokenizer, pipe.sd.text_encoder.config
    count, limit = pipe.encoder.num_tokens, min(tokenizer.model_max_length, settings.max_position_embeddings) - 1
    return f"its encoder makes {count} states of a sound, the text encoder has {limit}" if count > limit else ""


def _means(sounds: Tensor, texts: Tensor) -> Tensor:
    """Mean over the positions of each of the `METRICS` of states (b, K, D), (b, metrics)."""
    return torch.stack([values.mean(dim=1) for values in position_metrics(sounds, texts).values()], dim=1)
