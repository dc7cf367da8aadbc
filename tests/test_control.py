"""Control of head motion and blinks: the values, the layers beside the network, their training and use."""

import json
import math

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data.landmarks import interocular, openings
from talking_heads.data.sound import FPS
from talking_heads.data.windows import WindowDataset, WindowSettings, head_speed, shut_eyes
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.control import control_of, shut_at
from talking_heads.diffused.control_training import ControlLearner
from talking_heads.diffused.generation import Generator, guide
from talking_heads.diffused.model import Conditions, build_unet, control_state, predict
from talking_heads.experiments.diffused.weights import load_model, run_id
from talking_heads.nn.weight_files import load_weights, save_weights
from talking_heads.training import loop


@pytest.fixture(scope="module")
def profile():
    return config.load("smoke", {"diffused.network.precision": "fp32"})


@pytest.fixture
def learner(profile, clips):
    torch.manual_seed(0)
    return ControlLearner(profile, clips, build_encoder(profile.diffused.audio_encoder))


def random_weights(unet):
    """Random weights in every layer but those of controls, which begin at zero."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name not in control_state(unet):
                parameter.normal_(std=0.05)
    return unet.eval().requires_grad_(False)


# -- the values -------------------------------------------------------------------------------------
def test_the_speed_of_a_head_is_that_of_its_nose(clips):
    points = clips.read(0, np.arange(10))[1]
    still = np.repeat(points[:1], 10, 0)
    assert head_speed(still) == 0
    moved = still + 0.5 * interocular(still).mean() * np.arange(10)[:, None, None] * [1, 0]
    assert head_speed(moved) == pytest.approx(0.5 * FPS)
    mouth_only = still.copy()
    mouth_only[1::2, 48:68] += 3
    assert head_speed(mouth_only) == 0
    assert head_speed(2 * points) == pytest.approx(head_speed(points)), "in interocular distances"


def test_shut_eyes(clips):
    points = np.repeat(clips.read(0, np.arange(1))[1], 5, 0)
    upper, lower = [37, 38, 43, 44], [41, 40, 47, 46]
    points[3, upper] = points[3, lower]
    points[4, upper] = (points[4, upper] + points[4, lower]) / 2
    np.testing.assert_allclose(openings(points)[1][4], openings(points)[1][0] / 2, rtol=0.01)
    np.testing.assert_allclose(shut_eyes(points), [0, 0, 0, 1, 0.5], atol=0.01)
    points[:, upper] = points[:, lower]
    assert np.isfinite(shut_eyes(points)).all(), "eyes that are never open"


def test_a_window_has_the_values_of_its_clip_and_target(clips):
    plain, more = (WindowDataset(clips, WindowSettings(8, 2, 1, controls=c), 0) for c in (False, True))
    a, b = plain[0], more[0]
    assert a.control.shape == (8, 0) and b.control.shape == (8, 2)
    assert torch.equal(a.x_0, b.x_0), "the same windows"
    chosen = np.random.default_rng([0, 0, 0]).choice(len(clips), 8, replace=True)
    frames = np.arange(clips.frame_count(0))
    for sample, number in enumerate(chosen):
        images, points = clips.read(int(number), frames)
        target = ((b.x_0[sample].permute(1, 2, 0).numpy() + 1) * 127.5).round()
        (place,) = [k for k in frames if np.array_equal(images[k], target)]
        expected = [math.log(head_speed(points)), shut_eyes(points)[place]]
        np.testing.assert_allclose(b.control[sample], expected, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.2, 0.4, 1.0])
def test_blinks_happen_at_their_rate(rate):
    seconds = 100
    shut = np.array([shut_at(number, rate, 3) for number in range(round(seconds * FPS))])
    closed = shut == 1
    count = int((closed[1:] & ~closed[:-1]).sum() + closed[0])
    assert abs(count - rate * seconds) <= 1
    assert closed.sum() / count == pytest.approx(0.24 * FPS, rel=0.1), "frames of a blink"
    assert not np.array_equal(shut, [shut_at(number, rate, 4) for number in range(len(shut))])
    assert shut_at(7, 0.0, 0) == 0


def test_the_values_of_a_frame(profile):
    values = {"control": True, "head_motion": 2.0, "blink_rate": 0.5}
    sampling = profile.diffused.sampling.model_copy(update=values)
    control = control_of(sampling, 1.5, [3, 4], 20)
    assert control[:, 0].tolist() == pytest.approx([math.log(3.0)] * 2)
    assert control[:, 1].tolist() == pytest.approx([shut_at(20, 0.5, seed) for seed in (3, 4)])
    still = sampling.model_copy(update={"head_motion": 0.0})
    assert torch.isfinite(control_of(still, 1.5, [0], 0)).all()


# -- the network ------------------------------------------------------------------------------------
def test_before_training_controls_change_nothing(profile):
    section = profile.diffused
    plain, controlled = random_weights(build_unet(section)), build_unet(section, controlled=True).eval()
    controlled.load_state_dict({**control_state(controlled), **plain.state_dict()})
    size, windows = section.clips.image_size, 2 * section.conditions.audio_windows + 1
    x, identity, *motion = torch.randn(4, 2, 3, size, size)
    audio = torch.randn(2, windows, section.audio_encoder.embedding)
    given, t = Conditions(identity, torch.stack(motion, 1), audio, torch.zeros(2)), torch.tensor([10, 900])
    with torch.no_grad():
        expected = predict(plain, x, t, given, False)
        for control in (None, torch.randn(2, 2)):
            output = predict(controlled, x, t, given._replace(control=control), False)
            torch.testing.assert_close(output, expected)
    with pytest.raises(AssertionError, match="without controls"):
        predict(plain, x, t, given._replace(control=torch.zeros(2, 2)), False)


def test_generation_gives_the_network_its_values(profile):
    values = {"control": True, "head_motion": 0.5, "blink_rate": 0.5, "blink_guidance": 1.0}
    section = profile.override(
        {f"diffused.sampling.{name}": value for name, value in values.items()}
    ).diffused
    unet = random_weights(build_unet(section, controlled=True))
    generator, seen = Generator(unet, section, usual_speed=1.5), []
    unet.control_mlp.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    size, windows = section.clips.image_size, 2 * section.conditions.audio_windows + 1
    identity = torch.zeros(1, 3, size, size)
    audio = torch.zeros(1, 3, windows, section.audio_encoder.embedding)
    list(generator.talk(identity, audio, [5]))
    steps = section.sampling.steps
    assert len(seen) == 3 * steps
    for number in range(3):
        assert torch.equal(seen[steps * number], control_of(section.sampling, 1.5, [5], number))


def test_shut_eyes_are_guided_away_from_open_ones(profile):
    values = {"diffused.sampling.control": True, "diffused.sampling.blink_guidance": 3.0}
    section = profile.override(values).diffused
    seen = []

    def net(x, t, y, level, control):
        seen.append(control[:, 1].tolist())
        return control[:, 1, None, None, None].expand(-1, 6, *x.shape[2:]).clone()

    size = section.clips.image_size
    frames = torch.zeros(2, 3, size, size)
    motion = torch.zeros(2, section.conditions.motion_frames, 3, size, size)
    generator, outputs = Generator(net, section), []
    for shut in ([0.0, 0.0], [0.0, 0.5]):
        control = torch.tensor([[0.3, value] for value in shut])
        given = Conditions(frames, motion, torch.zeros(2, 1, 1), torch.zeros(2), control)
        outputs.append(generator.frame(given, torch.zeros_like))
    steps = section.sampling.steps
    assert seen == [[0.0, 0.0]] * steps + [[0.0, 0.5], [0.0, 0.0]] * steps, "open eyes need no second pass"
    torch.testing.assert_close(outputs[0][0], outputs[1][0])
    guided = guide(torch.ones(1, 6, 1, 1), torch.zeros(1, 6, 1, 1), 3.0)
    assert guided.flatten().tolist() == [3, 3, 3, 1, 1, 1]


# -- training ---------------------------------------------------------------------------------------
def test_training_leaves_the_network_as_it_is(learner):
    with torch.no_grad():  # else the layers of controls have no gradients, as the last layers are zero
        for name, parameter in learner.unet.named_parameters():
            if name not in control_state(learner.unet):
                parameter.normal_(std=0.05)
    learner.ema.load_state_dict(learner.unet.state_dict())
    layers = control_state(learner.unet)
    before = {name: value.clone() for name, value in learner.unet.state_dict().items()}
    learner.train_step()
    learner.train_step()
    after = learner.unet.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and changed <= set(layers)
    for name in set(before) - set(layers):
        assert torch.equal(learner.ema.state_dict()[name], before[name])


def test_a_resumed_training_is_the_same(profile, clips, tmp_path):
    def begin():
        torch.manual_seed(0)
        return ControlLearner(profile, clips, build_encoder(profile.diffused.audio_encoder))

    whole = loop.train(begin(), tmp_path / "whole")
    loop.train(begin(), tmp_path / "resumed", until=2)
    resumed = loop.train(begin(), tmp_path / "resumed")
    assert whole.step == 4
    for a, b in zip(whole.ema.state_dict().values(), resumed.ema.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    logs = [(tmp_path / name / loop.LOG).read_text() for name in ("whole", "resumed")]
    assert logs[0] == logs[1]


def test_a_profile_without_controls_is_refused(profile, clips):
    with pytest.raises(ValueError, match=r"diffused\.control\.steps is 0: this profile trains no controls"):
        without = profile.override({"diffused.control.steps": 0})
        ControlLearner(without, clips, build_encoder(profile.diffused.audio_encoder))
    with pytest.raises(ValueError, match="the distilled network has no control"):
        profile.override({"diffused.sampling.control": True, "diffused.sampling.distilled": True})


# -- commands ---------------------------------------------------------------------------------------
def test_the_layers_are_kept_alone_and_belong_to_their_network(talking_command, tmp_path):
    assert main(talking_command("train-control")) == 0
    results = tmp_path / "results"
    path = results / "smoke/runs/reference/control/weights.safetensors"
    state, metadata = load_weights(path)
    own = config.load("smoke")
    controlled = own.override({"diffused.sampling.control": True})
    assert state.keys() == control_state(build_unet(own.diffused, True)).keys()
    assert 0.05 < metadata["head speed"] < 20 and "train-control" in metadata["command"]
    rows = [json.loads(line) for line in path.with_name(loop.LOG).read_text().splitlines()]
    assert len(rows) == 4

    model = load_model(controlled, "scratch", results)
    assert model.generator.usual_speed == metadata["head speed"]
    for name, value in model.generator.unet.state_dict().items():
        if name in state:
            assert torch.equal(value, state[name].float())
    assert run_id(controlled, "scratch", results) != run_id(own, "scratch", results)

    assert main([*talking_command("train-diffusion")[:-2], "--minutes", "0"]) == 0  # at its end: as it was
    base = results / "smoke/runs/reference/diffusion/weights.safetensors"
    state, provenance = load_weights(base)
    save_weights(base, state, {**provenance, "seed": 1}, half=True)
    with pytest.raises(ValueError, match="trained beside other weights than"):
        load_model(controlled, "scratch", results)
