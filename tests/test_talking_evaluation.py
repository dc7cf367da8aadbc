"""Evaluation of talking heads: rows, metrics against closed forms, tables."""

import dataclasses
import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data.episodes import PoolVideos
from talking_heads.data.frames import to_image, to_tensor
from talking_heads.data.speakers.pool import PoolSettings, make_pool
from talking_heads.diffused import resumable
from talking_heads.diffused.audio_encoder import build_encoder, embed_clip
from talking_heads.diffused.audio_pretraining import SpeechReader
from talking_heads.diffused.baselines.sda import SdaTalker
from talking_heads.diffused.baselines.training import baseline_key, build_generator
from talking_heads.diffused.generation import Generator, clip_seeds
from talking_heads.diffused.model import build_unet
from talking_heads.diffused.training import START, model_key
from talking_heads.experiments import reference
from talking_heads.experiments.diffused import (
    acceptance,
    claims,
    clip_metrics,
    diversity,
    keep,
    protocol,
    search,
    tables,
    turing,
    weights,
)
from talking_heads.experiments.diffused.clips import embed_beginning, evaluation_clips
from talking_heads.experiments.diffused.evaluation import confirm, evaluation_of
from talking_heads.experiments.diffused.scorer import FACES
from talking_heads.experiments.diffused.smoke_test import smoke_test
from talking_heads.files import sha256
from talking_heads.judges.use import find_landmarks
from talking_heads.metrics import turing_test
from talking_heads.metrics.images import cpbd, mean_squared_error, psnr
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.nn.weight_files import save_weights
from talking_heads.shards import Shard
from talking_heads.workbook.write_table import write_table

