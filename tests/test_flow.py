"""Optical flow against motions that are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.metrics.flow import box, flow_by_region, flow_magnitude

SIZE = 64


def texture(seed=0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), 2)
    return 128 + 100 * noise / np.abs(noise).max()


def moving(dx, dy, count=4):
    """A texture that moves by (dx, dy) pixels a frame."""
    frames = [shift(texture(), (k * dy, k * dx), order=3, mode="wrap") for k in range(count)]
    return np.repeat(np.stack(frames).clip(0, 255).astype(np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize("dx, dy", [(0, 0), (1, 0), (0, -2), (1.5, 2)])
def test_the_length_of_a_known_motion(dx, dy):
    magnitude = flow_magnitude(moving(dx, dy))
    assert magnitude.shape == (3, SIZE, SIZE)
    inner = magnitude[:, 12:-12, 12:-12]
    assert inner.mean() == pytest.approx(np.hypot(dx, dy), abs=0.1)


def test_only_the_region_that_moves_has_flow():
    """The mouth of a still face is replaced by a moving texture."""
    clip = make_clip(ClipSettings(0, 0, 0, 1, 25.0, SIZE), sound=False)
    frames, landmarks = np.repeat(clip.frames, 4, 0), np.repeat(clip.landmarks, 4, 0)
    still = flow_by_region(frames, landmarks)
    assert set(still) == {"mouth", "eyes", "head", "background"}
    assert all(values.shape == (3,) and np.abs(values).max() < 1e-3 for values in still.values())
    mouth = box(clip.landmarks[0, 48:68], 0, SIZE, SIZE)
    for frame, moved in zip(frames, moving(1, 0), strict=True):
        frame[mouth] = moved[mouth]
    moved = flow_by_region(frames, landmarks)
    assert moved["mouth"].mean() > 0.3 and moved["mouth"].mean() > 3 * moved["head"].mean()
    assert moved["background"].max() < 0.05 and moved["eyes"].max() < 0.1


def test_regions_stay_inside_the_frame():
    outside = np.array([[-20.0, -30.0], [-10.0, -25.0]])
    assert box(outside, 0, SIZE, SIZE) == (slice(0, 1), slice(0, 1))
    everywhere = np.array([[-5.0, -5.0], [90.0, 90.0]])
    assert box(everywhere, 3, SIZE, SIZE) == (slice(0, SIZE), slice(0, SIZE))
    filling = np.tile(np.linspace(0, SIZE - 1, 68)[:, None], (3, 1, 2))
    assert np.isnan(flow_by_region(moving(1, 0, 3), filling)["background"]).all()
