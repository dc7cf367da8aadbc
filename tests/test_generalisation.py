"""Other voices, languages and faces: espeak-ng's phonemes, true mouths, measurements, the claim on them."""

import numpy as np
import pandas as pd
import pytest
import torch
from talking_heads import config
from talking_heads.animation.example_faces import example_faces
from talking_heads.data.sound import SOUND_RATE
from talking_heads.data.speakers import espeak
from talking_heads.data.speakers.clips import ClipSettings, make_clip, spoken
from talking_heads.data.speakers.speech import PHONEMES, Segment, mouth_track, synthesise
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.audio_pretraining import load_reader
from talking_heads.diffused.generation import Generator
from talking_heads.diffused.model import build_unet
from talking_heads.experiments.claims import verdicts
from talking_heads.experiments.diffused import claim_causes, claims, generalisation
from talking_heads.experiments.diffused.weights import Model
from talking_heads.metrics import lip_sync, recogniser

installed = pytest.mark.skipif(not espeak.is_installed(), reason="espeak-ng is not installed")


# -- phonemes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "signs, names",
    [
        ("ˈaɪ", ["a", "i"]),
        ("ˌiː", ["i"]),
        ("tʃ", ["sh"]),
        ("tɕ", ["sh"]),
        ("ɔ̃", ["o"]),
        ("yː", ["u"]),
        ("ə-", ["uh"]),
        ("ɲʲ", ["n"]),
        (" ", ["_"]),
        ("", ["_"]),
    ],
)
def test_signs_have_the_nearest_mouth(signs, names):
    assert espeak.phonemes_of(signs) == names


def test_an_unknown_sign_is_named():
    with pytest.raises(ValueError, match="no mouth for ☃ in 'a☃': add it to PHONEMES"):
        espeak.phonemes_of("a☃")


def test_every_phoneme_of_the_kit_has_signs_and_no_sign_has_two():
    assert espeak.PHONEMES.keys() == PHONEMES.keys()
    signs = "".join(espeak.PHONEMES.values())
    assert len(set(signs)) == len(signs)


def test_segments_fill_the_time_of_the_sound():
    segments = espeak.segments_of([(0.1, "m"), (0.2, "aɪ"), (0.4, "")], 0.5)
    expected = [("_", 0, 0.1), ("m", 0.1, 0.2), ("a", 0.2, 0.3), ("i", 0.3, 0.4), ("_", 0.4, 0.5)]
    assert [segment.phoneme for segment in segments] == [name for name, _, _ in expected]
    np.testing.assert_allclose([s[1:] for s in segments], [times for _, *times in expected])


def test_without_espeak_there_is_the_corpus_alone(monkeypatch):
    monkeypatch.setattr(espeak, "_library", lambda: None)
    with pytest.raises(RuntimeError, match="not installed: install its program, or pip install espeakng"):
        espeak.speak("Guten Morgen", "de")
    (voice,) = generalisation.voices(FakeClips(), 0, 1.0)
    assert voice.name == generalisation.CORPUS and voice.segments == spoken(1, 8_000_001, 0, 1.0)


@installed
@pytest.mark.parametrize("name", espeak.SENTENCES)
def test_every_language_is_spoken(name):
    code, text = espeak.SENTENCES[name]
    sound, segments = espeak.speak(text, code)
    assert 2 < len(sound) / SOUND_RATE < 6 and np.abs(sound).max() > 5000
    assert segments[-1].end == pytest.approx(len(sound) / SOUND_RATE, abs=0.01)
    assert len({segment.phoneme for segment in segments}) > 10
    middles = [round((s.start + s.end) / 2 * SOUND_RATE) for s in segments if s.phoneme in "aeiou"]
    loudness = [np.abs(sound[k - 200 : k + 200]).mean() for k in middles]
    assert np.mean(loudness) > np.abs(sound).mean(), "vowels are where the sound is loud"


@installed
def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="espeak-ng has no language 'tlh-XX'"):
        espeak.speak("nuqneH", "tlh-XX")


# -- measurements -----------------------------------------------------------------------------------
class FakeClips:
    """One clip of a procedural speaker."""

    def identity(self, number):
        return "id8000001"

    def sound(self, number):
        return synthesised(spoken(1, 8_000_001, 0, 1.0))


def synthesised(segments, seconds=1.0):
    wave = synthesise(segments, seconds, 120.0, 1.0, np.random.default_rng(0))
    return (32767 * wave).astype(np.int16)


def test_a_speaker_says_what_is_asked_for():
    said = [Segment("_", 0, 0.4), Segment("a", 0.4, 0.8), Segment("m", 0.8, 1.2)]
    voice = generalisation.Voice("a", np.zeros(0, np.int16), said)
    section = config.load("smoke").diffused
    face, points = generalisation.true_clip("id8000001", voice, 30, section)
    opening = lip_sync.mouth_opening(points)
    jaw = mouth_track(said, np.arange(30) / 25, 1.0)["jaw_open"]
    assert face.shape == (32, 32, 3) and lip_sync.track_correlation(opening, jaw) > 0.95
    other = make_clip(ClipSettings(1, 8_000_001, 0, 30, 25.0, 32), sound=False, only=np.arange(1))
    assert lip_sync.track_correlation(lip_sync.mouth_opening(other.landmarks), jaw) < 0.9


