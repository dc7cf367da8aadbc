"""The baselines: sizes, what discriminators see, landmarks from sound, training, and generation."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.data.sequences import SequenceDataset, SequenceSettings
from talking_heads.data.windows import LENGTH, cut_sound, gain_of
from talking_heads.diffused.audio_encoder import build_encoder, embed_clip
from talking_heads.diffused.audio_pretraining import SpeechReader
from talking_heads.diffused.baselines import sda
from talking_heads.diffused.baselines.landmarks import (
    POINTS,
    LandmarkPredictor,
    Residuals,
    fit_residuals,
    normalised,
    offsets,
    prediction_loss,
)
from talking_heads.diffused.baselines.sda import SNIPPET, SdaTalker, lower_half, reconstruction_loss
from talking_heads.diffused.baselines.training import (
    Discriminators,
    Draws,
    LandmarkLearner,
    SdaLearner,
    build_generator,
)
from talking_heads.experiments.diffused import bridge, trainings, weights
from talking_heads.experiments.diffused.bridge import BridgeTalker
from talking_heads.experiments.diffused.clips import ClipData
from talking_heads.experiments.diffused.trainings import LandmarkRun, SdaRun
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import loop


@pytest.fixture
def begin(profile, clips):
    """A learner of the smoke profile with an untrained encoder."""

    def begin_training(overrides=None, kind=SdaLearner, device="cpu"):
        torch.manual_seed(0)
        changed = profile.override({f"diffused.{name}": v for name, v in (overrides or {}).items()})
        return kind(changed, clips, build_encoder(changed.diffused.audio_encoder), device)

    return begin_training


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [SdaLearner, LandmarkLearner])
def test_a_step_on_a_gpu_has_the_losses_of_the_cpu(begin, kind):
    rows = [begin(kind=kind, device=device).train_step() for device in ("cpu", "cuda")]
    assert rows[1] == pytest.approx(rows[0], rel=0.05, abs=0.02)


# -- data -------------------------------------------------------------------------------------------
def test_a_sequence_has_consecutive_frames_and_the_sound_of_each(clips):
    dataset = SequenceDataset(clips, SequenceSettings(3, 4, 1), seed=0)
    sequences = dataset[5]
    assert sequences.frames.shape == (3, 4, 3, 32, 32) and sequences.sound.shape == (3, 6, LENGTH)
    for frames, windows, points in zip(*sequences, strict=True):
        places = [
            (number, first)
            for number in range(len(clips))
            for first in range(clips.frame_count(number) - 3)
            if torch.allclose(
                torch.from_numpy(clips.read(number, range(first, first + 4))[0]).permute(0, 3, 1, 2) / 127.5
                - 1,
                frames,
            )
        ]
        ((number, first),) = places
        sound = clips.sound(number)
        numbers = np.arange(first - 1, first + 5).clip(0, clips.frame_count(number) - 1)
        expected = gain_of(sound) * cut_sound(sound, numbers)
        torch.testing.assert_close(windows, torch.from_numpy(expected).float())
        true = clips.read(number, range(first, first + 4))[1]
        torch.testing.assert_close(points, torch.from_numpy(true).float())
    again = SequenceDataset(clips, SequenceSettings(3, 4, 1), seed=0)[5]
    assert torch.equal(sequences.frames, again.frames)
    with pytest.raises(ValueError, match="no clip has 11 frames, as many as a training sequence"):
        SequenceDataset(clips, SequenceSettings(3, 11, 1), seed=0)


# -- networks ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "generator", "frame", "sequence", "sync"),
    [
        ("laptop", 2_301_617, 176_081, 675_025, 266_705),
        ("crema", 25_284_233, 6_964_033, 23_344_961, 8_407_873),
    ],
)
def test_sizes_of_the_networks(name, generator, frame, sequence, sync):
    """At the profiles' own sizes: parameters, and frames of the right shape."""
    section = config.load(name).diffused
    net, size = build_generator(section).eval(), section.clips.image_size
    audio = torch.zeros(1, 2, section.audio_encoder.embedding)
    with torch.no_grad():
        x = net(torch.zeros(1, 3, size, size), audio, torch.zeros(1, 2, section.sda.noise))
    assert x.shape == (1, 2, 3, size, size)
    nets = Discriminators(section)
    counts = [
        sum(p.numel() for p in module.parameters()) for module in (net, nets.frame, nets.sequence, nets.sync)
    ]
    assert counts == [generator, frame, sequence, sync]


