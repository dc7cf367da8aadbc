"""Procedural speakers: every trait shows, landmarks are exact, faces look human, a seed gives one clip."""

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from skimage.feature import Cascade
from talking_heads.data.crops import clip_square, crop, keep_inside
from talking_heads.data.speakers import paint, renderer, speech
from talking_heads.data.speakers.anatomy import POSE
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.speakers.motion import (
    LIMITS,
    PLAIN_BACKGROUNDS,
    PLAIN_MOTION,
    draw_style,
    plain_style,
)
from talking_heads.data.speakers.traits import TRAITS, VOICE, draw_traits, person_rng, stack_traits
from talking_heads.processes import worker_pool

STYLE = {name: (low + high) / 2 for name, (low, high) in paint.STYLE.items()} | {"background_kind": 0.5}
WINDOW = torch.tensor([[0.0, 0.10, 1.42]])
CLIPS = os.environ.get("TALKING_HEADS_CLIPS")
# a face on which every trait can show: some hair, a beard, glasses, texture
BASE = {name: (trait.low + trait.high) / 2 for name, trait in TRAITS.items()} | {
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
SMOOTH = {**BASE, "glasses": 0.0, "beard": 0.0, "moustache": 0.0}
VISIBLE = [name for name in TRAITS if name not in VOICE]
Points = tuple[torch.Tensor, torch.Tensor]


def tensors(values: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(value)) for name, value in values.items()}


def picture(traits: dict[str, float] = BASE, size: int = 96, **pose: float) -> tuple[torch.Tensor, Points]:
    """A face (3, size, size) in [0, 1], and its landmarks: positions (1, 70, 2), and which are hidden."""
    face, pose_tensors = stack_traits([traits]), tensors({**POSE, **pose})
    scene = renderer.arrange(face, pose_tensors, tensors(STYLE), torch.tensor([3.0]), size)
    return renderer.render(scene, WINDOW, size)[0], renderer.landmarks(scene)


def share_of_changed_pixels(a: torch.Tensor, b: torch.Tensor, least: float) -> float:
    return ((a - b).abs().amax(0) > least).float().mean().item()


def test_there_are_at_least_forty_visible_traits():
    assert len(TRAITS) - len(VOICE) >= 40


@pytest.mark.parametrize("name", VISIBLE)
def test_every_trait_changes_the_picture(name):
    trait, base = TRAITS[name], BASE
    if name in ("chin_cleft", "wrinkles", "mole_x", "mole_y"):
        base = BASE | {"beard": 0.0, "moustache": 0.0}
    low, high = (picture({**base, name: value})[0] for value in (trait.low, trait.high))
    share = share_of_changed_pixels(low, high, 0.02)
    least = 0.0005 if name.startswith("mole") else 0.0015  # a mole is that small
    assert share > least, f"{name} changes {share:.2%} of the pixels"


@pytest.mark.parametrize("name", VOICE)
def test_voice_traits_change_the_sound(name):
    segments = speech.utterance(np.random.default_rng(0), 1.0)

    def spectrum(value: float) -> np.ndarray:
        voice = {"pitch": 150.0, "tract": 1.0, name: value}
        return np.abs(np.fft.rfft(speech.synthesise(segments, 1.0, **voice, rng=np.random.default_rng(1))))

    low, high = spectrum(TRAITS[name].low), spectrum(TRAITS[name].high)
    assert np.abs(low - high).mean() > 0.05 * low.mean()


@pytest.mark.parametrize("name", [name for name in POSE if not name.startswith("shift")])
def test_every_pose_parameter_changes_the_picture(name):
    value = {"yaw": 0.5, "pitch": 0.25, "roll": 0.2}.get(name, 1.0)
    neutral, pose_tensors = picture(SMOOTH)[0], picture(SMOOTH, **{name: value})[0]
    assert share_of_changed_pixels(neutral, pose_tensors, 0.03) > 0.002


def test_a_turned_head_hides_its_far_cheek_and_shows_its_ear():
    traits = {**BASE, "hair_sides": 0.02, "glasses": 0.0, "beard": 0.0}
    _, (front, hidden_front) = picture(traits)
    _, (turned_points, hidden) = picture(traits, yaw=0.7)
    assert not hidden_front[0, 17:68].any(), "from the front nothing of the inner face is hidden"
    assert hidden[0, 12:17].all(), "turned to the right of the image, the right jaw is hidden"
    assert not hidden[0, 0:5].any()
    # the jaw follows the outline: its far points stay at the edge, the near ear moves away from the nose
    far, near = (
        turned_points[0, 16, 0] - turned_points[0, 30, 0],
        turned_points[0, 30, 0] - turned_points[0, 0, 0],
    )
    assert far < 0.6 * near
    assert abs(front[0, 16, 0] + front[0, 0, 0] - 2 * front[0, 30, 0]) < 0.02


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
    points = renderer.to_pixels(xy, WINDOW, 256)[0].round().long()
    light = image.mean(0)
    for pupil in (68, 69):
        x, y = points[pupil]
        assert light[y - 1 : y + 2, x - 1 : x + 2].mean() < 0.35
    x, y = points[62]
    assert light[y - 1 : y + 2, x].min() < light[y + 8, x] - 0.05
    x, y = points[30]
    assert light[y, x] > 0.4


