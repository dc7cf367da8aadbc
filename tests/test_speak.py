"""``speak``: a photograph and a voice become a talking head."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import nbformat
import numpy as np
import pytest
import torch
from scipy.io import wavfile
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import animate, speak
from talking_heads.animation.identity_frames import IdentityFrame, keep_identity, load_identity
from talking_heads.animation.synthetic_video import is_ours
from talking_heads.data import video
from talking_heads.data.sound import to_int16
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.diffused import resumable
from talking_heads.diffused.audio_encoder import build_encoder, embed_clip
from talking_heads.diffused.audio_pretraining import SpeechReader
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.diffused.resumable import Generation
from talking_heads.diffused.training import model_key
from talking_heads.experiments.diffused import weights
from talking_heads.files import Interrupted
from talking_heads.nn.weight_files import save_weights

CARD = {"person": "ada", "kind": "procedural speaker", "origin": "a test"}


@pytest.fixture(scope="module")
def profile():
    return config.load("smoke")


@pytest.fixture(scope="module")
def models(profile):
    """An untrained network with other values than zero, and an encoder."""
    torch.manual_seed(0)
    unet = build_unet(profile.diffused).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.05)
    encoder = build_encoder(profile.diffused.audio_encoder).eval()
    return lambda device: (Generator(unet, profile.diffused), encoder, {"key": "a test", "step": 1})


@pytest.fixture
def files(tmp_path):
    """A photograph with its landmarks, and 0.6 s of a voice."""
    clip = make_clip(ClipSettings(0, 5, 0, 15, 25.0, 96))
    cv2.imwrite(str(tmp_path / "ada.png"), clip.frames[0][..., ::-1])
    np.savez(tmp_path / "ada.npz", landmarks=clip.landmarks[:1])
    write_sound(tmp_path / "voice.mkv", clip.sound)
    return tmp_path


def write_sound(path, sound):
    """A video of black frames with this sound; its picture does not matter."""
    video.write(path, np.zeros((15, 32, 32, 3), np.uint8), 25.0, sound, lossless=True)


def request(folder, **changes):
    values = {"photo": folder / "ada.png", "sound": folder / "voice.mkv", "out": folder / "out.mp4"}
    return speak.Request(**{**values, "kind": "procedural speaker", **changes})


def test_a_photograph_speaks(files, profile, models):
    """A video of the sound's length with its sound, marked; the identity frame is kept."""
    out = speak.speak(request(files), profile, models, "cpu")
    result = video.read(out)
    assert len(result.frames) == 15 and result.fps == 25 and result.frames[0].shape == (256, 256, 3)
    heard, given = result.sound[:9600].astype(float), video.read(files / "voice.mkv").sound[:9600]
    assert np.corrcoef(heard, given)[0, 1] > 0.9
    assert is_ours(out) and not list(files.glob("out.mp4.partial*"))
    face = load_identity(files / "out.mp4.face")
    assert face.image.shape == (32, 32, 3)
    assert face.card == {"person": "ada", "kind": "procedural speaker", "origin": "ada.png"}
    plain = speak.speak(request(files, out=files / "plain.mp4", mark=False), profile, models, "cpu")
    with_mark, without = (np.stack(video.read(path).frames).astype(int) for path in (out, plain))
    difference = np.abs(with_mark - without)
    assert difference[:, -24:, :80].mean() > 8 > difference[:, :200].mean()


def test_the_card_of_a_face_names_the_detector_of_its_landmarks(files, profile, models, monkeypatch):
    landmarks = np.load(files / "ada.npz")["landmarks"]
    (files / "ada.npz").unlink()

    def detect(frames):
        return landmarks, np.ones(len(frames), int)

    detect.name = "a detector"
    monkeypatch.setattr(animate, "make_detector", lambda *_, **__: detect)
    speak.speak(request(files), profile, models, "cpu")
    assert load_identity(files / "out.mp4.face").card["landmarks"] == "a detector"


def test_a_kept_face_speaks_in_the_same_way(files, profile, models):
    first = video.read(speak.speak(request(files, mark=False), profile, models, "cpu"))
    again = request(files, photo=None, face=files / "out.mp4.face", out=files / "again.mp4", mark=False)
    second = video.read(speak.speak(again, profile, models, "cpu"))
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, second.frames, strict=True))
    other = request(files, photo=None, face=files / "out.mp4.face", out=files / "b.mp4", seed=1, mark=False)
    third = video.read(speak.speak(other, profile, models, "cpu"))
    assert not np.array_equal(first.frames[5], third.frames[5])