def test_every_part_of_the_generator_reaches_the_frames(profile):
    """The identity's code and its skips, the sound and the noise."""
    torch.manual_seed(0)
    net = build_generator(profile.diffused).eval()
    identity, audio, noise = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 64), torch.randn(1, 3, 10)
    with torch.no_grad():
        z, skips = net.latents(identity, audio, noise)
        frames = net.decode(z, skips)
        assert z.shape == (1, 3, 50 + 8 + 10) and len(skips) == 3
        for part in (slice(0, 50), slice(50, 58), slice(58, 68)):
            changed = z.clone()
            changed[..., part] += 1
            assert not torch.equal(net.decode(changed, skips), frames)
        for k in range(3):
            others = [skip + 1 if n == k else skip for n, skip in enumerate(skips)]
            assert not torch.equal(net.decode(z, others), frames)
        for given in (
            (identity, audio + 1, noise),
            (identity, audio, noise + 1),
            (identity + 1, audio, noise),
        ):
            assert not torch.equal(net(*given), frames)


def test_sizes_that_do_not_halve_to_four_are_refused(profile):
    odd = profile.override({"diffused.clips.image_size": 48}).diffused
    with pytest.raises(
        ValueError, match=r"section diffused\.clips: image_size is 48; SDA needs 4 times a power"
    ):
        build_generator(odd)


@pytest.mark.parametrize(
    "encoder", [{"kind": "log_mel", "embedding": 64}, {"kind": "waveform", "embedding": 16}]
)
def test_training_and_generation_have_the_same_embeddings(begin, clips, encoder):
    """Also by an encoder that is recurrent over the windows that it is given."""
    learner = begin({"audio_encoder": encoder})
    each_side, sequences = learner.section.conditions.audio_windows, learner.dataset[0]
    embedded = learner.embed(sequences.sound)
    for points, audio in zip(sequences.points, embedded, strict=True):
        number = next(
            n for n in range(len(clips)) if np.allclose(clips.read(n, np.arange(10))[1], points.numpy())
        )
        generated = embed_clip(learner.encoder, clips.sound(number), 10, each_side)[:, each_side]
        torch.testing.assert_close(audio, generated, rtol=1e-4, atol=1e-5)


def test_frames_depend_on_the_sound_up_to_them_and_not_later(profile):
    torch.manual_seed(0)
    net = build_generator(profile.diffused).eval()
    identity, audio = torch.randn(1, 3, 32, 32), torch.randn(1, 6, profile.diffused.audio_encoder.embedding)
    noise = torch.randn(1, 6, profile.diffused.sda.noise)
    other = audio.clone()
    other[:, 4] += 1
    with torch.no_grad():
        a, b = net(identity, audio, noise), net(identity, other, noise)
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.equal(a[:, 4], b[:, 4])
    assert a.abs().max() <= 1


def test_discriminators_see_what_they_judge(profile):
    torch.manual_seed(0)
    section = profile.diffused
    nets = Discriminators(section).eval()
    frames = torch.randn(2, 10, 3, 32, 32)
    audio = torch.randn(2, SNIPPET, section.audio_encoder.embedding)
    upper = frames.clone()
    upper[..., :16, :] = 0
    with torch.no_grad():
        snippet = frames[:, :SNIPPET]
        assert torch.equal(nets.sync(snippet, audio), nets.sync(upper[:, :SNIPPET], audio)), "lips alone"
        assert not torch.equal(nets.sync(snippet, audio), nets.sync(snippet, audio + 1))
        assert not torch.equal(nets.sequence(frames), nets.sequence(frames.flip(1))), "the order counts"
        first, other = frames[:, 0], frames[:, 1]
        assert not torch.equal(nets.frame(other, first), nets.frame(other, other)), "the identity counts"
    assert lower_half(frames).shape == (2, 10, 3, 16, 32)
    assert reconstruction_loss(upper, frames) == 0 < reconstruction_loss(frames + 1, frames)


