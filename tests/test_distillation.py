"""Distillation of the denoising network: the target of the student, halvings, the command and its weights."""

import json
from pathlib import Path

import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.diffusion import interpret, q_sample, velocity
from talking_heads.diffused.distillation import DistillationLearner, distilled_sampling
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import Conditions, predict
from talking_heads.diffused.sampling import ddim_step
from talking_heads.experiments.diffused.protocol import generation_key
from talking_heads.experiments.diffused.weights import load_model
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import loop


@pytest.fixture
def begin(clips):
    """A learner of the smoke profile whose student and teacher have random weights in every layer."""

    def begin_training(overrides=None):
        torch.manual_seed(0)
        values = {"network.precision": "fp32", **(overrides or {})}
        profile = config.load("smoke", {f"diffused.{name}": value for name, value in values.items()})
        encoder = build_encoder(profile.diffused.audio_encoder)
        learner = DistillationLearner(profile, clips, encoder)
        with torch.no_grad():
            for parameter in learner.unet.parameters():
                parameter.normal_(std=0.05)
        for network in (learner.ema, learner.teacher):
            network.load_state_dict(learner.unet.state_dict())
        return learner

    return begin_training


@pytest.fixture
def batch():
    """Two frames, their noise and conditions."""
    random = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    section = config.load("smoke").diffused
    windows = 2 * section.conditions.audio_windows + 1
    given = Conditions(
        normal(2, 3, 32, 32).clamp(-1, 1),
        normal(2, section.conditions.motion_frames, 3, 32, 32),
        normal(2, windows, section.audio_encoder.embedding),
        torch.zeros(2),
    )
    return normal(2, 3, 32, 32).clamp(-1, 1), normal(2, 3, 32, 32), given


# -- the target -------------------------------------------------------------------------------------
@pytest.mark.parametrize("student_steps", [4, 2, 1])
def test_one_step_with_the_target_goes_as_far_as_two_of_the_teacher(begin, batch, student_steps):
    learner, (x_0, noise, given) = begin(), batch
    of_teacher, of_student = learner.schedule_of(2 * student_steps), learner.schedule_of(student_steps)
    t = torch.tensor([0, student_steps - 1])
    assert torch.equal(of_teacher.timesteps[2 * t + 1], of_student.timesteps[t])
    x_t = q_sample(of_student, x_0, t, noise)
    target = learner.target(of_teacher, x_t, 2 * t + 1, given)

    x = x_t
    with torch.no_grad():
        for step in (2 * t + 1, 2 * t):
            output = predict(learner.teacher, x, of_teacher.timesteps[step], given, motion_grey=False)
            x = ddim_step(of_teacher, interpret(of_teacher, output, x, step, "velocity"), step)
    output = torch.cat([target, torch.zeros_like(target)], 1)
    reached = ddim_step(of_student, interpret(of_student, output, x_t, t, "velocity", clamp=False), t)
    torch.testing.assert_close(reached, x, atol=1e-4, rtol=1e-4)


