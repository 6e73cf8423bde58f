"""The autoencoder's training step, as the loop runs it, against one written out."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sonolume.config.load import load_config
from sonolume.models import precision, training
from sonolume.models.data_order import EpochOrder
from sonolume.models.training import Frozen, StepBatches, step_generator
from sonolume.models.tta.autoencoderkl.data import training_data
from sonolume.models.tta.autoencoderkl.task import Task
from sonolume.modules.autoencoder_loss import adaptive_weight, discriminator_loss, generator_loss, nll_loss
from sonolume.utils import checkpoint

TRAIN = {
    "max_steps": 3, "accumulate": 2, "gradient_clip": 0.5, "ema_decay": 0, "warmup_steps": 1, "lr_schedule": "constant",
    "adam": {"lr": 1e-3}, "valid_interval": 9, "save_checkpoints_steps": 9,
}  # fmt: skip
RATES = (0.5, 1.0, 1.0)  # of the warm-up


class Reference:
    """Both networks and both optimizers, stepped by hand."""

    def __init__(self, config: Any) -> None:
        self.config, self.loss = config, config.model.loss
        task = Task(config, Frozen())
        self.vae, self.discriminator, self.logvar = task.vae, task.discriminator, task.logvar
        self.norms: list[Tensor] = []
        self.adams = [torch.optim.AdamW(net.parameters(), lr=1e-3) for net in (self.vae, self.discriminator)]

    def vae_loss(self, x: Tensor, recon: Tensor, kl: Tensor, with_gan: bool) -> Tensor:
        nll = nll_loss(x, recon, self.logvar)
        total = nll + self.loss.kl_weight * kl
        if not with_gan:
            return total
        gan = generator_loss(self.discriminator(recon))
        weight = adaptive_weight(nll, gan, self.vae.decoder.conv_out.weight, self.loss.disc_weight, 0, 10)
        return total + weight * self.loss.disc_factor * gan

    def step(self, number: int, batches: Iterable[Tensor], for_vae: bool, for_discriminator: bool) -> None:
        with_gan = number >= self.loss.disc_start
        for count, x in enumerate(batches):
            posterior = self.vae.encode(x).latent_dist
            random = step_generator(self.config.train.random_seed, 2 * number + count)
            z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=random)
            recon = self.vae.decode(z).sample
            if for_vae:
                loss = self.vae_loss(x, recon, posterior.kl().mean(), with_gan) / 2
                loss.backward(inputs=list(self.vae.parameters()))
            if for_discriminator:
                loss = discriminator_loss(self.discriminator(x), self.discriminator(recon.detach())) / 2
                (self.loss.disc_factor * loss).backward(inputs=list(self.discriminator.parameters()))
        starts = 0, self.loss.disc_start
        for chosen, adam, start in zip((for_vae, for_discriminator), self.adams, starts, strict=True):
            if chosen:
                weights = [weight for group in adam.param_groups for weight in group["params"]]
                self.norms.append(torch.nn.utils.clip_grad_norm_(weights, 0.5))
                adam.param_groups[0]["lr"] = 1e-3 * RATES[number - start]
                adam.step()
                adam.zero_grad()


@pytest.mark.parametrize(
    ("disc_start", "alternate", "turns"),
    [
        (0, False, [(True, True), (True, True), (True, True)]),
        (1, False, [(True, False), (True, True), (True, True)]),
        (0, True, [(True, False), (False, True), (True, False)]),  # the seed: even steps the VAE, odd the discriminator
    ],
)
def test_three_steps_are_those_written_out(
    tiny_config: Callable[..., Path], disc_start: int, alternate: bool, turns: list[tuple[bool, bool]]
):
    """Accumulated over two batches, clipped, with the adaptive weight; the discriminator has a warm-up of its own."""
    path = tiny_config("tta/autoencoderkl", train=TRAIN)
    overrides = [f"model.loss.disc_start={disc_start}", f"model.loss.alternate={str(alternate).lower()}"]
    overrides += ["model.loss.kl_weight=0.001", "model.loss.disc_factor=0.7"]
    config = load_config(path, overrides)
    training.run(config, resume=False)
    got = checkpoint.read(config.run_dir / "checkpoints" / "last.ckpt")["state_dict"]

    reference = Reference(config)
    data = training_data(config, Frozen()).train
    items = list(StepBatches(EpochOrder(10, config.train.random_seed), 2, 6))
    for number, turn in enumerate(turns):
        pair = items[2 * number : 2 * number + 2]
        reference.step(number, [torch.stack([data[item] for item in batch]) for batch in pair], *turn)
    assert min(norm.item() for norm in reference.norms) > 0.5  # so that clipping shows
    for name, weight in [*reference.vae.named_parameters(prefix="vae"),
                         *reference.discriminator.named_parameters(prefix="discriminator")]:  # fmt: skip
        torch.testing.assert_close(got[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_half_precision_reaches_the_network(tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    seen = []
    reconstruct = Task._reconstruct

    def watched(task: Task, x: Tensor) -> Any:
        task.vae.encoder.conv_in.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
        return reconstruct(task, x)

    monkeypatch.setattr(Task, "_reconstruct", watched)
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    path = tiny_config("tta/autoencoderkl", train=TRAIN | {"max_steps": 1, "accumulate": 1})
    training.run(load_config(path, ["train.precision=bf16-mixed"]), resume=False)
    assert seen[0] == torch.bfloat16
