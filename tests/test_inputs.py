"""The inputs that people really have: clips, photographs, landmarks and folders. Nothing is lost, nothing
silently wrong.
"""

import base64
import errno
import os
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from films import click, film, heard_at
from PIL import Image
from talking_heads.__main__ import main
from talking_heads.animation import animate
from talking_heads.data import planning, prepare, prepare_video, sources, video
from talking_heads.data.crops import Square, crop
from talking_heads.data.decoding import check_memory
from talking_heads.data.detection import PIXELS, Detector
from talking_heads.data.episodes import EpisodeDataset, EpisodeSettings
from talking_heads.data.landmarks import openings
from talking_heads.data.loader import Batches, NoBatch
from talking_heads.data.photographs import read_photograph
from talking_heads.data.sidecars import find_sidecar
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.store import Store

SETTINGS = prepare.Settings(64, 0)
CARD = {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}


@pytest.fixture(scope="module")
def clip():
    return make_clip(ClipSettings(3, 1, 0, 24, 12.5, 96), sound=False)


def run(source, out, **more):
    """Manifest lines by the name of their source."""
    return {
        Path(line["source"]).name: line for line in prepare.prepare(source, out, SETTINGS, quiet=True, **more)
    }


def beside(path, landmarks, **more):
    np.savez(path.with_name(path.name + ".npz"), landmarks=landmarks, **more)
    return path


# time


def opening_at(clip, number):
    """Landmarks of the clip's first frame, the mouth open at frame ``number`` alone."""
    points = np.repeat(clip.landmarks[:1], len(clip.landmarks), 0)
    points[number, 65:68, 1] += 8
    return points


