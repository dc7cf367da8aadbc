"""The lip reader: visemes of utterances, decoding, and errors on true clips."""

import numpy as np
import pytest
import torch
from talking_heads.data.frames import to_tensor
from talking_heads.data.speakers.clips import ClipSettings, make_clip, spoken
from talking_heads.data.speakers.speech import PHONEMES, Segment
from talking_heads.data.speakers.talking import phonemes_of
from talking_heads.judges.lip_reading import (
    CLASSES,
    HIGH,
    WIDE,
    LipReader,
    collapse,
    edit_distance,
    error_rate,
    mouth_strip,
    read_lips,
    visemes_of,
)
from talking_heads.judges.pools import POOLS, pool
from talking_heads.judges.use import find_landmarks, find_visemes, judge
from talking_heads.judges.verification import read_utterances, utterances
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.weight_files import load_weights


def test_every_phoneme_but_silence_has_a_viseme():
    assert set(CLASSES) == set(PHONEMES) - {"_"}
    assert CLASSES["p"] == CLASSES["b"] == CLASSES["m"] != CLASSES["f"]


def test_phonemes_that_look_alike_are_one_and_silence_is_none():
    names = ["_", "m", "b", "a", "_", "a", "s"]
    segments = [Segment(name, 0.1 * k, 0.1 * (k + 1)) for k, name in enumerate(names)]
    m, a, s = (CLASSES[name] for name in "mas")
    assert visemes_of(segments) == [m, a, a, s]


def test_a_path_is_decoded_as_in_ctc():
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]
    assert collapse([]) == [] == collapse([0, 0])


@pytest.mark.parametrize(
    ("read", "spoken", "distance"),
    [([], [], 0), ([1, 2, 3], [], 3), ([1, 2, 3], [1, 3, 4], 2), ([2, 1], [1, 2], 2), ([1, 2], [1, 9, 2], 1)],
)
def test_the_edit_distance_is_symmetric(read, spoken, distance):
    assert edit_distance(read, spoken) == edit_distance(spoken, read) == distance


def test_the_error_rate_is_relative_to_what_is_said():
    assert error_rate([1, 2, 2], [1, 2, 3, 4]) == 0.5
    assert error_rate([1, 2], [1]) == 1.0
    assert np.isnan(error_rate([1], []))


def test_what_is_said_is_known_without_rendering():
    clip = make_clip(ClipSettings(1, 77, 2, 12, 25.0, 16))
    assert spoken(1, 77, 2, 12 / 25) == [s for s in clip.segments if s.start < 12 / 25]
    assert phonemes_of("id8000003", 1.0) == phonemes_of("8000003", 1.0) == spoken(1, 8_000_003, 0, 1.0)


def test_the_strip_shows_the_mouth():
    """Painted red around the lips; at every size of the image."""
    points = np.zeros((1, 68, 2))
    points[0, 36], points[0, 45] = (20, 20), (44, 20)
    points[0, 48], points[0, 54] = (26, 44), (38, 44)
    for size, factor in ((64, 1), (128, 2)):
        image = np.zeros((1, size, size, 3), np.uint8)
        image[:, 38 * factor : 51 * factor, 24 * factor : 41 * factor, 0] = 255
        strip = mouth_strip(to_tensor(image), (points + 0.5) * factor - 0.5)
        assert strip.shape == (1, 3, HIGH, WIDE)
        red = strip[0, 0] > 0
        assert red[HIGH // 2, WIDE // 2] and 0.3 < red.float().mean() < 0.95


def test_logits_of_every_frame():
    net = LipReader().eval()
    assert net(torch.randn(2, 7, 3, HIGH, WIDE)).shape == (2, 7, 1 + max(CLASSES.values()))


@pytest.fixture(scope="module")
def unseen(pools):
    """Clips of the test pool (identities, n, S, S, 3), and what is said in them."""
    return pool("lips_test", pools).images[:, 0], utterances("lips_test")


def test_the_reader_reads_unseen_speakers(pools, unseen):
    """Its header states the error. What another speaker says is not what it reads."""
    net = judge("lips")
    error = read_utterances(net, pools, find_landmarks)["error"]
    images, spoken_visemes = unseen
    assert len(images) == POOLS["lips_test"]["people"]
    others = [
        error_rate(read_lips(clip, find_landmarks(clip), net), visemes)
        for clip, visemes in zip(images[:5], spoken_visemes[1:6], strict=True)
    ]
    print(f"PER-judge of true clips {error:.3f}, of another speaker's words {np.mean(others):.3f}")
    assert error <= 0.30 and np.mean(others) >= error + 0.4
    assert load_weights(WEIGHTS / "lips.safetensors")[1]["error"] == pytest.approx(error, abs=0.01)


def test_frozen_lips_say_nothing(unseen):
    images, spoken_visemes = unseen
    still = np.repeat(images[0][:1], 50, 0)
    assert error_rate(find_visemes(still, find_landmarks(still)), spoken_visemes[0]) > 0.8
