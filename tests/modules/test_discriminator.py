from types import SimpleNamespace

import torch

from sonolume.modules.autoencoder_loss import PatchDiscriminator


def official(goldens: SimpleNamespace) -> PatchDiscriminator:
    weights = goldens.weights_for("loss_discriminator")
    network = PatchDiscriminator()
    network.load_state_dict({n.removeprefix("discriminator."): w for n, w in weights.items() if n != "logvar"})
    return network


@torch.no_grad()
def test_equals_the_official_discriminator(goldens: SimpleNamespace):
    golden = goldens.golden("discriminator")
    mel = goldens.log_mel_like("loss.mel", (2, 1, 80, 64))
    network = official(goldens).eval()
    goldens.assert_close(network(mel), golden["logits_eval"], 1e-5)
    wide = goldens.input_for("vae.mel.624", (1, 1, 80, 624))
    goldens.assert_close(network(wide), golden["logits_wide_eval"], 1e-5)


@torch.no_grad()
def test_batch_statistics_equal_the_official_ones(goldens: SimpleNamespace):
    golden = goldens.golden("discriminator")
    network = official(goldens).train()
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
