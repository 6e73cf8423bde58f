"""Evaluation of wavy: pictures of what is said next to those of transcripts, and retrieval of pictures and recordings.

Retrieval follows SpeechCLIP (Shih et al. 2022): a picture counts once, speech finds its picture, and a picture finds
any of its recordings. N recordings, M pictures, V width of the image encoder's vectors, J width of the common space.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sonolume.config.s2i.wavy import Config, EvaluationOptions, Stage
from sonolume.models import runtime
from sonolume.models.a2i import evaluate, loading
from sonolume.models.a2i.evaluate import Painter
from sonolume.models.a2i.pipeline import SETTINGS_FILE, AudioToImagePipeline
from sonolume.models.evaluation import held_out
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.report import MAX_OUTLIERS, Report, Score, finish
from sonolume.models.evaluation.samples import Files, weights_version
from sonolume.models.s2i.wavy import retrieval
from sonolume.models.s2i.wavy.encoder import HUBERT, IMAGE_ENCODER, RECIPE, check_images, load, source_of
from sonolume.models.s2i.wavy.image_encoder import ImageEncoder, load_image_encoder
from sonolume.models.s2i.wavy.retrieval import DualEncoder
from sonolume.models.speech_recognition import Recogniser, count_wrong_letters, error_rate, letters
from sonolume.modules.metrics.embeddings import cosine_matrix, rank_distribution, ranks
from sonolume.modules.metrics.interval import JACKKNIFE_GROUPS, Share, jackknife
from sonolume.utils import audio, paths
from sonolume.utils.errors import UserError
from sonolume.utils.text import message

WORLD_ASR = "pretrained/mini/hubert"
WORLD_EMBEDDERS = ("mini:picture_judge", "clip:pretrained/mini/clip")
RECALLS = (1, 5, 10)
TEXT_BATCH_SIZE = 64
TRANSCRIPT, ANOTHER, WRITTEN = "transcript", "another sentence", "written caption"  # columns


def run(config: Config, options: EvaluationOptions) -> None:
    """Score pictures and retrieval, or with --retrieval_only the latter alone; write report.json and report.md."""
    if options.generated is not None or options.reference is not None:
        evaluate.run(config, options)
        return
    where, in_world = evaluate.find_model(config, options)
    if options.retrieval_only:
        score_retrieval(config, options, where, in_world)
        return
    folder, settings = loading.read_settings(where, [RECIPE], "--checkpoint")
    if settings.get("stage") == Stage.encoder:
        raise UserError(f"{where}: holds a speech encoder without a head, which cannot draw: add --retrieval_only")
    if options.other_head is not None:
        loading.read_settings(paths.locate(options.other_head, "--other_head", flag=True), [RECIPE], "--other_head")
    asr = options.asr or (WORLD_ASR if in_world else None)
    key = f"{folder / SETTINGS_FILE}: {IMAGE_ENCODER}"
    images = load_image_encoder(source_of(folder, settings, IMAGE_ENCODER), key)
    own = Evaluation(config, options, images, Recogniser(asr) if asr else None)
    evaluate.run(config, options, own.add_scores, own.draw_baselines, held_out.spoken_scenes, WORLD_EMBEDDERS)


def score_retrieval(config: Config, options: EvaluationOptions, where: str, in_world: bool) -> None:
    """Score retrieval alone; no Stable Diffusion is loaded."""
    encoder, settings = retrieval.load(where, runtime.pick_device(options.device))
    folder = runtime.make_folder(options.output_dir)
    if in_world:
        held_out.check_sample_rate(encoder.sample_rate)
        tests = evaluate.collect_world(config, options, folder, held_out.spoken_scenes)
    else:
        tests = captioned_pictures(config, options)
    parts = {name: settings[name] for name in (HUBERT, IMAGE_ENCODER)}
    facts = {"model": where, "weights": weights_version(where), **parts, "of": tests.source["source"]}
    report = Report(evaluate.conditions(tests, {}, [], options), facts=facts)
    add_retrieval(report, encoder, tests)
    if not report.scores:
        reason = report.left_out[-1][1] if report.left_out else "there are fewer than 2 pictures"
        raise UserError(f"{tests.source['source']}: nothing to retrieve: {reason}")
    finish(report, folder)


def captioned_pictures(config: Config, options: EvaluationOptions) -> HeldOut:
    """Draw pictures of the test split with all their recordings, at most --num_samples recordings."""
    tests = held_out.recorded_sounds(config, options.num_samples, by_picture=True)
    if not tests.pictures:
        raise UserError(f"{tests.source['source']}: its recordings have no pictures, so there is nothing to retrieve")
    return tests


class Evaluation:
    """Additions of this recipe to the shared evaluation.

    Args:
        images: of the evaluated model, on the CPU.
        recogniser: makes the transcripts; None for none. It is dropped after its use.
    """

    def __init__(
        self, config: Config, options: EvaluationOptions, images: ImageEncoder, recogniser: Recogniser | None
    ) -> None:
        self.config, self.options, self.images, self.recogniser = config, options, images, recogniser
        self.transcripts: dict[str, str] = {}
        self.asr = recogniser and recogniser.where

    def draw_baselines(self, painter: Painter, tests: HeldOut, made: Files) -> Mapping[str, Files]:
        """Draw pictures by --other_head and of the transcripts; take the picture of the next recording for each one."""
        columns: dict[str, Files] = {}
        if self.options.other_head is not None:
            column, other = with_head(painter, self.options.other_head)
            columns[column] = other.from_sounds(tests, column)
        if self.recogniser is not None:
            self.transcripts = transcribe(self.recogniser, tests.sounds, runtime.pick_device(self.options.device))
            texts = {uid: shorten(text, painter.pipe.sd.tokenizer) for uid, text in self.transcripts.items()}
            source = tests.source | {"asr": weights_version(self.recogniser.where)}
            self.recogniser = None
            columns[TRANSCRIPT] = painter.from_texts(texts, TRANSCRIPT, source)
        uids = list(made)
        if len(uids) > 1:
            columns[ANOTHER] = {uid: made[other] for uid, other in zip(uids, uids[1:] + uids[:1], strict=True)}
        return columns

    def add_scores(self, report: Report, pipe: AudioToImagePipeline, tests: HeldOut, where: str) -> None:
        """Add retrieval, and the letter error rate of the transcripts."""
        encoder: Any = pipe.encoder
        check_images(self.images, encoder.vectors.speech_encoder, f"{where}: {IMAGE_ENCODER}")
        self.images.to(pipe.sd.device)
        pairs = tests if tests.scenes else captioned_pictures(self.config, self.options)
        add_retrieval(report, DualEncoder(encoder.vectors, self.images), pairs)
        if self.asr is not None:
            report.facts["asr"] = self.asr
            add_letter_errors(report, self.transcripts, tests.captions)


def with_head(painter: Painter, source: str) -> tuple[str, Painter]:
    """Name the head of an exported folder or hub id, and let it draw with the Stable Diffusion of a painter."""
    where, options = paths.locate(source, "--other_head", flag=True), painter.options
    folder, settings = loading.read_settings(where, [RECIPE], "--other_head")
    encoder = load(folder, settings, painter.pipe.sd.device, torch.float32)
    try:
        pipe = AudioToImagePipeline.from_pipe(painter.pipe, encoder)
    except ValueError as error:
        raise UserError(f"--other_head {source}: {error}") from error
    made_by = painter.settings | {"model": weights_version(where), "prompt": encoder.prompt}
    if options.guidance_scale is None:
        made_by["guidance_scale"] = float(settings.get("guidance_scale", pipe.guidance_scale))
    return f"head {settings['head']}", replace(painter, pipe=pipe, settings=made_by)


def transcribe(recogniser: Recogniser, sounds: Files, device: torch.device) -> dict[str, str]:
    """Transcribe sounds -> texts by Uid."""
    recogniser.model.to(device)
    waves = [audio.load(path, recogniser.sample_rate) for path in sounds.values()]
    return dict(zip(sounds, recogniser.transcribe(waves), strict=True))


def shorten(text: str, tokenizer: Any) -> str:
    """Leave out the last words of a text that a text encoder would cut."""
    words = text.split()
    while words and len(tokenizer(" ".join(words), verbose=False).input_ids) > tokenizer.model_max_length:
        words.pop()
    return " ".join(words)


def add_letter_errors(report: Report, transcripts: Mapping[str, str], captions: Mapping[str, str]) -> None:
    """Add the letter error rate of transcripts against the captions that exist; list the worst."""
    uids = [uid for uid in transcripts if letters(captions.get(uid, ""))]
    if not uids:
        return
    counts = count_wrong_letters([transcripts[uid] for uid in uids], [captions[uid] for uid in uids])  # (N, 2)
    low, high = jackknife(error_rate, counts, lowest=0) if len(uids) >= JACKKNIFE_GROUPS else (None, None)
    empty = sum(not transcripts[uid] for uid in uids)
    note = "without case and punctuation" + (f"; {empty} transcripts are empty" if empty else "")
    name = "wrong letters of the transcripts"
    report.scores.append(Score(name, error_rate(counts), "down", low, high, len(uids), note, unit="%"))
    rates = counts[:, 0] / counts[:, 1]
    worst = rates.argsort(descending=True).tolist()[:MAX_OUTLIERS]
    report.outliers += [(name, uids[one], float(rates[one])) for one in worst if rates[one]]


def add_retrieval(report: Report, encoder: DualEncoder, tests: HeldOut) -> None:
    """Add R@1, 5 and 10 both ways, next to those of the written captions if the image encoder has a text encoder.

    A recording has one right picture, a picture as many right recordings as it has captions. Without two pictures,
    nothing is added.
    """
    uids = {path: uid for uid, path in tests.sounds.items() if uid in tests.pictures}
    speech, clips, bad_recordings = retrieval.encode_recordings(encoder, list(uids))                     # (N, J)
    paths = list(dict.fromkeys(tests.pictures[uids[clip.path]] for clip in clips))
    pictures, kept, bad_pictures = retrieval.encode_pictures(encoder.images, paths)                     # (M, V)
    reasons = {**bad_recordings, **bad_pictures}.items()
    report.leave_out((uids.get(path, str(path)), str(error).removeprefix(f"{path}: ")) for path, error in reasons)
    if len(kept) < 2:
        message(f"retrieval is not scored: it needs two pictures with recordings, there are {len(kept)}")
        return
    numbers = {path: number for number, path in enumerate(kept)}
    rows = [row for row, clip in enumerate(clips) if tests.pictures[uids[clip.path]] in numbers]
    chosen = [uids[clips[row].path] for row in rows]
    own = torch.tensor([numbers[tests.pictures[uid]] for uid in chosen])                          # (N,)
    right = own[:, None] == torch.arange(len(kept))                                               # (N, M)
    cosines = speech[rows] @ encoder.project_images(pictures).T                                   # (N, M)
    texts = text_vectors(encoder.images, [tests.captions[uid] for uid in chosen])                 # (N, V)
    columns = {} if texts is None else {WRITTEN: cosine_matrix(texts, pictures)}                  # (N, M)
    _add_recalls(report, "speech to image", cosines, right, columns, "pictures")
    back = {name: matrix.T for name, matrix in columns.items()}
    _add_recalls(report, "image to speech", cosines.T, right.T, back, "recordings")


def _add_recalls(
    report: Report, way: str, cosines: Tensor, right: Tensor, columns: Mapping[str, Tensor], answers: str
) -> None:
    """Add the recalls of one way, from cosines and right answers (queries, answers); `columns` are other cosines."""
    found, chance = ranks(cosines, right), rank_distribution(right)
    others = {name: ranks(matrix, right) for name, matrix in columns.items()}
    for k in (k for k in RECALLS if k < len(chance)):
        baselines = {name: Share.of(places <= k) for name, places in others.items()}
        more = {"note": f"among {len(chance)} {answers}", "headline": k == max(RECALLS)}
        report.add_share(f"R@{k} {way}", Share.of(found <= k), float(chance[:k].sum()), baselines, **more)


def text_vectors(images: ImageEncoder, texts: list[str]) -> Tensor | None:
    """Vectors (N, V) of texts by the text encoder of the same CLIP, on the CPU; None if there is none."""
    batches = [texts[start : start + TEXT_BATCH_SIZE] for start in range(0, len(texts), TEXT_BATCH_SIZE)]
    try:
        return torch.cat([images.encode_texts(batch).cpu() for batch in batches])
    except UserError as error:
        message(f"no column of the written captions: {error}")
        return None
