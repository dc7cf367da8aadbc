"""Training of the denoising network and generation with it: resuming, logs, alarms, the order of frames."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scalar_reads import ScalarReads
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data import video
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.windows import LENGTH, WindowDataset, WindowSettings, neighbours
from talking_heads.diffused import model, training
from talking_heads.diffused.audio_encoder import WaveformEncoder, build_encoder, embed_clip
from talking_heads.diffused.audio_pretraining import SpeechReader
from talking_heads.diffused.diffusion import cosine_schedule
from talking_heads.diffused.generation import Generator, latency_seconds, stream
from talking_heads.diffused.losses import min_snr_weight
from talking_heads.diffused.sampling import SAMPLERS
from talking_heads.diffused.training import DiffusionLearner, model_key, noised_motion
from talking_heads.experiments.diffused import trainings
from talking_heads.experiments.diffused.clips import ClipData, choose_clips, clip_data
from talking_heads.experiments.diffused.samples import Beginnings, Sample
from talking_heads.experiments.diffused.weights import has_weights
from talking_heads.metrics import lip_sync
from talking_heads.nn.weight_files import load_weights
from talking_heads.training import loop
from talking_heads.training.alarms import Collapsed


@pytest.fixture
def begin(profile, clips):
    """A learner of the smoke profile with an untrained encoder."""

    def begin_training(overrides=None, workers=0):
        torch.manual_seed(0)
        changed = profile.override({f"diffused.{name}": v for name, v in (overrides or {}).items()})
        return DiffusionLearner(changed, clips, build_encoder(changed.diffused.audio_encoder), "cpu", workers)

    return begin_training


def states_equal(a, b):
    """Whether the weights, averages and optimisers of two learners are the same, bit for bit."""
    first, second = a.state(Path()), b.state(Path())
    moments = [
        [value for entry in state["optimiser"]["state"].values() for value in entry.values()]
        for state in (first, second)
    ]
    tensors = [
        [*state["network"].values(), *state["ema"].values(), *more]
        for state, more in zip((first, second), moments, strict=True)
    ]
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True)) and first["step"] == second["step"]


# -- training ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_training_is_the_same_bit_for_bit(begin, tmp_path, workers):
    """With dropout, and with batches whose gradients are computed in parts."""
    begin = partial(begin, {"network.dropout": 0.2, "training.micro_batch": 1})
    whole = loop.train(begin(), tmp_path / "whole")
    loop.train(begin(workers=workers), tmp_path / "resumed", until=2)
    resumed = loop.train(begin(workers=workers), tmp_path / "resumed")
    assert whole.step == 6 and states_equal(whole, resumed)
    logs = [(tmp_path / name / loop.LOG).read_text() for name in ("whole", "resumed")]
    assert logs[0] == logs[1]


def test_a_checkpoint_of_other_settings_or_another_encoder_is_refused(begin, tmp_path, profile, clips):
    loop.train(begin(), tmp_path, until=1)
    with pytest.raises(
        ValueError, match=r"other settings: diffused.diffusion.lip_weight is 0\.5, was 0\.2\."
    ):
        loop.train(begin({"diffusion.lip_weight": 0.5}), tmp_path)
    torch.manual_seed(1)
    other = DiffusionLearner(profile, clips, build_encoder(profile.diffused.audio_encoder))
    with pytest.raises(ValueError, match="other settings: weights of the audio encoder is "):
        loop.train(other, tmp_path)


def test_the_log_has_every_term_by_quartile_of_time(begin, tmp_path):
    learner = begin({"training.batch": 4, "training.steps": 8})
    loop.train(learner, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / loop.LOG).read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(8))
    names = {f"{term}_q{quarter}" for term in ("simple", "lips", "vlb") for quarter in range(1, 5)}
    spreads = {"output_spread", "x_0_spread"}
    assert set().union(*rows) == names | spreads | {"step", "simple", "lips", "vlb", "grad_norm"}


def test_gradients_of_the_parts_of_a_batch_are_those_of_the_batch(begin):
    """Without noise on motion frames and dropped sound, whose draws would differ."""
    values = {"training.batch": 4, "conditions.motion_noise": 0.0, "sampling.motion_noise": 0.0}
    values |= {"conditions.audio_dropout": 0.0, "network.precision": "fp32"}
    learners = [begin({**values, "training.micro_batch": size}) for size in (4, 2)]
    windows, gradients = learners[0].dataset[0], []
    t, noise = torch.tensor([10, 300, 600, 900]), torch.randn(4, 3, 32, 32)
    for learner in learners:
        draws = iter(
            zip(
                t.split(learner.section.training.micro_batch),
                noise.split(learner.section.training.micro_batch),
                strict=True,
            )
        )
        learner.draw = lambda part, generator, draws=draws: next(draws)
        learner.unet.out.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
        learner.backward(windows, torch.Generator())
        gradients.append(
            torch.cat([p.grad.flatten() for p in learner.unet.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_loss_is_equation_19(begin):
    """Without dropped sound and min-SNR weights it is L_simple + λ_ls L_ls + λ_vlb L_vlb."""
    learner = begin({"diffusion.lip_weight": 0.3, "diffusion.vlb_weight": 0.01})
    windows = learner.dataset[0]
    loss, row = learner.loss(windows, torch.Generator().manual_seed(1))
    expected = row["simple"] + 0.3 * row["lips"] + 0.01 * row["vlb"]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_min_snr_weighs_the_simple_and_the_lip_loss(begin):
    """For one window, of which the weight is that of its time step."""
    learner = begin({"diffusion.min_snr": 5.0, "training.batch": 1, "conditions.audio_dropout": 0.0})
    windows, section = learner.dataset[0], learner.section.diffusion
    drawn, _ = learner.draw(windows, torch.Generator().manual_seed(1))
    loss, row = learner.loss(windows, torch.Generator().manual_seed(1))
    weight = min_snr_weight(learner.schedule, drawn, 5.0, section.prediction)
    expected = weight * (row["simple"] + section.lip_weight * row["lips"]) + section.vlb_weight * row["vlb"]
    torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=0)
    assert weight.item() != 1


def test_without_averaging_the_average_is_the_network(begin):
    """As in the paper's profiles."""
    learner = begin({"training.ema": 0.0, "training.learning_rate": 1e-2})
    for _ in range(3):
        learner.train_step()
    pairs = zip(learner.ema.parameters(), learner.unet.parameters(), strict=True)
    assert all(torch.equal(average, parameter) for average, parameter in pairs)