CLOCKS = {  # times of 24 frames, the frame with the open mouth, when sound starts, the ending
    "variable": (np.concatenate([np.arange(12) / 30, 0.4 + np.arange(12) / 10]), 20, 0.0, ".mp4"),
    "variable in mkv": (np.concatenate([np.arange(12) / 30, 0.4 + np.arange(12) / 10]), 20, 0.0, ".mkv"),
    "late sound": (np.arange(24) / 12.5, 14, 0.5, ".mp4"),
    "late sound in mkv": (np.arange(24) / 12.5, 14, 0.5, ".mkv"),
    "late pictures": (0.5 + np.arange(24) / 12.5, 9, 0.0, ".mp4"),
    "late pictures in mkv": (0.5 + np.arange(24) / 12.5, 9, 0.0, ".mkv"),
    "webm": (np.arange(24) / 12.5, 14, 0.25, ".webm"),
    "transport stream": (np.arange(24) / 12.5, 14, 0.2, ".ts"),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_lips_and_sound_are_on_one_clock(name, clip, tmp_path):
    """The corpus's time, a window, and the animated video: the click is heard when the mouth opens, to 40
    ms.
    """
    times, opened, sound_start, ending = CLOCKS[name]
    sound = click(times[-1] - sound_start + 0.3, times[opened] - sound_start)
    path = film(
        tmp_path / f"in/a{ending}",
        [clip.frames[0]] * 24,
        times,
        sound,
        sound_start,
        "libvpx-vp9" if ending == ".webm" else "libx264",
        rate=30,
    )
    beside(path, opening_at(clip, opened))
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 24, line
    assert ("variable frame rate" in line["note"]) == name.startswith("variable")
    store = Store(tmp_path / "out", "test")
    np.testing.assert_allclose(store.track(0)["time"], times - times[0], atol=0.002)
    heard = heard_at(video.open_video(path).sound(), video.SOUND_RATE)
    assert heard == pytest.approx(times[opened] - times[0], abs=0.04)

    driver = animate.read_driver(path, 64, None)
    assert len(driver.points) / driver.fps == pytest.approx(times[-1] - times[0] + 1 / driver.fps, abs=0.04)
    mouth = openings(driver.points)[0]
    frames = (
        np.repeat(np.uint8(255 * (mouth - mouth.min()) / np.ptp(mouth))[:, None, None, None], 64, 1)
        .repeat(64, 2)
        .repeat(3, 3)
    )
    seen = video.read(animate.export(tmp_path / "out.mp4", frames, driver, CARD, mark=False))
    bright = np.array([f.mean() for f in seen.frames])
    assert abs(bright.argmax() / seen.fps - heard_at(seen.sound, video.SOUND_RATE)) < 0.04


def test_a_header_with_a_wrong_rate_or_none_changes_nothing(clip, tmp_path):
    times = np.arange(24) / 12.5
    for rate, name in ((1000, "thousand.mp4"), (1000, "thousand.mkv"), (30, "none.webm")):
        path = film(
            tmp_path / name,
            clip.frames,
            times,
            click(2, 1.0),
            codec="libvpx-vp9" if name.endswith("webm") else "libx264",
            rate=rate,
        )
        opened = video.open_video(path)
        assert opened.fps == pytest.approx(12.5, rel=0.01) and opened.seconds == pytest.approx(
            1.92, abs=0.02
        ), name
        np.testing.assert_allclose(opened.times, times, atol=0.002)


def test_a_file_without_times_says_what_is_assumed(clip, tmp_path):
    path = film(
        tmp_path / "raw.mjpeg",
        clip.frames,
        np.arange(24) / 25,
        codec="mjpeg",
        container="mjpeg",
        pixels="yuvj420p",
    )
    opened = video.open_video(path)
    assert len(opened.times) == 24 and opened.fps == 25
    assert "no times in the file: 25 frames a second are assumed" in opened.note


def test_a_clip_that_was_cut_without_encoding_is_whole(clip, tmp_path):
    """Its header hides frames that are needed for decoding; they are neither shown nor missed."""
    whole = film(
        tmp_path / "whole.mp4",
        clip.frames,
        np.arange(24) / 12.5,
        click(2, 1.2),
        options={"g": "24", "crf": "1"},
    )
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as copy:
        streams = {s.index: copy.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                shift = round(0.8 / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift,
                    packet.dts - shift,
                    streams[packet.stream.index],
                )
                copy.mux(packet)
    opened = video.open_video(tmp_path / "cut.mp4")
    assert opened.note == "" and len(opened.times) == 14
    assert heard_at(opened.sound(), video.SOUND_RATE) == pytest.approx(0.4, abs=0.04)
    assert np.abs(next(opened.frames()).astype(int) - list(video.open_video(whole).frames())[10]).mean() < 3


@pytest.mark.parametrize("longer", [-0.6, 0.0, 0.5])
def test_joined_clips_go_on_one_after_the_other_with_their_sound(clip, tmp_path, longer):
    """Clock and layout of the sound begin anew; the first part's sound is shorter or longer than its
    pictures.
    """
    times, parts = np.arange(24) / 12.5, []
    for name, layout, seconds in (("a", "mono", 1.92 + longer), ("b", "stereo", 1.92)):
        path = film(tmp_path / f"{name}.ts", clip.frames, times, click(seconds, 1.12), layout=layout)
        parts.append(path.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    opened = video.open_video(tmp_path / "both.ts")
    second = opened.times[24]
    assert len(opened.times) == 48 and 1.84 < second < 2.6 and np.diff(opened.times).min() > 0
    sound = opened.sound()
    assert heard_at(sound[: int(second * 16_000)], 16_000) == pytest.approx(1.12, abs=0.04)
    assert heard_at(sound[int(second * 16_000) :], 16_000) == pytest.approx(1.12, abs=0.04), "as in its part"


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_long_pause_is_a_pause(clip, tmp_path, ending):
    times = np.arange(24) / 12.5
    times[12:] += 70
    path = film(tmp_path / f"a{ending}", clip.frames, times, click(75, times[16]))
    opened = video.open_video(path)
    np.testing.assert_allclose(opened.times, times, atol=0.002)
    assert "variable" in opened.note and heard_at(opened.sound(), 16_000) == pytest.approx(
        times[16], abs=0.04
    )


def test_bursts_of_frames_do_not_make_a_rate(clip, tmp_path):
    times = np.repeat(np.arange(12) * 0.16, 2)
    times[1::2] += 0.001
    opened = video.open_video(film(tmp_path / "a.mkv", clip.frames, times))
    assert opened.fps <= 120 and len(opened.clock()) < 250


def test_a_codec_that_nobody_knows_is_called_that(clip, tmp_path):
    """Of the pictures: left out; of the sound: read without it."""
    path = film(tmp_path / "in/a.mp4", clip.frames, np.arange(24) / 12.5, click(2, 1))
    data = path.read_bytes()
    for name, old, new in (("pictures", b"avc1", b"zzzz"), ("sound", b"esds", b"zzzz")):
        (tmp_path / "in" / f"{name}.mp4").write_bytes(
            data.replace(b"mp4a", b"zzzz" if name == "sound" else b"mp4a").replace(old, new)
        )
    for name in ("a", "pictures", "sound"):
        beside(tmp_path / "in" / f"{name}.mp4", clip.landmarks)
    found = run(tmp_path / "in", tmp_path / "out")
    assert found["sound.mp4"]["frames"] == 24 and found["sound.mp4"]["note"] == "sound that cannot be decoded"
    assert found["pictures.mp4"]["note"] == "left out: its video codec is unknown; convert it to H.264"


# geometry


def test_a_size_that_changes_inside_the_stream_leaves_no_junk(clip, tmp_path):
    """A recorder that adapts: every second part is larger. Landmarks beside it are those of the most
    frequent size.
    """
    large = [cv2.resize(f, (128, 128)) for f in clip.frames]
    tall = [cv2.resize(f, (96, 160)) for f in clip.frames]
    for frames, name in ((large, "larger"), (tall, "taller")):
        parts = [
            film(tmp_path / f"{k}.ts", part, start + np.arange(len(part)) / 12.5).read_bytes()
            for k, (part, start) in enumerate(((clip.frames[:14], 0), (frames[14:], 14 / 12.5)))
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.ts").write_bytes(b"".join(parts))
        beside(tmp_path / name / "a.ts", clip.landmarks)
        (line,) = run(tmp_path / name, tmp_path / f"{name}_out").values()
        assert line["frames"] == 14 and ("another size" in line["note"] or "another shape" in line["note"]), (
            line
        )
        images, _ = Store(tmp_path / f"{name}_out", "test").read(0, np.arange(14))
        assert (
            max(
                np.abs(a.astype(int) - crop(b, Square(*line["square"]), 64)).mean()
                for a, b in zip(images, clip.frames, strict=False)
            )
            < 6
        )
    found = video.open_video(tmp_path / "larger/a.ts")
    assert len(found.usable) == 24 and found.size == (96, 96), (
        "without landmarks beside it the others are scaled"
    )
    assert all(f.shape == (96, 96, 3) for f in found.frames())


@pytest.mark.parametrize(
    "matrix, seen",
    [
        ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
        ((1, 0, 0, -1), lambda f: f[::-1]),
        ((-1, 0, 0, -1), lambda f: f[::-1, ::-1]),
        ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
        ((0, -1, 1, 0), lambda f: np.rot90(f)),
    ],
)
def test_a_display_matrix_may_mirror(matrix, seen, tmp_path):
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    frames[:, :10, :20], frames[:, 20:, :20] = [250, 0, 0], [0, 0, 250]
    video.write(tmp_path / "a.mp4", frames, 12.5)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    a, b, c, d = (v * (1 << 16) for v in matrix)
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    np.testing.assert_array_equal(next(video.open_video(tmp_path / "a.mp4").frames()), seen(frames[0]))


@pytest.mark.parametrize("shown", [False, True])
def test_pixels_that_are_not_square_are_stretched(clip, tmp_path, shown):
    """A face that was squeezed to half its width has its shape again, whichever frames the landmarks were
    found in.
    """
    squeezed = [cv2.resize(f, (48, 96), interpolation=cv2.INTER_AREA) for f in clip.frames]
    path = film(tmp_path / "in/a.mp4", squeezed, np.arange(24) / 12.5, aspect=Fraction(2, 1))
    beside(path, clip.landmarks if shown else (clip.landmarks + 0.5) * [0.5, 1] - 0.5)
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 24 and "not square" in line["note"]
    images, points = Store(tmp_path / "out", "test").read(0, np.arange(24))
    assert np.abs(points - clip.landmarks * 64 / 96).max() < 1
    assert (
        np.abs(
            images[3].astype(int) - cv2.resize(clip.frames[3], (64, 64), interpolation=cv2.INTER_AREA)
        ).mean()
        < 8
    )


def test_what_a_cut_out_hides_is_not_learned(tmp_path):
    """The border's mean colour where one is seen, white where none is, and the manifest says so."""
    image = np.zeros((40, 40, 4), np.uint8)
    image[..., 0], image[..., 2] = 255, 255  # hidden magenta
    image[10:30, 10:30] = [10, 200, 30, 255]
    Image.fromarray(image).save(tmp_path / "cut_out.png")
    Image.fromarray(image).save(tmp_path / "cut_out.webp", lossless=True, exact=True)
    image[:6] = [40, 60, 80, 255]
    Image.fromarray(image).save(tmp_path / "bordered.png")
    for name, ground, message in (
        ("cut_out.png", [255] * 3, "white"),
        ("cut_out.webp", [255] * 3, "white"),
        ("bordered.png", [40, 60, 80], "border"),
    ):
        seen, note = read_photograph(tmp_path / name)
        assert (
            seen[35, 5].tolist() == ground and seen[20, 20].tolist() == [10, 200, 30] and message in note
        ), name
    frames = [image] * 4
    for name, codec, pixels in (
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "qtrle", "argb"),
        ("a.mkv", "ffv1", "bgra"),
    ):
        film(tmp_path / name, frames, np.arange(4) / 12.5, codec=codec, pixels=pixels, source="rgba")
        opened = video.open_video(tmp_path / name)
        assert "transparent" in opened.note, name
        assert np.abs(next(opened.frames())[35, 5].astype(int) - [40, 60, 80]).max() < 12, name
    opaque = film(
        tmp_path / "b.mkv",
        [np.dstack([image[..., :3], np.full((40, 40), 255, np.uint8)])] * 4,
        np.arange(4) / 12.5,
        codec="ffv1",
        pixels="bgra",
        source="rgba",
    )
    assert "transparent" not in video.open_video(opaque).note


@pytest.mark.parametrize("name", ["a.avif", "a.jfif", "a.tif", "a.webp"])
def test_photographs_are_upright_in_every_format(name, tmp_path):
    """Orientation 6: the camera lay on its side; the red left edge of the sensor is at the top."""
    image = np.full((32, 64, 3), 90, np.uint8)
    image[:, :16] = [250, 0, 0]
    picture, exif = Image.fromarray(image), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / name, format="JPEG" if name == "a.jfif" else None, exif=exif)
    seen, _ = read_photograph(tmp_path / name)
    assert seen.shape == (64, 32, 3) and seen[2, 16, 0] > 180 and seen[40, 16, 0] < 130


HEIC = (  # 32 × 64 grey pixels whose first 16 columns are red
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAA"
    "AAABoQABAAAAAAAAACUAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAh"
    "YgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAA"
    "EHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAC1tZGF0AAAAISgBrxmA94SFN//ioz/l6V/rIn5ZhP66qm/2DZ2/5/kxmA=="
)


def test_heic_photographs_are_read(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(base64.b64decode(HEIC))
    seen, _ = read_photograph(tmp_path / "a.HEIC")
    assert (
        seen.shape == (32, 64, 3)
        and np.abs(seen[16, 5].astype(int) - [250, 0, 0]).max() < 25
        and np.abs(seen[16, 50].astype(int) - 90).max() < 25
    )


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    seen, _ = read_photograph(tmp_path / "grey.png")
    assert seen[0, 0, 0] == 0 and seen[-1, -1, 0] == 255 and abs(int(seen[32, 0, 0]) - 128) < 3


def test_a_panorama_wider_than_opencv_resamples_is_cropped(clip):
    wide = np.zeros((96, 33_000, 3), np.uint8)
    wide[:, 32_000:32_096] = clip.frames[0]
    np.testing.assert_array_equal(crop(wide, Square(31_999.5, -0.5, 96.0), 96), clip.frames[0])


# landmarks


@pytest.mark.parametrize(
    "change, cause",
    [
        (lambda p: p * 8, "another scale"),
        (lambda p: (p + 0.5) / 2 - 0.5, "another scale"),
        (lambda p: p[..., ::-1], "mirrored: x and y are swapped"),
        (lambda p: p + np.array([300, 0]), "outside of the picture"),
        (lambda p: (p + 0.5) * 1.5 - 0.5, "another scale|outside"),
        (lambda p: p / 192, "relative"),
        (lambda p: (p + 0.5) * 0.75 - 0.5, "another scale"),
        (lambda p: (p + 0.5) * 0.6 - 0.5, "another scale"),
        (lambda p: np.stack([p[..., 0], 191 - p[..., 1]], -1), "mirrored"),
    ],
)
def test_landmarks_that_are_not_of_these_frames_are_refused_with_the_cause(change, cause, tmp_path):
    """The face is small enough for its points to fit into the picture at another scale, too."""
    import re

    small = make_clip(ClipSettings(3, 2, 0, 6, 12.5, 96), sound=False)
    frames = [np.pad(f, ((0, 96), (0, 96), (0, 0)), mode="edge") for f in small.frames]
    moved = [np.roll(f, (48, 48), (0, 1)) for f in frames]
    true = small.landmarks + 48
    path = film(tmp_path / "in/a.mp4", moved, np.arange(6) / 12.5)
    beside(path, true)
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 6, line
    beside(path, change(true))
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 0 and re.search(cause, line["note"]) and "a.mp4.npz" in line["note"], line


def broken_sidecars(landmarks):
    """Name -> (a function that writes the file, what the manifest says)."""

    def packed(path, **arrays):
        with path.open("wb") as file:
            np.savez(file, **arrays)

    def truncated(path):
        packed(path, landmarks=landmarks)
        path.write_bytes(path.read_bytes()[:-200])

    def flipped(path):
        packed(path, landmarks=landmarks)
        data = bytearray(path.read_bytes())
        data[2_000] ^= 255
        path.write_bytes(data)

    def npy(path):
        with path.open("wb") as file:
            np.save(file, landmarks)

    def vast(path):
        packed(path, landmarks=landmarks)
        path.write_bytes(path.read_bytes().replace(b"(24, 68, 2)", b"(99999999999999,)"[:11]))

    return {
        "truncated": (truncated, "not a readable npz"),
        "checksum": (flipped, "not a readable npz"),
        "npy": (npy, "not a readable npz"),
        "strings": (
            lambda p: packed(p, landmarks=landmarks.astype(str)),
            "landmarks are of type <U32, not numbers",
        ),
        "booleans": (
            lambda p: packed(p, landmarks=landmarks > 40),
            "landmarks are of type bool, not numbers",
        ),
        "objects": (lambda p: packed(p, landmarks=landmarks.astype(object)), "not a readable npz"),
        "complex": (lambda p: packed(p, landmarks=landmarks * 1j), "not numbers"),
        "scalar": (lambda p: packed(p, landmarks=3.0), "shape"),
        "empty": (lambda p: p.write_bytes(b""), "not a readable npz"),
        "pupils": (
            lambda p: packed(p, landmarks=landmarks, pupils=np.full((24, 2, 2), "x")),
            "pupils are of type",
        ),
        "infinite": (lambda p: packed(p, landmarks=landmarks * np.inf), "no usable frame"),
    }


def test_every_broken_sidecar_gets_its_line(clip, tmp_path):
    whole = film(tmp_path / "whole.mp4", clip.frames, np.arange(24) / 12.5)
    (tmp_path / "in").mkdir()
    kinds = broken_sidecars(clip.landmarks)
    for name, (write, _) in kinds.items():
        os.link(whole, tmp_path / f"in/{name}.mp4")
        write(tmp_path / f"in/{name}.mp4.npz")
    found = run(tmp_path / "in", tmp_path / "out", workers=1)
    for name, (_, message) in kinds.items():
        line = found[f"{name}.mp4"]
        assert line["frames"] == 0 and message in line["note"] and "Error:" not in line["note"], line


def test_rows_that_say_not_found_are_left_out(clip, tmp_path):
    """Zeros, and points far outside, in single frames of a track."""
    points = clip.landmarks.copy()
    points[::4], points[1], points[2] = 0, 5000, 1e30
    path = beside(film(tmp_path / "in/a.mp4", clip.frames, np.arange(24) / 12.5), points)
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 16 and "in 8 frames" in line["note"]
    driver = animate.read_driver(path, 64, None)
    assert np.abs(driver.points).max() < 100


def test_landmarks_of_two_videos_of_one_stem_are_refused(clip, tmp_path):
    whole = film(tmp_path / "in/me.mp4", clip.frames, np.arange(24) / 12.5)
    shutil.copy(whole, tmp_path / "in/me.mov")
    np.savez(tmp_path / "in/me.npz", landmarks=clip.landmarks)
    found = run(tmp_path / "in", tmp_path / "out")
    assert all("may be of" in line["note"] and "me.mov.npz" in line["note"] for line in found.values())
    beside(tmp_path / "in/me.mp4", clip.landmarks)
    assert run(tmp_path / "in", tmp_path / "out")["me.mp4"]["frames"] == 24


def test_a_photograph_and_a_video_of_one_stem_find_their_own_landmarks(clip, tmp_path):
    path = film(tmp_path / "me.mp4", clip.frames, np.arange(24) / 12.5)
    Image.fromarray(clip.frames[0]).save(tmp_path / "me.jpg")
    np.savez(tmp_path / "me.npz", landmarks=clip.landmarks)
    assert find_sidecar(path) == tmp_path / "me.npz" and find_sidecar(tmp_path / "me.jpg") is None
    np.savez(tmp_path / "me.npz", landmarks=clip.landmarks[:1])
    assert find_sidecar(path) is None and find_sidecar(tmp_path / "me.jpg") == tmp_path / "me.npz"
    beside(path, clip.landmarks)
    assert (
        find_sidecar(path) == tmp_path / "me.mp4.npz"
        and find_sidecar(tmp_path / "me.jpg") == tmp_path / "me.npz"
    )


def test_a_truncated_video_with_landmarks_for_all_of_it_is_called_truncated(tmp_path):
    long = make_clip(ClipSettings(3, 1, 0, 40, 12.5, 64), sound=False)
    path = film(
        tmp_path / "in/a.mp4",
        long.frames,
        np.arange(40) / 12.5,
        options={"movflags": "faststart", "crf": "1", "bf": "0"},
    )
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    beside(path, long.landmarks)
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert (
        line["frames"] == 0
        and line["note"].startswith("left out: truncated: ")
        and "landmarks for 40 frames" in line["note"]
    )


@pytest.mark.parametrize("ending", [".mkv", ".webm"])
def test_what_breaks_off_in_other_containers_is_called_truncated(tmp_path, ending):
    long = make_clip(ClipSettings(3, 1, 0, 40, 12.5, 64), sound=False)
    codec = "libvpx-vp9" if ending == ".webm" else "libx264"
    path = film(tmp_path / f"in/a{ending}", long.frames, np.arange(40) / 12.5, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    beside(path, long.landmarks)
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 0 and "truncated: it ends after" in line["note"], line


def test_half_a_photograph_is_damaged_and_no_video(clip, tmp_path):
    for name in ("a.jpg", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)).save(
            tmp_path / name
        )
        data = (tmp_path / name).read_bytes()
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data[: len(data) // 2])
        beside(tmp_path / "in" / name, clip.landmarks[:1])
    assert all(
        "damaged photograph" in line["note"] for line in run(tmp_path / "in", tmp_path / "out").values()
    )


def test_what_a_file_is_decides_its_content(clip, tmp_path):
    """A photograph with a camera's notes under a video's name, and a video under a photograph's."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(clip.frames[0]).copy()).save(
        tmp_path / "photo.mp4", format="JPEG", exif=exif, quality=95
    )
    seen = prepare_video.read_source(tmp_path / "photo.mp4")
    assert not seen.fps and np.abs(next(seen.frames()).astype(int) - clip.frames[0]).mean() < 4
    shutil.copy(film(tmp_path / "a.mp4", clip.frames, np.arange(24) / 12.5), tmp_path / "a.jpg")
    assert len(prepare_video.read_source(tmp_path / "a.jpg").times) == 24


def test_photographs_of_many_bits_are_neither_black_nor_clipped(tmp_path):
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    for name, values in (
        ("i.tif", (ramp * 255).astype(np.int32)),
        ("f.tif", ramp.astype(np.float32)),
        ("t.png", (ramp * 4095).astype(np.uint16)),
    ):
        if name == "f.tif":
            values[0, 0] = np.inf
        Image.fromarray(values).save(tmp_path / name)
        seen, _ = read_photograph(tmp_path / name)
        assert abs(int(seen[32, 0, 0]) - 128) < 3 and seen.max() == 255, name


def test_what_the_system_refuses_is_tried_again(clip, tmp_path, monkeypatch):
    path = beside(film(tmp_path / "in/a.mp4", clip.frames, np.arange(24) / 12.5), clip.landmarks)
    opened = Path.open

    def refused(self, *more, **options):
        if self == path.resolve():
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *more, **options)

    monkeypatch.setattr(Path, "open", refused)
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 0 and "cannot be read (Permission denied)" in line["note"]
    monkeypatch.undo()
    (line,) = run(tmp_path / "in", tmp_path / "out").values()
    assert line["frames"] == 24
    with pytest.raises(MemoryError):
        check_memory(OSError(errno.EAGAIN, "Resource temporarily unavailable"))


def test_every_frame_reaches_the_detector_at_every_size(monkeypatch):
    """Large frames are looked at in smaller batches, and none is passed over."""
    detector = Detector.__new__(Detector)
    detector.device, detector.batch, detector.pixels, detector.quiet = "cpu", 16, PIXELS["cpu"], True
    box = [np.array([10.0, 10, 50, 60, 0.9])]
    detector.fa = SimpleNamespace(
        face_detector=SimpleNamespace(detect_from_batch=lambda batch: [box] * len(batch))
    )
    boxes = []
    monkeypatch.setattr(
        Detector, "_points", lambda self, images, found: boxes.extend(found) or np.zeros((len(images), 68, 2))
    )
    for height, width in ((256, 256), (480, 640), (720, 1280), (2160, 3840)):
        points, faces = detector([np.zeros((height, width, 3), np.uint8)] * 5)
        assert np.isfinite(points).all() and faces.tolist() == [1] * 5, (height, width)
    (
        np.testing.assert_allclose(boxes[-1][:4], np.array([10.0, 10, 50, 60]) * 3),
        "in pixels of the frame itself",
    )


# folders


def test_folders_are_walked_through_links_and_every_source_has_its_line(clip, tmp_path):
    whole = beside(film(tmp_path / "whole.mp4", clip.frames, np.arange(24) / 12.5), clip.landmarks)

    def place(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole, path)
        shutil.copy(f"{whole}.npz", f"{path}.npz")

    place(tmp_path / "disk/anna/one.mp4")
    place(tmp_path / "in/ben/two.mp4")
    (tmp_path / "in/anna").symlink_to(tmp_path / "disk/anna")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/ben/self.mp4").symlink_to("self.mp4")
    (tmp_path / "in/ben/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    for name in ("raw.cr2", "half.mp4.part", "film.wmv"):
        (tmp_path / "in/ben" / name).write_bytes(b"something")
    for name in (
        ".hidden.mp4",
        "._two.mp4",
        "Thumbs.db",
        "notes.txt",
        "two.THM",
        "@eaDir/two.mp4/preview.jpg",
        "__MACOSX/two.mp4",
    ):
        (tmp_path / "in/ben" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/ben" / name).write_bytes(b"something")
    found = run(
        tmp_path / "in",
        tmp_path / "out",
        detect=lambda frames: pytest.fail("what can be read has landmarks beside it"),
    )
    assert {n for n, line in found.items() if line["frames"]} == {"one.mp4", "two.mp4"}
    assert {n for n, line in found.items() if not line["frames"]} == {
        "gone.mp4",
        "raw.cr2",
        "half.mp4.part",
        "film.wmv",
        "loop",
        "self.mp4",
    }
    for name, message in {
        "gone.mp4": "nowhere.mp4, which is not there",
        "raw.cr2": "ending .cr2",
        "half.mp4.part": "unfinished",
        "film.wmv": "not a readable video",
        "loop": "the same folder",
        "self.mp4": "symbolic links",
    }.items():
        assert message in found[name]["note"]
    assert set(Store(tmp_path / "out", "test").identities()) == {"anna", "ben"}


@pytest.mark.parametrize("prefix", ["", "vox2/", "a/b/", "test/of/mine/"])
@pytest.mark.parametrize("below", ["", "test", "test/mp4", "test/mp4/id00017", "test/mp4/id00017/xyz"])
def test_voxcelebs_test_people_stay_test_people_wherever_the_source_begins(prefix, below, tmp_path):
    root = tmp_path / prefix
    for path in ("dev/mp4/id00012/abc/00001.mp4", "test/mp4/id00017/xyz/00003.mp4"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    for source in {tmp_path, root} if not below else {root / below}:
        units = {u.person: u for u in sources.discover(source, "voxceleb2")}
        assert units["id00017"].split == "test" and units["id00017"].video == "xyz"
        if not below:
            assert units["id00012"].split in ("meta", "validation") and units["id00012"].video == "abc"


def test_one_file_is_a_source_and_so_is_a_linked_data_folder(clip, tmp_path):
    path = beside(
        film(tmp_path / "disk/in/me.mp4", clip.frames, np.arange(24) / 12.5, click(2, 1)), clip.landmarks
    )
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "disk/out").symlink_to(tmp_path / "elsewhere/deep")
    (line,) = run(tmp_path / "data/in/me.mp4", tmp_path / "data/out").values()
    store = Store(tmp_path / "data/out", "test")
    assert line["frames"] == store.frame_count(0) == 24
    assert (store.root / store.first_source(0)["source"]).resolve() == path.resolve()
    assert main(["prepare", str(path), str(tmp_path / "again"), "--device", "cpu"]) == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes UTF-8 names only")
def test_names_that_are_not_utf8_or_lead_out_of_the_folder_are_left_out_and_the_rest_goes_on(clip, tmp_path):
    whole = beside(film(tmp_path / "whole.mp4", clip.frames, np.arange(24) / 12.5), clip.landmarks)
    (tmp_path / "in").mkdir()
    for name in (
        b"good.mp4",
        b"caf\xe9.mp4",
        b"...mp4",
        b"12:30.mp4",
        b"file:x.mp4",
        b"new\nline.mp4",
        "a\u2028b.mp4".encode(),
    ):
        for ending in (b"", b".npz"):
            shutil.copy(os.fsencode(whole) + ending, os.fsencode(tmp_path / "in") + b"/" + name + ending)
    shutil.copy(whole, tmp_path / "in" / ("x" * 250 + ".mp4"))  # the longest that a folder takes
    shutil.copy(f"{whole}.npz", tmp_path / "in" / ("x" * 250 + ".npz"))
    found = run(tmp_path / "in", tmp_path / "out")
    frames = {n: line["frames"] for n, line in found.items()}
    assert frames == {
        "good.mp4": 24,
        "caf\udce9.mp4": 0,
        "12:30.mp4": 24,
        "file:x.mp4": 24,
        "new\nline.mp4": 24,
        "a\u2028b.mp4": 24,
        "x" * 250 + ".mp4": 24,
    }, "a hidden name is passed over"
    assert "not valid UTF-8" in found["caf\udce9.mp4"]["note"]
    assert run(tmp_path / "in", tmp_path / "out") == found
    assert {child.name for child in tmp_path.iterdir()} == {"in", "out", "whole.mp4", "whole.mp4.npz"}


def test_videos_of_every_container_drive(clip, tmp_path):
    for name, codec in (
        ("a.wmv", "wmv2"),
        ("a.ts", "libx264"),
        ("a.flv", "flv1"),
        ("a.avi", "mpeg4"),
        ("a.gif", "gif"),
        ("a", "libx264"),
    ):
        pixels = "rgb8" if codec == "gif" else "yuv420p"
        path = film(
            tmp_path / name,
            clip.frames,
            np.arange(24) / 12.5,
            codec=codec,
            pixels=pixels,
            container=None if "." in name else "mp4",
            rate=25 if codec == "flv1" else Fraction(25, 2),
        )
        assert len(animate.read_driver(beside(path, clip.landmarks), 64, None).points) >= 24, name
    (tmp_path / "b.wmv").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"b.wmv: not a readable video"):
        animate.read_driver(tmp_path / "b.wmv", 64, None)


# several runs and sources, and the corpus that they leave


def corpus_of(tmp_path, clip, *people):
    for person in people:
        beside(film(tmp_path / f"{person}/{person}.mp4", clip.frames, np.arange(24) / 12.5), clip.landmarks)


def test_sources_accumulate_and_what_contradicts_is_refused(clip, tmp_path):
    corpus_of(tmp_path, clip, "anna", "ben", "third")
    assert set(run(tmp_path / "anna", tmp_path / "out")) == {"anna.mp4"}
    assert (
        set(run(tmp_path / "ben", tmp_path / "out"))
        == {"anna.mp4", "ben.mp4"}
        == set(run(tmp_path / "anna", tmp_path / "out"))
    )
    assert set(Store(tmp_path / "out", "test").identities()) == {"anna", "ben"}
    before = (tmp_path / "out/manifest.jsonl").read_text()
    beside(film(tmp_path / "other/anna.mp4", clip.frames[::-1], np.arange(24) / 12.5), clip.landmarks[::-1])
    with pytest.raises(ValueError, match=r"video 'anna' of 'anna' is prepared from .*another folder"):
        run(tmp_path / "other", tmp_path / "out")
    with pytest.raises(ValueError, match="holds frames of 64², not 32²"):
        prepare.prepare(tmp_path / "third", tmp_path / "out", prepare.Settings(32, 0), quiet=True)
    assert (tmp_path / "out/manifest.jsonl").read_text() == before
    (tmp_path / "anna").rename(tmp_path / "moved")
    assert Path(run(tmp_path / "moved", tmp_path / "out")["anna.mp4"]["source"]).parts[-2:] == (
        "moved",
        "anna.mp4",
    )


def test_an_output_that_overlaps_its_source_is_refused_and_nothing_is_removed(clip, tmp_path, capsys):
    corpus_of(tmp_path, clip, "D")
    (tmp_path / "D/link").symlink_to(tmp_path / "linked")
    (tmp_path / "linked").mkdir()

    def tree():
        return sorted(str(p) for p in tmp_path.rglob("*"))

    before = tree()
    for out in ("D", "D/prepared", ".", "linked"):
        if out == "linked":
            beside(film(tmp_path / "linked/x.mp4", clip.frames, np.arange(24) / 12.5), clip.landmarks)
            before = tree()
        assert main(["prepare", str(tmp_path / "D"), str(tmp_path / out), "--device", "cpu"]) == 2
        assert "overlaps the source" in capsys.readouterr().err and tree() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert main(["prepare", str(tmp_path / "D"), str(tmp_path / "mine"), "--device", "cpu"]) == 2
    assert "no prepared corpus" in capsys.readouterr().err and (tmp_path / "mine/thesis.txt").exists()
    assert main(["prepare", str(tmp_path / "D"), str(tmp_path / "mine/thesis.txt"), "--device", "cpu"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_files_of_the_users_in_a_prepared_video_are_never_removed(clip, tmp_path):
    corpus_of(tmp_path, clip, "anna")
    run(tmp_path / "anna", tmp_path / "out")
    folder = tmp_path / "out/test/anna/anna"
    (folder / "notes.txt").write_text("mine")
    beside(tmp_path / "anna/anna.mp4", clip.landmarks + 0.25)
    with pytest.raises(ValueError, match=r"holds files that were not prepared \(notes.txt\)"):
        run(tmp_path / "anna", tmp_path / "out")
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "track.npz").exists()
    (folder / "notes.txt").unlink()
    assert run(tmp_path / "anna", tmp_path / "out")["anna.mp4"]["frames"] == 24


def test_two_runs_into_one_folder(clip, tmp_path):
    """The second says who holds it, and the manifest has each clip once."""
    corpus_of(tmp_path, clip, "anna")
    with (
        planning.locked(tmp_path / "out"),
        pytest.raises(ValueError, match=f"out: process {os.getpid()} on .* prepares into this folder"),
    ):
        run(tmp_path / "anna", tmp_path / "out")
    assert len(run(tmp_path / "anna", tmp_path / "out")) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".talking-heads-complete",
        ".talking-heads-corpus",
        ".talking-heads-lock",
        "manifest.jsonl",
        "manifest.npz",
        "test",
    ]


def test_a_torn_last_line_is_dropped_and_its_video_done_again(clip, tmp_path):
    corpus_of(tmp_path, clip, "anna")
    for name in ("b", "c"):
        corpus_of(tmp_path / "anna", clip, name)
    whole = run(tmp_path / "anna", tmp_path / "out")
    manifest = tmp_path / "out/manifest.jsonl"
    text = manifest.read_text()
    manifest.write_text(text[:-40])
    assert len(Store(tmp_path / "out", "test")) == 2
    for _ in range(2):
        assert run(tmp_path / "anna", tmp_path / "out") == whole
        assert sorted(manifest.read_text().split("\n")) == sorted(text.split("\n"))
    corpus_of(tmp_path, clip, "ben")
    run(tmp_path / "ben", tmp_path / "out")
    assert len(Store(tmp_path / "out", "test")) == 4
    first, second, third = text.splitlines()
    for damaged, message in (
        ("\n".join([first[:-9], second, third]), "line 1"),
        (text.replace('"frames": 24', '"frames": "24"', 1), "frames is '24', not int"),
        (text.replace('"split"', '"spilt"', 1), "'split'"),
    ):
        manifest.write_text(damaged)
        with pytest.raises(ValueError, match=r"manifest.jsonl, line 1: .*prepare again") as error:
            Store(tmp_path / "out", "test")
        assert message in str(error.value)


def test_a_folder_of_somebody_elses_is_no_corpus(clip, tmp_path):
    """Whatever its files are called; what file managers leave is nobody's."""
    corpus_of(tmp_path, clip, "anna")
    (tmp_path / "theirs").mkdir()
    for name in ("manifest.jsonl", ".lock", "thesis.txt"):
        (tmp_path / "theirs" / name).write_text("mine")
    with pytest.raises(ValueError, match=r"manifest.jsonl, line 1|no prepared corpus"):
        run(tmp_path / "anna", tmp_path / "theirs")
    assert {p.name: p.read_text() for p in (tmp_path / "theirs").iterdir()} == dict.fromkeys(
        ("manifest.jsonl", ".lock", "thesis.txt"), "mine"
    )
    (tmp_path / "new").mkdir()
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "new" / name).write_text("icons")
    assert run(tmp_path / "anna", tmp_path / "new")["anna.mp4"]["frames"] == 24


def test_a_source_that_is_not_there_now_is_not_replaced(clip, tmp_path):
    """An unplugged disk: another source with videos of the same name is refused."""
    corpus_of(tmp_path, clip, "anna")
    run(tmp_path / "anna", tmp_path / "out")
    (tmp_path / "anna").rename(tmp_path / "unplugged")
    beside(film(tmp_path / "other/anna.mp4", clip.frames[::-1], np.arange(24) / 12.5), clip.landmarks[::-1])
    with pytest.raises(ValueError, match="is prepared from"):
        run(tmp_path / "other", tmp_path / "out")


def test_a_linked_file_keeps_its_name(clip, tmp_path):
    """As in stores of large files, whose blobs have no endings."""
    blob = film(tmp_path / "blobs/abc123.mp4", clip.frames, np.arange(24) / 12.5)
    blob.rename(tmp_path / "blobs/abc123")
    (tmp_path / "me.mp4").symlink_to("blobs/abc123")
    beside(tmp_path / "me.mp4", clip.landmarks)
    assert run(tmp_path / "me.mp4", tmp_path / "out")["me.mp4"]["frames"] == 24
    (tmp_path / "disk/deep").mkdir(parents=True)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/l").symlink_to(tmp_path / "disk")
    shutil.copy(blob.with_suffix(""), tmp_path / "disk/deep/a.mp4")
    beside(tmp_path / "disk/deep/a.mp4", clip.landmarks)
    with pytest.raises(ValueError, match="overlaps the source"):
        run(tmp_path / "source", tmp_path / "disk/prepared")


def test_what_is_missing_of_a_corpus_is_named_and_prepared_again(clip, tmp_path):
    corpus_of(tmp_path, clip, "anna")
    run(tmp_path / "anna", tmp_path / "out")
    folder = tmp_path / "out/test/anna/anna"
    (folder / "track.npz").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"anna/anna: a prepared video is damaged .*prepare again"):
        Store(tmp_path / "out", "test").read(0, np.arange(3))
    shutil.rmtree(folder)
    run(tmp_path / "anna", tmp_path / "out")
    assert Store(tmp_path / "out", "test").read(0, np.arange(3))[0].shape == (3, 64, 64, 3)


def test_a_corpus_of_another_size_than_the_profile_is_refused(clip, tmp_path):
    corpus_of(tmp_path, clip, "anna")
    run(tmp_path / "anna", tmp_path / "out")
    with pytest.raises(ValueError, match="frames of 64², 32² are needed"):
        Store(tmp_path / "out", "test", 32)
    dataset = EpisodeDataset(Store(tmp_path / "out", "test"), EpisodeSettings(2, 2, 1, 1, 32, 1.0), seed=0)
    with pytest.raises(NoBatch, match="frames of 64², 32² are needed"):
        next(Batches(dataset))


# memory


def test_memory_that_runs_out_is_called_that_and_the_clip_is_tried_again(clip, tmp_path, monkeypatch):
    corpus_of(tmp_path, clip, "anna")

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(video.Shape, "picture", exhausted)
    (line,) = run(tmp_path / "anna", tmp_path / "out").values()
    assert line["frames"] == 0 and "memory ran out" in line["note"]
    with pytest.raises(MemoryError, match=r"anna.mp4: memory ran out while it was read"):
        animate.read_driver(tmp_path / "anna/anna.mp4", 64, None)
    monkeypatch.undo()
    (line,) = run(tmp_path / "anna", tmp_path / "out").values()
    assert line["frames"] == 24


def test_large_videos_are_read_as_streams(clip, tmp_path):
    """A process that prepares 4K and keeps 16 frames stays below 1 GB; decoded they would take 1.5."""
    large = np.pad(np.repeat(np.repeat(clip.frames[0], 20, 0), 20, 1), ((120, 120), (960, 960), (0, 0)))
    count = 60
    path = film(
        tmp_path / "in/a.mp4",
        [large] * count,
        np.arange(count) / 25,
        options={"crf": "40", "preset": "ultrafast"},
    )
    beside(path, np.repeat((clip.landmarks[:1] + 0.5) * 20 - 0.5 + [960, 120], count, 0))
    code = (
        "import sys; from pathlib import Path; from talking_heads.data import prepare\n"
        "source, target = map(Path, sys.argv[1:])\n"
        "lines = prepare.prepare(source, target, prepare.Settings(64, 16), quiet=True)\n"
        "assert lines[0]['frames'] == 16, lines\n"
        "import torch; from talking_heads.metrics.timing import peak_memory\n"
        "print(peak_memory(torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.0e9 < count * large.nbytes, "more than what is kept, and PyTorch"


def test_frames_of_a_large_video_reach_the_detector_in_parts(clip, tmp_path, monkeypatch):
    path = film(tmp_path / "in/a.mp4", clip.frames, np.arange(24) / 12.5)
    monkeypatch.setattr(video, "CACHE", 0)
    monkeypatch.setattr(prepare_video, "DETECTED_AT_ONCE", 7 * clip.frames[0].nbytes)
    calls, whole = [], list(video.open_video(path).frames())

    def detect(frames):
        first = sum(calls)
        calls.append(len(frames))
        assert all(np.array_equal(a, b) for a, b in zip(frames, whole[first:], strict=False))
        return clip.landmarks[first : first + len(frames)], np.ones(len(frames), int)

    (line,) = run(tmp_path / "in", tmp_path / "out", detect=detect).values()
    assert calls == [7, 7, 7, 3] and line["frames"] == 24
    images, _ = Store(tmp_path / "out", "test").read(0, np.arange(24))
    assert all(
        np.array_equal(a, crop(b, Square(*line["square"]), 64)) for a, b in zip(images, whole, strict=True)
    )