def test_of_a_teacher_that_knows_the_frame_the_target_is_its_velocity(begin, batch, monkeypatch):
    learner, (x_0, noise, given) = begin(), batch
    of_teacher, of_student = learner.schedule_of(4), learner.schedule_of(2)

    def knowing(network, x, timesteps, conditions, motion_grey):
        t = torch.searchsorted(of_teacher.timesteps, timesteps)
        alpha_bar = of_teacher.alpha_bar[t][:, None, None, None].float()
        epsilon = (x - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        return torch.cat([velocity(of_teacher, x_0, t, epsilon), torch.zeros_like(x)], 1)

    monkeypatch.setattr("talking_heads.diffused.distillation.predict", knowing)
    t = torch.tensor([0, 1])
    x_t = q_sample(of_student, x_0, t, noise)
    target = learner.target(of_teacher, x_t, 2 * t + 1, given)
    torch.testing.assert_close(target, velocity(of_student, x_0, t, noise), atol=1e-4, rtol=1e-4)


# -- training ---------------------------------------------------------------------------------------
def test_after_every_halving_the_student_is_the_teacher(begin):
    learner = begin()  # from four steps to two and to one, two training steps each
    first = [value.clone() for value in learner.teacher.state_dict().values()]
    steps, rates = [], []
    for _ in range(3):
        steps.append(learner.student_steps())
        rates.append(learner.learning_rate())
        learner.train_step()
        teacher = learner.teacher.state_dict().values()
        changed = not all(torch.equal(a, b) for a, b in zip(first, teacher, strict=True))
        assert changed == (learner.step > 2)
    assert steps == [2, 2, 1] and rates == [1e-3, 5e-4, 1e-3] and learner.total == 4


def test_the_student_learns(begin):
    learner = begin({"distillation.training_steps": 60, "distillation.learning_rate": 1e-2})
    with torch.no_grad():
        for parameter in learner.teacher.parameters():
            parameter.normal_(std=0.05)
    losses = [learner.train_step()["simple"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("until", [1, 2, 3])
def test_a_resumed_distillation_is_the_same_bit_for_bit(begin, tmp_path, until):
    """Also where it is interrupted between two halvings."""
    whole = loop.train(begin(), tmp_path / "whole")
    loop.train(begin(), tmp_path / "resumed", until=until)
    resumed = loop.train(begin(), tmp_path / "resumed")
    states = [learner.state(Path()) for learner in (whole, resumed)]
    for name in ("network", "ema", "teacher"):
        for a, b in zip(*(state[name].values() for state in states), strict=True):
            assert torch.equal(a, b)
    logs = [(tmp_path / name / loop.LOG).read_text() for name in ("whole", "resumed")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distillation.teacher_steps": 6}, "6 steps, halved once or more, are never 1"),
        ({"distillation.steps": 4}, "4 steps, halved once or more, are never 4"),
        ({"distillation.training_steps": 0}, "training_steps is 0: this profile distils nothing"),
        ({"diffusion.prediction": "epsilon"}, "needs a network that predicts v"),
        ({"training.rollout_share": 0.5}, "has no self-rollouts"),
    ],
)
def test_what_cannot_be_distilled_is_refused(begin, changes, message):
    with pytest.raises(ValueError, match=message):
        begin(changes)


def test_a_distilled_network_samples_in_its_own_steps(begin, batch):
    """As many evaluations of the network as it has steps, at the time steps that it has learned."""
    learner, (_, _, given) = begin({"distillation.steps": 2}), batch
    seen = []
    learner.ema.register_forward_hook(lambda _, arguments, __: seen.append(arguments[1][0].item()))
    with torch.no_grad():
        Generator(learner.ema, distilled_sampling(learner.section)).frame(given, torch.zeros_like)
    assert seen == [999, 499]


# -- the command ------------------------------------------------------------------------------------
def test_the_command_distils_and_the_weights_are_used(talking_command, tmp_path, capsys):
    assert main(talking_command("distill")) == 0
    path = tmp_path / "results/smoke/runs/reference/distilled/weights.safetensors"
    metadata = load_weights(path)[1]
    assert (metadata["step"], metadata["of"]) == (4, 4) and "distill" in metadata["command"]
    rows = [json.loads(line) for line in path.with_name(loop.LOG).read_text().splitlines()]
    assert len(rows) == 4 and {"simple", "lips"} <= set(rows[0])

    profile = config.load("smoke", {"diffused.sampling.distilled": True})
    sampling = load_model(profile, "scratch", tmp_path / "results").generator.section.sampling
    assert (sampling.sampler, sampling.steps) == ("ddim", profile.diffused.distillation.steps)
    other = profile.override({"diffused.distillation.steps": 2})
    with pytest.raises(ValueError, match="samples in 1 steps, and 2 are needed; python -m "):
        load_model(other, "scratch", tmp_path / "results")
    assert generation_key(other) != generation_key(profile)
    capsys.readouterr()
    assert main(talking_command("distill")) == 0
    assert "at its end already" in capsys.readouterr().out


def test_without_finished_weights_there_is_nothing_to_distil(tmp_path, capsys):
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert main([*places, "distill", "--profile", "smoke", "--device", "cpu", "--weights", "scratch"]) == 2
    assert "no finished weights to begin with; python -m talking_heads train-d" in capsys.readouterr().err