def test_a_step_reads_its_row_at_once(begin):
    """Reading a number waits for the device."""
    learner = begin({"training.batch": 4, "training.micro_batch": 2})
    learner.train_step()  # which opens the loader
    with ScalarReads() as reads:
        row = learner.train_step()
    assert all(isinstance(value, (int, float)) for value in row.values()) and len(row) > 6
    assert reads.count == 0


def test_the_network_learns(begin):
    """The loss on windows and noise that stay the same falls."""
    learner = begin({"training.steps": 80, "training.batch": 4, "training.learning_rate": 3e-2})
    windows = [learner.dataset[step] for step in range(1000, 1008)]

    def measure():
        with torch.no_grad():
            terms = [learner.loss(w, torch.Generator().manual_seed(k))[1] for k, w in enumerate(windows)]
        return np.mean([row["simple"] for row in terms])

    before = measure()
    for _ in range(80):
        learner.train_step()
    assert measure() < 0.85 * before


def test_a_collapse_raises_an_alarm(begin, tmp_path):
    learner = begin({"training.learning_rate": 1e-3})
    learner.train_step()
    for parameter in learner.unet.parameters():
        parameter.data.fill_(math.inf)
    with pytest.raises(Collapsed, match="not finite"):
        loop.train(learner, tmp_path)


def test_a_network_that_outputs_the_same_for_all_raises_an_alarm(begin, tmp_path):
    """Provoked by a learning rate of nothing: the last layer stays at zero."""
    learner = begin({"training.learning_rate": 0.0, "training.steps": 200})
    with pytest.raises(Collapsed, match="for 100 steps all generated frames are equal"):
        loop.train(learner, tmp_path)


def test_a_network_that_ignores_its_conditions_raises_an_alarm(begin, tmp_path, monkeypatch):
    """Provoked by a network that estimates the same frame from every noise; its outputs differ."""
    learner = begin({"training.steps": 200, "diffusion.prediction": "velocity"})
    weight = next(learner.unet.parameters())

    def estimate_grey(unet, x_t, t, conditions, grey):
        alpha_bar = learner.schedule.alpha_bar[t].float()[:, None, None, None]
        velocity = (alpha_bar.sqrt() * x_t) / (1 - alpha_bar).sqrt()  # x_0 is 0
        return torch.cat([velocity + 0 * weight.sum(), torch.zeros_like(velocity)], 1)

    monkeypatch.setattr(training, "predict", estimate_grey)
    with pytest.raises(Collapsed, match="estimated from noise are equal, whatever the conditions"):
        loop.train(learner, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / loop.LOG).read_text().splitlines()]
    assert all(row["output_spread"] > 1e-3 and row["x_0_spread"] < 0.01 for row in rows)


