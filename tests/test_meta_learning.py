"""Meta-learning: episodes, the two updates, resuming, and the alarm."""

import copy
import dataclasses
import json
import math
import multiprocessing
import signal
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.data.episodes import EpisodeSampler
from talking_heads.experiments.few_shot import keep, training_curves
from talking_heads.few_shot import losses
from talking_heads.few_shot.meta_learning import (
    MetaLearner,
    discriminator_step,
    export,
    flat_targets,
    generator_step,
    loss_weights,
)
from talking_heads.few_shot.networks.build import restore_weights
from talking_heads.nn.precision import autocast
from talking_heads.nn.weight_files import load_weights
from talking_heads.training.alarms import Alarm, Collapsed
from talking_heads.training.checkpoints import load_checkpoint, save_checkpoint
from talking_heads.training.loop import meta_learn


def learner(profile, videos, extractors, variant="ft", **changes):
    return MetaLearner(profile.override({**changes}), variant, videos, extractors)


def test_target_is_never_among_the_k(videos):
    sampler = EpisodeSampler(videos, 1, 4, 5, 3, 32, 1.0, seed=0)
    for _ in range(50):
        for video, shown, targets in sampler.draw():
            assert not set(shown) & set(targets) and len(set(shown)) == len(shown) and len(targets) == 5


def test_an_epoch_is_one_episode_a_video(videos):
    sampler = EpisodeSampler(videos, 2, 2, 1, 2, 32, 1.0, seed=0)
    assert sorted(v for _ in range(2) for v, _, _ in sampler.draw()) == [0, 1, 2, 3]


def test_videos_too_short_for_an_episode_are_left_out_or_refused(videos):
    with pytest.raises(ValueError, match="9 frames"):
        EpisodeSampler(videos, 8, 8, 1, 1, 32, 1.0, seed=0)


def test_generator_step_has_an_adversarial_gradient_and_leaves_d_untouched(profile, videos, extractors):
    m = learner(profile, videos, [], content_steps=0)
    x, y, i = flat_targets(m.sampler.next())
    e, g, d = m.nets.embedder, m.nets.generator, m.nets.discriminator
    before = copy.deepcopy(d.state_dict())
    d.eval()  # a power iteration is no learning, but it would change buffers
    x_hat = g(
        y,
        e.embed(*(v[:, :2] for v in (m.sampler.next().x_s, m.sampler.next().y_s))).repeat_interleave(
            profile.few_shot.meta_learning.targets, 0
        ),
    )
    alone = dataclasses.replace(loss_weights(profile), feature_matching=0.0)
    row = generator_step(x, x_hat, y, i, d, [], alone, m.generator_optimiser, autocast("fp32", "cpu"))
    assert row["cnt"] == 0 and row["grad_norm"] > 0, "all of the gradient is that of the score"
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())
    assert all(p.grad is None for p in d.parameters()) and all(p.requires_grad for p in d.parameters())


def test_a_joint_backward_would_cancel_the_adversarial_gradient(profile, videos):
    m = learner(profile, videos, [])
    x, y, i = flat_targets(m.sampler.next())
    d = m.nets.discriminator.eval()
    with torch.no_grad():  # scores near 0: every hinge is active
        d.table.weight.zero_(), d.w0.mul_(1e-3)
    x_hat = torch.zeros_like(x, requires_grad=True)
    r, _ = d(x_hat, y, i)
    (losses.realism_loss(r) + losses.discriminator_loss(r, d(x, y, i)[0])).backward()
    assert x_hat.grad.abs().max() < 1e-6


def test_discriminator_step_gives_the_generator_nothing(profile, videos):
    m = learner(profile, videos, [])
    x, y, i = flat_targets(m.sampler.next())
    x_hat = torch.zeros_like(x, requires_grad=True)
    before = m.nets.discriminator.w0.clone()
    row = discriminator_step(
        m.nets.discriminator,
        x,
        x_hat,
        y,
        i,
        (m.discriminator_optimiser, m.table_optimiser),
        autocast("fp32", "cpu"),
    )
    assert x_hat.grad is None and not torch.equal(before, m.nets.discriminator.w0) and row["dsc"] > 0


