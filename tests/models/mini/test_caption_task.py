import torch

from sonolume.models.mini.text_encoder import HEADS, CaptionReader

STEPS, KINDS = 6, 5


def reader() -> CaptionReader:
    torch.manual_seed(0)
    return CaptionReader(width=16, kinds=KINDS, steps=STEPS).eval()


def test_shapes_and_gradients():
    network = reader()
    states = torch.randn(3, 7, 16, requires_grad=True)
    reading = network(states, torch.ones(3, 7, dtype=torch.long))
    assert reading.activity.shape == (3, KINDS, STEPS)
    assert {name: logits.shape for name, logits in reading.slots.items()} == {
        name: (3, 2, KINDS + 1 if name == "kind" else size) for name, size in HEADS.items()
    }
    (reading.activity.sum() + sum(logits.sum() for logits in reading.slots.values())).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    assert states.grad is not None and states.grad.abs().sum(-1).min() > 0


def test_padding_is_not_read():
    network = reader()
    states = torch.randn(2, 7, 16)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[:, 5:] = 0
    other = states.clone()
    other[:, 5:] = 100.0
    one, two = network(states, mask), network(other, mask)
    torch.testing.assert_close(one.activity, two.activity)
    torch.testing.assert_close(one.slots["kind"], two.slots["kind"])
    assert not one.activity.allclose(network(states, torch.ones_like(mask)).activity)


def test_time_steps_and_slots_differ():
    reading = reader()(torch.randn(1, 7, 16), torch.ones(1, 7))
    assert not reading.activity[0, :, 0].allclose(reading.activity[0, :, 1])
    assert not reading.slots["count"][0, 0].allclose(reading.slots["count"][0, 1])
