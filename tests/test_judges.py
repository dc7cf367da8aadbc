"""The embedded judges on people that none of them was trained on."""

import numpy as np
import pytest
from talking_heads.data.speakers.write import FIRST
from talking_heads.judges.pools import POOLS
from talking_heads.judges.training import WEIGHTS
from talking_heads.judges.use import identity_judge
from talking_heads.judges.verification import equal_error_rate, scores
from talking_heads.nn.weight_files import load_weights

JUDGES = ("attributes", "people", "identity", "landmarks")


def test_weights_say_what_made_them_and_are_small():
    for name in JUDGES:
        _, about = load_weights(WEIGHTS / f"{name}.safetensors")
        assert (
            about["judge"] == name
            and about["command"].startswith("python -m talking_heads judges")
            and "seed" in about
            and "loss" in about
        )
    assert sum((WEIGHTS / f"{n}.safetensors").stat().st_size for n in JUDGES) < 10e6


def test_no_person_is_in_two_pools_or_in_a_corpus():
    ranges = [range(p["first"], p["first"] + p["people"]) for p in POOLS.values()] + [
        range(f, f + 50_000) for f in FIRST.values()
    ]
    assert not any(set(a) & set(b) for n, a in enumerate(ranges) for b in ranges[:n])


@pytest.fixture(scope="module")
def verification(pools):
    return scores(identity_judge(), pools)


def test_identity_judge_tells_unseen_people_apart(verification):
    """Across videos: other clothes, light and background."""
    rate = equal_error_rate(verification["same"], verification["different"])
    print(
        f"equal error rate {rate:.3f}; same person {np.median(verification['same']):.2f}, different {np.median(verification['different']):.2f}"
    )
    assert rate <= 0.05


def test_identity_judge_tells_impostors_with_like_skin_and_hair_apart(verification):
    rate = equal_error_rate(verification["same"], verification["matched"])
    print(f"equal error rate against matched impostors {rate:.3f}")
    assert rate <= 0.15


def test_landmarks_are_found_in_people_whom_no_judge_saw(pools):
    """The results in the headers of the weights are those of the committed networks, and the second look sees more of the lids."""
    from talking_heads.judges.eyelids import look
    from talking_heads.judges.use import find_landmarks, landmark_judge
    from talking_heads.judges.verification import read_landmarks

    once, twice = (
        read_landmarks(lambda images: look(images, landmark_judge()), pools),
        read_landmarks(find_landmarks, pools),
    )
    assert twice["error"] <= 0.05 and twice["mouth"] >= 0.9 and twice["eyes"] >= 0.9 > once["eyes"], (
        once,
        twice,
    )
    for name, found in (("landmarks", once), ("lids", twice)):
        _, about = load_weights(WEIGHTS / f"{name}.safetensors")
        assert {k: about[k] for k in found} == pytest.approx(found, abs=2e-3)