@pytest.mark.parametrize("length", [10, 16, 25])
def test_the_sound_of_another_moment_is_half_a_snippet_away(length):
    draws = Draws(500, length, torch.Generator().manual_seed(0))
    assert ((draws.snippet - draws.other).abs() > SNIPPET // 2).all()
    for first in (draws.snippet, draws.other):
        assert first.min() == 0 and first.max() == length - SNIPPET
    x = torch.arange(500 * length).reshape(500, length)
    snippets, others = draws.snippets_of(x), draws.snippets_of(x, other=True)
    assert torch.equal(snippets, x[:, :1] + draws.snippet[:, None] + torch.arange(SNIPPET))
    assert torch.equal(others[:, 0] - snippets[:, 0], draws.other - draws.snippet)
    assert torch.equal(draws.frames_of(x), x[torch.arange(500), draws.frame])
    assert draws.frame.min() == 1 and draws.frame.max() == length - 1


def test_losses_are_cross_entropies_with_logits():
    logits = torch.tensor([-1.0, 0.5, 2.0])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(sda.real_loss(logits), bce(logits, torch.ones(3)))
    torch.testing.assert_close(sda.fake_loss(logits), bce(logits, torch.zeros(3)))


# -- training ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [SdaLearner, LandmarkLearner])
def test_a_resumed_training_is_the_same_bit_for_bit(begin, tmp_path, kind):
    begin = partial(begin, kind=kind)
    whole = loop.train(begin(), tmp_path / "whole")
    loop.train(begin(), tmp_path / "resumed", until=2)
    resumed = loop.train(begin(), tmp_path / "resumed")
    assert whole.step == resumed.step == 4
    states = [learner.state(Path()) for learner in (whole, resumed)]
    for name in {"generator", "discriminators", "predictor"} & set(states[0]):
        first, second = (state[name].values() for state in states)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    logs = [(tmp_path / name / loop.LOG).read_text() for name in ("whole", "resumed")]
    assert logs[0] == logs[1] and logs[0].count("\n") == 4


def test_each_update_changes_its_own_networks(begin):
    learner = begin()
    sequences = next(learner.batches)
    audio = learner.embed(sequences.sound)
    draws = Draws(*audio.shape[:2], torch.Generator().manual_seed(0))
    noise = torch.randn(*audio.shape[:2], learner.sda.noise)
    x_hat = learner.generator(sequences.frames[:, 0], audio, noise)

    def weights():
        return [
            torch.cat([p.detach().flatten() for p in net.parameters()])
            for net in (learner.generator, *learner.discriminators.children())
        ]

    before = weights()
    row = learner.update_discriminators(sequences.frames, x_hat.detach(), audio, draws)
    between = weights()
    assert [torch.equal(a, b) for a, b in zip(before, between, strict=True)] == [True, False, False, False]
    names = ("dsc_frame", "dsc_sequence", "dsc_sync")
    assert set(row) == {*names, "dsc", "r_real", "r_fake"}
    torch.testing.assert_close(row["dsc"], sum(row[name] for name in names))
    learner.update_generator(sequences.frames, x_hat, audio, draws)
    assert [torch.equal(a, b) for a, b in zip(between, weights(), strict=True)] == [False, True, True, True]
    assert all(p.requires_grad for p in learner.discriminators.parameters())


def test_training_brings_the_lips_closer_to_the_truth(begin):
    learner = begin({"sda.steps": 60, "sda.learning_rate": 2e-3})
    rows = [learner.train_step() for _ in range(60)]
    assert sum(row["l1"] for row in rows[-10:]) < 0.7 * sum(row["l1"] for row in rows[:10])


def test_training_brings_predicted_landmarks_closer(begin):
    """To more than standing still, whose loss is that of offsets of zero."""
    learner = begin({"landmarks.steps": 80, "landmarks.learning_rate": 1e-2}, LandmarkLearner)
    rows = [learner.train_step() for _ in range(80)]
    assert sum(row["mouth"] for row in rows[-20:]) < 0.8 * sum(row["mouth"] for row in rows[:20])


def test_rates_fall_together_at_the_end(begin):
    learner = begin({"sda.steps": 8, "sda.learning_rate_decay": 0.5})
    rates = []
    for _ in range(8):
        learner.train_step()
        rates.append([group["lr"] for group in learner.groups])
    fractions = np.array(rates) / rates[0]
    assert (fractions[:5] == 1).all() and (np.diff(fractions[4:], axis=0) < 0).all()
    np.testing.assert_allclose(fractions, np.repeat(fractions[:, :1], 4, 1))
    assert rates[0][3] == rates[0][2] < rates[0][1] == rates[0][0]


def test_one_sequence_has_no_spread(begin):
    assert "output_spread" not in begin({"sda.batch": 1}).train_step()


def test_ranks_must_be_able_to_share_a_batch(begin, monkeypatch):
    monkeypatch.setattr("talking_heads.training.distributed.ranks", lambda: 3)
    with pytest.raises(
        ValueError, match=r"section diffused\.sda: batch is 2, which 3 processes cannot share"
    ):
        begin()


@pytest.fixture
def reader(profile, monkeypatch):
    """In place of the committed encoder, an untrained one."""
    torch.manual_seed(0)
    untrained = SpeechReader(profile.diffused.audio_encoder)
    for module in (trainings, weights):
        monkeypatch.setattr(module, "load_reader", lambda _: untrained)
    return untrained


def test_a_run_is_watched_and_leaves_weights_that_generate(profile, clips, tmp_path, reader):
    section = profile.diffused
    run = SdaRun(profile, ClipData(clips, clips, {}), tmp_path, torch.device("cpu"))
    with run.recording():
        loop.train(run.learner, run.folder, watch=run.watch, watch_every=2)
    assert run.learner.generator.training
    sheets = sorted(path.name for path in run.folder.glob("*.png"))
    assert sheets == ["step000002.png", "step000004.png"]
    state, metadata = load_weights(run.export())
    assert metadata["step"] == metadata["of"] == 4 and "train-baseline" in metadata["command"]
    net = build_generator(section).eval()
    net.load_state_dict(state)
    sample = run.truth.talk(SdaTalker(net))
    assert sample.generated.shape == sample.truth.shape


def test_a_clip_does_not_depend_on_those_beside_it(profile, monkeypatch):
    """Nor on how many frames are decoded at once, nor on an interruption."""
    torch.manual_seed(0)
    exact = profile.override({"diffused.network.precision": "fp32"})
    talker = SdaTalker(build_generator(exact.diffused).eval())
    identity = torch.randn(2, 3, 32, 32)
    audio = torch.randn(2, 7, 5, profile.diffused.audio_encoder.embedding)
    frames = torch.stack(list(talker.talk(identity, audio, [1, 2])))
    alone = torch.stack(list(talker.talk(identity[1:], audio[1:], [2])))
    torch.testing.assert_close(frames[:, 1:], alone, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(sda, "DECODED_AT_ONCE", 3)
    rest = list(talker.talk(identity, audio, [1, 2], earlier=list(frames[:2])))
    torch.testing.assert_close(torch.stack(rest), frames[2:], rtol=1e-4, atol=1e-5)
    other = torch.stack(list(talker.talk(identity[1:], audio[1:], [3])))
    assert not torch.allclose(other, alone), "the noise is that of the seed"


# -- landmarks from sound ---------------------------------------------------------------------------
def test_offsets_and_shapes_do_not_depend_on_size_or_place(clips):
    _, points = clips.read(0, np.arange(6))
    points = points.astype(float)
    moved = 3 * points + [5, -7]
    np.testing.assert_allclose(offsets(moved), offsets(points), atol=1e-9)
    np.testing.assert_allclose(normalised(moved), normalised(points), atol=1e-9)
    assert offsets(points).shape == (6, 136) and not offsets(points)[0].any()


def test_a_shifted_mouth_is_no_error_of_the_lips():
    target = torch.zeros(1, 2, 2 * POINTS)
    shifted, opened = (target.clone().unflatten(-1, (POINTS, 2)) for _ in range(2))
    shifted[..., 48:, :] += 0.1
    opened[..., 48:58, 1] += 0.1
    opened[..., 58:, 1] -= 0.1
    a, b = (x.flatten(2) for x in (shifted, opened))
    assert prediction_loss(a, target, 4.0) == prediction_loss(a, target, 0.0)
    assert prediction_loss(b, target, 4.0) > 2 * prediction_loss(b, target, 0.0)


def test_processes_are_recovered_and_sampled(profile):
    """An AR(2) process of a known direction: coefficients, size and beginning of what is sampled."""
    rng, coefficients, deviation = np.random.default_rng(0), np.array([1.6, -0.7]), 0.02
    direction = rng.normal(size=136)
    direction /= np.linalg.norm(direction)
    tracks = []
    for _ in range(40):
        course = np.zeros(200)
        for k in range(2, 200):
            course[k] = coefficients @ course[k - 2 : k][::-1] + deviation * rng.normal()
        tracks.append(course[:, None] * direction)
    fitted = fit_residuals(tracks, 2)
    assert abs(fitted.components[0] @ direction) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(fitted.coefficients[0], coefficients, atol=0.03)
    assert fitted.deviations[0] == pytest.approx(deviation, rel=0.05) and fitted.deviations[1] < 1e-6
    predictor = LandmarkPredictor(profile.diffused.landmarks, 64)
    predictor.set_residuals(fitted)
    sampled = torch.stack([predictor.sample(200, seed) for seed in range(20)])
    assert not sampled[:, 0].any()
    spread = (sampled @ torch.from_numpy(direction).float()).std()
    assert spread == pytest.approx(np.concatenate(tracks).dot(direction).std(), rel=0.2)
    assert torch.equal(predictor.sample(50, 3), predictor.sample(50, 3))
    assert not torch.equal(predictor.sample(50, 3), predictor.sample(50, 4))


def test_a_process_that_would_drift_away_is_held():
    course = 1.02 ** np.arange(100)
    fitted = fit_residuals([course[:, None] * np.eye(136)[0]], 1)
    assert np.abs(np.roots([1, *-fitted.coefficients[0]])).max() < 1


def test_a_track_begins_with_the_given_landmarks(profile, clips):
    torch.manual_seed(0)
    predictor = LandmarkPredictor(profile.diffused.landmarks, 64).eval()
    predictor.set_residuals(Residuals(np.eye(2, 136), np.tile([0.5, 0.2], (2, 1)), np.full(2, 0.01)))
    _, points = clips.read(0, np.arange(1))
    audio = torch.randn(7, 64)
    still, moving, other = (
        predictor.track(audio, points[0], seed, motion) for seed, motion in ((0, 0.0), (0, 1.0), (1, 1.0))
    )
    for track in (still, moving, other):
        np.testing.assert_allclose(track[0], points[0], atol=1e-4)
    assert np.abs(moving - other).max() > 1e-3
    np.testing.assert_allclose(predictor.track(audio, points[0], 1, 0.0), still)
    twice = predictor.track(audio, 2 * points[0], 0, 1.0)
    np.testing.assert_allclose(twice, 2 * moving, rtol=1e-4)


def test_the_bridge_learns_a_head_from_one_frame_and_drives_it(profile, clips, tmp_path, reader):
    """Trained by its run, and found again; a frame of another size has no networks."""
    run = LandmarkRun(profile, ClipData(clips, clips, {}), tmp_path / "runs", torch.device("cpu"))
    with run.recording():
        loop.train(run.learner, run.folder, watch=run.watch, watch_every=2)
    path = run.export()
    state, metadata = load_weights(path)
    assert state["deviations"].max() > 0 and "--method landmarks" in metadata["command"]
    predictor = run.learner.predictor.eval()
    torch.manual_seed(0)
    nets = build_networks(profile.few_shot.networks, 1)
    identity = torch.rand(2, 3, 32, 32) * 2 - 1
    audio = torch.randn(2, 5, 5, 64)

    def find(images):
        return np.tile(clips.read(0, np.arange(1))[1], (len(images), 1, 1))

    for tuned in (False, True):
        few = profile.override({"few_shot.fine_tuning.epochs": 1})
        talker = BridgeTalker(predictor, nets, few, [], tuned, find)
        frames = torch.stack(list(talker.talk(identity, audio, [1, 2])), 1)
        assert frames.shape == (2, 5, 3, 32, 32) and frames.abs().max() <= 1
        assert not torch.equal(frames[0, 0], frames[0, 4])
        rest = torch.stack(list(talker.talk(identity, audio, [1, 2], earlier=[frames[:, 0]] * 3)), 1)
        assert rest.shape[1] == 2
    with pytest.raises(ValueError, match=r"no weights of few-shot heads \(ft\)"):
        bridge.load(profile, "scratch", tmp_path, torch.device("cpu"))
