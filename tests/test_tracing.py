"""Traced networks: the output of the network itself."""

import pytest
import torch
from talking_heads import config
from talking_heads.diffused.model import build_unet
from talking_heads.nn.tracing import Traced


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    net = build_unet(config.load("smoke").diffused, controlled=True).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(std=0.1)
    return net, Traced(net)


def inputs(batch, control):
    section = config.load("smoke").diffused
    size, frames = section.clips.image_size, 2 + section.conditions.motion_frames
    sound = section.audio_encoder.embedding * (2 * section.conditions.audio_windows + 1)
    random = torch.Generator().manual_seed(batch)
    x, y = torch.randn(batch, 3 * frames, size, size, generator=random), torch.randn(batch, sound)
    return (
        x,
        torch.full((batch,), 500),
        y,
        torch.full((batch,), 0.2),
        torch.zeros(batch, 2) if control else None,
    )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("control", [False, True])
def test_a_traced_network_has_the_same_output(networks, batch, control):
    net, traced = networks
    given = inputs(batch, control)
    with torch.no_grad():
        expected = net(*given)
        for _ in range(4):  # the first calls optimise the graph
            assert torch.equal(traced(*given), expected)


def test_every_shape_is_traced_once_and_gradients_pass_through_the_network(networks):
    net, _ = networks
    traced, given = Traced(net), inputs(1, False)
    with torch.no_grad():
        for batch in (1, 2, 1, 2):
            traced(*inputs(batch, False))
    assert len(traced.graphs) == 2
    x = given[0].clone().requires_grad_()
    traced(x, *given[1:]).sum().backward()
    assert x.grad is not None and len(traced.graphs) == 2
    assert traced.state_dict().keys() == {f"net.{name}" for name in net.state_dict()}
