"""Driving heads: landmark adaptation against known truth, steadiness without delay, heads as files, animate."""

import dataclasses
import time
from types import SimpleNamespace

import av
import numpy as np
import pandas as pd
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import animate, smoothing
from talking_heads.animation import head_files as heads
from talking_heads.animation.face_shape import FaceShape, fit
from talking_heads.data import prepare, video
from talking_heads.data.landmarks import interocular, openings
from talking_heads.data.speakers.clips import make_clip
from talking_heads.data.store import Store
from talking_heads.experiments.few_shot import reenactment as puppetry
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import build
from talking_heads.judges.use import find_landmarks
from talking_heads.nn.weight_files import save_weights

ONE = np.array([0])  # frames rendered, where only landmarks are wanted


@pytest.fixture(scope="module")
def model():
    return FaceShape.load()


def error(found, truth):
    return float((np.linalg.norm(found - truth, axis=-1).mean(1) / interocular(truth)).mean())


def track(person, video_, moved_by=None, frames=48):
    return make_clip(
        8, person, video_, frames, 12.5, 64, sound=False, only=ONE, moved_by=moved_by
    ).landmarks.astype(float)


@pytest.mark.parametrize("t", [1, 8])
def test_adapted_landmarks_are_nearer_to_the_truth_than_raw_ones(model, t):
    """The speakers can perform one person's motion with another's face: the truth is known."""
    raw, adapted = [], []
    for source, driver in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12)):
        moves, truth = track(driver, 0), track(source, 0, moved_by=(driver, 0))
        raw.append(error(moves, truth))
        adapted.append(error(model.adapt(moves, track(source, 1)[:t], 64), truth))
    assert np.mean(adapted) < 0.75 * np.mean(raw), (raw, adapted)


def test_a_model_fitted_anew_adapts_too_and_says_what_made_it(tmp_path):
    import json

    from safetensors import safe_open

    fit([np.concatenate([track(100 + n, v, frames=8) for v in (0, 1)]) for n in range(60)]).save(
        tmp_path / "shape.safetensors", {"people": 60}
    )
    with safe_open(tmp_path / "shape.safetensors", "np") as file:
        assert json.loads(file.metadata()["about"]) == {"people": 60}
    model, raw, adapted = FaceShape.load(tmp_path / "shape.safetensors"), [], []
    for source, driver in ((1, 2), (3, 4), (5, 6), (7, 8)):
        moves, truth = track(driver, 0), track(source, 0, moved_by=(driver, 0))
        raw.append(error(moves, truth))
        adapted.append(error(model.adapt(moves, track(source, 1)[:8], 64), truth))
    assert np.mean(adapted) < 0.8 * np.mean(raw), (raw, adapted)


def test_a_person_driven_by_its_own_track_stays_where_it_is(model):
    own = track(21, 0)
    assert error(model.adapt(own, own, 64), own) < 0.02


def test_performing_another_persons_motion_keeps_the_face():
    a, b = make_clip(8, 1, 0, 6, 12.5, 48), make_clip(8, 1, 0, 6, 12.5, 48, moved_by=(2, 0))
    c = make_clip(8, 2, 0, 6, 12.5, 48)
    assert a.traits == b.traits and all(np.array_equal(b.pose[k], c.pose[k]) for k in c.pose)
    assert not np.array_equal(a.landmarks, b.landmarks) and not np.array_equal(b.landmarks, c.landmarks)


def test_steady_tracks_tremble_less_and_do_not_lag():
    lags = []
    for person in (31, 32, 33):
        clean = track(person, 0, frames=80)
        noisy = clean + np.random.default_rng(0).normal(0, 0.35, clean.shape)
        steady, delayed = smoothing.steady(noisy, 12.5), smoothing.one_euro(noisy, 12.5)
        of_motion, of_noise = smoothing.flicker(clean), smoothing.flicker(noisy)
        assert smoothing.flicker(steady) - of_motion < 0.5 * (of_noise - of_motion)
        assert error(steady, clean) < error(noisy, clean) and error(steady, clean) < error(delayed, clean)
        head, lips = lambda points: points.mean(1)[:, 0], lambda points: openings(points)[0]
        lags.append([smoothing.lag(of(t), of(clean)) for of in (head, lips) for t in (steady, delayed)])
    for steady, delayed in np.mean(lags, 0).reshape(2, 2):
        assert abs(steady) < 0.05 < delayed


