"""mini/turbo: the preset "turbo" of the tiny Stable Diffusion, a LoRA made by distillation."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, LoraConfig, LoraTarget, Strict, TrainConfig
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions
from sonolume.config.tta.audioldm import DistillConfig, DistillStage, Method


@dataclass
class ModelConfig(Strict):
    pretrained: str = "pretrained/mini/stable_diffusion"  # folder of the Stable Diffusion to distill
    sound_encoders: list[str] = field(default_factory=list)  # audio-to-image folders that make conditions, too
    on_policy_student: str = ""  # folder of a student's LoRA: paths begin at the inputs of its own calls
    method: Method = Method.lora  # no other: the result is a file of adapters
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(targets=list(LoraTarget)))
    distill: DistillConfig = field(
        default_factory=lambda: DistillConfig(
            stage=DistillStage.endpoint, guidance_scale=4.0, path_steps=8, matching_steps=0, renoised_share=0.0
        )
    )

    def __post_init__(self) -> None:
        self.require(bool(self.pretrained), "model.pretrained must not be empty")
        self.require(self.method is Method.lora, "model.method must be lora: the result is a file of adapters")
        self.require(self.distill.stage is not DistillStage.none, "model.distill.stage must be endpoint or matching")
        self.require(not self.distill.captions, "model.distill.captions: this recipe makes its own captions")
        steps, path_steps = self.distill.steps, self.distill.path_steps
        is_whole = path_steps % steps == 0
        self.require(is_whole, f"model.distill.path_steps {path_steps} is not divisible by model.distill.steps {steps}")
        scale = self.distill.guidance_scale
        self.require(scale > 1, f"model.distill.guidance_scale must be above 1, got {scale:g}: guidance is built in")


@dataclass
class Config(GeneratedDataConfig):
    cache_dir: str = "data/miniworld/cache"  # folder of the teacher's sampling paths
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=1e-3)))