CLIPS = os.environ.get("TALKING_HEADS_CLIPS")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Three identities of 12 frames, and an untrained network."""
    folder = tmp_path_factory.mktemp("talking")
    sizes = {"diffused.protocol.identities": 3, "diffused.protocol.seconds": 0.4}
    profile = config.load("smoke").override(sizes)
    clips = PoolVideos(make_pool(folder / "pool", PoolSettings(1, 8_000_000, 3, 1, 12, 32, 25.0, True)))
    torch.manual_seed(0)
    unet = build_unet(profile.diffused).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.15)
    encoder = build_encoder(profile.diffused.audio_encoder).eval()
    generator = Generator(unet, profile.diffused)
    return protocol.Evaluation(profile, clips, generator, encoder, "a test", folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def measured(evaluation):
    return protocol.measure(evaluation, protocol.run(evaluation))


def test_errors_are_computed_in_float():
    """In uint8, differences wrap: 0 - 255 would be 1."""
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert mean_squared_error(black, white) == mean_squared_error(white, black) == 255**2
    assert psnr(np.array([255.0**2])) == 0 and psnr(np.array([25.5**2])) == pytest.approx(20)


def test_blur_lowers_cpbd_and_small_frames_have_none():
    sharp = data.astronaut()[None, :256, 100:356]
    blurred = gaussian_filter(sharp.astype(float), (0, 2, 2, 0)).astype(np.uint8)
    values = cpbd(np.concatenate([sharp, blurred]))
    assert 1 >= values[0] > values[1] + 0.2 and values[1] >= 0
    assert np.isnan(cpbd(sharp[:, :64])).all()


def test_rows_of_an_evaluation(evaluation):
    """The frozen frame, and what another sound and true motion frames change."""
    chosen = protocol.run(evaluation)
    numbers = [s.number for s in chosen]
    assert sorted(numbers) == [0, 1, 2] and [s.other for s in chosen] == [*numbers[1:], numbers[0]]
    rows = {row: np.load(evaluation.path(chosen[0], row)) for row in protocol.ROWS}
    truth, _ = evaluation.truth(chosen[0])
    assert len(truth) == 10 and all(frames.shape == truth.shape for frames in rows.values())
    assert (rows[protocol.FROZEN] == truth[0]).all()
    different = {frames.tobytes() for frames in rows.values()}
    assert len(different) == len(protocol.ROWS)
    ours, guided = rows[protocol.OURS], rows[protocol.TRUE_MOTION]
    assert np.array_equal(ours[0], guided[0]), "the first frame has no frames before it"


def test_lips_are_compared_with_the_clip_that_is_heard(evaluation, measured):
    speaker, *_ = protocol.run(evaluation)
    landmarks = {n: evaluation.clips.read(n, np.arange(1, 10))[1] for n in (speaker.number, speaker.other)}
    heard = partial(evaluation.heard_correlation, speaker=speaker, row=protocol.OTHER_SOUND)
    assert heard(landmarks[speaker.other]) == pytest.approx(1)
    assert heard(landmarks[speaker.number]) < 0.9
    clips = measured.clips.set_index("method")
    ours = clips.loc[protocol.OURS]
    np.testing.assert_allclose(ours[clip_metrics.SOUND_CORRELATION], ours["mouth opening"])
    other = clips.loc[protocol.OTHER_SOUND]
    assert not np.allclose(other[clip_metrics.SOUND_CORRELATION], other["mouth opening"])


def test_metrics_by_identity_are_means_over_frames(measured):
    rows = measured.by_identity().set_index(["method", "identity"])
    assert len(rows) == len(measured.clips)
    frames = measured.frames.groupby(["method", "identity"]).get_group(rows.index[0])
    assert rows["SSIM"].iloc[0] == pytest.approx(frames["SSIM"].mean())
    assert set(measured.clips) <= {*rows, "method", "identity"}


def test_another_seed_moves_the_head_otherwise(evaluation):
    spread = diversity.spread(evaluation)
    chosen = protocol.run(evaluation, [protocol.OURS])
    assert spread["identity"].tolist() == [speaker.identity for speaker in chosen]
    assert (spread["between clips"] > 0).all()
    clips = [np.load(evaluation.path(chosen[0], row)) for row in (protocol.OURS, protocol.OTHER_SEED)]
    tracks = [diversity.head_track(find_landmarks(clip)) for clip in clips]
    expected = np.sqrt(np.square(tracks[0] - tracks[1]).sum(1).mean())
    assert spread["between seeds"].iloc[0] == pytest.approx(expected) and expected > 0


def test_a_frozen_frame_has_no_flow(measured):
    clips = measured.clips.set_index("method")
    for region in ("mouth", "head"):
        assert (clips.loc[protocol.FROZEN, f"flow of the {region}"] < 5e-3).all()
        assert (clips[f"true flow of the {region}"] > 0.01).all()
        assert (clips.loc[protocol.OURS, f"flow of the {region}"] > 0.01).all()


def test_a_baseline_is_a_row_beside_ours(evaluation, tmp_path):
    """With its own sound, from the first frame; other weights are other files."""
    section = evaluation.profile.diffused
    torch.manual_seed(0)
    talker = SdaTalker(build_generator(section).eval())
    compared = dataclasses.replace(
        evaluation, runs=tmp_path, baselines={protocol.SDA: protocol.Baseline(talker, "abc")}
    )
    assert compared.rows == (*protocol.ROWS, protocol.SDA)
    chosen = protocol.run(compared, [protocol.SDA, protocol.FROZEN, protocol.OURS])
    path = compared.path(chosen[0], protocol.SDA)
    assert path.name.endswith("SDA-abc.npy")
    clips = np.load(path)
    assert clips.shape == compared.truth(chosen[0])[0].shape and len(np.unique(clips)) > 10
    alone = next(
        iter(
            talker.talk(
                to_tensor(compared.truth(chosen[0])[0][:1]),
                embed_beginning(compared.encoder, compared.clips, chosen[0].number, 10, 2)[None],
                clip_seeds(compared.profile.seed, [chosen[0].number]),
            )
        )
    )
    assert np.abs(to_image(alone)[0].astype(int) - clips[0]).max() <= 3, "but for rounding"
    measured = protocol.measure(compared, chosen, [protocol.OURS, protocol.FROZEN, protocol.SDA])
    table = tables.table1(measured, compared.profile)
    here = table[(table["source"] == "here") & (table["method"] == protocol.SDA)]
    assert here["metric"].tolist() == ["SSIM", "PSNR"] and here["over ours"].notna().all()


def test_the_plain_corpus_has_weights_of_its_own_and_of_the_diverse_one(committed, profile, tmp_path):
    plain = profile.override({"diffused.clips.corpus": "plain"})
    for name in ("diffusion", "sda", "distilled"):
        save_weights(committed / f"weights/{name}.safetensors", {}, {"step": 1, "of": 1})

    def path(of, name):
        return weights.weights_path(of, "reference", tmp_path, name).relative_to(tmp_path).as_posix()

    assert path(plain, "diffusion") == "reference/weights/diffusion.safetensors" == path(profile, "diffusion")
    with pytest.raises(FileNotFoundError, match="train-baseline --method sda --profile "):
        path(plain, "sda")
    own = weights.runs_folder(plain, tmp_path) / "sda/weights.safetensors"
    save_weights(own, {}, {"step": 1, "of": 1})
    assert weights.weights_path(plain, "reference", tmp_path, "sda") == own
    save_weights(committed / "plain/weights/sda.safetensors", {}, {"step": 1, "of": 1})
    assert path(plain, "sda") == "reference/plain/weights/sda.safetensors"
    assert path(profile, "sda") == "reference/weights/sda.safetensors"
    videos = plain.override({"data.source": "videos"})
    assert path(videos, "sda") == "reference/weights/sda.safetensors", "of rendered clips alone"


def test_what_was_trained_beside_the_committed_network_comes_first(committed, profile, tmp_path):
    for name in ("diffusion", "distilled"):
        save_weights(committed / f"weights/{name}.safetensors", {}, {"step": 1, "of": 1})
    own = weights.runs_folder(profile, tmp_path) / "distilled/weights.safetensors"
    start = sha256(committed / "weights/diffusion.safetensors")
    states = [({"step": 1, START: start}, False), ({"step": 2, START: start}, True), ({"step": 2}, False)]
    for metadata, first in states:
        save_weights(own, {}, {"of": 2, **metadata})
        found = weights.weights_path(profile, "reference", tmp_path, "distilled")
        assert (found == own) == first, metadata


def test_tables_of_the_plain_corpus_are_kept_and_read_beside_the_others(committed, profile, tmp_path):
    plain = config.load(tables.PLAIN_PROFILE)
    with pytest.raises(FileNotFoundError, match=r"no diffused_table1\.csv; run \./run_all\.sh --profile"):
        keep.keep_plain_tables(plain, tmp_path)
    assert tables.plain_table1(profile, tmp_path).empty
    folder = tmp_path / tables.PLAIN_PROFILE / "tables"
    folder.mkdir(parents=True)
    corpora = [tables.corpus_name(plain), tables.SCORED, "LRW"]
    rows = pd.DataFrame({"corpus": corpora, "source": ["here", "here", "paper"], "method": "m"})
    rows.to_csv(folder / "diffused_table1.csv")
    found = tables.plain_table1(profile, tmp_path)
    assert list(found["corpus"]) == ["procedural speakers, plain"] and found.attrs["source"] == "here"
    assert keep.keep_plain_tables(plain, tmp_path) == committed / "plain/tables"
    (folder / "diffused_table1.csv").unlink()
    assert tables.plain_table1(profile, tmp_path).attrs["source"] == "reference"
    assert tables.plain_table1(plain, tmp_path).empty
    assert tables.plain_table1(config.load("crema"), tmp_path).empty
    assert claims.plain_measurements(config.load("crema"), tmp_path) == {}
    assert claims.plain_measurements(profile, tmp_path)["plain_metrics"].empty


@pytest.fixture
def committed(monkeypatch, tmp_path):
    """An empty folder in the place of the committed reference."""
    folder = tmp_path / "reference"
    folder.mkdir()
    monkeypatch.setattr(reference, "COMMITTED", folder)
    return folder


def test_baselines_that_are_trained_are_evaluated(monkeypatch, profile, tmp_path):
    """A profile's own weights; another network's are refused."""
    section = profile.diffused
    torch.manual_seed(0)
    reader = SpeechReader(section.audio_encoder)
    monkeypatch.setattr(weights, "load_reader", lambda _: reader)
    net, path = build_generator(section), tmp_path / "smoke/runs/reference/sda/weights.safetensors"
    assert not weights.has_weights(profile, "scratch", tmp_path, "sda")
    with pytest.raises(FileNotFoundError, match="train-baseline --method sda --profile smoke"):
        weights.load_sda(profile, "scratch", tmp_path)
    key = {"model": baseline_key(section, "sda", reader.encoder), "step": 4}
    save_weights(path, net.state_dict(), {**key, "of": 8}, half=True)
    assert not weights.has_weights(profile, "scratch", tmp_path, "sda"), "the training is not at its end"
    save_weights(path, net.state_dict(), {**key, "of": 4}, half=True)
    assert weights.has_weights(profile, "scratch", tmp_path, "sda")
    talker, digest = weights.load_sda(profile, "scratch", tmp_path)
    assert not talker.net.training and weights.load_sda(profile, "scratch", tmp_path)[1] == digest
    with torch.no_grad():
        next(net.parameters()).add_(1)
    save_weights(path, net.state_dict(), {**key, "of": 4}, half=True)
    assert weights.load_sda(profile, "scratch", tmp_path)[1] != digest
    wider = profile.override({"diffused.sda.content": 9})
    with pytest.raises(ValueError, match="does not fit profile smoke: trained with another"):
        weights.load_sda(wider, "scratch", tmp_path)


def test_a_complete_evaluation_generates_nothing(evaluation, monkeypatch):
    protocol.run(evaluation)
    monkeypatch.setattr(protocol.Evaluation, "generate", lambda *_: pytest.fail("generated again"))
    protocol.run(evaluation)


def test_shards_generate_every_clip_once(evaluation, tmp_path):
    one_by_one = evaluation.profile.override({"diffused.protocol.batch": 1})
    parts = []
    for number in range(3):
        part = dataclasses.replace(evaluation, profile=one_by_one, runs=tmp_path / str(number))
        protocol.run(part, shard=Shard(number, 3))
        parts.append({path.name for path in part.folder.glob("*.npy")})
    assert all(parts) and sum(map(len, parts)) == len(set().union(*parts)) == 3 * len(protocol.ROWS)


def ends_after_four(talk, error):
    """``Generator.talk`` that raises an error after four frames."""

    def talk_four(*arguments):
        for number, frame in enumerate(talk(*arguments)):
            if number == 4:
                raise error
            yield frame

    return talk_four


@pytest.mark.parametrize("row", [protocol.OURS, protocol.TRUE_MOTION])
def test_an_interrupted_evaluation_goes_on_exactly(evaluation, tmp_path, monkeypatch, row):
    protocol.run(evaluation)
    again = dataclasses.replace(evaluation, runs=tmp_path)
    talk = Generator.talk
    monkeypatch.setattr(Generator, "talk", ends_after_four(talk, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        protocol.run(again, [row])
    names = sorted(path.name.partition(".")[2] for path in again.folder.iterdir())
    assert names == ["partial", "partial.frames"]
    generated = []

    def record(*arguments):
        for frame in talk(*arguments):
            generated.append(frame)
            yield frame

    monkeypatch.setattr(Generator, "talk", record)
    for speaker in protocol.run(again, [row]):
        assert np.array_equal(np.load(again.path(speaker, row)), np.load(evaluation.path(speaker, row)))
    assert len(generated) == 10 - 4 and not list(again.folder.glob("*.partial*"))


@pytest.mark.parametrize(
    "every, damage, left",
    [(0.0, b"half of a frame", 10 - 4), (30.0, b"", 10), (0.0, None, 10)],
    ids=["saved after every frame", "not saved yet", "the frames are lost"],
)
def test_a_killed_generation_goes_on_from_what_it_saved_on_the_way(
    evaluation, tmp_path, monkeypatch, capsys, every, damage, left
):
    """An error that is no interrupt stands for the kill: nothing is saved then, and the file may have more
    frames than the state beside it states. Progress is shown.
    """
    protocol.run(evaluation)
    again, talk = dataclasses.replace(evaluation, runs=tmp_path), Generator.talk
    monkeypatch.setattr(resumable, "SAVE_EVERY", every)
    monkeypatch.setattr(Generator, "talk", ends_after_four(talk, SystemError))
    with pytest.raises(SystemError):
        protocol.run(again, [protocol.OURS])
    monkeypatch.setattr(Generator, "talk", talk)
    (frames,) = again.folder.glob("*.partial.frames")
    with frames.open("ab") as file:
        file.write(damage or b"")
        file.truncate(0 if damage is None else file.tell())
    capsys.readouterr()
    chosen = protocol.run(again, [protocol.OURS])
    assert f"generating: {3 * left}/{3 * left} frames" in capsys.readouterr().out, "of 3 clips"
    for speaker in chosen:
        paths = [of.path(speaker, protocol.OURS) for of in (again, evaluation)]
        assert np.array_equal(*(np.load(path) for path in paths))


def test_the_sound_goes_on_after_the_last_generated_frame(evaluation):
    """The last windows of a clip that is cut are those of the whole one."""
    clips, encoder = evaluation.clips, evaluation.encoder
    whole = embed_clip(encoder, clips.sound(0), clips.frame_count(0), 2)
    assert clips.frame_count(0) == 12
    torch.testing.assert_close(embed_beginning(encoder, clips, 0, 6, 2), whole[:6])
    torch.testing.assert_close(embed_beginning(encoder, clips, 0, 12, 2), whole)


def test_clips_of_other_weights_encoders_and_settings_lie_elsewhere(evaluation):
    longer = evaluation.profile.override({"diffused.protocol.seconds": 0.48})
    torch.manual_seed(1)
    others = [
        dataclasses.replace(evaluation, weights_key="others"),
        dataclasses.replace(evaluation, profile=longer),
        dataclasses.replace(evaluation, encoder=build_encoder(longer.diffused.audio_encoder)),
    ]
    assert len({e.folder for e in (evaluation, *others)}) == 4


def test_too_few_identities_are_refused(evaluation):
    longer = evaluation.profile.override({"diffused.protocol.seconds": 4.0})
    with pytest.raises(ValueError, match=r"0 clips of 4 s with sound; .* which the evaluation needs"):
        protocol.speakers(evaluation.clips, longer)


class NamedClips:
    """Clips of 50 frames with these names, which begin with the identity."""

    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def frame_count(self, number):
        return 50

    def identity(self, number):
        return self.names[number].split("_")[0]

    def name(self, number):
        return self.names[number]


@pytest.mark.parametrize(
    "layout, names",
    [
        ("crema", ("1015_DFA_ANG_XX", "1015_IEO_HAP_HI", "1020_DFA_SAD_XX", "1020_TIE_SAD_XX")),
        ("lrw", ("ABOUT_00001", "WORDS_00001", "ABOUT_00002", "ABOUT_00003")),
    ],
)
def test_another_clips_sound_has_other_words(evaluation, layout, names):
    """And is of another identity; where a clip has no such other one, that is said."""
    of_layout = {"data.source": "videos", "data.layout": layout, "diffused.protocol.identities": 9}
    profile, clips = evaluation.profile.override(of_layout), NamedClips(*names)
    chosen = protocol.speakers(clips, profile)
    assert len(chosen) == 4
    for speaker in chosen:
        words = [clips.name(n).split("_")[layout == "crema"] for n in (speaker.number, speaker.other)]
        assert words[0] != words[1] and clips.identity(speaker.other) != speaker.identity
    same_words = NamedClips(*(name for name in names if "TIE" not in name and "WORDS" not in name))
    with pytest.raises(ValueError, match=r"3 clips of 0\.4 s .* there is none of another identity"):
        protocol.speakers(same_words, profile)


def test_metrics_of_the_frozen_frame(evaluation, measured):
    """Against their definitions, from the second frame on."""
    chosen = protocol.speakers(evaluation.clips, evaluation.profile)
    frames = measured.frames.query("method == @protocol.FROZEN and identity == @chosen[0].identity")
    truth = evaluation.truth(chosen[0])[0].astype(float)
    expected = ((truth[1:] - truth[:1]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(frames["MSE"], expected)
    np.testing.assert_allclose(frames["PSNR"], 10 * np.log10(255**2 / expected))
    assert frames["frame"].tolist() == list(range(1, 10)) and frames["SSIM"].between(0, 1).all()
    clips = measured.clips.set_index(["method", "identity"])
    assert abs(clips.loc[(protocol.FROZEN, chosen[0].identity), "mouth opening"]) < 1e-6


def test_table_1_has_intervals_over_identities_and_the_papers_numbers(evaluation, measured):
    table = tables.table1(measured, evaluation.profile)
    row = table.query("method == @protocol.OURS and metric == 'PSNR' and source == 'here'").iloc[0]
    frames = measured.frames.query("method == @protocol.OURS")
    estimate = mean_estimate(frames.groupby("identity")["PSNR"].mean().to_numpy())
    assert (row["value"], row["ci_low"], row["ci_high"]) == pytest.approx(estimate[:3])
    assert (row["n_identities"], row["n_frames"]) == (3, 27)
    assert set(table.query("source == 'here'")["verdict"]) == {"not comparable"}
    paper = table.query("source == 'paper' and method == 'Diffused Heads'")
    values = paper.set_index(["corpus", "metric"])["value"].to_dict()
    assert values == {
        ("LRW", "SSIM"): 0.62,
        ("LRW", "PSNR"): 19.11,
        ("CREMA-D", "SSIM"): 0.74,
        ("CREMA-D", "PSNR"): 23.43,
    }


def test_differences_to_ours_are_paired(measured, evaluation):
    table = tables.table3(measured, evaluation.profile)
    row = table.query("method == @protocol.FROZEN and metric == @clip_metrics.LMD").iloc[0]
    means = measured.frames.pivot_table(clip_metrics.LMD, "identity", "method")
    expected = mean_estimate((means[protocol.FROZEN] - means[protocol.OURS]).to_numpy())
    assert (row["over ours"], row["over ours, low"], row["over ours, high"]) == pytest.approx(expected[:3])


# -- acceptance -------------------------------------------------------------------------------------
BY_FRAME = (clip_metrics.LMD, "CSIM-judge")


def measurements(**changes):
    """Measurements of 24 identities in which every criterion holds, with changed columns of our row."""
    identities, seconds = [f"id{n:02d}" for n in range(24)], 6
    rows = []
    for method in protocol.ROWS:
        ours = method == protocol.OURS
        for n, identity in enumerate(identities):
            frame = np.arange(1, 25 * seconds)
            lmd = (0.02 if ours else 0.06) + 0.0001 * n
            values = {clip_metrics.LMD: lmd, "CSIM-judge": 0.9}
            values |= {name: v for name, v in changes.items() if name in BY_FRAME and ours}
            rows.append(pd.DataFrame({"method": method, "identity": identity, "frame": frame, **values}))
    of_clips = {name: v for name, v in changes.items() if name not in BY_FRAME}
    clips = [
        {
            "method": method,
            "identity": identity,
            "mouth opening": 0.0 if method == protocol.OTHER_SOUND else 0.8,
            "mouth width": 0.0 if method == protocol.OTHER_SOUND else 0.5,
            "mouth closed in silence": 0.95,
            "blinks a second": 0.3,
            "true blinks a second": 0.3,
            **(of_clips if method == protocol.OURS else {}),
        }
        for method in protocol.ROWS
        for identity in identities
    ]
    return protocol.Measured(pd.concat(rows, ignore_index=True), pd.DataFrame(clips))


@pytest.mark.parametrize(
    "changes, fails",
    [
        ({}, []),
        ({"mouth opening": 0.6}, ["correlation of mouth opening"]),
        ({"mouth width": 0.3}, ["correlation of mouth width"]),
        ({clip_metrics.LMD: 0.07}, ["LMD, minus frozen identity frame", "LMD, minus another clip's sound"]),
        ({"CSIM-judge": 0.75}, ["CSIM-judge, first two seconds"]),
        ({"CSIM-judge": np.linspace(1.0, 0.7, 149)}, ["CSIM-judge, whole clip minus first second"]),
        ({"mouth closed in silence": 0.8}, ["mouth closed in silence"]),
        ({"mouth closed in silence": np.nan}, ["mouth closed in silence"]),
        ({"blinks a second": 0.1}, ["blinks, relative to true clips"]),
        ({"blinks a second": 0.7}, ["blinks, relative to true clips"]),
    ],
)
def test_criteria_fail_one_by_one(changes, fails):
    table = acceptance.check(measurements(**changes))
    assert len(table) == 10
    assert table[table["holds"] == "no"]["criterion"].tolist() == fails
    assert set(table["holds"]) <= {"yes", "no"} and (table["n_identities"] == 24).all()


@pytest.mark.parametrize(("metric", "value"), [("mouth opening", 0.8), ("mouth width", 0.5)])
def test_another_clips_sound_that_moves_the_lips_alike_fails(metric, value):
    good = measurements()
    table = acceptance.check(good._replace(clips=good.clips.assign(**{metric: value})))
    assert table[table["holds"] == "no"]["criterion"].tolist() == [f"{metric}, another clip's sound"]


def test_a_comparison_needs_its_whole_interval():
    """One identity is worse by much: the mean is better, not certainly. Equal rows are not better."""
    good = measurements()
    worse = (good.frames["identity"] == "id00") & (good.frames["method"] == protocol.OURS)
    lmd = good.frames[clip_metrics.LMD].where(~worse, 0.8)
    table = acceptance.check(good._replace(frames=good.frames.assign(**{clip_metrics.LMD: lmd})))
    row = table.set_index("criterion").loc["LMD, minus frozen identity frame"]
    assert row["value"] < 0 < row["ci_high"] and row["holds"] == "no"
    equal = acceptance.check(good._replace(frames=good.frames.assign(**{clip_metrics.LMD: 0.1})))
    assert equal.set_index("criterion")["holds"]["LMD, minus frozen identity frame"] == "no"


@pytest.mark.parametrize("identities, seconds", [(23, 6), (24, 5)])
def test_too_few_or_too_short_clips_decide_nothing(identities, seconds):
    good = measurements()
    frames = good.frames[good.frames["frame"] < 25 * seconds]
    chosen = sorted(frames["identity"].unique())[:identities]
    some = good._replace(frames=frames[frames["identity"].isin(chosen)])
    assert set(acceptance.check(some)["holds"]) == {"undecided"}


def test_tables_are_written(evaluation, measured, tmp_path):
    for name, table in (
        ("talking_table1", tables.table1(measured, evaluation.profile)),
        ("talking_table3", tables.table3(measured, evaluation.profile)),
    ):
        paths = write_table(table, tables.shown(table), tmp_path, name, "A caption.")
        assert [path.suffix for path in paths] == [".csv", ".md", ".tex"]
        text = paths[1].read_text(encoding="utf-8")
        assert "frozen identity frame" in text and "PSNR ↑" in text and "19.1" in text
        assert len(pd.read_csv(paths[0])) == len(table)


def test_tables_of_scores_become_rows(tmp_path):
    """A method for each file; of its clips that were compared, means over identities."""
    assert tables.scored_rows(tmp_path, tables.TABLE1).empty
    columns = {"method": "theirs", "note": "", "key": "", "frames": 9.0, FACES: 0.0, "MSE": 4.0}
    clips = pd.DataFrame({"identity": ["a", "a", "b"], "clip": ["1", "2", "3"], "SSIM": [0.2, 0.4, 0.5]})
    clips.assign(**columns).to_csv(tmp_path / "theirs.csv", index=False)
    rows = tables.scored_rows(tmp_path, tables.TABLE1)
    assert rows["metric"].tolist() == ["SSIM"] and rows["method"].tolist() == ["theirs"]
    assert rows["value"].item() == pytest.approx(0.4) and rows["n_identities"].item() == 2
    assert rows["verdict"].item() == "not comparable" and rows["source"].item() == "here"
    (tmp_path / "z.csv").write_text((tmp_path / "theirs.csv").read_text(), encoding="utf-8")
    with pytest.raises(ValueError, match=r"z\.csv: a second table of theirs; .* another --method"):
        tables.scored_rows(tmp_path, tables.TABLE1)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.csv: is no table of scores"):
        tables.scored_rows(tmp_path, tables.TABLE1)


# -- the Turing test --------------------------------------------------------------------------------
def test_questions_are_the_evaluations_clips_with_their_own_sound(evaluation):
    chosen = protocol.run(evaluation, [protocol.OURS])
    questions = turing.questions(evaluation, chosen, seed=0)
    assert Counter(q.method for q in questions) == {protocol.OURS: 1, turing_test.TRUE_CLIPS: 1}
    assert len({q.identity for q in questions}) == 2, "nobody can compare two versions of a sentence"
    of_identity = {speaker.identity: speaker for speaker in chosen}
    for question in questions:
        speaker = of_identity[question.identity]
        true = question.method == turing_test.TRUE_CLIPS
        frames = evaluation.truth(speaker)[0] if true else np.load(evaluation.path(speaker, protocol.OURS))
        assert np.array_equal(question.frames, frames)
        assert np.array_equal(question.sound, evaluation.clips.sound(speaker.number)[: 10 * 640])


def test_votes_stand_beside_the_papers(evaluation):
    alone = turing.table2(None, "a corpus")
    line = turing.result_line(alone)
    assert "Diffused Heads 68.7 %" in line and line.endswith("Here: nobody has voted. Verdict: undecided.")
    assert set(alone["source"]) == {"paper"} and "ci_low" not in alone
    votes = pd.DataFrame([(protocol.OURS, 0.25, 0.1, 0.5, 40, 4, 3, 1.0)], columns=turing_test.VOTE_COLUMNS)
    table = turing.table2(votes, "a corpus")
    row = table[table["source"] == "here"].iloc[0]
    assert row[["real", "ci_low", "ci_high"]].tolist() == [25, 10, 50] and row["raters"] == 4
    line = turing.result_line(table)
    assert "Here: Diffused Heads 25 [10, 50] % (a corpus). Verdict: not comparable" in line
    assert turing.result_line(turing.table2(votes, "LRW")).endswith("Verdict: see the intervals.")
    paper = table[table["source"] == "paper"].set_index("method")["real"]
    assert paper[protocol.OURS] == 68.72 and paper[turing_test.TRUE_CLIPS] == 64


# -- lips -------------------------------------------------------------------------------------------
def test_read_lips_are_measured_for_procedural_speakers(evaluation, measured):
    clips = measured.clips.set_index("method")
    assert np.isfinite(clips[clip_metrics.PER]).all() and (clips[clip_metrics.PER] >= 0).all()
    true = clips.groupby("identity")[f"true {clip_metrics.PER}"]
    assert (true.nunique() == 1).all()
    table = tables.table3(measured, evaluation.profile)
    assert clip_metrics.PER in set(table["metric"])
    videos = dataclasses.replace(evaluation, profile=evaluation.profile.override({"data.source": "videos"}))
    speaker = protocol.run(evaluation, [protocol.OURS])[0]
    assert videos.visemes(speaker) is None and evaluation.visemes(speaker)


def test_values_are_shown_with_the_intervals_that_they_have():
    assert tables.with_interval(0.5, 0.25, 0.75) == "0.5 [0.25, 0.75]"
    assert tables.with_interval(0.5, -0.25, 1, "+.3g") == "+0.5 [-0.25, +1]"
    assert tables.with_interval(19.11, np.nan, np.nan) == "19.11"


@pytest.mark.parametrize("layout", ["crema", "lrw"])
def test_rows_measured_on_the_papers_corpora_stand_beside_the_papers_own(evaluation, measured, layout):
    profile = evaluation.profile.override({"data.layout": layout, "data.source": "videos"})
    for table in (tables.table1(measured, profile), tables.table3(measured, profile)):
        wide = tables.shown(table)
        corpus = tables.CORPUS_OF_LAYOUT[layout]
        sources = set(wide[(wide["corpus"] == corpus) & (wide["method"] == protocol.OURS)]["source"])
        assert "here" in sources
    wide = tables.shown(tables.table1(measured, profile))
    assert sources | set(wide[wide["corpus"] == corpus]["source"]) == {"here", "paper"}


def test_the_papers_table_3():
    numbers = tables.paper_numbers(3)
    assert len(numbers) == 8 * 6
    best = numbers[(numbers["audio_windows"] == 2) & (numbers["motion_grey"].astype(str) == "True")]
    assert best.set_index("metric")["value"].to_dict() == {
        "CPBD": 0.0925,
        "MSE": 1025,
        "SSIM": 0.6225,
        "PSNR": 19.1072,
        "LMD": 2.5297,
        "WER": 0.77,
    }


SMOKE_TESTS = [
    (None, "procedural speakers", "cpu"),
    pytest.param(None, "procedural speakers", "cuda", marks=pytest.mark.cuda),
    *([pytest.param(CLIPS, "own videos", "cpu", marks=pytest.mark.dlib)] if CLIPS else []),
]


@pytest.mark.parametrize("clips, corpus, device", SMOKE_TESTS)
def test_a_smoke_test_reaches_the_table(tmp_path, clips, corpus, device):
    """On rendered speakers, and on real clips where they are; never under the name of the paper's corpus."""
    folder = Path(clips) if clips else None
    if clips:
        pytest.importorskip("dlib")
    profile = config.load("smoke").override({"data.layout": "crema", "data.source": "videos"})
    stages = smoke_test(profile, folder, tmp_path, torch.device(device))
    assert stages["stage"].tolist()[1:3] == ["training step 1", "training step 2"]
    table = pd.read_csv(tmp_path / "tables/talking_table1.csv").query("source == 'here'")
    assert set(table["method"]) == {protocol.OURS, protocol.FROZEN} and table["value"].notna().all()
    assert set(table["corpus"]) == {corpus}


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """The smoke profile, with a network and an encoder that were not trained."""
    profile = config.load("smoke")
    torch.manual_seed(0)
    path = tmp_path / "smoke/runs/reference/diffusion/weights.safetensors"
    reader = SpeechReader(profile.diffused.audio_encoder).eval()
    monkeypatch.setattr(weights, "load_reader", lambda section: reader)
    metadata = {"step": 1, "of": 1, "model": model_key(profile.diffused, reader.encoder)}
    save_weights(path, build_unet(profile.diffused).state_dict(), metadata, half=True)
    path.with_name("stats.jsonl").write_text('{"step": 0, "simple": 1.0}\n')
    return profile