def test_what_is_found_loses_no_motion_to_smoothing():
    """Tracks of the landmark judge: no farther from the truth than before, and not steadier than it."""
    clips = [make_clip(0, 940_000 + n, 1, 24, 12.5, 64, sound=False) for n in range(3)]
    found, true = (
        [find_landmarks(c.frames).astype(float) for c in clips],
        [c.landmarks.astype(float) for c in clips],
    )
    steady = [smoothing.steady(f, 12.5) for f in found]
    assert np.mean([error(s, t) for s, t in zip(steady, true)]) < 1.01 * np.mean(
        [error(f, t) for f, t in zip(found, true)]
    )
    flicker = lambda tracks: np.mean([smoothing.flicker(t) for t in tracks])
    assert 0.93 * flicker(true) < flicker(steady) < flicker(found)


def test_flicker_of_even_motion_is_zero():
    even = np.zeros((5, 68, 2)) + np.arange(5)[:, None, None]
    even[:, 36:42] += [10, 0]
    assert smoothing.flicker(even) == pytest.approx(0)
    picture = lambda levels: np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, 8, 8, 3))
    assert (
        smoothing.picture_flicker(picture([0, 50, 100, 150])) == 0
        and smoothing.picture_flicker(picture([0, 50, 0, 50])) == 100
    )


CARD = {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}


def test_a_kept_head_is_the_head(profile, few, tmp_path):
    torch.manual_seed(0)
    nets = build(profile, 1)
    with torch.no_grad():
        head = Head(nets.generator, nets.embedder.embed(few.x[None], few.y[None])).eval()
        wanted = head(few.y)
    path = heads.keep_head(tmp_path / "p.head", head, few, profile, CARD)
    start = time.time()
    kept = heads.load_head(path)
    assert time.time() - start < 1 and kept.card == CARD
    np.testing.assert_allclose(
        kept.drive(few.points).astype(int), ((wanted.movedim(1, -1) + 1) * 127.5).numpy(), atol=3
    )
    assert np.array_equal(kept.images, few.images)


