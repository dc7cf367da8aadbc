"""SDA: sizes, what its discriminators see, training, and generation."""

from pathlib import Path

import pytest
import torch
from talking_heads import config
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.sequences import SequenceDataset, SequenceSettings
from talking_heads.data.speakers.talking import talking_pool
from talking_heads.data.windows import LENGTH, cut_sound, gain_of
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.baselines import sda
from talking_heads.diffused.baselines.sda import SNIPPET, SdaTalker, lower_half, reconstruction_loss
from talking_heads.diffused.baselines.training import Discriminators, Draws, SdaLearner, build_generator
from talking_heads.experiments.diffused.clips import ClipData
from talking_heads.experiments.diffused.trainings import SdaRun
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import loop


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    section = config.load("smoke").diffused
    return PoolVideos(talking_pool("training", section, tmp_path_factory.mktemp("pools")))


@pytest.fixture
def begin(profile, clips):
    """A learner of the smoke profile with an untrained encoder."""

    def begin_training(overrides=None):
        torch.manual_seed(0)
        changed = profile.override({f"diffused.{name}": v for name, v in (overrides or {}).items()})
        return SdaLearner(changed, clips, build_encoder(changed.diffused.audio_encoder))

    return begin_training


# -- data -------------------------------------------------------------------------------------------
def test_a_sequence_has_consecutive_frames_and_the_sound_of_each(clips):
    dataset = SequenceDataset(clips, SequenceSettings(3, 4), seed=0)
    sequences = dataset[5]
    assert sequences.frames.shape == (3, 4, 3, 32, 32) and sequences.sound.shape == (3, 4, LENGTH)
    for frames, windows in zip(*sequences, strict=True):
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
        expected = gain_of(sound) * cut_sound(sound, torch.arange(first, first + 4).numpy())
        torch.testing.assert_close(windows, torch.from_numpy(expected).float())
    again = SequenceDataset(clips, SequenceSettings(3, 4), seed=0)[5]
    assert torch.equal(sequences.frames, again.frames)
    with pytest.raises(ValueError, match="no clip has the 11 frames of a sequence"):
        SequenceDataset(clips, SequenceSettings(3, 11), seed=0)


# -- networks ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["laptop", "crema"])
def test_the_generator_has_the_papers_parts(name):
    """A code of 50 numbers for the identity and 10 of noise, as in section 3.1 of the paper."""
    section = config.load(name).diffused
    net, size = build_generator(section).eval(), section.clips.image_size
    audio = torch.zeros(1, 2, section.audio_encoder.embedding)
    with torch.no_grad():
        x = net(torch.zeros(1, 3, size, size), audio, torch.zeros(1, 2, 10))
    assert x.shape == (1, 2, 3, size, size)
    assert net.identity_encoder.code.out_channels == 50 and net.noise_encoder.hidden_size == 10


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


def test_losses_are_cross_entropies_with_logits():
    logits = torch.tensor([-1.0, 0.5, 2.0])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(sda.real_loss(logits), bce(logits, torch.ones(3)))
    torch.testing.assert_close(sda.fake_loss(logits), bce(logits, torch.zeros(3)))


# -- training ---------------------------------------------------------------------------------------
def test_a_resumed_training_is_the_same_bit_for_bit(begin, tmp_path):
    whole = loop.train(begin(), tmp_path / "whole")
    loop.train(begin(), tmp_path / "resumed", until=2)
    resumed = loop.train(begin(), tmp_path / "resumed")
    assert whole.step == resumed.step == 4
    states = [learner.state(Path()) for learner in (whole, resumed)]
    for name in ("generator", "discriminators"):
        first, second = (state[name].values() for state in states)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    logs = [(tmp_path / name / loop.LOG).read_text() for name in ("whole", "resumed")]
    assert logs[0] == logs[1] and logs[0].count("\n") == 4


def test_each_update_changes_its_own_networks(begin):
    learner = begin()
    sequences = next(learner.batches)
    audio = learner.encoder(sequences.sound)
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
    assert set(row) == {"dsc_frame", "dsc_sequence", "dsc_sync"}
    learner.update_generator(sequences.frames, x_hat, audio, draws)
    assert [torch.equal(a, b) for a, b in zip(between, weights(), strict=True)] == [False, True, True, True]
    assert all(p.requires_grad for p in learner.discriminators.parameters())


def test_training_brings_the_lips_closer_to_the_truth(begin):
    learner = begin({"sda.steps": 60, "sda.learning_rate": 2e-3})
    rows = [learner.train_step() for _ in range(60)]
    assert sum(row["l1"] for row in rows[-10:]) < 0.7 * sum(row["l1"] for row in rows[:10])


def test_ranks_must_be_able_to_share_a_batch(begin, monkeypatch):
    monkeypatch.setattr("talking_heads.training.distributed.ranks", lambda: 3)
    with pytest.raises(
        ValueError, match=r"section diffused\.sda: batch is 2, which 3 processes cannot share"
    ):
        begin()


def test_a_run_is_watched_and_leaves_weights_that_generate(profile, clips, tmp_path, monkeypatch):
    section = profile.diffused
    torch.manual_seed(0)
    encoder = build_encoder(section.audio_encoder)
    reader = type("Reader", (), {"encoder": encoder})
    monkeypatch.setattr("talking_heads.experiments.diffused.trainings.load_reader", lambda _: reader)
    run = SdaRun(profile, ClipData(clips, clips, {}), tmp_path, torch.device("cpu"))
    with run.recording():
        loop.train(run.learner, run.folder, watch=run.watch, watch_every=2)
    assert run.learner.generator.training
    sheets = sorted(path.name for path in run.folder.glob("*.png"))
    assert sheets == ["step000002.png", "step000004.png"]
    state, metadata = load_weights(run.export())
    assert metadata["step"] == metadata["of"] == 4 and "train-comparator" in metadata["command"]
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