def test_weights_are_kept_with_the_criteria_that_they_meet(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "COMMITTED", tmp_path / "reference")
    criteria = keep.keep(untrained, tmp_path / "data", tmp_path, torch.device("cpu"))
    kept = tmp_path / "reference/weights"
    assert {path.name for path in kept.iterdir()} == {
        "diffusion.safetensors",
        "diffusion.json",
        "diffusion_criteria.csv",
    }
    table = pd.read_csv(kept / "diffusion_criteria.csv")
    assert table["criterion"].tolist() == criteria["criterion"].tolist()
    assert set(table["weights"]) == {sha256(kept / "diffusion.safetensors")[:12]}


def test_criteria_are_confirmed_on_identities_of_their_own(untrained, tmp_path):
    arguments = (untrained, "scratch", tmp_path / "data", tmp_path, torch.device("cpu"))
    criteria = confirm(*arguments)
    assert list(criteria["criterion"]) == [criterion.name for criterion in acceptance.CRITERIA]
    table = pd.read_csv(tmp_path / untrained.name / "tables/confirmation.csv")
    assert set(table["holds"]) == {"undecided"}, "too few identities, and too short"
    own, others = (evaluation_of(*arguments, split) for split in ("evaluation", "confirmation"))
    seen, unseen = ({one.clips.identity(k) for k in range(len(one.clips))} for one in (own, others))
    assert seen and unseen and seen.isdisjoint(unseen)
    assert own.folder != others.folder and others.folder.exists() and not own.folder.exists()
    real = untrained.override({"data.source": "videos"})
    with pytest.raises(ValueError, match="one test split, none for confirmation"):
        evaluation_clips(real, tmp_path, torch.device("cpu"), "confirmation")
    assert main(["evaluate", "--system", "diffused", "--confirm", "--shard", "0/2"]) == 2