@pytest.mark.parametrize(
    "share, steps, factors",
    [
        (1.0, [200, 500, 999], [0.905, 0.5, 0.0]),
        (0.2, [200, 799, 900], [1.0, 1.0, 0.5]),
        (0.0, [0, 200, 999], [1 / 200, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_falls_in_the_last_share_of_the_steps(begin, share, steps, factors):
    values = {"training.learning_rate": 1.0, "training.steps": 1000, "training.learning_rate_decay": share}
    learner, rates = begin(values), []
    for learner.step in steps:
        rates.append(learner.learning_rate())
    np.testing.assert_allclose(rates, factors, atol=0.001)
    learner.step, expected = steps[0], rates[0]
    learner.train_step()
    assert learner.optimiser.param_groups[0]["lr"] == expected


def test_the_encoder_stays_as_it_is(begin):
    learner = begin()
    before = {name: value.clone() for name, value in learner.encoder.state_dict().items()}
    learner.train_step()
    assert all(torch.equal(before[name], value) for name, value in learner.encoder.state_dict().items())


def test_sound_is_left_out_of_a_share_of_the_samples(begin):
    learner = begin({"conditions.audio_dropout": 0.25, "training.batch": 200})
    conditions = learner.conditions(learner.dataset[0], torch.Generator().manual_seed(0))
    assert (conditions.audio == 0).all((1, 2)).float().mean().item() == pytest.approx(0.25, abs=0.1)


def test_a_self_rollout_puts_generated_frames_in_the_place_of_motion_frames(begin):
    """Two frames, each generated after the ones before it, with the sound of its own instant."""
    values = {"training.rollout_share": 1.0, "training.rollout_frames": 2, "training.rollout_steps": 2}
    values |= {"training.batch": 16, "conditions.motion_noise": 0.0}
    values |= {"conditions.audio_dropout": 0.0, "sampling.motion_noise": 0.0}
    learner = begin(values)
    for parameter in learner.ema.parameters():
        parameter.data.normal_(0, 0.2)
    windows = learner.dataset[3]
    assert windows.motion.shape[1] == 4 and windows.sound.shape[1] == 9
    conditions = learner.conditions(windows, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    torch.rand((), generator=generator)  # whether this batch has a rollout
    values = {"sampler": "ddim", "steps": 2, "guidance": 1.0, "motion_noise": 0.0, "identity_every": 0}
    sampling = learner.section.sampling.model_copy(update=values)
    sampler = Generator(learner.ema, learner.section.model_copy(update={"sampling": sampling}))
    motion = windows.motion.clone()
    for k in (0, 1):
        sound = learner.encoder(windows.sound[:, k : k + 5])
        before = model.Conditions(windows.identity, motion[:, k : k + 2], sound, torch.zeros(16))
        with torch.no_grad():
            own = sampler.frame(before, lambda x: torch.randn(x.shape, generator=generator))
        later = (windows.motion[:, k + 2] != windows.identity).any(1).any(1).any(1)
        motion[later, k + 2] = own[later]
        assert later.any() and not later.all(), "some clips begin later"
    torch.testing.assert_close(conditions.motion, motion[:, 2:])
    torch.testing.assert_close(conditions.audio, learner.encoder(windows.sound[:, 2:7]))
    changed = windows._replace(sound=windows.sound.roll(1, 0))
    other = learner.conditions(changed, torch.Generator().manual_seed(0))
    assert not torch.allclose(other.motion, conditions.motion), "generated frames depend on the sound"


def test_a_training_with_rollouts_resumes_exactly(begin, tmp_path):
    values = {"training.rollout_share": 0.5, "training.batch": 4, "training.micro_batch": 2}
    whole = loop.train(begin(values), tmp_path / "whole")
    loop.train(begin(values), tmp_path / "parts", until=3)
    assert states_equal(loop.train(begin(values), tmp_path / "parts"), whole)


def test_without_self_rollouts_motion_frames_are_true_ones(begin):
    noiseless = {"conditions.motion_noise": 0.0, "sampling.motion_noise": 0.0}
    learner = begin({"training.rollout_share": 1e-9} | noiseless)
    windows = learner.dataset[0]
    given = learner.conditions(windows, torch.Generator().manual_seed(0))
    assert torch.equal(given.motion, windows.motion[:, 1:])


def test_noise_on_motion_frames_has_the_level_that_the_network_is_told():
    motion, generator = torch.zeros(500, 2, 3, 8, 8), torch.Generator().manual_seed(0)
    noised, level = noised_motion(motion, 0.3, generator)
    measured = noised.flatten(1).std(1)
    torch.testing.assert_close(measured, level, rtol=0.2, atol=1e-3)
    assert level.min() >= 0 and level.max() <= 0.3 and level.max() > 0.29
    same, zero = noised_motion(motion, 0.0, generator)
    assert torch.equal(same, motion) and not zero.any()


def test_exported_weights_are_the_average_with_provenance(begin, tmp_path):
    learner = begin()
    learner.train_step()
    learner.export(tmp_path / "weights.safetensors", {"profile": "smoke"})
    state, metadata = load_weights(tmp_path / "weights.safetensors")
    keys = {"key": learner.key, "model": model_key(learner.section, learner.encoder)}
    assert metadata == {"profile": "smoke", **keys, "step": 1}
    assert all(torch.allclose(state[n], v, atol=1e-3) for n, v in learner.ema.state_dict().items())


# -- trainings in their folder ------------------------------------------------------------------------
@pytest.fixture
def untrained_reader(monkeypatch):
    """In place of the committed encoder, an untrained one that is always the same."""

    def read(section):
        torch.manual_seed(0)
        return SpeechReader(section).eval().requires_grad_(False)

    monkeypatch.setattr(trainings, "load_reader", read)


@pytest.fixture
def watched(monkeypatch, untrained_reader):
    """What is watched, in a training of six steps."""
    for name, value in {"WATCH_EVERY": 3, "TALK_EVERY": 6, "WATCHED_BATCH": 2}.items():
        monkeypatch.setattr(trainings, name, value)
    monkeypatch.setattr(trainings, "TALKING", 2)
    monkeypatch.setattr(trainings, "TALKED", 10)


def test_the_command_trains_watches_and_exports(tmp_path, watched, capsys):
    folders = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    command = [*folders, "train-diffusion", "--profile", "smoke", "--device", "cpu"]
    folder = tmp_path / "results/smoke/runs/reference/diffusion"
    for more, steps in ((["--minutes", "1e-6"], 1), ([], 6)):  # a slice, and the rest
        main([*command, *more])
        rows = [json.loads(line) for line in (folder / loop.LOG).read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(steps))
    watched_rows = [row for row in rows if "validation" in row]
    assert [row["step"] for row in watched_rows] == [2, 5]
    assert {"validation_lips", "mouth opening", "CSIM-judge, last second"} <= set(watched_rows[1])
    assert Image.open(folder / "step000006.png").size == (32, 4 * 32)
    pair = video.read(folder / "step000006.mp4")
    assert (len(pair.frames), pair.frames[0].shape) == (10, (256, 512, 3)) and len(pair.sound) >= 10 * 640
    metadata = load_weights(folder / "weights.safetensors")[1]
    assert (metadata["step"], metadata["of"], metadata["profile"]) == (6, 6, "smoke")
    assert metadata["people"]["people"] == 4
    assert [part["from"] for part in metadata["lineage"]] == [0, 1]
    configuration = json.loads((folder / "config.json").read_text())
    assert configuration["key"] == metadata["key"]
    main(command)
    assert "at its end already" in capsys.readouterr().out


def test_two_processes_do_not_train_in_one_folder(tmp_path, profile, clips, untrained_reader):
    data = ClipData(clips, clips, {})
    runs = [trainings.DiffusionRun(profile, data, tmp_path, torch.device("cpu")) for _ in range(2)]
    with (
        runs[0].recording(),
        pytest.raises(ValueError, match=r"diffusion: another process trains here"),
        runs[1].recording(),
    ):
        pytest.fail("both train")


def test_weights_are_trained_where_chapters_train_them_and_only_once(tmp_path, watched, monkeypatch):
    device, profile = torch.device("cpu"), config.load("smoke")
    arguments = ("scratch", tmp_path / "data", tmp_path / "results", device)
    trainings.ensure_weights(profile.override({"diffused.protocol.chapter_trains": False}), *arguments)
    trainings.ensure_weights(profile, "reference", *arguments[1:])  # which are committed, or missing
    assert not (tmp_path / "results").exists()
    trainings.ensure_weights(profile, *arguments)
    assert has_weights(profile, "scratch", tmp_path / "results")
    monkeypatch.setattr(trainings, "DiffusionRun", lambda *_: pytest.fail("trained again"))
    trainings.ensure_weights(profile, *arguments)


def test_clips_of_a_sample_are_long_enough(clips):
    """A short first clip of one identity does not shorten the others'."""

    class Mixed:
        counts, names = (1, 10, 7, 10), ("a", "a", "b", "c")

        def __len__(self):
            return 4

        def frame_count(self, number):
            return self.counts[number]

        def identity(self, number):
            return self.names[number]

        def read(self, number, frames):
            return clips.read(number % 4, frames)

        def sound(self, number):
            return clips.sound(number % 4)

    encoder = build_encoder(config.load("smoke").diffused.audio_encoder).eval()
    assert set(choose_clips(Mixed(), 8, 7, seed=0)) == {1, 2, 3}
    for count, frames in ((2, 10), (3, 7), (8, 1)):
        beginnings = Beginnings.read(Mixed(), encoder, count, frames=50, each_side=2)
        clips_read = min(count, 4)
        assert beginnings.frames.shape == (clips_read, frames, 32, 32, 3)
        assert beginnings.audio.shape == (clips_read, frames, 5, 64)


def test_every_identity_has_a_clip_before_one_has_two():
    class Clips:
        def __len__(self):
            return 12

        def frame_count(self, number):
            return 5 if number < 11 else 4

        def identity(self, number):
            return "abcd"[number // 4] if number < 8 else "d"

    orders = [choose_clips(Clips(), 9, 5, seed) for seed in range(6)]
    for chosen in orders:
        identities = [Clips().identity(number) for number in chosen]
        assert set(identities[:3]) == set(identities[3:6]) == set(identities[6:9]) == set("abd")
        assert len(set(chosen)) == 9 and 11 not in chosen, "another clip each time, none that is too short"
    assert len({tuple(chosen) for chosen in orders}) == 6 and {chosen[0] for chosen in orders} != {0}
    assert choose_clips(Clips(), 9, 5, 2) == orders[2]
    assert len(choose_clips(Clips(), 99, 5, 0)) == 11


@pytest.mark.parametrize(
    "layout, name, size", [("crema", "{actor}_DFA_ANG_XX.mkv", 32), ("folder", "{split}/id{actor}/a.mkv", 48)]
)
def test_a_profile_of_real_videos_trains_on_its_own_corpus(tmp_path, untrained_reader, layout, name, size):
    """CREMA-D's layout, and a folder of your own; with landmarks beside the videos."""
    clip = make_clip(ClipSettings(3, 1, 0, 12, 25.0, 64))
    for actor in range(1001, 1015):
        split = "validation" if actor < 1003 else "meta"
        path = tmp_path / layout / "videos" / name.format(actor=actor, split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        video.write(path, clip.frames, 25.0, clip.sound, lossless=True)
        np.savez(path.with_suffix(".npz"), landmarks=clip.landmarks)
    values = {"data.source": "videos", "data.layout": layout, "data.image_size": size}
    profile = config.load("smoke").override(values)
    data = clip_data(profile, tmp_path, torch.device("cpu"))
    assert len(data.training) + len(data.validation) == 14 and len(data.validation) > 0
    run = trainings.DiffusionRun(profile, data, tmp_path / "runs", torch.device("cpu"))
    assert math.isfinite(run.learner.train_step()["simple"])


# -- generation -------------------------------------------------------------------------------------
class Recorder(torch.nn.Module):
    """Records its inputs, and predicts ε = x_t: a frame of zeros."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, t, y, level=None, control=None):
        self.calls.append((x, t, y, level))
        return torch.cat([x[:, :3], torch.zeros_like(x[:, :3])], 1)


def around(embeddings):
    """Motion audio embeddings (B, n, 5, A) of frames whose windows have these embeddings (B, n, A)."""
    count = embeddings.shape[1]
    return torch.stack([embeddings[:, neighbours(k, count, 2)] for k in range(count)], 1)


@pytest.fixture
def recorded(profile):
    """Two clips of four frames generated with a recorder; the identity frames are 0.5 and -0.5."""

    def generate(overrides=None, count=4):
        changed = {"sampling.steps": 2, "sampling.guidance": 1.0, "sampling.motion_noise": 0.0}
        changed["diffusion.prediction"] = "epsilon"
        changed |= overrides or {}
        section = profile.override({f"diffused.{name}": v for name, v in changed.items()}).diffused
        network = Recorder()
        identity = torch.tensor([0.5, -0.5])[:, None, None, None].expand(2, 3, 8, 8)
        audio = around(torch.arange(count)[None, :, None].expand(2, count, 4).float())
        return network, list(Generator(network, section).talk(identity, audio, [1, 2]))

    return generate


def test_generation_begins_with_copies_of_the_identity_frame(recorded):
    """Then the newest generated frame comes last among the motion frames; equation (16)."""
    network, frames = recorded()
    assert len(frames) == 4 and frames[0].shape == (2, 3, 8, 8)
    firsts = [x for x, *_ in network.calls[::2]]  # two steps a frame
    for k, x in enumerate(firsts):
        motion = [frames[j] if j >= 0 else x[:, 9:12] for j in (k - 2, k - 1)]
        torch.testing.assert_close(x[:, 3:9], torch.cat(motion, 1))
        assert (x[0, 9:12] == 0.5).all() and (x[1, 9:12] == -0.5).all()


def test_generation_is_told_the_steps_of_the_whole_process(recorded):
    network, _ = recorded({"sampling.steps": 3})
    assert [t.tolist() for _, t, *_ in network.calls[:3]] == [[999] * 2, [500] * 2, [0] * 2]
    assert cosine_schedule(1000, 3).timesteps.tolist() == [0, 500, 999]


def test_missing_embeddings_repeat_the_first_or_the_last(recorded):
    network, _ = recorded()
    heard = [y[0].unflatten(0, (5, 4))[:, 0].tolist() for _, _, y, _ in network.calls[::2]]
    assert heard == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


def test_grey_motion_frames_and_none(recorded):
    network, frames = recorded({"conditions.motion_grey": True})
    assert network.calls[0][0].shape[1] == 3 + 2 + 3
    torch.testing.assert_close(network.calls[-1][0][:, 4:5], model.grey(frames[-2]))
    assert recorded({"conditions.motion_frames": 0})[0].calls[0][0].shape[1] == 6


def test_guidance_goes_beyond_the_prediction_without_sound(profile):
    """ε = ε(silence) + s (ε(sound) - ε(silence)); the network is called twice a step."""

    class Loud(Recorder):
        def forward(self, x, t, y, level=None, control=None):
            self.calls.append(y)
            epsilon = x[:, :3] + 0.01 * y.sum(1)[:, None, None, None]
            return torch.cat([epsilon, torch.zeros_like(epsilon)], 1)

    def first_frame(guidance):
        overrides = {"diffused.sampling.guidance": guidance, "diffused.sampling.steps": 1}
        overrides |= {"diffused.diffusion.prediction": "epsilon", "diffused.sampling.sampler": "ddim"}
        overrides["diffused.sampling.motion_noise"] = 0.0
        network = Loud()
        generator = Generator(network, profile.override(overrides).diffused)
        talk = generator.talk(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 5, 1), [3])
        return next(talk), network

    schedule = cosine_schedule(1000, 1)
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3 * model.SEED_STRIDE))
    for guidance, calls in ((1.0, 1), (2.0, 2)):
        frame, network = first_frame(guidance)
        assert len(network.calls) == calls
        epsilon = noise + guidance * 0.05
        signal, sigma = schedule.alpha_bar[0].sqrt(), (1 - schedule.alpha_bar[0]).sqrt()
        torch.testing.assert_close(frame, ((noise - sigma * epsilon) / signal).clamp(-1, 1).float())


def test_the_identity_frame_returns_among_the_motion_frames(recorded):
    network, frames = recorded({"sampling.identity_every": 3}, count=5)
    motion = [x[:, 3:9] for x, *_ in network.calls[::2]]  # two steps a frame
    identity = motion[0][:, :3]
    assert torch.equal(motion[2], torch.cat([frames[0], frames[1]], 1))
    assert torch.equal(motion[3], torch.cat([identity, frames[2]], 1)), "after three frames"
    assert torch.equal(motion[4], torch.cat([frames[2], frames[3]], 1))


def test_motion_frames_get_noise_of_a_known_level(profile):
    network = Recorder()
    section = profile.override({"diffused.sampling.motion_noise": 0.2}).diffused
    identity, audio = torch.ones(2, 3, 32, 32), torch.zeros(2, 1, 5, 1)
    next(Generator(network, section).talk(identity, audio, [0, 1]))
    for x, *_, level in network.calls:
        assert level.tolist() == pytest.approx([0.2, 0.2])
        motion, given = x[:, 3:9], x[:, 9:]
        assert torch.equal(given, identity)
        assert motion.std().item() == pytest.approx(0.2, rel=0.05) and abs(motion.mean().item() - 1) < 0.01
        assert torch.equal(motion, network.calls[0][0][:, 3:9])  # the same noise in every step


def test_generation_goes_on_exactly_where_it_was_interrupted(profile):
    torch.manual_seed(0)
    section = profile.diffused
    unet = model.build_unet(section).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.1)
    generator = Generator(unet, section)
    identity, audio = torch.zeros(2, 3, 32, 32), torch.randn(2, 6, 5, 64)
    whole = list(generator.talk(identity, audio, [2, 5]))
    for interrupted in (1, 2, 4):
        rest = list(generator.talk(identity, audio, [2, 5], earlier=whole[:interrupted]))
        assert all(torch.equal(a, b) for a, b in zip(whole[interrupted:], rest, strict=True))
    other = list(generator.talk(identity, audio, [3, 6]))
    assert not torch.equal(whole[0], other[0]) and not torch.equal(whole[0], whole[1])


def test_frames_come_out_while_sound_goes_in(profile):
    """Frame k depends on the sound up to frame k + m_y alone."""
    torch.manual_seed(0)
    section = profile.diffused
    unet = model.build_unet(section).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.1)
    identity, audio = torch.zeros(1, 3, 32, 32), torch.randn(1, 6, 64)
    changed = audio.clone()
    changed[:, 4:] += 1
    generator = Generator(unet, section)
    first, second = (list(generator.talk(identity, around(a), [2])) for a in (audio, changed))
    ahead = section.conditions.audio_windows
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [k + ahead < 4 for k in range(6)]


@pytest.mark.parametrize("sizes", [[640], [100, 5000, 3], [12_000], []])
def test_a_stream_gives_the_frames_of_the_whole_clip(profile, sizes):
    """With chunks of any length; each frame comes out as early as its look-ahead allows."""
    torch.manual_seed(0)
    section = profile.diffused
    unet, encoder = model.build_unet(section).eval(), build_encoder(section.audio_encoder).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.1)
    generator, identity = Generator(unet, section), torch.rand(1, 3, 32, 32)
    wave = np.random.default_rng(0).standard_normal(15 * 640 + 200)
    sound = (0.7 * 32767 * wave / np.abs(wave).max()).round().astype(np.int16)  # as loud as rendered clips
    expected = list(generator.talk(identity, embed_clip(encoder, sound, 16, 2)[None], [4]))
    given = [0]

    def chunks():
        while given[0] < len(sound):
            size = sizes[len(given) % len(sizes)] if sizes else len(sound)
            given.append(size)
            chunk = sound[given[0] : given[0] + size]
            given[0] += len(chunk)
            yield chunk

    frames = []
    for k, frame in enumerate(stream(generator, encoder, identity, chunks(), seed=4)):
        frames.append(frame)
        needed = k * 640 + round(latency_seconds(section) * 16_000)
        assert given[0] >= min(needed, len(sound))
        if sizes == [640]:
            assert given[0] - needed < 640 or given[0] == len(sound)
    assert len(frames) == len(expected) == 16
    for a, b in zip(frames, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert latency_seconds(section) == pytest.approx(0.18)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_clip_is_the_same_alone_and_in_a_batch(profile, sampler):
    torch.manual_seed(0)
    section = profile.override({"diffused.sampling.sampler": sampler}).diffused
    unet = model.build_unet(section).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.05)
    identity, audio = torch.rand(2, 3, 32, 32), torch.randn(2, 2, 5, 64)
    both, seeds = list(Generator(unet, section).talk(identity, audio, [2, 5])), ([2], [5])
    for row, seed in enumerate(seeds):
        alone = list(Generator(unet, section).talk(identity[row : row + 1], audio[row : row + 1], seed))
        for a, b in zip(both, alone, strict=True):
            torch.testing.assert_close(a[row], b[0], rtol=0, atol=1e-5)
    assert not torch.allclose(both[1][0], both[1][1], atol=1e-3)


# -- sound and metrics --------------------------------------------------------------------------------
def test_a_clips_sound_is_encoded_frame_by_frame(profile):
    torch.manual_seed(0)
    encoder = build_encoder(profile.diffused.audio_encoder).eval()
    sound = (1000 * np.random.default_rng(0).standard_normal(6400)).astype(np.int16)
    embeddings = embed_clip(encoder, sound, 10, 2)
    assert embeddings.shape == (10, 5, 64)
    gain = 0.7 * 32767 / np.abs(sound).max()
    window = torch.from_numpy(gain * sound[5 * 640 - LENGTH // 2 : 5 * 640 + LENGTH // 2] / 32768).float()
    for frame, position in ((5, 2), (4, 3), (7, 0)):
        torch.testing.assert_close(embeddings[frame, position], encoder(window[None, None])[0, 0])
    quiet = embed_clip(encoder, (sound / 20).round().astype(np.int16), 10, 2)
    torch.testing.assert_close(quiet, embeddings, rtol=0, atol=0.02)


def test_a_recurrent_encoder_hears_in_generation_what_it_hears_in_training(profile, clips):
    """The windows of a frame alone, wherever the frame lies in its clip."""
    torch.manual_seed(0)
    encoder = WaveformEncoder(16).eval()
    dataset = WindowDataset(clips, WindowSettings(4, 2, 2), seed=0)
    embeddings = {n: embed_clip(encoder, clips.sound(n), clips.frame_count(n), 2) for n in range(len(clips))}
    with torch.no_grad():
        heard = encoder(dataset[3].sound)
    for sample in heard:
        distances = [(frames - sample).abs().amax((1, 2)).min() for frames in embeddings.values()]
        assert min(distances) < 1e-5


def test_the_distance_of_mouths_ignores_where_the_head_is():
    rng = np.random.default_rng(0)
    truth = rng.uniform(10, 50, (3, 68, 2))
    assert np.allclose(lip_sync.landmark_distance(truth + 5, truth), 0)
    moved = truth.copy()
    moved[:, 48:68] += np.where(np.arange(20) % 2, 1.0, -1.0)[:, None] * [0, 2]
    eyes = np.linalg.norm(truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1), axis=-1)
    np.testing.assert_allclose(lip_sync.landmark_distance(moved, truth), 2 / eyes)


def test_correlation_of_tracks():
    track = np.sin(np.arange(20.0))
    assert lip_sync.track_correlation(track, 3 * track + 1) == pytest.approx(1)
    assert lip_sync.track_correlation(track, -track) == pytest.approx(-1)
    assert lip_sync.track_correlation(track, np.ones(20)) == 0


def test_silence_is_told_from_the_sound():
    """A frame is silent where it and its neighbours are; what lies after the sound is silent."""
    sound = np.zeros(10 * 640, np.int16)
    sound[4 * 640 : 5 * 640] = 1000
    assert np.flatnonzero(~lip_sync.silent_frames(sound, 12)).tolist() == [3, 4, 5]


def test_mouths_of_rendered_clips_are_closed_in_silence():
    """Nine of ten by exact landmarks, and a clip of six seconds blinks two or three times."""
    shares, blinks = [], []
    for identity in range(7_000_000, 7_000_004):
        clip = make_clip(ClipSettings(1, identity, 0, 150, 25.0, 32), only=np.array([0]))
        silent = lip_sync.silent_frames(32767 * clip.sound, 150)
        shares.append(lip_sync.closed_share(clip.landmarks, silent))
        blinks.append(lip_sync.blinks(clip.landmarks))
        assert not lip_sync.closed_share(clip.landmarks, ~silent) > 0.5
    assert np.nanmean(shares) > 0.9 and set(blinks) <= {2, 3}
    assert np.isnan(lip_sync.closed_share(clip.landmarks, np.zeros(150, bool)))


def test_true_clips_have_the_best_scores(clips, tmp_path):
    """Frames against themselves; a clip that stands still does not move its lips."""
    truth = np.stack([clips.read(clip, np.arange(10))[0] for clip in range(2)])
    scores = Sample(truth, truth).scores().mean()
    perfect = scores[["mouth opening", "amplitude", "change", "CSIM-judge, first second"]]
    np.testing.assert_allclose(perfect, 1, atol=1e-5)
    frozen = Sample(np.repeat(truth[:, :1], 10, 1), truth)
    assert frozen.scores()[["mouth opening", "change"]].eq(0).all(axis=None)
    frozen.save_sheet(tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (32, 4 * 32)
