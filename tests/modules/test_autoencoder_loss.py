from types import SimpleNamespace

import pytest
import torch

from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
from sonolume.models.convert.amphion import vae_weights
from sonolume.models.tta.autoencoderkl.model import build
from sonolume.modules.autoencoder_loss import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    nll_loss,
)

CANCELLED = 1e-6


@pytest.fixture
def official(goldens: SimpleNamespace) -> SimpleNamespace:
    """Both networks with official weights in train mode, a mel and its reconstruction."""
    vae = build(AutoencoderKLConfig(ch=32))
    vae.load_state_dict(vae_weights(goldens.weights_for("vae_4_5_39_small")), strict=True)
    weights = goldens.weights_for("loss_discriminator")
    discriminator = PatchDiscriminator()
    discriminator.load_state_dict({n.removeprefix("discriminator."): w for n, w in weights.items() if n != "logvar"})
    mel = goldens.log_mel_like("loss.mel", (2, 1, 80, 64))
    posterior = vae.train().encode(mel).latent_dist
    eps = goldens.input_for("loss.eps", (2, 4, 5, 4))
    recon = vae.decode(posterior.mean + posterior.std * eps).sample
    kl = posterior.kl().mean()
    return SimpleNamespace(
        vae=vae, discriminator=discriminator.train(), mel=mel, recon=recon, kl=kl, logvar=weights["logvar"]
    )


def close(got: torch.Tensor, wanted: float, rtol: float, name: str = "") -> None:
    assert got.item() == pytest.approx(wanted, rel=rtol, abs=0), name


def test_generator_step_equals_the_official_one(official: SimpleNamespace, goldens: SimpleNamespace):
    wanted = goldens.golden("loss_values")["step60000_opt0"]
    nll = nll_loss(official.mel, official.recon, official.logvar)
    gan = generator_loss(official.discriminator(official.recon))
    weight = adaptive_weight(nll, gan, official.vae.decoder.conv_out.weight, 0.5, 0.0, 10.0)
    loss = nll + 1e-8 * official.kl + weight * gan
    close((official.mel - official.recon).abs().mean(), wanted["rec_loss"], 1e-5)
    close(official.kl, wanted["kl_loss"], 1e-5)
    close(nll, wanted["nll_loss"], 1e-5)
    close(gan, wanted["g_loss"], 1e-5)
    close(weight, wanted["d_weight"], 1e-4)
    close(loss, wanted["loss"], 1e-5)
    assert not weight.requires_grad

    loss.backward()
    norms = vae_weights({name: torch.tensor(norm) for name, norm in goldens.golden("loss_grads_vae").items()})
    compared = [name for name, norm in norms.items() if norm > CANCELLED]
    assert len(compared) == len(norms) - 14
    for name in compared:
        close(official.vae.get_parameter(name).grad.norm(), norms[name].item(), 1e-3, name)


def test_discriminator_step_equals_the_official_one(official: SimpleNamespace, goldens: SimpleNamespace):
    wanted = goldens.golden("loss_values")["step60001_opt1"]
    real = official.discriminator(official.mel)
    fake = official.discriminator(official.recon.detach())
    loss = discriminator_loss(real, fake)
    close(real.mean(), wanted["logits_real"], 1e-5)
    close(fake.mean(), wanted["logits_fake"], 1e-5)
    close(loss, wanted["d_loss"], 1e-5)

    loss.backward()
    for name, norm in goldens.golden("loss_grads_disc").items():
        if name.startswith("discriminator.") and norm > CANCELLED:
            gradient = official.discriminator.get_parameter(name.removeprefix("discriminator.")).grad
            close(gradient.norm(), norm, 1e-3, name)


def test_the_adaptive_weight_is_bounded():
    layer = torch.ones(3, requires_grad=True)
    strong, weak = (1000 * layer).sum(), (1e-3 * layer).sum()
    assert adaptive_weight(strong, weak, layer, 0.5, 0.0, 10.0) == pytest.approx(5.0)
    assert adaptive_weight(weak, strong, layer, 0.5, 0.25, 10.0) == pytest.approx(0.125)


def test_hinge():
    assert discriminator_loss(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0])) == 0
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])) == pytest.approx(0.5 * (1 + 1.5))


def official_discriminator(goldens: SimpleNamespace) -> PatchDiscriminator:
    weights = goldens.weights_for("loss_discriminator")
    network = PatchDiscriminator()
    network.load_state_dict({n.removeprefix("discriminator."): w for n, w in weights.items() if n != "logvar"})
    return network


@torch.no_grad()
def test_equals_the_official_discriminator(goldens: SimpleNamespace):
    golden = goldens.golden("discriminator")
    mel = goldens.log_mel_like("loss.mel", (2, 1, 80, 64))
    network = official_discriminator(goldens).eval()
    goldens.assert_close(network(mel), golden["logits_eval"], 1e-5)
    wide = goldens.input_for("vae.mel.624", (1, 1, 80, 624))
    goldens.assert_close(network(wide), golden["logits_wide_eval"], 1e-5)


@torch.no_grad()
def test_batch_statistics_equal_the_official_ones(goldens: SimpleNamespace):
    golden = goldens.golden("discriminator")
    network = official_discriminator(goldens).train()
    logits = network(goldens.log_mel_like("loss.mel", (2, 1, 80, 64)))
    goldens.assert_close(logits, golden["logits_train"], 1e-5)
    running = [name for name in golden if "running" in name]
    assert len(running) == 6
    for name in running:
        goldens.assert_close(network.state_dict()[name.removeprefix("discriminator.")], golden[name], 1e-5)


def test_initialisation_and_size():
    torch.manual_seed(0)
    network = PatchDiscriminator()
    assert sum(weight.numel() for weight in network.parameters()) == 2_763_585
    assert abs(network.main[5].weight.std().item() - 0.02) < 1e-3
    assert abs(network.main[6].weight.mean().item() - 1) < 0.01
    assert not network.main[6].bias.any()