@pytest.mark.parametrize("pulls", ["embedder", "both"])
def test_a_row_of_w_moves_only_when_its_video_was_drawn(profile, videos, extractors, pulls):
    """With momentum, a dense Adam would go on moving the rows of earlier steps."""
    m = learner(
        profile,
        videos,
        extractors,
        content_steps=0,
        discriminator_beta1=0.5,
        batch_videos=1,
        table_start="random",
        match_pulls=pulls,
    )
    for _ in range(6):
        before = m.nets.discriminator.table.weight.detach().clone()
        drawn = []
        draw = m.sampler.draw
        m.sampler.draw = lambda: drawn.extend(d := draw()) or d
        m.train_step()
        m.sampler.draw = draw
        moved = (m.nets.discriminator.table.weight.detach() != before).any(1).nonzero().ravel().tolist()
        assert moved == sorted({v for v, _, _ in drawn})


@pytest.mark.parametrize("pulls", ["embedder", "both"])
def test_match_term_pulls_whom_it_is_told_to(profile, videos, extractors, pulls):
    """Against FF, which has no L_MCH and is the same otherwise: E moves elsewhere, W only where it is pulled too."""
    ft, ff = (
        learner(
            profile,
            videos,
            extractors,
            v,
            content_steps=0,
            match_pulls=pulls,
            match_weight=100.0,
            table_start="random",
        )
        for v in ("ft", "ff")
    )
    row, other = ft.train_step(), ff.train_step()
    assert row["mch"] > 0 and "mch" not in other
    embedders = [torch.cat([p.ravel() for p in m.nets.embedder.parameters()]) for m in (ft, ff)]
    assert not torch.equal(*embedders)
    tables = [m.nets.discriminator.table.weight for m in (ft, ff)]
    assert torch.equal(*tables) == (pulls == "embedder")


def test_w_starts_as_the_embeddings_and_the_score_undecided(profile, videos, extractors):
    m = learner(profile, videos, extractors, content_steps=1, table_start="embeddings")
    m.train_step()
    m._start_table()
    with torch.no_grad():
        e = m.ema[0].embed(*(v[None] for v in _frames(m, videos, 2)))[0]
    torch.testing.assert_close(m.nets.discriminator.table.weight[2], e)
    torch.testing.assert_close(m.nets.discriminator.w0, -m.nets.discriminator.table.weight.mean(0))


def _frames(m, videos, number):
    from talking_heads.data.frames import to_tensor
    from talking_heads.data.landmarks import draw_all

    x, points = videos.read(number, np.arange(min(m.profile.k_shot, 7)))
    return to_tensor(x), to_tensor(draw_all(points, m.profile.image_size, m.profile.line_width))


def test_ff_is_twice_as_long_and_shares_the_content_steps(profile, videos, extractors):
    ft, ff = (learner(profile, videos, extractors, v, table_start="random") for v in ("ft", "ff"))
    assert ff.total == 2 * ft.total
    for _ in range(profile.few_shot.meta_learning.content_steps):
        ft.train_step(), ff.train_step()
    assert all(
        torch.equal(a, b) for a, b in zip(ft.nets.generator.parameters(), ff.nets.generator.parameters())
    )


def _train(profile, videos, extractors, folder, threads):
    torch.set_num_threads(threads)
    meta_learn(learner(profile, videos, extractors), folder, save_every=0)


@pytest.mark.parametrize("stop", [2, 9])
def test_killed_and_resumed_training_ends_at_the_same_weights(profile, videos, extractors, tmp_path, stop):
    p = profile.override({"few_shot.meta_learning.steps": 60, "few_shot.meta_learning.content_steps": 6})
    whole = meta_learn(learner(p, videos, extractors), tmp_path / "whole")
    process = multiprocessing.get_context("spawn").Process(
        target=_train, args=(p, videos, extractors, tmp_path / "parts", torch.get_num_threads())
    )
    process.start()
    log, deadline = tmp_path / "parts/stats.jsonl", time.time() + 180
    while not log.exists() or len(log.read_text().splitlines()) < stop:
        assert time.time() < deadline and process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with open(
        log, "a"
    ) as out:  # steps after the last checkpoint, lost with the process; the last was being written
        out.write('{"step": 99}\n{"ste')
    parts = meta_learn(learner(p, videos, extractors), tmp_path / "parts")
    for a, b in zip(
        (whole.nets.embedder, whole.nets.generator, whole.nets.discriminator, *whole.ema),
        (parts.nets.embedder, parts.nets.generator, parts.nets.discriminator, *parts.ema),
    ):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert (tmp_path / "whole/stats.jsonl").read_text() == log.read_text()


