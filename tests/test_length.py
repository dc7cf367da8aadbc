"""Long clips: what changes from their first part to their last."""

import numpy as np
import pandas as pd
import pytest
import torch
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.experiments.diffused import length
from talking_heads.experiments.diffused.length import FLOW, PARTS, SHARPNESS
from talking_heads.judges.faces import CSIM_JUDGE


def rows_of(last_similarity=0.8, last_flow=1.0, identities=8):
    """Rows in which the last part of every clip differs from the others; identities differ a little."""
    offsets = np.linspace(-0.1, 0.1, identities)
    return pd.DataFrame(
        {
            "identity": f"id{k}",
            "part": part,
            CSIM_JUDGE: (last_similarity if part == PARTS - 1 else 0.8) + offset,
            FLOW: (last_flow if part == PARTS - 1 else 1.0) * np.exp(offset),
            SHARPNESS: 5.0 + offset,
            "remedy": "none",
        }
        for k, offset in enumerate(offsets)
        for part in range(PARTS)
    )


@pytest.mark.parametrize(
    "changed, metric, change, within",
    [
        ({}, CSIM_JUDGE, 0.0, True),
        ({"last_similarity": 0.76}, CSIM_JUDGE, -0.04, True),
        ({"last_similarity": 0.74}, CSIM_JUDGE, -0.06, False),
        ({"last_similarity": 0.95}, CSIM_JUDGE, 0.15, True),
        ({"last_flow": 1.19}, FLOW, 1.19, True),
        ({"last_flow": 1.21}, FLOW, 1.21, False),
        ({"last_flow": 1 / 1.19}, FLOW, 1 / 1.19, True),
        ({"last_flow": 1 / 1.21}, FLOW, 1 / 1.21, False),
    ],
)
def test_changes_are_paired_and_held_to_their_limits(changed, metric, change, within):
    """Identities differ by more than the change, but each is compared with itself."""
    table = length.changes(rows_of(**changed)).set_index("metric")
    assert table.loc[metric, "change"] == pytest.approx(change)
    assert table.loc[metric, "within"] == within
    assert table.loc[SHARPNESS, "within"]


def test_one_identity_decides_nothing():
    assert not length.changes(rows_of(identities=1))["within"].any()


def test_long_clips_are_generated_measured_and_kept(talking_command, tmp_path, capsys):
    command = talking_command("length")
    assert main(command) == 0
    folder = tmp_path / "results/smoke/tables"
    rows = pd.read_csv(folder / "length_metrics.csv", keep_default_na=False)
    remedies = list(length.remedies(config.load("smoke")))
    assert rows.groupby(["remedy", "identity"])["part"].nunique().tolist() == [PARTS] * 2 * len(remedies)
    assert list(rows["remedy"].unique()) == remedies and length.ROLLOUTS in remedies
    means = rows.groupby("remedy")[FLOW].mean()
    assert means.nunique() == len(means), "every remedy gives other frames"
    assert set(pd.read_csv(folder / "diffused_length.csv")["metric"]) == {CSIM_JUDGE, FLOW, SHARPNESS}
    capsys.readouterr()
    assert main(command) == 0
    assert "remedy" not in capsys.readouterr().out, "what is finished is read"


def test_self_rollouts_need_a_training_that_the_profile_has():
    without = config.load("smoke").override({"diffused.protocol.ablation_steps": 0})
    assert not {length.TRAINED, length.ROLLOUTS} & set(length.remedies(without))


def test_a_profile_without_long_clips_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"profile laptop: diffused\.protocol\.long_identities is 0"):
        length.length(config.load("laptop"), "reference", tmp_path, tmp_path, torch.device("cpu"))
