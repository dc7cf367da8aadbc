"""Meta-learning: episodes, the two updates, checkpoints, alarms, and trainings in their folders."""

import copy
import dataclasses
import errno
import json
import math
import resource
import signal
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from processes import limited, start, wait_for_rows
from scalar_reads import ScalarReads
from talking_heads.__main__ import main
from talking_heads.data import episodes
from talking_heads.data.episodes import EpisodeDataset, EpisodeSettings, PoolVideos, Subset
from talking_heads.data.frame_files import CorpusDamaged
from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.loader import Batches, NoBatch
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.pool import LiveVideos, PoolSettings, make_pool
from talking_heads.experiments import reference
from talking_heads.experiments.few_shot import stability, training_curves, trainings
from talking_heads.few_shot import losses
from talking_heads.few_shot.meta_learning import MetaLearner, flat_targets
from talking_heads.few_shot.networks.build import restore_networks
from talking_heads.few_shot.updates import (
    Targets,
    discriminator_step,
    generator_loss,
    generator_step,
    loss_weights,
)
from talking_heads.few_shot.video_table import VideoTable
from talking_heads.nn.weight_files import load_weights
from talking_heads.sections.few_shot import VARIANTS
from talking_heads.training import checkpoints, lineage, loop
from talking_heads.training.alarms import Alarm, Collapsed
from talking_heads.training.checkpoints import (
    BLOCK,
    CheckpointWriter,
    cut_log,
    load_checkpoint,
    names_digest,
    save_checkpoint,
)
from torch.utils.data import Dataset

CPU = torch.device("cpu")
WITH_D = {"meta_learning.content_steps": 0}  # D takes part from the first step


def override(profile, changes):
    """The profile with changes in its section ``few_shot``."""
    return profile.override({f"few_shot.{name}": value for name, value in changes.items()})


def make_learner(profile, videos, extractors, variant="ft", changes=None):
    return MetaLearner(override(profile, changes or {}), variant, videos, extractors)