def test_checkpoint_of_other_people_is_refused(profile, videos, extractors):
    from talking_heads.data.episodes import Subset

    with pytest.raises(ValueError, match="trained on 4 videos, these are 3"):
        learner(profile, Subset(videos, [0, 1, 2]), extractors).restore(
            learner(profile, videos, extractors).state()
        )


def test_spread_of_embeddings_between_and_within_people(profile, videos, extractors):
    m = learner(profile, videos, extractors)
    found = m.spread(videos)
    with torch.no_grad():
        e = torch.stack(
            [m.ema[0].embed(*(v[None] for v in _frames(m, videos, n)))[0] for n in range(4)]
        ).unflatten(0, (2, 2))
    assert found["e_people"] == pytest.approx(e.mean(1).var(0).mean().item(), rel=1e-4)
    assert found["e_videos"] == pytest.approx(e.var(1).mean().item(), rel=1e-4)


def test_checkpoint_of_other_settings_is_refused(profile, videos, extractors, tmp_path):
    save_checkpoint(tmp_path / "c.pt", learner(profile, videos, extractors).state())
    with pytest.raises(ValueError, match="other settings"):
        load_checkpoint(tmp_path / "c.pt", profile.override({"few_shot.meta_learning.learning_rate": 0.5}))


def test_export_is_what_fine_tuning_starts_from(profile, videos, extractors, tmp_path):
    m = meta_learn(learner(profile, videos, extractors), tmp_path)
    export(m, tmp_path / "w.safetensors", {"profile": "smoke"})
    state, about = load_weights(tmp_path / "w.safetensors")
    nets = restore_weights(profile, state)
    assert about["variant"] == "ft" and about["step"] == m.total
    for a, b in zip(m.ema[1].parameters(), nets.generator.parameters()):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4)  # fp16
    with pytest.raises(ValueError, match="do not fit"):
        restore_weights(profile.override({"few_shot.networks.embedding": 8}), state)


def test_alarm_on_nan_on_a_lost_game_and_on_equal_outputs():
    fine = {"step": 0, "cnt": 1.0, "dsc": 1.5, "r_real": 1.0, "r_fake": -1.0, "output_spread": 0.2}
    for row, why in (
        ({**fine, "cnt": float("nan")}, "cnt not finite"),
        ({**fine, "dsc": 0.0, "r_real": 30.0, "r_fake": -30.0}, "tells real from fake"),
        ({**fine, "r_real": 0.1, "r_fake": 0.1}, "has died"),
        ({**fine, "output_spread": 0.0}, "alike"),
    ):
        alarm = Alarm(window=5)
        with pytest.raises(Collapsed, match=why):
            for _ in range(5):
                alarm.check(row)
    alarm = Alarm(window=5)
    for _ in range(20):
        alarm.check(fine)


def test_a_game_that_really_collapses_raises_the_alarm(profile, videos, extractors, tmp_path):
    """A discriminator that sums over space and is forty times too fast dies within a hundred steps and scores everything alike."""
    m = learner(
        profile,
        videos,
        extractors,
        pool_discriminator="relu_sum",
        content_steps=0,
        meta_steps=400,
        discriminator_rate=0.02,
        rate=0.0,
        table_rate=0.1,
        rate_decay=False,
    )
    with pytest.raises(Collapsed, match="it has died"):
        meta_learn(m, tmp_path)


def test_a_training_is_judged_on_people_with_no_more_frames_than_k(
    profile, videos, extractors, tmp_path, monkeypatch
):
    """The reference's validation people are such: one of their frames must be left to be drawn."""
    from talking_heads.experiments.few_shot import trainings

    class Few:
        person, read, __len__ = videos.person, videos.read, lambda self: len(videos)

        def frame_count(self, video):
            return profile.few_shot.meta_learning.k_shot

    monkeypatch.setattr(trainings, "make_extractors", lambda _: extractors)
    path = trainings.train(profile, "ft", videos, Few(), tmp_path, {"people": 2})
    assert load_weights(path)[1]["step"] == profile.few_shot.meta_learning.steps