def test_voices_are_measured_with_the_mouths_of_what_they_say():
    section = config.load("smoke", {"diffused.network.precision": "fp32"}).diffused
    torch.manual_seed(0)
    unet, encoder = build_unet(section).eval(), build_encoder(section.audio_encoder).eval()
    model = Model(Generator(unet, section), encoder, {})
    own = generalisation.voices(FakeClips(), 0, 1.0)[0]
    said = spoken(1, 8_000_002, 0, 1.0)
    spoken_by_two = [own, generalisation.Voice("other", synthesised(said), said)]
    identities = ["id8000003", "id8000004"]
    rows, clips = generalisation.measure(model, identities, spoken_by_two, 0.4, 0)
    assert clips.shape == (2, 2, 10, 32, 32, 3)
    assert list(rows["voice"]) == [generalisation.CORPUS] * 2 + ["other"] * 2
    assert set(rows["identity"]) == set(identities) and rows[list(generalisation.METRICS)].notna().all().all()
    table = generalisation.table(rows)
    assert len(table) == 2 * len(generalisation.METRICS) and (table["n_identities"] == 2).all()
    mean = rows[rows["voice"] == "other"]["mouth width"].mean()
    assert table.set_index(["voice", "metric"])["value"]["other", "mouth width"] == pytest.approx(mean)


def test_faces_are_measured_by_what_a_detector_finds(monkeypatch):
    """The detector of the test finds the mouth open as far as the frame is bright, in no dark frames."""

    def detect(frames):
        points = np.zeros((len(frames), 68, 2), np.float32)
        points[:, 36], points[:, 45] = (0, 0), (10, 0)  # outer corners of the eyes
        points[:, 65:68, 1] = np.array([frame.mean() for frame in frames])[:, None] / 255  # lower inner lip
        points[[frame.max() == 0 for frame in frames]] = np.nan
        return points, np.ones(len(frames), int)

    monkeypatch.setattr(recogniser, "landmark_network", lambda: detect)
    said = [Segment("_", 0, 0.4), Segment("a", 0.4, 0.8), Segment("m", 0.8, 1.2)]
    voice, jaw = (
        generalisation.Voice("v", np.zeros(0, np.int16), said),
        mouth_track(said, np.arange(30) / 25, 1.0),
    )
    bright = (255 * (0.2 + 0.8 * jaw["jaw_open"])).astype(np.uint8)[:, None, None, None]
    follows = np.broadcast_to(bright, (30, 32, 32, 3))
    clips = {"id1": [follows], "avatar": [np.roll(follows, 7, 0)], "wall": [np.zeros_like(follows)]}
    table = generalisation.measure_faces(clips, {"id1": [follows]}, [voice], ["avatar", "wall"])
    rows = table[~table["true clip"]].set_index("identity")
    assert rows[generalisation.ANIMATED]["id1"] > 0.99 > 0.9 > rows[generalisation.ANIMATED]["avatar"]
    assert rows.loc["wall", [generalisation.ANIMATED, "found"]].tolist() == [0, 0]
    assert rows["outside"].tolist() == [False, True, True]
    assert (
        table.loc[table["true clip"], generalisation.ANIMATED].item() == rows[generalisation.ANIMATED]["id1"]
    )
    assert generalisation.readable_voices(table) == ["v"]
    assert not generalisation.readable_voices(table.assign(**{generalisation.ANIMATED: 0.4}))


def test_faces_are_not_measured_without_dlib():
    with pytest.raises(FileNotFoundError, match="faces"):
        generalisation.measure_faces({}, {}, [], [])


def test_the_reader_hears_the_jaw_of_a_voice_of_the_corpus():
    reader = load_reader(config.load("laptop").diffused.audio_encoder)
    said = spoken(1, 8_000_001, 0, 3.0)
    sound = synthesised(said, 3.0)
    right = generalisation.Voice("right", sound, said)
    wrong = right._replace(segments=spoken(1, 8_000_002, 0, 3.0))
    assert generalisation.heard_correlation(reader, right, 75) > 0.9
    assert generalisation.heard_correlation(reader, wrong, 75) < 0.5


# -- the claim --------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset, verdict", [(0.0, "yes"), (-0.5, "no")])
def test_the_claim_on_other_languages(offset, verdict):
    rng = np.random.default_rng(0)
    rows = [
        {
            "voice": voice,
            "identity": f"id{k}",
            "mouth opening": 0.8 + (offset if voice == "German" else 0) + 0.01 * rng.normal(),
            generalisation.HEARD: 0.99 if voice == generalisation.CORPUS else 0.6,
        }
        for voice in (generalisation.CORPUS, "English", "German")
        for k in range(8)
    ]
    evidence = claims.Evidence(voices=pd.DataFrame(rows))
    table = claims.evaluate(evidence)
    assert verdicts(table)[11] == verdict
    why = claim_causes.explain(table, evidence).set_index("id")["why"]
    assert (11 in why.index) == (verdict == "no")
    if verdict == "no":
        assert "and 0.60 (English), 0.60 (German). Lips can hardly follow" in why[11]


# -- faces ------------------------------------------------------------------------------------------
def test_faces_from_outside_are_of_the_size_that_is_asked_for():
    faces = example_faces(64)
    assert list(faces) == ["drawn avatar", "photograph"]
    for face in faces.values():
        assert face.shape == (64, 64, 3) and face.dtype == np.uint8
        red, _, blue = face[28:44, 26:38].reshape(-1, 3).mean(0)
        assert red > blue + 15, "skin in the middle"