def test_same_seed_same_film_and_other_video_other_clothes():
    a, b = make_clip(ClipSettings(1, 5, 0, 4, 5.0, 32)), make_clip(ClipSettings(1, 5, 0, 4, 5.0, 32))
    for name in ("frames", "landmarks", "pupils", "hidden", "sound"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    other = make_clip(ClipSettings(1, 5, 1, 4, 5.0, 32))
    assert other.traits == a.traits
    assert np.abs(other.frames.astype(int) - a.frames).mean() > 10
    assert make_clip(ClipSettings(1, 6, 0, 1, 5.0, 32)).traits != a.traits
    assert make_clip(ClipSettings(2, 5, 0, 1, 5.0, 32)).traits != a.traits


def test_the_plain_corpus_has_the_same_speakers_with_still_heads_before_few_backgrounds():
    diverse, plain = (
        [make_clip(ClipSettings(1, n, 0, 25, 25.0, 32, corpus=corpus), only=np.arange(1)) for n in range(12)]
        for corpus in ("diverse", "plain")
    )
    backgrounds = {
        tuple(value for name, value in plain_style(draw_style(rng)).items() if name.startswith("background"))
        for rng in map(np.random.default_rng, range(40))
    }
    assert len(backgrounds) == len(PLAIN_BACKGROUNDS)
    corners = np.array([clip.frames[0, :4, :4].mean((0, 1)) for clip in plain])
    np.testing.assert_allclose(corners, corners.mean(1, keepdims=True).repeat(3, 1), atol=2)  # grey
    for a, b in zip(diverse, plain, strict=True):
        assert a.traits == b.traits and a.segments == b.segments
        np.testing.assert_array_equal(a.sound, b.sound)
        np.testing.assert_array_equal(a.pose["jaw_open"], b.pose["jaw_open"])
        np.testing.assert_allclose(b.pose["yaw"], PLAIN_MOTION * a.pose["yaw"], rtol=1e-6)


@pytest.mark.parametrize("size", [32, 64, 256])
def test_frames_of_any_size_are_the_crop_that_preparing_makes(size):
    clip = make_clip(ClipSettings(0, 3, 0, 6, 5.0, size), sound=False)
    square, frame = keep_inside(clip_square(clip.landmarks), size, size), clip.frames[0]
    assert crop(frame, square, size) is frame


def test_frames_are_the_same_at_every_size():
    small, large = (
        make_clip(ClipSettings(0, 3, 0, 1, 5.0, 64)).frames[0],
        make_clip(ClipSettings(0, 3, 0, 1, 5.0, 256)).frames[0],
    )
    shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 4, "they are anti-aliased"


def test_motion_stays_in_its_limits_and_uses_them():
    poses = [
        make_clip(ClipSettings(0, n, 0, 40, 5.0, 32), sound=False, only=np.array([0])).pose for n in range(20)
    ]
    assert [round(math.degrees(LIMITS[name])) for name in ("yaw", "pitch", "roll")] == [45, 20, 15]
    for name, limit in LIMITS.items():
        largest = np.abs(np.concatenate([pose[name] for pose in poses])).max()
        assert 0.5 * limit < largest <= limit
    assert np.concatenate([pose["blink_left"] for pose in poses]).max() > 0.9


def test_the_mouth_follows_the_phonemes():
    segments = [
        speech.Segment("m", 0.0, 0.3),
        speech.Segment("a", 0.3, 0.7),
        speech.Segment("u", 0.7, 1.1),
        speech.Segment("_", 1.1, 1.5),
    ]
    m, a, u, rest = (speech.mouth_track(segments, np.array([t]), 1.0) for t in (0.15, 0.5, 0.9, 1.4))
    assert a["jaw_open"] > 0.8 > 0.4 > u["jaw_open"]
    assert m["lip_press"] > 0.9
    assert m["jaw_open"] < 0.05
    assert u["mouth_round"] > 0.8 > 0.2 > a["mouth_round"]
    assert rest["jaw_open"] < 0.1


def test_the_sound_has_pitch_formants_and_silence():
    rng = np.random.default_rng(0)
    wave = speech.synthesise(
        [speech.Segment("a", 0.0, 0.8), speech.Segment("_", 0.8, 1.2), speech.Segment("s", 1.2, 1.6)],
        1.6,
        120.0,
        1.0,
        rng,
    )
    assert wave.dtype == np.float32
    assert len(wave) == 1.6 * speech.RATE
    assert np.abs(wave).max() <= 1

    def power(start: float, end: float) -> np.ndarray:
        """The power spectrum between two times in seconds, 0 to 8 kHz."""
        return np.abs(np.fft.rfft(wave[int(start * speech.RATE) : int(end * speech.RATE)])) ** 2

    def mean_frequency(spectrum: np.ndarray) -> float:
        hertz = np.linspace(0, speech.RATE / 2, len(spectrum))
        return (hertz * spectrum).sum() / spectrum.sum()

    vowel, hiss, silence = power(0.2, 0.6), power(1.25, 1.55), power(0.9, 1.1)
    assert 500 < mean_frequency(vowel) < 1400
    assert mean_frequency(hiss) > 4000
    assert silence.mean() < 1e-3 * vowel.mean()
    segment = wave[4800:8000]
    correlation = np.correlate(segment, segment, "full")[len(segment) - 1 :]
    period = np.argmax(correlation[80:220]) + 80
    assert abs(speech.RATE / period - 120) < 25


def test_identities_differ_in_every_trait_and_stay_in_its_range():
    identities = [draw_traits(person_rng(0, n)) for n in range(60)]
    for name, trait in TRAITS.items():
        values = np.array([traits[name] for traits in identities])
        assert (values >= trait.low - 1e-9).all()
        assert (values <= trait.high + 1e-9).all()
        assert values.std() > 0


def _frames_per_second(identity: int) -> float:
    torch.set_num_threads(1)
    make_clip(ClipSettings(0, identity, 0, 8, 5.0, 64), sound=False)
    start = time.time()
    for n in range(3):
        make_clip(ClipSettings(0, identity + n, 1, 48, 5.0, 64), sound=False)
    return 144 / (time.time() - start)


@pytest.mark.timing
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="measured on two cores; this machine has one")
def test_speed_of_rendering(slowness):
    """100 frames a second at 64² on two cores, at the best of three attempts (138 were measured)."""

    def measure() -> float:
        with worker_pool(2) as executor:
            return sum(executor.map(_frames_per_second, [10, 20]))

    assert any(measure() >= 100 / slowness for _ in range(3))