def test_a_training_leaves_sheets_and_is_watched(profile, videos, extractors, tmp_path, monkeypatch):
    from talking_heads.experiments.few_shot import trainings

    monkeypatch.setattr(trainings, "WATCH_EVERY", 2)
    monkeypatch.setattr(trainings, "SHEET_EVERY", 4)
    monkeypatch.setattr(trainings, "make_extractors", lambda _: extractors)
    trainings.train(
        profile.override(
            {
                "few_shot.meta_learning.steps": 4,
                "few_shot.meta_learning.content_steps": 2,
                "few_shot.losses.extractors": [],
            }
        ),
        "ft",
        videos,
        videos,
        tmp_path,
        {},
    )
    rows = [json.loads(line) for line in (tmp_path / "meta-ft/stats.jsonl").read_text().splitlines()]
    assert ["validation" in r for r in rows] == [False, True, False, True]
    assert rows[3]["e_people"] > 0 and rows[3]["e_videos"] > 0 and rows[3]["validation"] > 0
    (sheet,) = (tmp_path / "meta-ft").glob("*.png")
    picture = plt.imread(sheet)
    assert (
        sheet.name == "step000004.png"
        and picture.shape[0] == 8 * profile.data.image_size
        and picture.std() > 0.05
    )


def test_a_training_says_which_code_trained_which_steps_and_is_kept_at_its_end(
    profile, videos, extractors, tmp_path, monkeypatch
):
    from talking_heads.experiments.few_shot import trainings
    from talking_heads.experiments.few_shot import weights as reference

    assert set(trainings.TRAININGS) == set(config.VARIANTS)
    p, runs = (
        profile.override({"few_shot.meta_learning.content_steps": 2}),
        tmp_path / profile.name / "runs/reference",
    )
    monkeypatch.setattr(trainings, "make_extractors", lambda _: extractors)
    monkeypatch.setattr(reference, "COMMITTED", tmp_path / "committed")
    commits = iter(["aaa", "aaa", "bbb", "bbb", "ccc", "ccc"])
    monkeypatch.setattr(trainings, "commit", lambda: next(commits))
    half = p.override({"few_shot.meta_learning.steps": 4})
    meta_learn(learner(half, videos, extractors), runs / "meta-ft", until=3)
    with pytest.raises(FileNotFoundError, match="no such weights"):
        keep.keep_weights(p, "ft", tmp_path)
    path = trainings.train(half, "ft", videos, videos, runs, {}, seconds=0.0)
    with pytest.raises(ValueError, match="step 3 of 4; python -m talking_heads meta-learn --variant ft"):
        keep.keep_weights(p, "ft", tmp_path)
    trainings.train(half, "ft", videos, videos, runs, {})
    made = path.read_bytes()
    assert [(s["from"], s["commit"]) for s in load_weights(path)[1]["lineage"]] == [
        (0, "not recorded"),
        (3, "bbb"),
    ], "a slice without steps is none"
    trainings.train(half, "ft", videos, videos, runs, {})
    assert path.read_bytes() == made, "at its end nothing changes"
    trainings.train(half, "ff", videos, videos, runs, {})
    shared = load_weights(runs / "meta-ff/weights.safetensors")[1]["lineage"]
    assert [(s["from"], s.get("variant")) for s in shared] == [(0, "ft"), (2, None)], (
        "the content steps are those of ft"
    )
    kept = keep.keep_weights(half, "ft", tmp_path)
    assert kept.read_bytes() == made and [
        r["step"] for r in training_curves.curves(half, "reference", tmp_path)["ft"]
    ] == [0]


def test_what_other_code_trained_is_put_aside_and_nothing_is_lost(tmp_path, capsys):
    from talking_heads.experiments.few_shot.trainings import put_aside

    folder = tmp_path / "meta-ft"
    for code in ("aaa", "aaa", "bbb", "aaa", "bbb"):
        put_aside(folder, code)
        (folder / "checkpoint.pt").write_text(code)
    put_aside(folder, "bbb")
    assert (folder / "checkpoint.pt").read_text() == "bbb"
    assert {p.name: (p / "checkpoint.pt").read_text() for p in tmp_path.glob("meta-ft-*")} == {
        "meta-ft-aaa-1": "aaa",
        "meta-ft-bbb-1": "bbb",
        "meta-ft-aaa-2": "aaa",
    }
    assert "meta-ft: trained by other code, kept as meta-ft-aaa-1; trains anew" in capsys.readouterr().out


