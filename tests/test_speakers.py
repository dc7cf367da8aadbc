"""Procedural speakers: every trait shows, landmarks are exact, faces look human, and the same seed gives the same film."""

import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_heads.data.crops import clip_square, crop, keep_inside
from talking_heads.data.speakers import paint, renderer, speech
from talking_heads.data.speakers.anatomy import POSE
from talking_heads.data.speakers.clips import make_clip
from talking_heads.data.speakers.motion import LIMITS
from talking_heads.data.speakers.traits import TRAITS, VOICE, draw_traits, person_rng, stack_traits

STYLE = {k: (low + high) / 2 for k, (low, high) in paint.STYLE.items()} | {"background_kind": 0.5}
WINDOW = torch.tensor([[0.0, 0.10, 1.42]])
# a face on which every trait can show: some hair, a beard, glasses, texture
BASE = {n: (t.low + t.high) / 2 for n, t in TRAITS.items()} | {
    "beard": 0.8,
    "moustache": 0.8,
    "glasses": 1.0,
    "hair_fringe": 0.0,
    "hair_length": 0.1,
    "hair_amount": 0.8,
    "hair_lightness": 0.7,
    "hair_grey": 0.1,
    "lip_colour": 0.9,
}


def tensors(values, n=1):
    return {k: torch.full((n,), float(v)) for k, v in values.items()}


def picture(traits=BASE, size=96, **pose):
    scene = renderer.arrange(
        stack_traits([traits]), tensors({**POSE, **pose}), tensors(STYLE), torch.tensor([3.0]), size
    )
    return renderer.render(scene, WINDOW, size)[0], renderer.landmarks(scene)


def test_there_are_at_least_forty_visible_traits():
    assert len(TRAITS) - len(VOICE) >= 40


@pytest.mark.parametrize("name", [n for n in TRAITS if n not in VOICE])
def test_every_trait_changes_the_picture(name):
    t = TRAITS[name]
    base = BASE | (
        {"beard": 0.0, "moustache": 0.0} if name in ("chin_cleft", "wrinkles", "mole_x", "mole_y") else {}
    )
    (low, _), (high, _) = picture({**base, name: t.low}), picture({**base, name: t.high})
    changed = ((low - high).abs().amax(0) > 0.02).float().mean().item()
    least = 0.0005 if name.startswith("mole") else 0.0015  # a mole is that small
    assert changed > least, f"{name} changes {changed:.2%} of the pixels"


@pytest.mark.parametrize("name", VOICE)
def test_voice_traits_change_the_sound(name):
    rng = np.random.default_rng
    said = speech.utterance(rng(0), 1.0)
    a, b = (
        speech.synthesise(said, 1.0, **{"pitch": 150.0, "tract": 1.0, name: v}, rng=rng(1))
        for v in (TRAITS[name].low, TRAITS[name].high)
    )
    assert (
        np.abs(np.abs(np.fft.rfft(a)) - np.abs(np.fft.rfft(b))).mean() > 0.05 * np.abs(np.fft.rfft(a)).mean()
    )


@pytest.mark.parametrize("name", [n for n in POSE if not n.startswith("shift")])
def test_every_pose_parameter_changes_the_picture(name):
    value = {"yaw": 0.5, "pitch": 0.25, "roll": 0.2}.get(name, 1.0)
    smooth = {**BASE, "glasses": 0.0, "beard": 0.0, "moustache": 0.0}
    assert (picture(smooth)[0] - picture(smooth, **{name: value})[0]).abs().amax(0).gt(
        0.03
    ).float().mean() > 0.002


def test_a_turned_head_hides_its_far_cheek_and_shows_its_ear():
    smooth = {**BASE, "hair_sides": 0.02, "glasses": 0.0, "beard": 0.0}
    _, (front, hidden_front) = picture(smooth)
    _, (turned, hidden) = picture(smooth, yaw=0.7)
    assert not hidden_front[0, 17:68].any(), "from the front nothing of the inner face is hidden"
    assert hidden[0, 12:17].all() and not hidden[0, 0:5].any(), (
        "turned to the right of the image, the right jaw is hidden"
    )
    # the jaw follows the outline: its far points stay at the face's edge, the ear's side moves away from the nose
    far, near = turned[0, 16, 0] - turned[0, 30, 0], turned[0, 30, 0] - turned[0, 0, 0]
    assert far < 0.6 * near and abs(front[0, 16, 0] + front[0, 0, 0] - 2 * front[0, 30, 0]) < 0.02


