"""Inference of the autoencoder and the vocoder: sound files -> rebuilt wav, spectrograms and json."""

from collections.abc import Callable

import numpy as np
from torch import Tensor
from tqdm import tqdm

from sonolume.config.options import ReconstructionOptions
from sonolume.models import runtime
from sonolume.modules.mel import MelSettings
from sonolume.utils import audio, files
from sonolume.utils.audio import SoundError
from sonolume.utils.image import spectrogram_grid

Rebuilt = tuple[Tensor, Tensor, Tensor]  # ln mel (M, T) of the input, ln mel (M, T) of the result, result (n,)


def run(
    rebuild: Callable[[np.ndarray], Rebuilt], options: ReconstructionOptions, model: str, settings: MelSettings,
    suffix: str,
) -> None:  # fmt: skip
    """Rebuild every sound file and print the path of each wav; unreadable files are reported and left out.

    Args:
        rebuild: takes a wave (n,) at the rate of `settings`.
        suffix: end of the results' names.

    Raises:
        UserError: there is not one readable sound.
    """
    paths, errors = files.find_sounds(*options.audio), list[SoundError]()
    folder = runtime.make_folder(options.output_dir)
    for path in tqdm(paths, unit="clip", disable=len(paths) < 2):
        try:
            wave = audio.load(path, settings.sample_rate)
            audio.check_wave(wave, settings.sample_rate, path, silent_ok=True)
            real, rebuilt, result = rebuild(wave)
            if not result.isfinite().all():
                raise SoundError(f"{path}: its result is NaN: use --dtype float32, or another model", "NaN")
        except SoundError as error:
            errors.append(error)
            continue
        with runtime.new_result(folder, path.stem, suffix, ".wav") as name:
            level = runtime.save_sound(name, result.numpy(), settings.sample_rate)
            columns, titles = [real[None].numpy(), rebuilt[None].numpy()], ["original", "reconstructed"]
            spectrogram_grid(name.with_suffix(".png"), columns, [path.name], titles, **settings.axes)
            facts = {"audio": str(path), "model": model, "mel_l1": float((real - rebuilt).abs().mean()), **level}
            files.write_json(name.with_suffix(".json"), runtime.describe(**facts))
        print(name)
    audio.report_unusable(errors, len(paths))