def test_files_of_sound_alone_are_read(files):
    """WAV at another rate, in stereo; the samples are those of the video's sound."""
    clip = make_clip(ClipSettings(0, 5, 0, 15, 25.0, 32))
    stereo = np.repeat(np.repeat(clip.sound[:, None], 2, 1), 2, 0)
    wavfile.write(files / "voice.wav", 32_000, stereo)
    a, b = (speak.read_speech(files / name).astype(float) for name in ("voice.wav", "voice.mkv"))
    assert abs(len(a) - 9600) < 100 and np.corrcoef(a[1000:9000], b[1000:9000])[0, 1] > 0.95


def test_chapter_22_reads_your_own_sound(files):
    """The code cell, with a file named in the first one."""
    notebook = nbformat.read(Path(__file__).parents[1] / "notebooks/22_talking.ipynb", 4)
    cell = next(cell.source for cell in notebook.cells if "read_speech" in cell.source)
    names = {"own_sound": str(files / "voice.mkv"), "Path": Path}
    exec(cell, names)
    np.testing.assert_array_equal(names["voice"], speak.read_speech(files / "voice.mkv"))


def test_the_clock_of_a_broadcast_is_not_silence(files):
    """A transport stream whose times begin late."""
    clip = make_clip(ClipSettings(0, 5, 0, 15, 25.0, 32))
    with av.open(str(files / "late.ts"), "w") as container:
        stream = container.add_stream("mp2", rate=16_000, layout="mono")
        stream.time_base = Fraction(1, 16_000)
        frame = av.AudioFrame.from_ndarray(to_int16(clip.sound)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 600 * 16_000, Fraction(1, 16_000)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert len(speak.read_speech(files / "late.ts")) < 2 * 16_000


def test_the_loudness_of_a_recording_does_not_matter(files, profile, models):
    """A voice at a tenth of the level gives the same frames."""
    clip = make_clip(ClipSettings(0, 5, 0, 15, 25.0, 32))
    sound = speak.read_speech(files / "voice.mkv")
    write_sound(files / "quiet.mkv", 0.1 * clip.sound)
    quiet = speak.read_speech(files / "quiet.mkv")
    encoder = models("cpu")[1]
    a, b = (embed_clip(encoder, s, 15, 2) for s in (sound, quiet))
    assert (a - b).abs().max() < 0.02 and a.shape == (15, 5, 64)


def test_an_interrupted_generation_goes_on(files, profile, models, monkeypatch):
    expected = speak.speak(request(files, out=files / "whole.mp4", mark=False), profile, models, "cpu")
    talk = Generator.talk

    def interrupted(self, *arguments):
        for k, frame in enumerate(talk(self, *arguments)):
            if k == 6:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(Generator, "talk", interrupted)
    with pytest.raises(Interrupted, match=r"6 frames are kept in .*out.mp4.partial; the same command"):
        speak.speak(request(files, mark=False), profile, models, "cpu")
    assert not (files / "out.mp4").exists()
    generated = []

    def counting(self, *arguments):
        for frame in talk(self, *arguments):
            generated.append(frame)
            yield frame

    monkeypatch.setattr(Generator, "talk", counting)
    out = speak.speak(request(files, mark=False), profile, models, "cpu")
    assert len(generated) == 9
    pairs = zip(video.read(out).frames, video.read(expected).frames, strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_generated_frames_lie_in_a_file_and_not_in_memory(tmp_path, profile, monkeypatch):
    """They are read from it one by one, so that memory does not grow with the clip."""
    count, frame = 300, torch.zeros(1, 3, 32, 32)
    monkeypatch.setattr(Generator, "talk", lambda self, *_: (frame + k % 2 for k in range(count)))
    audio, partial = torch.zeros(1, count, 1, 1), tmp_path / "a.partial"
    generation = Generation(Generator(None, profile.diffused), frame, audio, [0], "a test", partial)
    tracemalloc.start()
    levels = [int(image[5, 5, 0]) for image in generation.run()[0]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert levels == [128, 255] * 150
    assert peak < count * 32 * 32 * 3 / 3
    generation.clear()
    assert not list(tmp_path.iterdir())


def test_an_interrupt_before_the_first_frame_leaves_nothing(files, profile, models, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Generator, "talk", interrupted)
    with pytest.raises(Interrupted, match="no frame is complete"):
        speak.speak(request(files), profile, models, "cpu")
    assert not list(files.glob("out.mp4.partial*"))


def test_a_full_disk_is_stated_with_what_to_do(files, profile, models, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resumable, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(resumable.os, "fsync", fail)
    with pytest.raises(OSError, match=r"out\.mp4\.partial\.frames: cannot be written \(No space .*make room"):
        speak.speak(request(files), profile, models, "cpu")


def test_a_partial_result_of_other_inputs_is_not_used(files, profile, models):
    state = {"images": torch.zeros(3, 32, 32, 3, dtype=torch.uint8), "motion": torch.zeros(2, 3, 32, 32)}
    save_weights(files / "out.mp4.partial", state, {"key": "another"})
    result = video.read(speak.speak(request(files, mark=False), profile, models, "cpu"))
    assert result.frames[0].any()


# -- unusable input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photo": None}, "give either --photo"),
        ({"face": "out.face"}, "give either --photo"),
        ({"kind": "robot"}, "kind 'robot'"),
        ({"sound": "missing.wav"}, "missing.wav: no such file"),
        ({"photo": "missing.png"}, "missing.png: no such file"),
        ({"sound": "mute.mkv"}, "mute.mkv: a file without sound"),
        ({"sound": "silence.mkv"}, "silence.mkv: silence only"),
        ({"sound": "short.mkv"}, r"short.mkv: 0\.04 s of sound are less than a window of 0\.2 s"),
        ({"sound": "ada.npz"}, "ada.npz: no audio or video file that can be read"),
        ({"photo": "nobody.png"}, "nobody.png: .*no usable frame"),
        ({"out": "out.txt"}, "out.txt"),
        ({"out": "voice.mkv"}, "is an input"),
        ({"out": "foreign.mp4"}, "exists and was not written by this command"),
        (
            {"photo": None, "face": "large.face"},
            "an identity frame of 48², and the profile's network has 32²",
        ),
        ({"photo": None, "face": "voice.mkv"}, "not a safetensors file"),
        ({"out": "half.mp4"}, r"half\.mp4\.partial: is not a partial result of this command"),
        ({"out": "raw.mp4"}, r"raw\.mp4\.partial\.frames: is not a partial result of this command"),
        ({"keep": "other.face"}, "other.face: exists and is the identity frame of 'ben'"),
    ],
)
def test_unusable_input_is_refused_before_anything_is_written(files, profile, changes, message):
    write_sound(files / "mute.mkv", None)
    write_sound(files / "silence.mkv", np.zeros(9600, np.float32))
    video.write(
        files / "short.mkv", np.zeros((1, 32, 32, 3), np.uint8), 25.0, np.ones(640) * 0.1, lossless=True
    )
    cv2.imwrite(str(files / "nobody.png"), np.zeros((64, 64, 3), np.uint8))
    np.savez(files / "nobody.npz", landmarks=np.full((1, 68, 2), np.nan))
    (files / "half.mp4.partial").write_text("something else")
    (files / "raw.mp4.partial.frames").write_text("something else")
    video.write(files / "foreign.mp4", np.zeros((5, 32, 32, 3), np.uint8), 25.0)
    keep_identity(files / "large.face", IdentityFrame(np.zeros((48, 48, 3), np.uint8), CARD))
    keep_identity(
        files / "other.face", IdentityFrame(np.zeros((32, 32, 3), np.uint8), {**CARD, "person": "ben"})
    )
    before = {path: path.read_bytes() for path in files.iterdir()}
    values = {
        name: files / value if isinstance(value, str) and name != "kind" else value
        for name, value in changes.items()
    }

    def load_model(device):
        raise AssertionError("the input should have been refused before")

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        speak.speak(request(files, **values), profile, load_model, "cpu")
    assert {path: path.read_bytes() for path in files.iterdir()} == before


@pytest.mark.parametrize("damage", ["card", "image", "format"])
def test_a_damaged_face_is_refused(tmp_path, damage):
    state = {"image": torch.zeros(32, 32, 3, dtype=torch.uint8)}
    metadata = {"format": "identity frame 1", "card": CARD}
    if damage == "card":
        metadata["card"] = {"person": "ada"}
    elif damage == "image":
        state = {"image": torch.zeros(32, 16, 3)}
    else:
        metadata["format"] = "talking head 2"
    save_weights(tmp_path / "a.face", state, metadata)
    with pytest.raises(ValueError, match=r"a\.face: (a damaged|not an) identity frame"):
        load_identity(tmp_path / "a.face")


# -- weights and the command ----------------------------------------------------------------------------
def test_weights_of_the_denoising_network(tmp_path, profile, monkeypatch):
    """They are refused where the encoder, the conditions or the network are not those of the training."""
    torch.manual_seed(0)
    reader = SpeechReader(profile.diffused.audio_encoder).eval()
    monkeypatch.setattr(weights, "load_reader", lambda section: reader)
    with pytest.raises(FileNotFoundError, match="train-diffusion --profile smoke"):
        weights.load_model(profile, "scratch", tmp_path)
    path = tmp_path / "smoke/runs/reference/diffusion/weights.safetensors"
    metadata = {"step": 3, "model": model_key(profile.diffused, reader.encoder)}
    save_weights(path, build_unet(profile.diffused).state_dict(), metadata, half=True)
    model = weights.load_model(profile, "scratch", tmp_path)
    run = weights.run_id(profile, "scratch", tmp_path)
    assert model.metadata == {**metadata, "run": run} and not model.generator.unet.training
    weights.load_model(profile.override({"diffused.sampling.steps": 5}), "scratch", tmp_path)
    for name, value in {"network.channels": 16, "diffusion.prediction": "epsilon"}.items():
        with pytest.raises(ValueError, match="does not fit profile smoke: trained with another"):
            weights.load_model(profile.override({f"diffused.{name}": value}), "scratch", tmp_path)
    reader.encoder.layers[0].weight.data += 0.1
    with pytest.raises(ValueError, match="does not fit profile smoke"):
        weights.load_model(profile, "scratch", tmp_path)


def test_the_command_reads_its_options(files, monkeypatch, capsys):
    requests = []

    def record(request, profile, load_model, device):
        requests.append((request, profile.name, device))
        return request.out

    monkeypatch.setattr(speak, "speak", record)
    words = f"speak --photo {files}/ada.png --sound {files}/voice.mkv --out {files}/o.mp4 --seed 3 --no-mark"
    main([*words.split(), "--profile", "smoke", "--device", "cpu"])
    ((given, profile, device),) = requests
    assert (given.seed, given.mark, given.face, profile, device) == (3, False, None, "smoke", "cpu")
    assert "o.mp4" in capsys.readouterr().out


def test_the_command_changes_the_profiles_sampling(files, monkeypatch, capsys):
    profiles = []

    def record(request, profile, load_model, device):
        profiles.append(profile.diffused.sampling)
        return request.out

    monkeypatch.setattr(speak, "speak", record)
    words = (
        f"speak --photo {files}/ada.png --sound {files}/voice.mkv --out {files}/o.mp4 --profile smoke".split()
    )
    own = config.load("smoke").diffused.sampling
    changes = {"steps": 7, "guidance": 1.5, "sampler": "ddim"}
    for name, value in changes.items():
        assert main([*words, f"--{name}", str(value)]) == 0
        assert profiles[-1] == own.model_copy(update={name: value}) != own
    assert main([*words, "--fast"]) == 0 and profiles[-1] == own.model_copy(update={"distilled": True})
    for name in ("head_motion", "blink_rate"):
        assert main([*words, f"--{name.replace('_', '-')}", "0"]) == 0
        assert profiles[-1] == own.model_copy(update={name: 0.0, "control": True})
        assert main([*words, f"--{name.replace('_', '-')}", "0", "--fast"]) == 2
    assert "--fast has its own steps and sampler, and no controls" in capsys.readouterr().err
    assert main(words) == 0 and profiles[-1] == own
    assert main([*words, "--steps", "5000"]) == 2
    assert "steps is higher than the 1000" in capsys.readouterr().err
