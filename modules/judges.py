"""Small classifiers that score generated sounds and pictures of the miniature world.

They are never used as a loss or to select samples.

B batch, K kinds, M mel bands, T frames, S = T / 8 steps, F rows of features, C channels, D width of a step's features.
"""

from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.utils import checkpoint, files
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError

STRIDE = 8  # frames per step
PATCH = 16  # mel bands and frames of a transformer token
MEL_MEAN, MEL_SCALE = -6.0, 4.0  # approximate mean and deviation of ln mel magnitudes
WEIGHTS_FILE = "model.safetensors"


class SoundJudgement(NamedTuple):
    """Logits of the sound judge."""

    presence: Tensor  # (B, K) independent, one for each kind
    activity: Tensor  # (B, K, S) independent, one for each kind and step
    repeats: Tensor  # (B, 3) once, twice, three times; single events only, as all below (`count` is a tuple method)
    pitch: Tensor  # (B, 2) low, high
    loudness: Tensor  # (B, 2) quiet, loud
    direction: Tensor  # (B, 2) up, down


class PictureJudgement(NamedTuple):
    """Logits of the picture judge."""

    presence: Tensor  # (B, K) independent, one for each kind
    layout: Tensor  # (B, 3) one panel, two side by side ("then"), two stacked ("over")
    panels: Tensor  # (B, 2, K) kind in the first (only, left, upper) and the second (right, lower) panel
    repeats: Tensor  # (B, 3) once, twice, three times; single events only


class Judge(nn.Module):
    """Base of the judges, with loading and saving: half-precision weights on disk, float32 in memory."""

    def __init__(self, kinds: list[str], world: int, **settings: Any) -> None:
        super().__init__()
        self.kinds, self.world = list(kinds), world
        self.settings = {"world": world, "kinds": self.kinds, **settings}

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
        with files.atomic_path(folder / WEIGHTS_FILE) as path:
            save_file({name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}, path)
        files.write_json(folder / "config.json", {"_class_name": type(self).__name__, **self.settings})

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Load a frozen judge in evaluation mode; a folder that is absent, damaged or another model is a UserError."""
        folder = Path(folder)
        checkpoint.check_folder(folder, cls.__name__)
        settings = files.read_json(folder / "config.json")
        settings.pop("_class_name")
        try:
            judge = cls(**settings)
            weights = load_file(folder / WEIGHTS_FILE)
        except (TypeError, FileNotFoundError) as error:
            raise UserError(f"{folder}: incomplete {cls.__name__} ({error}): make or copy it again") from error
        if difference := checkpoint.first_difference(weights, judge.state_dict()):
            raise UserError(f"{folder / WEIGHTS_FILE}: does not fit the folder's config.json: {difference}")
        judge.load_state_dict(weights)
        return judge.eval().requires_grad_(False)


def judge_version(folder: Path) -> str:
    """NAME@HASH of a judge's folder, for reports and conditions."""
    return f"{folder.name}@{content_hash(folder / 'config.json', folder / WEIGHTS_FILE)}"


class SoundJudge(Judge):
    """Classify the events in a log-mel: kinds, activity over time, repetitions and attributes.

    Args:
        kinds: names of the K kinds, in the order of the logits.
        architecture: a key of `BACKBONES`.
        width: channels of the first convolution (conv_gru) or of a token (patch_transformer).
        n_mel, frames: M and T, multiples of 16 and 8.
        world: version of the miniature world that it was trained on.
    """

    def __init__(
        self, kinds: list[str], architecture: str, width: int, n_mel: int = 80, frames: int = 160, world: int = 1
    ) -> None:
        super().__init__(kinds, world, architecture=architecture, width=width, n_mel=n_mel, frames=frames)
        if architecture not in BACKBONES:
            raise ValueError(f"unknown architecture {architecture!r}: choose from {', '.join(BACKBONES)}")
        if n_mel % PATCH or frames % STRIDE:
            raise ValueError(f"n_mel {n_mel} must be a multiple of {PATCH}, frames {frames} of {STRIDE}")
        self.backbone = BACKBONES[architecture](width, n_mel, frames)
        width = self.backbone.out_width
        self.presence = nn.Linear(width, len(kinds))
        self.activity = nn.Linear(width, len(kinds))
        self.summary = nn.Sequential(nn.Linear(2 * width, 64), nn.GELU())
        self.count, self.pitch = nn.Linear(64, 3), nn.Linear(64, 2)
        self.loudness, self.direction = nn.Linear(64, 2), nn.Linear(64, 2)

    def forward(self, mel: Tensor) -> SoundJudgement:
        """(B, M, T) natural-log mel magnitudes."""
        steps = self.backbone(((mel - MEL_MEAN) / MEL_SCALE)[:, None])  # (B, S, D)
        peak = steps.amax(1)                                            # (B, D)
        summary = self.summary(torch.cat([steps.mean(1), peak], -1))    # (B, 64)
        attributes = (head(summary) for head in (self.count, self.pitch, self.loudness, self.direction))
        return SoundJudgement(self.presence(peak), self.activity(steps).mT, *attributes)