def test_gradients_that_are_not_finite_are_not_stepped(profile, videos, extractors):
    m = learner(profile, videos, extractors, content_steps=10)
    m.train_step()
    before = [p.detach().clone() for p in m.nets.generator.parameters()]
    next(iter(m.nets.embedder.parameters())).register_hook(lambda g: g * float("nan"))
    assert not math.isfinite(m.train_step()["grad_norm"])
    assert all(torch.equal(a, b) for a, b in zip(before, m.nets.generator.parameters()))


def test_videos_rendered_as_they_are_read_are_the_clips(profile, extractors):
    """What a GPU trains on: no pool, the same frames."""
    from talking_heads.data.speakers.clips import make_clip
    from talking_heads.data.speakers.pool import LiveVideos

    live = LiveVideos(5, 10, 2, 2, 9, profile.data.image_size, "cpu")
    frames, points = live.read(3, np.array([6, 2]), pupils=True)
    clip = make_clip(5, 11, 1, 9, 2.5, profile.data.image_size, sound=False)
    assert len(live) == 4 and live.person(3) == "11" and live.frame_count(3) == 9
    assert np.array_equal(frames, clip.frames[[6, 2]]) and np.allclose(
        points, np.concatenate([clip.landmarks, clip.pupils], 1)[[6, 2]]
    )
    m = learner(profile, live, extractors)
    assert all(math.isfinite(v) for v in m.train_step().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_runs_on_cuda_with_speakers_rendered_there(profile, extractors):
    from talking_heads.data.speakers.pool import LiveVideos

    m = MetaLearner(
        profile, "ft", LiveVideos(5, 10, 2, 2, 9, profile.data.image_size, "cuda"), extractors, "cuda"
    )
    rows = [m.train_step() for _ in range(profile.few_shot.meta_learning.content_steps + 2)]
    assert all(math.isfinite(v) for row in rows for v in row.values()) and "dsc" in rows[-1]


def test_a_training_without_feature_matching_that_was_stopped_stays_stopped(
    profile, videos, monkeypatch, tmp_path
):
    """And the table says since when its content loss stayed above the start."""
    from talking_heads.experiments.few_shot import trainings

    p = profile.override({"protocol.stability_steps": 15, "protocol.stability_seeds": 1})  # D joins at step 6
    monkeypatch.setattr(trainings.build, "store", lambda *_: videos)
    monkeypatch.setattr(
        trainings,
        "chapter_folder",
        lambda runs, p, people: tmp_path / f"fm{p.few_shot.losses.feature_matching_weight:g}",
    )
    monkeypatch.setattr(trainings, "MetaLearner", lambda p, *_: p)
    ran = []

    def fake(p, folder):
        ran.append(folder.name)
        folder.mkdir(exist_ok=True)
        losses = (
            [2.0] * 5 + [1.0] * 5 + [3.0] * 2
            if not p.few_shot.losses.feature_matching_weight
            else [2.0] * 5 + [1.5] * 10
        )
        rows = [
            {"step": s, "cnt": v, **({"r_real": 1.0, "r_fake": 0.0} if s >= 5 else {})}
            for s, v in enumerate(losses)
        ]
        (folder / "stats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if not p.few_shot.losses.feature_matching_weight:
            raise Collapsed("step 12: all generated frames are alike")

    monkeypatch.setattr(trainings, "meta_learn", fake)
    (first, _), (again, logs) = (
        trainings.stability(p, tmp_path, tmp_path, torch.device("cpu")) for _ in range(2)
    )
    assert (
        ran.count("fm0") == 1
        and first.equals(again)
        and set(logs) == {"with L_FM, seed 0", "without L_FM, seed 0"}
    )
    table = first.set_index("feature_matching")
    assert table["diverged"].to_dict() == {"with": False, "without": True} and table.loc[
        "without", ["step", "since"]
    ].tolist() == [12, 12]
    assert table.loc["with", "apart"] == 1.0 and math.isnan(table.loc["with", "since"])
