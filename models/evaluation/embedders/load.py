"""An embedder by its name on the command line: `kind:source`."""

from pathlib import Path
from typing import TYPE_CHECKING

from sonolume.utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from sonolume.models.evaluation.embedders.base import Embedder

KINDS = {
    "clap": "ID_OR_FOLDER", "ast": "ID_OR_FOLDER", "clip": "ID_OR_FOLDER", "siglip": "ID_OR_FOLDER",
    "wav2vec2": "ID_OR_FOLDER[#LAYER]", "hubert": "ID_OR_FOLDER[#LAYER]", "wavlm": "ID_OR_FOLDER[#LAYER]",
    "encodec": "ID_OR_FOLDER", "dac": "ID_OR_FOLDER", "torchscript": "FILE.pt@RATE",
    "mini": "sound_judge, sound_judge_second, picture_judge, world or a FOLDER", "mel": "",
    "pair": "SOUND_SPEC|PICTURE_SPEC",
}  # fmt: skip
SPEECH = ("wav2vec2", "hubert", "wavlm")


def check(spec: str) -> tuple[str, str]:
    """Kind and source, before anything slow is imported.

    Raises:
        UserError: no such kind, or no source; names those that exist.
    """
    kind, colon, source = spec.partition(":")
    if not colon or kind not in KINDS:
        raise UserError(f"embedder {spec!r}: there is no such kind; write KIND:SOURCE with one of {', '.join(KINDS)}")
    if bool(source) != bool(KINDS[kind]):
        raise UserError(f"embedder {spec!r}: write {kind}:{KINDS[kind]}")
    if kind == "pair":
        _halves(spec, source)
    if kind == "torchscript" and not source.rpartition("@")[2].isdecimal():
        raise UserError(f"embedder {spec!r}: say the sample rate that the model wants, as in torchscript:FILE.pt@16000")
    return kind, source


def load(spec: str, device: "torch.device | str" = "cpu") -> "Embedder":
    """A frozen embedder. A hub id may carry a revision, ID@REVISION; folders are relative to the working directory
    or else to the repository.

    Raises:
        UserError: an unknown kind, or a source that is not there, is damaged or holds something else.
    """
    kind, source = check(spec)
    if kind == "pair":
        from sonolume.models.evaluation.embedders.pair import PairEmbedder

        ears, eyes = _halves(spec, source)
        return PairEmbedder(load(ears, device), load(eyes, device))
    if kind == "mel":
        from sonolume.models.evaluation.embedders.mel_statistics import MelStatistics

        return MelStatistics(device)
    if kind == "mini":
        from sonolume.models.evaluation.embedders import miniworld

        return miniworld.load(source, device)
    if kind == "torchscript":
        from sonolume.models.evaluation.embedders.torchscript import TorchScriptEmbedder

        path, _, rate = source.rpartition("@")
        return TorchScriptEmbedder(Path(path).expanduser(), int(rate), device)
    return _load_pretrained(kind, source, device)


def _halves(spec: str, source: str) -> tuple[str, str]:
    """The embedder of sounds and that of pictures, each checked."""
    ears, bar, eyes = source.partition("|")
    if not bar or "|" in eyes:
        raise UserError(f"embedder {spec!r}: write pair:{KINDS['pair']} in quotes, as in 'pair:clap:a|clip:b'")
    return ":".join(check(ears)), ":".join(check(eyes))


def load_all(specs: "Sequence[str]", device: "torch.device | str" = "cpu") -> "list[Embedder]":
    """Each of `specs` once.

    Raises:
        UserError: as `load`, or two of them would have the same name in a report.
    """
    found = [load(spec, device) for spec in dict.fromkeys(specs)]
    names = [embedder.name.partition("@")[0] for embedder in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"--embedder: two of them are called {twice} in a report: score with one at a time")
    return found


def _load_pretrained(kind: str, source: str, device: "torch.device | str") -> "Embedder":
    """Those of transformers, which takes seconds to import."""
    from sonolume.models.evaluation.embedders import ast, clap, clip, codec, speech
    from sonolume.models.evaluation.embedders.pretrained import Source

    if kind in SPEECH:
        name, _, layer = source.partition("#")
        if layer and not layer.isdecimal():
            raise UserError(f"embedder {kind}:{source}: the layer after # must be a number")
        return speech.SpeechEmbedder(Source.of(kind, name), device, int(layer) if layer else None)
    classes = {
        "clap": clap.ClapEmbedder, "ast": ast.AstEmbedder, "clip": clip.ClipEmbedder, "siglip": clip.SiglipEmbedder,
        "encodec": codec.EncodecEmbedder, "dac": codec.DacEmbedder,
    }  # fmt: skip
    return classes[kind](Source.of(kind, source), device)