def test_sampling_is_chosen_on_validation_identities(untrained, tmp_path, monkeypatch):
    """A row for each setting, with intervals; a second call generates nothing."""
    profile = untrained
    candidates = {
        "SAMPLERS": ("ddim",),
        "STEPS": (2, 3),
        "GUIDANCES": (1.0, 2.0),
        "MOTION_NOISES": (0.1, 1.5),  # no network is trained with the second
    }
    for name, values in candidates.items():
        monkeypatch.setattr(search, name, values)
    arguments = (profile, "scratch", tmp_path / "data", tmp_path, torch.device("cpu"))
    table = search.search(*arguments)
    own = profile.diffused.sampling
    changes = [
        {"sampler": "ddim", "steps": 2},
        {"sampler": "ddim", "steps": 3},
        {"guidance": 1.0, "motion_noise": 0.1},
        {"guidance": 2.0, "motion_noise": 0.1},
    ]
    expected = [list((own.model_dump() | change).values()) for change in changes]
    assert table[list(own.model_dump())].to_numpy().tolist() == expected
    assert (table[f"{clip_metrics.LMD}, low"] < table[clip_metrics.LMD]).all()
    assert (table["identities"] == 2).all()
    assert len(pd.read_csv(tmp_path / "smoke/tables/sampling_search.csv")) == 4
    monkeypatch.setattr(protocol.Evaluation, "generate", lambda *_: pytest.fail("generated again"))
    again = search.search(*arguments)
    pd.testing.assert_series_equal(table[clip_metrics.LMD], again[clip_metrics.LMD])