def equal_parameters(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def read_log(folder):
    return [json.loads(line) for line in (folder / loop.LOG).read_text().splitlines()]


# -- episodes ---------------------------------------------------------------------------------------
def settings(k_min=2, k_max=2, targets=1, batch=2):
    return EpisodeSettings(k_min, k_max, targets, batch, size=32, line_width=1.0)


def test_targets_are_never_among_the_k_frames(videos):
    dataset = EpisodeDataset(videos, settings(k_min=1, k_max=4, targets=5, batch=3), seed=0)
    counts = set()
    for number in range(50):
        for _, few, targets in dataset.draw(number):
            assert not set(few) & set(targets) and len(set(few)) == len(few) and len(targets) == 5
            counts.add(len(few))
    assert counts == {1, 2, 3, 4}


def test_an_epoch_is_one_episode_of_each_video(videos):
    dataset = EpisodeDataset(videos, settings(), seed=0)
    for epoch in range(3):
        numbers = range(epoch * dataset.batches_per_epoch, (epoch + 1) * dataset.batches_per_epoch)
        assert sorted(video for n in numbers for video, _, _ in dataset.draw(n)) == [0, 1, 2, 3]


def test_videos_too_short_for_an_episode_are_refused(videos):
    with pytest.raises(ValueError, match="9 frames"):
        EpisodeDataset(videos, settings(k_min=8, k_max=8), seed=0)
    with pytest.raises(ValueError, match="no video of rank 4 of 5 has the 3 frames"):
        EpisodeDataset(videos, settings(), seed=0, rank=4, ranks=5)


@pytest.mark.parametrize("share, low, high", [(0.0, 0, 0), (0.5, 12, 36), (1.0, 48, 48)])
def test_a_share_of_the_episodes_shows_pupils(videos, monkeypatch, share, low, high):
    tracks = []

    def record(points, *rest):
        tracks.extend(points)
        return draw_all(points, *rest)

    monkeypatch.setattr(episodes, "draw_all", record)
    dataset = EpisodeDataset(videos, dataclasses.replace(settings(batch=4), pupils=share), seed=0)
    for number in range(12):
        dataset[number]
    visible = [np.isfinite(points[:, 68:]) for points in tracks]
    assert all(pupils.all() or not pupils.any() for pupils in visible), "all frames of an episode or none"
    assert low <= sum(pupils.size > 0 and pupils.all() for pupils in visible) <= high


def test_videos_rendered_when_they_are_read_are_the_clips(profile, extractors, tmp_path):
    """The training videos of a GPU: no pool, the same frames and names."""
    size = profile.data.image_size
    settings = PoolSettings(5, 10, 2, 2, 9, size)
    live = LiveVideos(settings, "cpu")
    assert names_digest(live) == names_digest(PoolVideos(make_pool(tmp_path / "pool", settings)))
    frames, points = live.read(3, np.array([6, 2]), pupils=True)
    clip = make_clip(ClipSettings(5, 11, 1, 9, 2.5, size), sound=False)
    assert len(live) == 4 and live.identity(3) == "11" and live.frame_count(3) == 9
    assert np.array_equal(frames, clip.frames[[6, 2]])
    np.testing.assert_allclose(points, np.concatenate([clip.landmarks, clip.pupils], 1)[[6, 2]])
    row = make_learner(profile, live, extractors).train_step()
    assert all(math.isfinite(value) for value in row.values())


# -- the two updates --------------------------------------------------------------------------------
@pytest.fixture
def learner(profile, videos):
    """A learner without extractors, whose D takes part from the first step."""
    return make_learner(profile, videos, [], changes=WITH_D)


def draw_targets(learner):
    """Real frames of an episode, and black ones in place of x̂ that record their gradient."""
    x, y, i = flat_targets(next(learner.episodes))
    return Targets(x, torch.zeros_like(x, requires_grad=True), y, i)


def test_the_generator_step_has_an_adversarial_gradient_and_leaves_d_untouched(profile, learner):
    e, g, d = learner.nets.embedder, learner.nets.generator, learner.nets.discriminator
    d.eval()  # the power iteration of spectral norm would change buffers
    before = copy.deepcopy(d.state_dict())
    episode = next(learner.episodes)
    x, y, i = flat_targets(episode)
    e_hat = e.embed(episode.x_s, episode.y_s).repeat_interleave(episode.x_t.shape[1], 0)
    adversarial_alone = dataclasses.replace(loss_weights(profile), feature_matching=0.0)
    loss, terms = generator_loss(Targets(x, g(y, e_hat), y, i), d, [], adversarial_alone)
    row = generator_step(loss, terms, learner.generator_optimiser)
    assert row["cnt"] == 0 and row["grad_norm"] > 0
    assert all(torch.equal(value, before[name]) for name, value in d.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in d.parameters())


def test_equation_3_is_the_weighted_sum_of_its_terms(profile, learner, extractors):
    targets, weights = draw_targets(learner), loss_weights(profile)
    match = torch.tensor(0.25)
    loss, terms = generator_loss(targets, learner.nets.discriminator, extractors, weights, match)
    assert set(terms) == {"cnt", "adv", "fm", "mch"}
    expected = terms["cnt"] + 0.1 * terms["adv"] + 10 * terms["fm"] + 1 * match
    torch.testing.assert_close(loss, expected)
    assert (weights.adversarial, weights.feature_matching, weights.match) == (0.1, 10.0, 1.0)


def test_a_joint_backward_pass_would_cancel_the_adversarial_gradient(learner):
    targets, d = draw_targets(learner), learner.nets.discriminator.eval()
    with torch.no_grad():  # scores near 0: every hinge is active
        d.table.weight.zero_()
        d.w0.mul_(1e-3)
    r_fake, _ = d(targets.x_hat, targets.y, targets.i)
    r_real, _ = d(targets.x, targets.y, targets.i)
    (losses.realism_loss(r_fake) + losses.discriminator_loss(r_fake, r_real)).backward()
    assert targets.x_hat.grad.abs().max() < 1e-6


def test_the_discriminator_step_gives_the_generator_no_gradient(learner):
    targets, d = draw_targets(learner), learner.nets.discriminator
    before = d.w0.detach().clone()
    row = discriminator_step(d, targets, (learner.discriminator_optimiser, learner.table_optimiser))
    assert targets.x_hat.grad is None and not torch.equal(before, d.w0) and row["dsc"] > 0


def test_a_step_reads_numbers_only_where_it_decides(learner):
    """Reading a number waits for the device: before each update of W, and for the row at once."""
    learner.train_step()  # which opens the loader
    with ScalarReads() as reads:
        row = learner.train_step()
    assert all(isinstance(value, (int, float)) for value in row.values()) and len(row) > 9
    section = learner.profile.few_shot
    moves_table = section.losses.match_pulls == "both"
    assert reads.count == section.optimiser.discriminator_steps + moves_table


@pytest.mark.parametrize("pulls", ["embedder", "both"])
def test_a_column_of_w_changes_only_in_steps_that_draw_its_video(profile, videos, extractors, pulls):
    """With momentum, a dense Adam would go on changing the columns of earlier steps."""
    changes = {
        "optimiser.discriminator_beta1": 0.5,
        "meta_learning.batch_videos": 1,
        "meta_learning.table_start": "random",
        "losses.match_pulls": pulls,
    }
    learner = make_learner(profile, videos, extractors, changes=WITH_D | changes)
    table = learner.nets.discriminator.table.weight
    for _ in range(6):
        before = table.detach().clone()
        drawn = sorted(video for video, _, _ in learner.dataset.draw(learner.episodes.number))
        learner.train_step()
        changed = (table.detach() != before).any(1).nonzero().ravel().tolist()
        assert changed == drawn


@pytest.mark.parametrize("pulls", ["embedder", "both"])
def test_the_match_term_pulls_e_and_w_as_configured(profile, videos, extractors, pulls):
    """Against FF, which has no L_MCH and is the same otherwise."""
    changes = {
        "losses.match_pulls": pulls,
        "losses.match_weight": 100.0,
        "meta_learning.table_start": "random",
    }
    ft, ff = (make_learner(profile, videos, extractors, v, WITH_D | changes) for v in ("ft", "ff"))
    row, other = ft.train_step(), ff.train_step()
    assert row["mch"] > 0 and "mch" not in other
    assert not equal_parameters(ft.nets.embedder, ff.nets.embedder)
    tables = (learner.nets.discriminator.table for learner in (ft, ff))
    assert equal_parameters(*tables) == (pulls == "embedder")


def embedding(learner, videos, number):
    """ê of the first K frames of a video."""
    images, points = videos.read(number, np.arange(min(learner.profile.few_shot.meta_learning.k_shot, 7)))
    line_width = learner.profile.few_shot.landmark_images.line_width
    y = to_tensor(draw_all(points, learner.profile.data.image_size, line_width))
    with torch.no_grad():
        return learner.ema[0].embed(to_tensor(images)[None], y[None])[0]


@pytest.mark.parametrize("shared, batches", [(True, 1), (False, 2)])
def test_the_updates_of_d_share_an_episode_or_have_their_own(profile, videos, extractors, shared, batches):
    """In both cases G learns from one of them; D does two updates."""
    changes = {"optimiser.discriminator_steps": 2, "optimiser.shared_episode": shared}
    learner = make_learner(profile, videos, extractors, changes=WITH_D | changes)
    before = copy.deepcopy(learner.nets)
    row = learner.train_step()
    assert learner.episodes.number == batches and row["grad_norm"] > 0
    assert learner.discriminator_optimiser.state[learner.nets.discriminator.b]["step"] == 2
    assert not equal_parameters(before.generator, learner.nets.generator)
    assert not equal_parameters(before.embedder, learner.nets.embedder)


def test_w_starts_as_the_embeddings_and_the_mean_score_at_zero(profile, videos, extractors):
    changes = {"meta_learning.content_steps": 1, "meta_learning.table_start": "embeddings"}
    rates = {"meta_learning.table_learning_rate": 1e-9, "meta_learning.discriminator_learning_rate": 1e-9}
    learner = make_learner(profile, videos, extractors, changes=changes | rates)
    learner.train_step()
    e_hats = torch.stack([embedding(learner, videos, number) for number in range(4)])
    learner.train_step()
    d = learner.nets.discriminator
    torch.testing.assert_close(d.table.weight.detach(), e_hats)
    torch.testing.assert_close(d.w0.detach(), -e_hats.mean(0))


def test_the_spread_of_embeddings_over_and_within_identities(profile, videos, extractors):
    learner = make_learner(profile, videos, extractors)
    e_hats = torch.stack([embedding(learner, videos, number) for number in range(4)]).unflatten(0, (2, 2))
    expected = {
        "e_people": e_hats.mean(1).var(0).mean().item(),
        "e_videos": e_hats.var(1).mean().item(),
    }
    assert learner.spread(videos) == pytest.approx(expected, rel=1e-4)


def test_ff_takes_twice_the_steps_and_has_the_same_content_steps(profile, videos, extractors):
    ft, ff = (make_learner(profile, videos, extractors, variant) for variant in ("ft", "ff"))
    assert ff.total == 2 * ft.total
    for _ in range(ft.content_steps):
        ft.train_step()
        ff.train_step()
    assert equal_parameters(ft.nets.generator, ff.nets.generator)


@pytest.mark.parametrize(
    "source, norm, network", [("embedder", "grad_norm", "generator"), ("discriminator", "d_grad_norm", None)]
)
def test_gradients_that_are_not_finite_are_not_applied(profile, videos, extractors, source, norm, network):
    """Of a network and of those that are updated with it: E and G, or D and W."""
    learner = make_learner(profile, videos, extractors, changes=WITH_D | {"losses.match_pulls": "embedder"})
    learner.train_step()
    updated = getattr(learner.nets, network or source)
    before = copy.deepcopy(updated)
    next(getattr(learner.nets, source).parameters()).register_hook(lambda gradient: gradient * float("nan"))
    assert not math.isfinite(learner.train_step()[norm])
    assert equal_parameters(before, updated)


@pytest.mark.cuda
def test_training_on_a_gpu_with_speakers_rendered_there(profile, extractors):
    live = LiveVideos(PoolSettings(5, 10, 2, 2, 9, profile.data.image_size), "cuda")
    learner = MetaLearner(profile, "ft", live, extractors, "cuda")
    rows = [learner.train_step() for _ in range(learner.content_steps + 2)]
    assert all(math.isfinite(value) for row in rows for value in row.values()) and "dsc" in rows[-1]


@pytest.mark.cuda
def test_a_step_on_a_gpu_is_that_on_a_cpu(profile, videos, extractors):
    first = override(profile, WITH_D)
    rows = [MetaLearner(first, "ft", videos, extractors, device).train_step() for device in ("cpu", "cuda")]
    assert rows[1] == pytest.approx(rows[0], rel=0.02, abs=1e-3)


# -- the loop and its checkpoints -------------------------------------------------------------------
def train_in_a_process(profile, videos, extractors, folder, threads):
    torch.set_num_threads(threads)
    loop.train(make_learner(profile, videos, extractors), folder, save_every=0)


def assert_equal_states(a, b):
    for net, other in zip(a._modules(), b._modules(), strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    for net, other in zip(a.ema, b.ema, strict=True):
        assert equal_parameters(net, other)


class Table:
    """W of 100 videos, its optimiser, and steps that draw some of them."""

    def __init__(self):
        torch.manual_seed(0)
        self.w = torch.nn.Embedding(100, 4, sparse=True)
        self.optimiser = torch.optim.SparseAdam([self.w.weight], lr=0.1)
        self.saved = VideoTable(self.w, self.optimiser, 100)

    def step(self, rows):
        self.optimiser.zero_grad()
        self.w(torch.tensor(rows)).pow(2).sum().backward()
        self.optimiser.step()
        self.saved.mark(torch.tensor(rows))


def test_a_checkpoint_has_the_changed_columns_of_w_and_all_of_them_now_and_then(tmp_path):
    """From both together a training goes on exactly."""
    table = Table()
    table.step([4])
    first = table.saved.state(tmp_path, 1)
    assert first["changes"][0][0].tolist() == [4] and not list(tmp_path.iterdir())
    many = list(range(0, 100, 4))  # more than an eighth
    table.step(many)
    second = table.saved.state(tmp_path, 2)  # all columns are written meanwhile, for later checkpoints
    assert second["changes"][0][0].tolist() == many and second["written"] == -1
    for number, rows in ((3, [3]), (4, [7, 3])):
        table.step(rows)
        state = table.saved.state(tmp_path, number)
    assert state["changes"][0][0].tolist() == [3, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["table-step2-0of1.pt"]
    resumed, begun, other = Table(), Table(), Table()
    resumed.saved.restore(state, tmp_path)
    begun.saved.restore(first, tmp_path)
    other.step([4])
    for one in (table, resumed, begun, other):
        one.step([4, 7, 50])
    assert torch.equal(resumed.w.weight, table.w.weight) and torch.equal(begun.w.weight, other.w.weight)


def test_marking_columns_of_w_brings_nothing_to_the_host():
    """A device whose values nobody can read, as a GPU's before it has finished."""
    table = torch.nn.Embedding(8, 4, sparse=True, device="meta")
    saved = VideoTable(table, torch.optim.SparseAdam([table.weight]), 8)
    saved.mark(torch.arange(3, device="meta"))
    assert saved.changed.device.type == "meta"


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_columns_that_could_not_be_written_stop_the_training(tmp_path, monkeypatch):
    """At the next checkpoint; the one before does not need them."""
    table = Table()
    table.step(list(range(50)))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        before = table.saved.state(tmp_path, 1)
        with pytest.raises(OSError, match=r"table-step1-0of1\.pt: step 1 cannot be saved"):
            table.saved.state(tmp_path, 2)
    resumed = Table()
    resumed.saved.restore(before, tmp_path)
    assert torch.equal(resumed.w.weight, table.w.weight)


@pytest.mark.parametrize("content", [b"PK torn", None], ids=["torn", "missing"])
def test_columns_that_cannot_be_read_are_named(tmp_path, content):
    table = Table()
    table.step(list(range(50)))
    table.saved.state(tmp_path, 1)
    state = table.saved.state(tmp_path, 2)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content) if content else path.unlink()
    with pytest.raises(
        ValueError, match=rf"{path.name}: the checkpoint .* bring it back, or move the folder"
    ):
        Table().saved.restore(state, tmp_path)


def test_a_killed_and_resumed_training_ends_with_the_same_weights(profile, videos, extractors, tmp_path):
    profile = override(profile, {"meta_learning.steps": 40, "meta_learning.content_steps": 6})
    whole = loop.train(make_learner(profile, videos, extractors), tmp_path / "whole")
    arguments = (profile, videos, extractors, tmp_path / "parts", torch.get_num_threads())
    process, log = start(train_in_a_process, *arguments), tmp_path / "parts" / loop.LOG
    wait_for_rows(log, 9)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with log.open("a") as file:  # steps after the last checkpoint, the last one incomplete
        file.write('{"step": 99}\n{"ste')
    resumed = loop.train(make_learner(profile, videos, extractors), tmp_path / "parts")
    assert_equal_states(whole, resumed)
    assert (tmp_path / "whole" / loop.LOG).read_text() == log.read_text()


@pytest.mark.parametrize("until", [2, 4], ids=["content steps", "adversarial steps"])
def test_a_training_goes_on_where_it_was_stopped(profile, videos, extractors, tmp_path, until):
    """And keeps a checkpoint of its content steps, for other variants."""
    whole = loop.train(make_learner(profile, videos, extractors), tmp_path / "whole")
    folder = tmp_path / "parts"
    stopped = loop.train(make_learner(profile, videos, extractors), folder, until=until)
    assert stopped.step == until and len(read_log(folder)) == until
    finished = loop.train(make_learner(profile, videos, extractors), folder)
    assert_equal_states(whole, finished)
    assert [row["step"] for row in read_log(folder)] == list(range(finished.total))
    content = load_checkpoint(folder / loop.CONTENT, finished.key)
    assert content["step"] == profile.few_shot.meta_learning.content_steps
    finished.table.executor.shutdown()
    files = {path.name for path in folder.iterdir()}
    tables = {name for name in files if name.startswith("table-step")}
    assert files - tables == {loop.CHECKPOINT, loop.CONTENT, loop.LOG, "config.json"}
    assert f"table-step{finished.total}-0of1.pt" in tables


def test_a_training_of_no_seconds_takes_no_step(profile, videos, extractors, tmp_path):
    learner = loop.train(make_learner(profile, videos, extractors), tmp_path, seconds=0.0)
    assert learner.step == 0 and read_log(tmp_path) == []


@pytest.mark.parametrize("rows", [0, 1, 50, 3_000])
def test_a_log_is_cut_before_a_step(tmp_path, rows):
    """Also a long one, of which little is read, and one whose last row is incomplete."""
    log = tmp_path / loop.LOG
    lines = [json.dumps({"step": step, "cnt": step / 7}) + "\n" for step in range(rows)]
    for step in {0, 1, rows // 3, rows - 1, rows, rows + 5}:
        log.write_text("".join(lines) + '{"step": 2')
        cut_log(log, step)
        assert log.read_text() == "".join(lines[: max(0, step)])


class CountedReads:
    """A path whose files count the bytes that are read from them."""

    total = 0

    def __init__(self, path):
        self.touch, self.stat, self.path = path.touch, path.stat, path

    @contextmanager
    def open(self, mode):
        with self.path.open(mode) as self.file:
            self.seek, self.tell, self.truncate = self.file.seek, self.file.tell, self.file.truncate
            yield self

    def readline(self):
        line = self.file.readline()
        self.total += len(line)
        return line

    def __iter__(self):
        return iter(self.readline, b"")


def test_of_a_long_log_little_is_read(tmp_path):
    log = tmp_path / loop.LOG
    log.write_text("".join(f'{{"step": {step}, "cnt": 0.25}}\n' for step in range(100_000)))
    counted = CountedReads(log)
    cut_log(counted, 70_000)
    assert counted.total < 3 * BLOCK < log.stat().st_size / 100
    assert log.read_text().splitlines()[-1] == '{"step": 69999, "cnt": 0.25}'


def test_a_checkpoint_of_other_videos_is_refused(profile, videos, extractors, tmp_path):
    state = make_learner(profile, videos, extractors).state(tmp_path)
    fewer = make_learner(profile, Subset(videos, [0, 1, 2]), extractors)
    with pytest.raises(ValueError, match="trained on 4 videos, these are 3"):
        fewer.restore(state, tmp_path)
    others = make_learner(profile, Subset(videos, [0, 2, 1, 3]), extractors)  # whose columns of W are others
    with pytest.raises(ValueError, match="trained on 4 videos of other names"):
        others.restore(state, tmp_path)


def test_a_checkpoint_of_other_settings_is_refused(profile, videos, extractors, tmp_path):
    loop.train(make_learner(profile, videos, extractors), tmp_path, until=1)
    other = make_learner(profile, videos, extractors, changes={"meta_learning.learning_rate": 0.5})
    name = "few_shot.meta_learning.learning_rate"
    with pytest.raises(ValueError, match=rf"other settings: {name} is 0\.5, was 0\.001\. Undo .* train anew"):
        loop.train(other, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint\.pt: belongs to other settings"):
        loop.train(other, tmp_path)


def test_weights_without_a_checkpoint_are_not_trained_over(profile, begin, tmp_path):
    """Whose checkpoint was deleted, for example to save space."""
    path = trainings.train(begin(profile))
    (path.parent / loop.CHECKPOINT).unlink()
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"meta-ft: has a training of other settings.*seed is 5, was 0"):
        trainings.train(begin(profile.model_copy(update={"seed": 5})))
    assert path.read_bytes() == content


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(profile, videos, extractors, tmp_path):
    """The disk is full: the same command goes on, once there is room."""
    loop.train(make_learner(profile, videos, extractors), tmp_path, until=1)
    message = r"checkpoint.pt: step 2 cannot be saved .*make room .*goes on"
    with limited(resource.RLIMIT_FSIZE, 100_000), pytest.raises(OSError, match=message):
        loop.train(make_learner(profile, videos, extractors), tmp_path, until=2)
    names = {path.name for path in tmp_path.iterdir() if not path.match("table-*")}
    assert names == {loop.CHECKPOINT, loop.LOG, "config.json"}
    resumed = loop.train(make_learner(profile, videos, extractors), tmp_path)
    whole = loop.train(make_learner(profile, videos, extractors), tmp_path / "whole")
    assert_equal_states(whole, resumed)


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    """The disk is full where no name belongs to the error."""
    message = r"run: cannot be written \(No space left.*make room"
    with pytest.raises(OSError, match=message), loop.stating_full_disks(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError, match="nowhere"), loop.stating_full_disks(tmp_path):
        (tmp_path / "nowhere").read_text()


class Vanishing(Dataset):
    """Episodes, of which one cannot be read."""

    def __init__(self, dataset, missing):
        self.dataset, self.missing = dataset, missing

    def __getitem__(self, number):
        if number == self.missing:
            raise CorpusDamaged("meta/ada: damaged; prepare again")
        return self.dataset[number]


def test_a_training_without_a_batch_saves_its_last_step_and_goes_on(profile, videos, extractors, tmp_path):
    """A clip vanishes, of the second of two episodes in a step; later it is there again."""
    changes = {"optimiser.discriminator_steps": 2, "optimiser.shared_episode": False}
    whole = loop.train(make_learner(profile, videos, extractors, changes=changes), tmp_path / "whole")
    learner = make_learner(profile, videos, extractors, changes=changes)
    content = learner.content_steps  # each with one episode
    learner.episodes = Batches(Vanishing(learner.dataset, missing=content + 3))
    with pytest.raises(NoBatch, match="meta/ada: damaged"):
        loop.train(learner, tmp_path / "parts")
    assert learner.step == content + 1
    resumed = make_learner(profile, videos, extractors, changes=changes)
    assert loop.saved_step(resumed, tmp_path / "parts") == content + 1
    assert_equal_states(whole, loop.train(resumed, tmp_path / "parts"))
    assert (tmp_path / "whole" / loop.LOG).read_text() == (tmp_path / "parts" / loop.LOG).read_text()


def test_a_checkpoint_is_of_the_step_in_which_it_was_taken(tmp_path):
    """It is written while training goes on."""
    weights = torch.zeros(1000, 1000)
    state = {"key": "a", "step": 0, "networks": [{"weights": weights}], "moments": (weights,)}
    with CheckpointWriter() as writer:
        writer.save(tmp_path / "a.pt", state)
        weights.fill_(1.0)
    saved = load_checkpoint(tmp_path / "a.pt", "a")
    assert saved["networks"][0]["weights"].sum() == saved["moments"][0].sum() == 0


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    written, save = threading.Event(), checkpoints.save_checkpoint
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda *a: written.wait(20) and save(*a))
    with CheckpointWriter() as writer:
        writer.save(tmp_path / "a.pt", {"key": "a", "step": 7})
        assert not (tmp_path / "a.pt").exists(), "the next step need not wait"
        written.set()
    assert load_checkpoint(tmp_path / "a.pt", "a")["step"] == 7


def test_a_damaged_checkpoint_is_refused(profile, videos, extractors, tmp_path):
    learner = make_learner(profile, videos, extractors)
    save_checkpoint(tmp_path / loop.CHECKPOINT, learner.state(tmp_path))
    content = (tmp_path / loop.CHECKPOINT).read_bytes()
    (tmp_path / loop.CHECKPOINT).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="a damaged checkpoint"):
        load_checkpoint(tmp_path / loop.CHECKPOINT, learner.key)


def test_exported_weights_are_what_fine_tuning_starts_from(profile, videos, extractors, tmp_path):
    learner = loop.train(make_learner(profile, videos, extractors), tmp_path)
    learner.export(tmp_path / "w.safetensors", {"profile": "smoke"})
    state, metadata = load_weights(tmp_path / "w.safetensors")
    nets = restore_networks(profile, state)
    assert metadata == {"profile": "smoke", "variant": "ft", "step": learner.total}
    averages = [*learner.ema, learner.nets.discriminator.convnet]
    restored = [nets.embedder, nets.generator, nets.discriminator.convnet]
    for a, b in zip(averages, restored, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=2e-3, atol=1e-4)  # fp16
    with pytest.raises(ValueError, match="do not fit profile smoke"):
        restore_networks(override(profile, {"networks.embedding": 8}), state)


# -- alarms -----------------------------------------------------------------------------------------
USUAL = {"step": 0, "cnt": 1.0, "dsc": 1.5, "r_real": 1.0, "r_fake": -1.0, "output_spread": 0.2}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cnt": float("nan")}, "cnt not finite"),
        ({"dsc": 0.0, "r_real": 30.0, "r_fake": -30.0}, "above generated ones by more than 20"),
        ({"r_real": 0.1, "r_fake": 0.1}, "it has died"),
        ({"output_spread": 0.0}, "all generated frames are equal"),
    ],
)
def test_an_alarm_names_the_symptom(changes, message):
    alarm = Alarm(window=5)
    with pytest.raises(Collapsed, match=message):
        for _ in range(5):
            alarm.check(USUAL | changes)