def faces(count: int, size: int = 256, **pose: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (size, size, 3) uint8 of identities, and their landmarks and pupils (70, 2) in pixels."""
    result = []
    for n in range(count):
        rng = person_rng(77, n)
        traits, style = draw_traits(rng), {name: rng.uniform(*limits) for name, limits in paint.STYLE.items()}
        texture = torch.tensor([n * 0.37])
        pose_tensors = tensors({**POSE, **pose})
        scene = renderer.arrange(stack_traits([traits]), pose_tensors, tensors(style), texture, size)
        image = (renderer.render(scene, WINDOW, size)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        points = renderer.to_pixels(renderer.landmarks(scene)[0], WINDOW, size)[0].numpy()
        result.append((image, points))
    return result


@pytest.mark.parametrize("yaw, count, share", [(0.0, 32, 0.8), (0.3, 16, 0.7), (-0.3, 16, 0.7)])
def test_a_detector_trained_on_photographs_finds_the_faces(yaw, count, share):
    """scikit-image's cascade for frontal faces, which finds 97 % of the frames of eight real clips.

    Of 32 rendered identities it finds 0.88 from the front, 0.81 to 0.84 at a yaw of 0.3 (17 degrees) and 0.53
    at 0.5.
    """
    cascade = Cascade(data.lbp_frontal_face_cascade_filename())

    def contains(box: dict[str, int], x: float, y: float) -> bool:
        return box["c"] < x < box["c"] + box["width"] and box["r"] < y < box["r"] + box["height"]

    detections = 0
    for image, points in faces(count, yaw=yaw):
        boxes = cascade.detect_multi_scale(
            img=image, scale_factor=1.1, step_ratio=1, min_size=(60, 60), max_size=(250, 250)
        )
        nose = points[27:36].mean(0)
        detections += any(contains(box, *nose) for box in boxes)
    assert detections / count >= share


def normalise(points: np.ndarray) -> np.ndarray:
    """Landmarks (68, 2) with mean 0 and norm 1."""
    points = points - points.mean(0)
    return points / np.linalg.norm(points)


def align(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Landmarks (68, 2), rotated onto others."""
    u, _, v = np.linalg.svd(points.T @ target)
    return points @ (u @ v)


def asymmetry(points: np.ndarray) -> float:
    """How far the nose is from the middle of the jaw: small on frontal frames."""
    return abs(2 * points[30, 0] - points[0, 0] - points[16, 0]) / (points[16, 0] - points[0, 0])


@pytest.mark.skipif(not CLIPS, reason="needs real clips: set TALKING_HEADS_CLIPS")
def test_the_mean_face_has_human_proportions():
    """The mean rendered face differs from the mean real one by less than 8 % of the distance of the eyes."""
    tracks = [np.load(file)["landmarks"] for file in sorted(Path(CLIPS).glob("*.npz"))]
    frontal = [normalise(points) for track in tracks for points in sorted(track, key=asymmetry)[:20]]
    human = frontal[0]
    for _ in range(4):
        human = normalise(np.mean([align(points, human) for points in frontal], 0))
    rendered_faces = [align(normalise(points[:68]), human) for _, points in faces(24, 32, jaw_open=0.2)]
    ours = align(normalise(np.mean(rendered_faces, 0)), human)
    scale = np.linalg.norm(human[36:42].mean(0) - human[42:48].mean(0))
    assert np.linalg.norm(ours - human, axis=1).mean() / scale < 0.08
