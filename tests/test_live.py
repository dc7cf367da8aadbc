"""``speak --live``: frames while the sound comes in."""

import io
import threading
import time

import av
import cv2
import numpy as np
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import live, speak
from talking_heads.animation.identity_frames import IdentityFrame, keep_identity
from talking_heads.animation.live import Arrivals, chunks
from talking_heads.animation.synthetic_video import is_ours
from talking_heads.data import video
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.sound import HOP, to_int16
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.windows import PEAK
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.generation import Generator, stream
from talking_heads.diffused.model import build_unet
from talking_heads.files import Interrupted

CARD = {"person": "ada", "kind": "procedural speaker", "origin": "a test"}


@pytest.fixture(scope="module")
def model():
    """An untrained network of the smoke profile with other values than zero, and an encoder."""
    profile = config.load("smoke")
    torch.manual_seed(0)
    unet = build_unet(profile.diffused).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.05)
    return Generator(unet, profile.diffused), build_encoder(profile.diffused.audio_encoder).eval()


@pytest.fixture(scope="module")
def clip():
    return make_clip(ClipSettings(0, 5, 0, 15, 25.0, 32))


@pytest.fixture
def files(tmp_path, clip):
    """A kept identity frame, and 0.6 s of a voice as raw samples."""
    keep_identity(tmp_path / "ada.face", IdentityFrame(clip.frames[0], CARD))
    (tmp_path / "voice.raw").write_bytes(to_int16(clip.sound).astype("<i2").tobytes())
    return tmp_path


def run(folder, model, sound="voice.raw", standard_input=None, **changes):
    source = live.STANDARD_INPUT if sound == "-" else folder / sound
    values = {"face": folder / "ada.face", "out": folder / "out.mkv", "sound": source, **changes}
    request = speak.Request(**values)

    def load(device):
        return *model, {}

    return live.speak_live(request, config.load("smoke"), load, "cpu", standard_input or io.BytesIO())


class Trickle(io.RawIOBase):
    """A source that has its bytes in pieces of odd sizes."""

    def __init__(self, data):
        self.data, self.sizes = data, np.random.default_rng(0)

    def read(self, size=-1):
        piece = self.data[: int(self.sizes.integers(1, size))]
        self.data = self.data[len(piece) :]
        return piece


def test_samples_are_whole_whatever_pieces_they_come_in(clip):
    sound = to_int16(clip.sound)
    pieces = list(chunks(Trickle(sound.astype("<i2").tobytes() + b"x").read))
    assert len(pieces) > 10 and all(piece.dtype == np.int16 for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), sound)


def test_a_file_that_grows_is_read_to_its_end(files):
    """With pauses that are shorter than the patience."""
    path, growing = files / "voice.raw", files / "growing.raw"
    data = path.read_bytes()
    growing.write_bytes(data[:5000])

    def grow():
        for start in range(5000, len(data), 5000):
            time.sleep(0.1)
            with growing.open("ab") as file:
                file.write(data[start : start + 5000])

    writer = threading.Thread(target=grow)
    with growing.open("rb") as file:
        writer.start()
        heard = np.concatenate(list(chunks(file.read, seconds=1.0)))
    writer.join()
    assert heard.astype("<i2").tobytes() == data


def test_sound_is_made_as_loud_as_that_of_the_training():
    arrivals = Arrivals()
    quiet = np.array([0, 100, -100], np.int16)
    assert np.abs(arrivals.add(quiet)).max() == round(100 * PEAK / live.FLOOR), "not louder than that"
    loud = np.array([-16384, 8192], np.int16)
    assert np.abs(arrivals.add(loud)).max() == round(PEAK * 32768)
    assert np.abs(arrivals.add(quiet)).max() == round(100 * PEAK / 0.5)
    assert np.array_equal(arrivals.of_frame(0), np.concatenate([quiet, loud, quiet])), "the sound as it came"


def test_a_live_video_has_the_frames_of_the_stream_and_the_sound(files, model, clip, capsys):
    out = run(files, model)
    result = video.read(out)
    assert len(result.frames) == 15 and result.fps == 25 and result.frames[0].shape == (256, 256, 3)
    assert is_ours(out)
    sound = to_int16(clip.sound)
    np.testing.assert_array_equal(result.sound[: len(sound)], sound)
    arrivals = Arrivals()
    source = (arrivals.add(sound[k : k + HOP]) for k in range(0, len(sound), HOP))
    frames = [to_image(x)[0] for x in stream(*model, to_tensor(clip.frames[:1]), source)]
    for shown, frame in zip(result.frames, frames, strict=True):
        corner = shown[:128]  # without the mark
        expected = cv2.resize(frame, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)[:128]
        assert np.abs(corner.astype(int) - expected).mean() < 4
    printed = capsys.readouterr().out
    assert "a frame needs the sound of the 0.18 s after it" in printed and "15 frames of 0.6 s" in printed


def test_frames_come_before_the_sound_ends(files, model):
    """The first ones can be played while standard input is still open."""
    data, out, seen = (files / "voice.raw").read_bytes(), files / "out.mkv", []

    class Recording:
        def __init__(self):
            self.position = 0

        def read(self, size):
            if self.position > 0.8 * len(data):
                with av.open(str(out)) as container:
                    seen.append(sum(1 for _ in container.decode(video=0)))
            piece = data[self.position : self.position + size]
            self.position += size
            return piece

    run(files, model, sound="-", standard_input=Recording(), **{"out": out})
    assert seen[0] >= 4, "of fifteen"


def test_an_interrupt_leaves_a_complete_file(files, model, monkeypatch):
    data = (files / "voice.raw").read_bytes()

    class Interrupting(Trickle):
        def read(self, size=-1):
            if len(self.data) < 0.3 * len(data):
                raise KeyboardInterrupt
            return super().read(size)

    with pytest.raises(Interrupted, match=r"frames are in .*out\.mkv"):
        run(files, model, sound="-", standard_input=Interrupting(data))
    assert 3 <= len(video.read(files / "out.mkv").frames) < 15


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"out": "out.mp4"}, "--live writes Matroska; give a name that ends in .mkv"),
        ({"sound": "nowhere.raw"}, "nowhere.raw: no such file"),
        ({"face": None}, "give either --photo"),
        ({"keep": "a.face"}, "leave out --keep"),
        ({"sound": "empty.raw"}, "empty.raw: no sound came in"),
    ],
)
def test_unusable_input_is_refused(files, model, monkeypatch, changes, message):
    monkeypatch.setattr(live, "PATIENCE", 0.1)
    (files / "empty.raw").touch()
    paths = {name: files / value if value else None for name, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(files, model, **{"sound": "voice.raw", **paths})


def test_the_command_reads_standard_input(files, monkeypatch, capsys):
    requests = []

    def record(request, profile, load_model, device, standard_input):
        requests.append((request.sound, standard_input))
        return request.out

    monkeypatch.setattr(live, "speak_live", record)
    words = f"speak --live --face {files}/ada.face --sound - --out {files}/o.mkv --profile smoke"
    assert main(words.split()) == 0
    assert requests[0][0] == live.STANDARD_INPUT and "o.mkv" in capsys.readouterr().out
