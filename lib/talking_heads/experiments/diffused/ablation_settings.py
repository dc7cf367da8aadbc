"""The settings of the ablations of Diffused Heads: changes of one or two keys of a profile."""

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from talking_heads.config import Profile

MOTION, LIPS, IDENTITY, STEPS = "motion frames", "λ_ls", "identity frame", "denoising steps"
SOUND = {
    False: "audio embeddings per side, motion in colour",
    True: "audio embeddings per side, motion in grey",
}
SEEDS = 3  # of the training runs of the closest pair
COUNTS = (0, 1, 2, 3)  # of motion frames, and of motion audio embeddings on each side
LIP_WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0)
DENOISING_STEPS = (5, 10, 20, 50, 200, 1000)
MANY_STEPS, FEW_IDENTITIES = 200, 6  # from so many steps on, as few identities are measured
DISTILLED = "distilled"  # among the settings of steps
HEAD_MOTION, BLINK_RATE = "control of head motion", "control of blinks"
CONTROLS = ((HEAD_MOTION, "head_motion", (0.5, 1.0, 2.0)), (BLINK_RATE, "blink_rate", (0.0, 0.4, 0.8)))
GUIDANCE, GUIDANCE_SCALES = "guidance on the sound", (1.0, 1.5, 2.0)
UNTRAINED = (STEPS, HEAD_MOTION, BLINK_RATE, GUIDANCE)  # they change generation only


SettingName = tuple[str, str]  # ablation and setting


class Setting(NamedTuple):
    """A row of an ablation."""

    ablation: str
    name: str
    changes: Mapping[str, Any]  # values of the profile, by dotted name

    @property
    def trained(self) -> bool:
        """Whether the setting changes training."""
        return self.ablation not in UNTRAINED

    def is_baseline(self, profile: Profile) -> bool:
        """Whether it changes nothing in a profile."""
        return profile.override(dict(self.changes)) == profile


def settings() -> list[Setting]:
    """All settings of all ablations; within an ablation, neighbouring values are adjacent."""
    motion = [Setting(MOTION, str(n), {"diffused.conditions.motion_frames": n}) for n in COUNTS]
    lips = [Setting(LIPS, f"{w:g}", {"diffused.diffusion.lip_weight": w}) for w in LIP_WEIGHTS]
    identity = [
        Setting(IDENTITY, kind, {"diffused.training.identity_frame": kind}) for kind in ("random", "first")
    ]
    sound = [
        Setting(
            SOUND[grey],
            str(n),
            {"diffused.conditions.audio_windows": n, "diffused.conditions.motion_grey": grey},
        )
        for grey, n in product(SOUND, COUNTS)
    ]
    few = {"diffused.protocol.identities": FEW_IDENTITIES}
    steps = [
        Setting(STEPS, str(n), {"diffused.sampling.steps": n, **(few if n >= MANY_STEPS else {})})
        for n in DENOISING_STEPS
    ]
    steps.append(Setting(STEPS, DISTILLED, {"diffused.sampling.distilled": True}))
    controls = [
        Setting(name, f"{value:g}", {"diffused.sampling.control": True, f"diffused.sampling.{key}": value})
        for name, key, values in CONTROLS
        for value in values
    ]
    guidance = [
        Setting(GUIDANCE, f"{scale:g}", {"diffused.sampling.guidance": scale}) for scale in GUIDANCE_SCALES
    ]
    return [*motion, *lips, *identity, *sound, *steps, *controls, *guidance]