def test_what_is_no_head_is_refused(profile, few, tmp_path):
    from talking_heads.experiments.few_shot.weights import COMMITTED

    with pytest.raises(ValueError, match="not a head"):
        heads.load_head(COMMITTED / "weights/ft.safetensors")
    (tmp_path / "x.head").write_bytes(b"something")
    with pytest.raises(ValueError, match="x.head: not a safetensors file"):
        heads.load_head(tmp_path / "x.head")
    for about in ({"settings": {}, "card": CARD}, {"settings": 1, "card": CARD}, {"settings": {}}):
        save_weights(tmp_path / "half.head", {"psi": torch.zeros(1)}, {"format": heads.FORMAT, **about})
        with pytest.raises(ValueError, match="half.head: a damaged head"):
            heads.load_head(tmp_path / "half.head")
    with pytest.raises(ValueError, match="lacks origin"):
        heads.keep_head(tmp_path / "y", None, few, profile, {k: v for k, v in CARD.items() if k != "origin"})
    with pytest.raises(ValueError, match="kind 'alien'"):
        heads.keep_head(tmp_path / "y", None, few, profile, {**CARD, "kind": "alien"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A photograph and a driver's clip, with landmarks beside them."""
    folder = tmp_path_factory.mktemp("clips")
    me, you = make_clip(8, 1, 0, 1, 12.5, 96), make_clip(8, 2, 0, 20, 12.5, 96)
    import cv2

    cv2.imwrite(str(folder / "me.png"), me.frames[0][..., ::-1])
    np.savez(folder / "me.npz", landmarks=me.landmarks)
    video.write(folder / "you.mp4", you.frames, you.fps, you.sound)
    np.savez(folder / "you.npz", landmarks=you.landmarks)
    return folder


def test_animate_leaves_a_video_with_sound_a_mark_and_a_head(clips, tmp_path, monkeypatch):
    load = config.load
    monkeypatch.setattr(profiles, "load", lambda name: load(name, {"few_shot.fine_tuning.epochs": 2}))
    out = tmp_path / "me.mp4"
    assert (
        main(
            [
                "animate",
                "--photo",
                str(clips / "me.png"),
                "--driver",
                str(clips / "you.mp4"),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    made = video.read(out)
    assert len(made.frames) == 20 and made.frames[0].shape == (256, 256, 3) and made.sound is not None
    with av.open(str(out)) as container:
        assert (
            "synthetic" in container.metadata["comment"] and container.streams.audio[0].rate == animate.HEARD
        )
    kept = heads.load_head(tmp_path / "me.mp4.head")
    assert kept.card["T"] == 1 and kept.card["origin"] == "me.png"
    bare = tmp_path / "bare.mp4"
    assert (
        main(
            [
                "animate",
                "--head",
                str(tmp_path / "me.mp4.head"),
                "--driver",
                str(clips / "you.mp4"),
                "--out",
                str(bare),
                "--no-mark",
            ]
        )
        == 0
    )
    corner = [np.stack(video.read(p).frames).astype(int)[:, -24:, :80] for p in (out, bare)]
    elsewhere = [np.stack(video.read(p).frames).astype(int)[:, :200] for p in (out, bare)]
    assert np.abs(corner[0] - corner[1]).mean() > 8 > np.abs(elsewhere[0] - elsewhere[1]).mean()


def test_a_face_that_fills_its_photograph_is_driven_as_large_as_it_was_learned(tmp_path, monkeypatch):
    import cv2

    profile, driven = config.load("smoke", {"few_shot.fine_tuning.epochs": 1}), []
    me = make_clip(8, 1, 0, 1, 12.5, 96)
    left, top = (me.landmarks[0].min(0) - 4).astype(int)
    side = int(np.ptp(me.landmarks[0], axis=0).max()) + 8
    cv2.imwrite(str(tmp_path / "tight.png"), me.frames[0][top : top + side, left : left + side, ::-1])
    np.savez(tmp_path / "tight.npz", landmarks=me.landmarks - [left, top])
    few = animate.source_frames([tmp_path / "tight.png"], profile, 1, None)
    assert few.square[2] > 1.3 * profile.data.image_size
    monkeypatch.setattr(animate, "make_extractors", lambda _: [])
    head = animate.learn(
        build(profile, 1), few, profile, tmp_path / "tight.head", CARD, torch.device("cpu"), log=False
    )
    monkeypatch.setattr(heads.KeptHead, "drive", lambda self, points: driven.append(points))
    wide = animate.crops.to_crop(
        me.landmarks, animate.crops.clip_square(me.landmarks), profile.data.image_size
    )
    animate.perform(
        head, animate.Driver(np.repeat(wide, 3, 0).astype(float), 12.5, None), adapt=False, smooth=False
    )
    assert np.abs(driven[0][0] - few.points[0]).max() < 0.5


def test_known_pupils_are_learned_and_driven(clips, tmp_path, monkeypatch):
    """A head learned with pupils looks where the driver's pupils say; one learned without ignores them."""
    profile, looks = config.load("smoke", {"few_shot.fine_tuning.epochs": 2}), {}
    assert profile.few_shot.landmark_images.pupils > 0
    me, you = make_clip(8, 1, 0, 1, 12.5, 96), make_clip(8, 2, 0, 20, 12.5, 96)
    for name, clip in (("me", me), ("you", you)):
        source = clips / ("me.png" if name == "me" else "you.mp4")
        (tmp_path / source.name).write_bytes(source.read_bytes())
        np.savez(tmp_path / f"{name}.npz", landmarks=clip.landmarks, pupils=clip.pupils)
    driver = animate.read_driver(tmp_path / "you.mp4", profile.data.image_size, None)
    assert driver.points.shape == (20, 70, 2) and np.isfinite(driver.points).all()
    nets = build(profile, 1)
    monkeypatch.setattr(animate, "make_extractors", lambda _: [])
    for pupils, count in ((True, 70), (False, 68)):
        few = animate.source_frames([tmp_path / "me.png"], profile, 1, None, pupils)
        assert few.points.shape == (1, count, 2)
        head = animate.learn(
            nets, few, profile, tmp_path / f"{count}.head", CARD, torch.device("cpu"), log=False
        )
        aside = dataclasses.replace(
            driver, points=np.concatenate([driver.points[:, :68], driver.points[:, 68:] + [2.0, 0.0]], 1)
        )
        looks[pupils] = np.array_equal(animate.perform(head, driver), animate.perform(head, aside))
    assert looks == {True: False, False: True}
    adapted = FaceShape.load().adapt(driver.points, few.points, profile.data.image_size)
    for pupil, lids in ((68, slice(36, 42)), (69, slice(42, 48))):
        side = lambda points: (
            np.median(points[:, pupil, 0] - points[:, lids, 0].mean(1))
            / np.median(np.ptp(points[:, lids, 0], axis=1))
        )
        assert side(adapted) == pytest.approx(side(driver.points), abs=0.05)
    np.savez(tmp_path / "me.npz", landmarks=me.landmarks, pupils=me.pupils[:, :1])
    with pytest.raises(ValueError, match=r"me\.npz: pupils have shape \(1, 1, 2\)"):
        animate.source_frames([tmp_path / "me.png"], profile, 1, None, True)


def test_pupils_that_a_detector_finds_are_used(clips, tmp_path):
    """One that gives 70 points, pupils last: they are prepared, learned from and driven."""
    you = make_clip(8, 2, 0, 20, 12.5, 96)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/you.mp4").write_bytes((clips / "you.mp4").read_bytes())
    points = np.concatenate([you.landmarks, you.pupils], 1)
    detect = lambda frames: (points[: len(frames)], np.ones(len(frames), int))
    prepare.prepare(tmp_path / "in", tmp_path / "out", prepare.Settings(64, 0), detect=detect, quiet=True)
    _, found = Store(tmp_path / "out", "test").read(0, np.arange(20), pupils=True)
    assert found.shape == (20, 70, 2) and np.isfinite(found).all()
    middle = lambda p: p[:, 36:42].mean(1)
    scale = np.linalg.norm(middle(found)[0] - found[0, 8]) / np.linalg.norm(middle(points)[0] - points[0, 8])
    np.testing.assert_allclose(
        found[:, 68] - middle(found), scale * (points[:, 68] - middle(points)), atol=0.05
    )
    assert animate.read_driver(tmp_path / "in/you.mp4", 64, detect).points.shape == (20, 70, 2)
    assert animate.source_frames(
        [tmp_path / "in/you.mp4"], config.load("smoke"), 4, detect, pupils=True
    ).points.shape == (4, 70, 2)


def test_several_photographs_are_learned_from_together(tmp_path):
    import cv2

    profile, me = config.load("smoke"), make_clip(8, 1, 0, 3, 2.5, 96)
    for n, size in enumerate((96, 144, 120)):
        cv2.imwrite(str(tmp_path / f"{n}.png"), cv2.resize(me.frames[n], (size, size))[..., ::-1])
        np.savez(tmp_path / f"{n}.npz", landmarks=((me.landmarks[n] + 0.5) * size / 96 - 0.5)[None])
    paths = sorted(tmp_path.glob("*.png"))
    few = animate.source_frames(paths, profile, 8, None)
    alone = [animate.source_frames([path], profile, 8, None) for path in paths]
    assert len(few.images) == 3 and all(
        np.array_equal(few.images[n], one.images[0]) for n, one in enumerate(alone)
    )
    assert (
        animate.shares([3], 8) == [3]
        and animate.shares([8, 1], 8) == [7, 1]
        and animate.shares([8, 8, 1], 8) == [3, 4, 1]
        and animate.shares([1] * 10, 8) == [1] * 10
    )
    first, rest = animate.halves(few)
    assert np.array_equal(first.images, few.images[:1]) and np.array_equal(rest.images, few.images[1:])
    assert all(np.array_equal(half.images, alone[0].images) for half in animate.halves(alone[0])), (
        "of one photograph there is no other half"
    )


def test_animate_says_what_is_missing(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "new.png").write_bytes((clips / "me.png").read_bytes())
    assert (
        main(
            [
                "animate",
                "--photo",
                str(tmp_path / "new.png"),
                "--driver",
                str(clips / "you.mp4"),
                "--out",
                str(tmp_path / "o.mp4"),
            ]
        )
        == 2
    )
    assert "face-alignment" in capsys.readouterr().err and not (tmp_path / "o.mp4").exists()
    assert main(["animate", "--driver", str(clips / "you.mp4"), "--out", str(tmp_path / "o.mp4")]) == 2
    assert "either --photo" in capsys.readouterr().err
    monkeypatch.setattr(animate, "fine_tune", lambda *args, **kwargs: pytest.fail("it learned first"))
    assert (
        main(
            [
                "animate",
                "--photo",
                str(clips / "me.png"),
                "--kind",
                "alien",
                "--driver",
                str(clips / "you.mp4"),
                "--out",
                str(tmp_path / "o.mp4"),
            ]
        )
        == 2
    )
    assert "kind 'alien'; there are: procedural speaker" in capsys.readouterr().err
    profile = config.load("smoke")
    np.savez(tmp_path / "new.npz", landmarks=np.full((1, 68, 2), np.nan))
    with pytest.raises(ValueError, match=r"new\.png: .*no usable frame"):
        animate.source_frames([tmp_path / "new.png"], profile, 1, None)
    with pytest.raises(ValueError, match="a photograph cannot drive"):
        animate.read_driver(clips / "me.png", 32, None)


def test_pupils_are_dots_of_their_own_and_may_be_unknown():
    from talking_heads.data.landmarks import draw

    clip = make_clip(8, 1, 0, 1, 12.5, 64, sound=False)
    plain, both = draw(clip.landmarks[0], 64, 1.25), np.concatenate([clip.landmarks[0], clip.pupils[0]])
    dotted = draw(both, 64, 1.25)
    changed = np.argwhere((dotted != plain).any(-1))[:, ::-1]
    near = np.linalg.norm(changed[:, None] - clip.pupils[0][None], axis=-1).min(1)
    assert len(changed) >= 4 and near.max() < 2.5
    assert np.array_equal(dotted[..., ::2], plain[..., ::2]), "the lids stay visible below the dots"
    both[68:] = np.nan
    assert np.array_equal(draw(both, 64, 1.25), plain)


def test_a_share_of_the_episodes_shows_pupils(videos, monkeypatch):
    from talking_heads.data import episodes

    drawn, draw_all = [], episodes.draw_all
    monkeypatch.setattr(
        episodes, "draw_all", lambda points, *more: drawn.append(points) or draw_all(points, *more)
    )
    for share, low, high in ((0.0, 0, 0), (0.5, 12, 36), (1.0, 48, 48)):
        sampler = episodes.EpisodeSampler(videos, 2, 2, 2, 4, 32, 1.0, seed=0, pupils=share)
        drawn.clear()
        for _ in range(12):
            sampler.next()
        shown = sum(p.shape[1] == 70 and bool(np.isfinite(p[:, 68:]).all()) for batch in drawn for p in batch)
        assert low <= shown <= high
        assert all(
            np.isfinite(p[:, 68:]).all() or np.isnan(p[:, 68:]).all() for batch in drawn for p in batch
        )


def test_a_puppet_does_what_its_sliders_say():
    from talking_heads.animation.face_rig import puppet_of
    from talking_heads.data.landmarks import openings

    own = track(41, 0)
    puppet = puppet_of(own)
    frontal = puppet.points()
    for mouth, eyes in ((0.05, 0.2), (0.4, 0.1), (0.2, 0.3)):
        made = openings(puppet.points(mouth=mouth, eyes=eyes))
        assert made[0] == pytest.approx(mouth, abs=0.03) and made[1] == pytest.approx(eyes, abs=0.03)
    nose, middle = lambda p: p[30, 0], lambda p: p[[36, 45], 0].mean()
    assert (
        nose(puppet.points(yaw=30)) - middle(puppet.points(yaw=30))
        > 3
        > -3
        > nose(puppet.points(yaw=-30)) - middle(puppet.points(yaw=-30))
    )
    assert (
        puppet.points(pitch=15)[30, 1] > frontal[30, 1] + 1
        and puppet.points(roll=15)[45, 1] > puppet.points(roll=15)[36, 1] + 2
    )


def test_a_face_is_placed_from_a_few_anchors(model):
    from talking_heads.animation.face_rig import ANCHORS

    truth = track(42, 0)[0]
    placed = model.place(truth[list(ANCHORS)], list(ANCHORS))
    assert error(placed[None], truth[None]) < 0.15
    with pytest.raises(ValueError, match="four points"):
        model.place(truth[:3], [0, 1, 2])


def test_the_astronauts_points_fit_a_face(model):
    points = animate.astronaut_points()[None, :68]
    found = model.explain(points)
    assert error(found.camera.project(model.shapes(found.identity, found.expression)), points) < 0.06


class Copyist:
    """Stands in for a head: it knows which frames belong to a track."""

    def __init__(self, own, *clips):
        self.images, self.points, self.clips, self.settings = (
            own.frames,
            own.landmarks,
            clips,
            SimpleNamespace(image_size=64),
        )

    def drive(self, points):
        return next(
            (c.frames for c in self.clips if np.array_equal(c.landmarks, points)), self.clips[-1].frames
        )


def test_drivers_are_ranked_by_likeness_to_the_source():
    me, same, other = (
        make_clip(8, person, v, 8, 2.5, 64, sound=False) for person, v in ((51, 0), (51, 1), (52, 0))
    )
    ranking = puppetry.rank_drivers(
        Copyist(me, same, other), {"other": other.landmarks, "same": same.landmarks}
    )
    assert list(ranking.index) == ["same", "other"] and ranking["same"] > ranking["other"] + 0.2


def test_a_trial_knows_the_truth_and_gains_are_paired(model):
    rows = []
    for source, driver in ((61, 62), (63, 64), (65, 66)):
        moves, truth = puppetry.performance(8, source, driver, 12, 2.5, 64)
        assert np.allclose(moves.pose["yaw"], truth.pose["yaw"]) and moves.sound is not None
        raw, adapted = puppetry.trial(
            Copyist(make_clip(8, source, 0, 8, 2.5, 64, sound=False), moves, truth), moves, truth, model
        )
        assert raw["CSIM-judge"] < adapted["CSIM-judge"] == pytest.approx(1, abs=1e-3) and adapted[
            "SSIM"
        ] == pytest.approx(1)
        rows += [{"pair": source, **raw}, {"pair": source, **adapted}]
    table = puppetry.gains(pd.DataFrame(rows)).set_index("metric")
    by_hand = pd.DataFrame(rows).groupby("landmarks")["track error"].mean()
    assert table.loc["track error", "gain"] == pytest.approx(by_hand["raw"] - by_hand["adapted"]), (
        "less error is a gain"
    )
    assert (
        table.loc["track error", "gain"] > 0
        and (table["pairs"] == 3).all()
        and table.loc["SSIM", "low"] <= table.loc["SSIM", "gain"] <= table.loc["SSIM", "high"]
    )