class ConvGRU(nn.Module):
    """Convolutions followed by a bidirectional GRU over time."""

    def __init__(self, width: int, n_mel: int, frames: int) -> None:
        super().__init__()
        self.conv = _convolutions(1, width)
        self.mix = nn.Conv1d(3 * width * n_mel // 8, 6 * width, 1)
        self.gru = nn.GRU(6 * width, 4 * width, batch_first=True, bidirectional=True)
        self.out_width = 8 * width

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, M, T) -> (B, S, D)."""
        x = self.conv(x).flatten(1, 2)              # (B, C*F, S)
        return self.gru(F.relu(self.mix(x)).mT)[0]  # (B, S, D)


class PatchTransformer(nn.Module):
    """Transformer over patches of 16 bands x 16 frames that overlap in time."""

    def __init__(self, width: int, n_mel: int, frames: int, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, PATCH, stride=(PATCH, STRIDE), padding=(0, STRIDE // 2))
        self.row = nn.Parameter(0.2 * torch.randn(width, n_mel // PATCH, 1))
        self.step = nn.Parameter(0.2 * torch.randn(width, 1, frames // STRIDE))
        how: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, **how)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out_width = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, M, T) -> (B, S, D)."""
        x = self.patch(x) + self.row + self.step                       # (B, C, F, S)
        rows, steps = x.shape[2:]
        x = self.encoder(x.flatten(2).mT).unflatten(1, (rows, steps))  # (B, F, S, C)
        return torch.cat([x.mean(1), x.amax(1)], -1)                   # (B, S, D)


BACKBONES = {"conv_gru": ConvGRU, "patch_transformer": PatchTransformer}


class PictureJudge(Judge):
    """Classify the kinds in a 64 x 64 picture, their panels, and the repetitions of a single event."""

    def __init__(self, kinds: list[str], width: int, world: int = 1) -> None:
        super().__init__(kinds, world, width=width)
        self.conv = _convolutions(3, width)
        self.summary = nn.Sequential(nn.Linear(6 * 3 * width, 128), nn.GELU())
        self.presence, self.layout = nn.Linear(128, len(kinds)), nn.Linear(128, 3)
        self.panels, self.count = nn.Linear(128, 2 * len(kinds)), nn.Linear(128, 3)

    def forward(self, picture: Tensor) -> PictureJudgement:
        """(B, 3, 64, 64) in 0..1."""
        x = self.conv(2 * picture - 1)                                    # (B, C, 8, 8)
        side = x.shape[-1] // 2
        regions = (x, x[..., :side], x[..., side:], x[..., :side, :], x[..., side:, :])
        pooled = [region.amax((2, 3)) for region in regions]              # 5 of (B, C)
        summary = self.summary(torch.cat([x.mean((2, 3)), *pooled], -1))  # (B, 128)
        panels = self.panels(summary).unflatten(-1, (2, -1))              # (B, 2, K)
        return PictureJudgement(self.presence(summary), self.layout(summary), panels, self.count(summary))


def _convolutions(channels: int, width: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, 3 width, H / 8, W / 8)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    for before, after in ((width, 2 * width), (2 * width, 3 * width)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2),
        ]  # fmt: skip
    return nn.Sequential(*layers)
