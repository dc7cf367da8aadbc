"""The embedded judges on identities that none of them was trained on."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest
from talking_heads.data.speakers import talking, write
from talking_heads.diffused import audio_pretraining
from talking_heads.experiments.diffused import generalisation
from talking_heads.judges.eyelids import detect_landmarks
from talking_heads.judges.pools import POOLS, pool
from talking_heads.judges.use import JUDGES, find_landmarks, find_pupils, gaze_error, identity_features, judge
from talking_heads.judges.verification import equal_error_rate, read_gaze, read_landmarks, scores
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.weight_files import load_weights

EMBEDDED = ("attributes", "people", *JUDGES)


def header(name: str) -> dict:
    return load_weights(WEIGHTS / f"{name}.safetensors")[1]


@pytest.mark.parametrize("name", EMBEDDED)
def test_weights_state_their_provenance(name):
    metadata = header(name)
    assert metadata["judge"] == name
    assert metadata["command"].startswith("python -m talking_heads judges")
    assert {"seed", "loss"} <= metadata.keys()


def test_weights_are_small():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 12e6


def test_no_identity_is_in_two_pools_or_in_a_corpus():
    """But for the speakers of the confirmation, on which no lips are read."""
    ranges = {name: range(p["first"], p["first"] + p["people"]) for name, p in POOLS.items()}
    corpora = {f"few-shot {split}": first for split, first in write.FIRST.items()}
    corpora |= talking.FIRST | {"other voices": generalisation.FIRST}
    corpora |= {"sound": audio_pretraining.TRAINING, "sound_test": audio_pretraining.TEST}
    ranges |= {name: range(first, first + 50_000) for name, first in corpora.items()}
    shared = {(a, b) for a, b in combinations(ranges, 2) if set(ranges[a]) & set(ranges[b])}
    assert shared == {("lips", "confirmation")}


def test_the_equal_error_rate_is_where_both_errors_are_equal():
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2])) == 0
    same, different = np.linspace(0.0, 1.0, 101), np.linspace(-0.5, 0.5, 101)
    assert equal_error_rate(same, different) == pytest.approx(0.25, abs=0.01)


@pytest.fixture(scope="module")
def verification(pools):
    return scores(judge("identity"), pools)


def test_the_identity_judge_separates_unseen_identities(verification):
    """Across videos: other clothes, light and background."""
    rate = equal_error_rate(verification["same"], verification["different"])
    same, different = (np.median(verification[pairs]) for pairs in ("same", "different"))
    print(f"equal error rate {rate:.3f}; same identity {same:.2f}, different {different:.2f}")
    assert rate <= 0.05


def test_the_identity_judge_separates_impostors_of_like_skin_and_hair(verification):
    rate = equal_error_rate(verification["same"], verification["matched"])
    print(f"equal error rate against matched impostors {rate:.3f}")
    assert rate <= 0.15


def test_landmarks_of_unseen_identities(pools):
    """The lids judge sees more of the lids. The headers of the weights state these results."""
    first_pass = read_landmarks(partial(detect_landmarks, judge=judge("landmarks")), pools)
    both = read_landmarks(find_landmarks, pools)
    assert both["error"] <= 0.05, both
    assert both["mouth"] >= 0.9, both
    assert both["eyes"] >= 0.9 > first_pass["eyes"], (first_pass, both)
    for name, result in (("landmarks", first_pass), ("lids", both)):
        stated = {key: header(name)[key] for key in result}
        assert stated == pytest.approx(result, abs=2e-3)


def test_pupils_of_unseen_identities(pools):
    """The gaze judge is better than the mean position of the pupils. Its header states the result."""
    result = read_gaze(judge("gaze"), pools)
    assert result["error"] < 0.5 * result["error of the mean"], result
    stated = {key: header("gaze")[key] for key in result}
    assert stated == pytest.approx(result, abs=2e-3)


@pytest.fixture(scope="module")
def unseen_frames(pools):
    """Frames (16, 64, 64, 3) with landmarks and pupils (16, 70, 2)."""
    data = pool("verification_test", pools)
    images = data.images.reshape(-1, *data.images.shape[3:])
    return images[:16], data.points.reshape(-1, 70, 2)[:16].astype(np.float64)


def test_identity_features_are_unit_vectors_that_do_not_depend_on_the_batch(unseen_frames):
    images, _ = unseen_frames
    features = identity_features(images)
    assert features.shape == (16, 128)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(identity_features(images[3:4])[0], features[3], atol=2e-2)


@pytest.mark.cuda
def test_the_judges_agree_on_both_devices(unseen_frames):
    images, points = unseen_frames
    face, pupils = points[:, :68], points[:, 68:]
    assert next(judge("identity", "cuda").parameters()).is_cuda
    np.testing.assert_allclose(identity_features(images, "cuda"), identity_features(images), atol=0.02)
    np.testing.assert_allclose(find_landmarks(images, "cuda"), find_landmarks(images), atol=0.2)
    for measure in (partial(find_pupils, images, face), partial(gaze_error, images, face, pupils)):
        np.testing.assert_allclose(measure("cuda"), measure("cpu"), atol=0.02)