def test_an_alarm_needs_a_whole_window():
    alarm = Alarm(window=5)
    for step in range(40):
        alarm.check(USUAL | ({} if step % 5 == 0 else {"output_spread": 0.0}))


def test_a_training_that_collapses_raises_the_alarm(profile, videos, extractors, tmp_path):
    """A D that sums over space, with a learning rate 40 times too high, dies within 100 steps."""
    changes = {
        "networks.pool_discriminator": "relu_sum",
        "meta_learning.steps": 400,
        "meta_learning.learning_rate": 0.0,
        "meta_learning.discriminator_learning_rate": 0.02,
        "meta_learning.table_learning_rate": 0.1,
        "meta_learning.learning_rate_decay": False,
    }
    learner = make_learner(profile, videos, extractors, changes=WITH_D | changes)
    with pytest.raises(Collapsed, match="it has died"):
        loop.train(learner, tmp_path)


# -- trainings in their folders ---------------------------------------------------------------------
@pytest.fixture
def begin(videos, extractors, tmp_path, monkeypatch):
    """Begins or resumes a training of a profile in ``tmp_path``."""
    monkeypatch.setattr(trainings, "make_extractors", lambda profile: extractors)

    def run(profile, name="ft", validation=None, runs=tmp_path):
        data = trainings.TrainingData(videos, validation or videos, {"people": 2})
        return trainings.TrainingRun(profile, name, data, runs, CPU)

    return run