def test_landmarks_lie_on_what_was_painted():
    """The pupil is dark, the closed lips' line is darker than the lips, the white of the eye is bright."""
    traits = {
        **BASE,
        "iris_hue": 0.0,
        "skin_tone": 0.1,
        "glasses": 0.0,
        "beard": 0.0,
        "moustache": 0.0,
        "lip_colour": 0.2,
    }
    image, (xy, _) = picture(traits, 256)
    at = renderer.to_pixels(xy, WINDOW, 256)[0].round().long()
    light = image.mean(0)
    for pupil in (68, 69):
        x, y = at[pupil]
        assert light[y - 1 : y + 2, x - 1 : x + 2].mean() < 0.35
    x, y = at[62]
    assert light[y - 1 : y + 2, x].min() < light[y + 8, x] - 0.05
    x, y = at[30]
    assert light[y, x] > 0.4


def test_same_seed_same_film_and_other_video_other_clothes():
    a, b = make_clip(1, 5, 0, 4, 5.0, 32), make_clip(1, 5, 0, 4, 5.0, 32)
    assert (
        np.array_equal(a.frames, b.frames)
        and np.array_equal(a.landmarks, b.landmarks)
        and np.array_equal(a.sound, b.sound)
    )
    other = make_clip(1, 5, 1, 4, 5.0, 32)
    assert other.traits == a.traits and np.abs(other.frames.astype(int) - a.frames).mean() > 10
    assert (
        make_clip(1, 6, 0, 1, 5.0, 32).traits != a.traits
        and make_clip(2, 5, 0, 1, 5.0, 32).traits != a.traits
    )


@pytest.mark.parametrize("size", [32, 64, 256])
def test_any_size_lands_in_the_crop_that_preparing_makes(size):
    clip = make_clip(0, 3, 0, 6, 5.0, size, sound=False)
    square, frame = keep_inside(clip_square(clip.landmarks), size, size), clip.frames[0]
    assert crop(frame, square, size) is frame
    small, large = make_clip(0, 3, 0, 1, 5.0, 64).frames[0], make_clip(0, 3, 0, 1, 5.0, 256).frames[0]
    shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 4, "the same picture at every size: it is anti-aliased"


def test_motion_stays_in_its_limits_and_uses_them():
    poses = [make_clip(0, n, 0, 40, 5.0, 32, sound=False, only=np.array([0])).pose for n in range(20)]
    assert [round(math.degrees(LIMITS[name])) for name in ("yaw", "pitch", "roll")] == [45, 20, 15]
    for name, limit in LIMITS.items():
        values = np.concatenate([p[name] for p in poses])
        assert np.abs(values).max() <= limit and np.abs(values).max() > 0.5 * limit
    assert np.concatenate([p["blink_left"] for p in poses]).max() > 0.9


def test_the_mouth_follows_the_phonemes():
    segments = [
        speech.Segment("m", 0.0, 0.3),
        speech.Segment("a", 0.3, 0.7),
        speech.Segment("u", 0.7, 1.1),
        speech.Segment("_", 1.1, 1.5),
    ]
    m, a, u, rest = (speech.mouth_track(segments, np.array([t]), 1.0) for t in (0.15, 0.5, 0.9, 1.4))
    assert a["jaw_open"] > 0.8 > 0.4 > u["jaw_open"] and m["lip_press"] > 0.9 and m["jaw_open"] < 0.05
    assert u["mouth_round"] > 0.8 > 0.2 > a["mouth_round"] and rest["jaw_open"] < 0.1


def test_the_sound_has_pitch_formants_and_silence():
    rng = np.random.default_rng(0)
    wave = speech.synthesise(
        [speech.Segment("a", 0.0, 0.8), speech.Segment("_", 0.8, 1.2), speech.Segment("s", 1.2, 1.6)],
        1.6,
        120.0,
        1.0,
        rng,
    )
    assert wave.dtype == np.float32 and len(wave) == 1.6 * speech.RATE and np.abs(wave).max() <= 1
    power = lambda a, b: np.abs(np.fft.rfft(wave[int(a * 16000) : int(b * 16000)])) ** 2
    vowel, hiss = power(0.2, 0.6), power(1.25, 1.55)
    hertz = lambda p: np.arange(len(p)) * 8000 / (len(p) - 1)
    assert (
        500 < (hertz(vowel) * vowel).sum() / vowel.sum() < 1400
        and (hertz(hiss) * hiss).sum() / hiss.sum() > 4000
    )
    assert power(0.9, 1.1).mean() < 1e-3 * vowel.mean()
    segment = wave[4800:8000]
    lag = np.correlate(segment, segment, "full")[len(segment) - 1 :]
    period = np.argmax(lag[80:220]) + 80
    assert abs(16000 / period - 120) < 25


