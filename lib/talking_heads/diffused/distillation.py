"""Progressive distillation (Salimans & Ho 2022, algorithm 2): a network that samples in a few steps.

A student learns to do in one DDIM step what its teacher does in two. It is then the teacher of the next
student. Stypułkowski et al. do not distil.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talking_heads.config import Profile
from talking_heads.data.windows import Windows
from talking_heads.diffused.diffusion import (
    Schedule,
    at,
    cosine_schedule,
    interpret,
    noise_of,
    q_sample,
    velocity,
)
from talking_heads.diffused.losses import lip_loss, simple_loss
from talking_heads.diffused.model import Conditions, predict
from talking_heads.diffused.sampling import ddim_step
from talking_heads.diffused.training import SECTIONS, DiffusionLearner
from talking_heads.sections.diffused import Diffused, Distillation


def distilled_sampling(section: Diffused, steps: int | None = None) -> Diffused:
    """A section that samples as a distilled network does, in ``steps``, by default the last student's."""
    changes: dict[str, Any] = {"distilled": True}
    changes |= {"sampler": "ddim", "steps": steps or section.distillation.steps, "spacing": "trailing"}
    return section.model_copy(update={"sampling": section.sampling.model_copy(update=changes)})


def halvings(section: Distillation) -> int:
    """How often the number of steps is halved.

    Raises ValueError where the section has no training, and where halving does not lead to its steps.
    """
    if not section.training_steps:
        raise ValueError("diffused.distillation.training_steps is 0: this profile distils nothing")
    count = (section.teacher_steps // section.steps).bit_length() - 1
    if count < 1 or section.steps * 2**count != section.teacher_steps:
        raise ValueError(
            f"diffused.distillation: {section.teacher_steps} steps, halved once or more, are never "
            f"{section.steps}: teacher_steps must be steps times a power of two"
        )
    return count


class DistillationLearner(DiffusionLearner):
    """A student and its teacher.

    Both begin with finished weights (:meth:`start_from`). After every ``training_steps`` steps the averaged
    student becomes the teacher. Its arguments are those of :class:`DiffusionLearner`.
    """

    variant = "distilled"
    sections = (*SECTIONS, "distillation")

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.teacher = copy.deepcopy(self.ema)
        self.total = self.section.distillation.training_steps * halvings(self.section.distillation)

    @staticmethod
    def check(profile: Profile) -> None:
        """Raises ValueError for a network that predicts ε (at the last time step its error in x_0 has no
        bound), for self-rollouts, and as :func:`halvings` does.
        """
        section = profile.diffused
        if section.diffusion.prediction != "velocity":
            raise ValueError("distillation needs a network that predicts v: diffused.diffusion.prediction")
        if section.training.rollout_share:
            raise ValueError("distillation has no self-rollouts: set diffused.training.rollout_share to 0")
        halvings(section.distillation)

    def export(self, path: Path, metadata: dict) -> None:
        """As :meth:`DiffusionLearner.export`, with the steps in which the weights sample."""
        super().export(path, {**metadata, "sampling steps": self.student_steps(self.step - 1)})

    def start_from(self, path: Path, source: Diffused) -> None:
        """As :meth:`DiffusionLearner.start_from`, the teacher as well."""
        super().start_from(path, source)
        self.teacher.load_state_dict(self.ema.state_dict())

    def train_step(self) -> dict[str, float]:
        """As :meth:`DiffusionLearner.train_step`; a halving begins with its teacher's weights."""
        if self.step and not self.averaged_steps():
            for network in (self.teacher, self.unet):
                network.load_state_dict(self.ema.state_dict())
            self.optimiser.state.clear()
        return super().train_step()

    def averaged_steps(self) -> int:
        """Steps since the last halving began."""
        return self.step % self.section.distillation.training_steps

    def learning_rate(self) -> float:
        """Falls to zero in every halving."""
        section = self.section.distillation
        return section.learning_rate * (1 - self.averaged_steps() / section.training_steps)

    def student_steps(self, step: int | None = None) -> int:
        """Denoising steps of the student in a training step, the next one by default."""
        section, step = self.section.distillation, self.step if step is None else max(0, step)
        halved = 1 + step // section.training_steps
        return section.teacher_steps // 2**halved

    def schedule_of(self, steps: int) -> Schedule:
        """The schedule of sampling in so many steps."""
        return cosine_schedule(self.section.diffusion.steps, steps, "trailing").to(self.device)

    def loss(self, windows: Windows, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """L_simple and λ_ls L_ls of the student's v, on a batch, and these terms."""
        steps = self.student_steps()
        of_teacher, of_student = self.schedule_of(2 * steps), self.schedule_of(steps)
        drawn = torch.randint(len(of_student), (len(windows.x_0),), generator=generator)
        noise = torch.randn(windows.x_0.shape, generator=generator).to(self.device)
        t = drawn.to(self.device)
        x_t = q_sample(of_student, windows.x_0, t, noise)
        conditions = self.conditions(windows, generator)
        target = self.target(of_teacher, x_t, 2 * t + 1, conditions)
        grey = self.section.conditions.motion_grey
        predicted = predict(self.unet, x_t, of_student.timesteps[t], conditions, grey)[:, :3]
        simple, lips = simple_loss(predicted, target), lip_loss(predicted, target, windows.mouth)
        row = {"simple": simple.mean(), "lips": lips.mean()}
        return (simple + self.section.diffusion.lip_weight * lips).mean(), row

    @torch.no_grad()
    def target(self, schedule: Schedule, x_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The v (B, 3, H, W) with which one DDIM step gives the result of two steps of the teacher, from its
        step t (B,) to t - 2.
        """
        grey, prediction = self.section.conditions.motion_grey, self.section.diffusion.prediction
        x = x_t
        for step in (t, t - 1):
            output = predict(self.teacher, x, schedule.timesteps[step], conditions, grey)
            x = ddim_step(schedule, interpret(schedule, output, x, step, prediction), step)
        before, after = at(schedule.alpha_bar, t), at(schedule.alpha_bar_previous, t - 1)
        ratio = ((1 - after) / (1 - before)).sqrt()
        x_0 = (x - ratio.float() * x_t) / (after.sqrt() - ratio * before.sqrt()).float()
        return velocity(schedule, x_0, t, noise_of(schedule, x_0, x_t, t))

    def state(self, folder: Path) -> dict:
        """As :meth:`DiffusionLearner.state`, with the teacher."""
        return {**super().state(folder), "teacher": self.teacher.state_dict()}

    def restore(self, state: dict, folder: Path) -> None:
        """As :meth:`DiffusionLearner.restore`."""
        super().restore(state, folder)
        self.teacher.load_state_dict(state["teacher"])