def test_every_variant_has_a_training():
    assert set(trainings.TRAININGS) == set(VARIANTS)


class KFrames:
    """Validation videos with no more than K frames, as those of the reference weights have."""

    def __init__(self, videos, k):
        self.videos, self.k = videos, k
        self.identity, self.read = videos.identity, videos.read

    def __len__(self):
        return len(self.videos)

    def frame_count(self, video):
        return self.k


def test_validation_videos_may_have_no_more_than_k_frames(profile, videos, begin):
    """One of their frames must remain as a target."""
    run = begin(profile, validation=KFrames(videos, profile.few_shot.meta_learning.k_shot))
    path = trainings.train(run)
    assert load_weights(path)[1]["step"] == profile.few_shot.meta_learning.steps


def test_a_training_leaves_validation_losses_and_sheets(profile, begin, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "WATCH_EVERY", 2)
    monkeypatch.setattr(trainings, "SHEET_EVERY", 4)
    short = override(profile, {"meta_learning.steps": 4, "meta_learning.content_steps": 2})
    trainings.train(begin(short))
    folder = tmp_path / "meta-ft"
    rows = read_log(folder)
    assert ["validation" in row for row in rows] == [False, True, False, True]
    assert all(rows[3][name] > 0 for name in ("e_people", "e_videos", "validation"))
    (sheet,) = folder.glob("*.png")
    picture = plt.imread(sheet)
    assert sheet.name == "step000004.png" and picture.std() > 0.05
    assert picture.shape[0] == 8 * profile.data.image_size
    assert json.loads((folder / "config.json").read_text())["key"] == begin(short).learner.key