def test_people_differ_in_every_trait_and_stay_in_its_range():
    people = [draw_traits(person_rng(0, n)) for n in range(60)]
    for name, t in TRAITS.items():
        values = np.array([p[name] for p in people])
        assert (values >= t.low - 1e-9).all() and (values <= t.high + 1e-9).all() and values.std() > 0


def _render(n):
    torch.set_num_threads(1)
    make_clip(0, n, 0, 8, 5.0, 64, sound=False)
    start = time.time()
    for k in range(3):
        make_clip(0, n + k, 1, 48, 5.0, 64, sound=False)
    return 144 / (time.time() - start)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="measured on two cores; this machine has one")
def test_speed_of_rendering(slowness):
    """100 frames a second at 64² on two cores, when nothing else runs: the best of three attempts (138 where it was measured)."""

    def attempt():
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
            return sum(executor.map(_render, [10, 20]))

    assert any(attempt() >= 100 / slowness for _ in range(3))


def faces(n, size=256, **pose):
    out = []
    for k in range(n):
        rng = person_rng(77, k)
        traits, style = draw_traits(rng), {name: rng.uniform(*r) for name, r in paint.STYLE.items()}
        scene = renderer.arrange(
            stack_traits([traits]), tensors({**POSE, **pose}), tensors(style), torch.tensor([k * 0.37]), size
        )
        image = (renderer.render(scene, WINDOW, size)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        out.append((image, renderer.to_pixels(renderer.landmarks(scene)[0], WINDOW, size)[0].numpy()))
    return out


@pytest.mark.parametrize("yaw, count, share", [(0.0, 32, 0.8), (0.3, 16, 0.7), (-0.3, 16, 0.7)])
def test_a_detector_trained_on_photographs_finds_the_faces(yaw, count, share):
    """scikit-image's cascade, for frontal faces only: it finds 97 % of eight real clips' frames.

    Of ours 0.88 frontal, 0.81 to 0.84 at a yaw of 0.3 (17 degrees) and, being what it is, 0.53 at 0.5, of 32 people each.
    """
    from skimage import data
    from skimage.feature import Cascade

    cascade = Cascade(data.lbp_frontal_face_cascade_filename())
    found = 0
    for image, points in faces(count, yaw=yaw):
        boxes = cascade.detect_multi_scale(
            img=image, scale_factor=1.1, step_ratio=1, min_size=(60, 60), max_size=(250, 250)
        )
        x, y = points[27:36].mean(0)
        found += any(b["c"] < x < b["c"] + b["width"] and b["r"] < y < b["r"] + b["height"] for b in boxes)
    assert found / count >= share


@pytest.mark.skipif(
    not os.environ.get("TALKING_HEADS_CLIPS"), reason="needs real clips: set TALKING_HEADS_CLIPS"
)
def test_the_mean_face_has_human_proportions():
    """The mean of our people, aligned, lies within 8 % of the distance between the eyes of the mean of real people."""

    def normal(p):
        p = p - p.mean(0)
        return p / np.linalg.norm(p)

    def turned(p, to):
        u, _, v = np.linalg.svd(p.T @ to)
        return p @ (u @ v)

    def lopsided(p):  # how far the nose is from the middle of the jaw: small on frontal frames
        return abs(2 * p[30, 0] - p[0, 0] - p[16, 0]) / (p[16, 0] - p[0, 0])

    tracks = [np.load(f)["landmarks"] for f in sorted(Path(os.environ["TALKING_HEADS_CLIPS"]).glob("*.npz"))]
    frontal = [normal(p) for track in tracks for p in sorted(track, key=lopsided)[:20]]
    human = frontal[0]
    for _ in range(4):
        human = normal(np.mean([turned(p, human) for p in frontal], 0))
    ours = normal(
        np.mean([turned(normal(points[:68]), human) for _, points in faces(24, 32, jaw_open=0.2)], 0)
    )
    ours = turned(ours, human)
    scale = np.linalg.norm(human[36:42].mean(0) - human[42:48].mean(0))
    assert np.linalg.norm(ours - human, axis=1).mean() / scale < 0.08