def trained_slices(path):
    return [(part["from"], part["commit"]) for part in load_weights(path)[1]["lineage"]]


def test_weights_name_the_commit_of_every_slice(profile, begin, videos, extractors, tmp_path, monkeypatch):
    half = override(profile, {"meta_learning.steps": 4, "meta_learning.content_steps": 2})
    folder = tmp_path / "meta-ft"
    loop.train(make_learner(half, videos, extractors), folder, until=3)  # without a record
    monkeypatch.setattr(lineage, "commit", lambda: "aaa")
    run = begin(half)
    with run.recording():
        loop.train(run.learner, run.folder, seconds=0.0)
    monkeypatch.setattr(lineage, "commit", lambda: "bbb")
    path = trainings.train(begin(half))
    assert trained_slices(path) == [(0, "not recorded"), (3, "bbb")], "a slice without steps is not listed"
    content = path.read_bytes()
    assert trainings.train(begin(half)) == path and path.read_bytes() == content


@pytest.mark.parametrize("variant, status", [("ft", 2), ("no-match", 0)])
def test_a_training_that_collapses_fails_unless_it_is_an_ablation(
    videos, tmp_path, monkeypatch, capsys, variant, status
):
    def collapse(*_, **__):
        raise Collapsed("step 2: cnt not finite")

    data = trainings.TrainingData(videos, videos, {"videos": len(videos)})
    monkeypatch.setattr(trainings, "training_data", lambda *_: data)
    monkeypatch.setattr(loop, "train", collapse)
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    command = ["meta-learn", "--profile", "smoke", "--variant", variant, "--device", "cpu"]
    assert main([*places, *command]) == status
    error = f"error: the training of {variant} has collapsed: step 2: cnt not finite\n"
    assert capsys.readouterr().err == (error if status else "")


def test_ff_begins_with_the_content_steps_of_ft(profile, begin, tmp_path):
    trainings.train(begin(profile))
    run = begin(profile, "ff")
    assert loop.saved_step(run.learner, run.folder) == profile.few_shot.meta_learning.content_steps
    path = trainings.train(begin(profile, "ff"))
    parts = load_weights(path)[1]["lineage"]
    steps = profile.few_shot.meta_learning.content_steps
    assert [(part["from"], part.get("variant")) for part in parts] == [(0, "ft"), (steps, None)]


def test_content_steps_of_other_settings_are_not_shared(profile, begin):
    trainings.train(begin(profile))
    changed = override(profile, {"meta_learning.learning_rate": 7e-4})
    assert not (begin(changed, "ff").folder / loop.CHECKPOINT).exists()


def test_the_share_of_the_small_corpus_is_part_of_its_key(profile, begin):
    for name, changes in [("small", True), ("ft", False)]:
        keys = {begin(override(profile, {"trainings.small_share": s}), name).learner.key for s in (0.4, 0.6)}
        assert (len(keys) == 2) == changes


def test_weights_are_kept_once_they_are_finished(profile, begin, tmp_path, monkeypatch):
    for module in (reference, training_curves):
        monkeypatch.setattr(module, "COMMITTED", tmp_path / "committed")
    runs = tmp_path / profile.name / "runs" / "reference"
    folder, command = runs / "meta-ft", "python -m talking_heads meta-learn --variant ft"
    with pytest.raises(FileNotFoundError, match="no such weights"):
        reference.keep_training("ft", folder, command)
    run = begin(profile, runs=runs)
    with run.recording():
        loop.train(run.learner, run.folder, until=3)
    run.export()
    with pytest.raises(ValueError, match="step 3 of 6; python -m talking_heads meta-learn --variant ft"):
        reference.keep_training("ft", folder, command)
    path = trainings.train(begin(profile, runs=runs))
    assert reference.keep_training("ft", folder, command).read_bytes() == path.read_bytes()
    assert [row["step"] for row in training_curves.curves(profile, "reference", tmp_path)["ft"]] == [0]


# -- stability --------------------------------------------------------------------------------------
@pytest.fixture
def simulated_trainings(videos, tmp_path, monkeypatch):
    """Trainings whose loss rises, and which collapse, without L_FM; the names of those that ran."""
    names = []

    def train(learner, folder):
        names.append(folder.name)
        folder.mkdir(exist_ok=True)
        collapses = not learner.profile.few_shot.losses.feature_matching_weight
        content_loss = [2.0] * 5 + ([1.0] * 5 + [3.0] * 2 if collapses else [1.5] * 10)
        scores = {"r_real": 1.0, "r_fake": 0.0}
        rows = [{"step": s, "cnt": v, **(scores if s >= 5 else {})} for s, v in enumerate(content_loss)]
        (folder / loop.LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
        if collapses:
            raise Collapsed("step 12: all generated frames are equal")

    def chapter_folder(runs, learner, store):
        return tmp_path / f"fm{learner.profile.few_shot.losses.feature_matching_weight:g}"

    monkeypatch.setattr(stability.corpora, "store", lambda *arguments: videos)
    monkeypatch.setattr(stability, "MetaLearner", lambda profile, *rest: SimpleNamespace(profile=profile))
    monkeypatch.setattr(stability, "chapter_folder", chapter_folder)
    monkeypatch.setattr(stability.loop, "train", train)
    return names


def test_a_training_without_feature_matching_that_collapsed_is_not_repeated(
    profile, tmp_path, simulated_trainings
):
    profile = profile.override({"protocol.stability_steps": 15, "protocol.stability_seeds": 1})
    table, logs = stability.stability(profile, tmp_path, tmp_path, CPU)
    again, _ = stability.stability(profile, tmp_path, tmp_path, CPU)
    assert simulated_trainings.count("fm0") == 1 and table.equals(again)
    assert set(logs) == {"with L_FM, seed 0", "without L_FM, seed 0"}
    rows = table.set_index("feature_matching")
    assert rows["diverged"].to_dict() == {"with": False, "without": True}
    assert rows.loc["without", ["step", "since"]].tolist() == [12, 12]
    assert rows.loc["with", "apart"] == 1.0 and math.isnan(rows.loc["with", "since"])
