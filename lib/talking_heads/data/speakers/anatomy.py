"""Positions of the parts of a face: the curves that geometry, paint and landmarks share.

The *chart* of a face assigns two coordinates (X, Y) to every direction d from the centre of the head: those
of the point where d intersects a fixed egg with the half axes ``EGG_*``. Curves are defined in the chart, and
the surface (:mod:`surface`) adds the radius of a direction, so that a painted lip and its landmark are the
same point by construction.
"""

import math

import torch
from torch import Tensor

EGG_X, EGG_UP, EGG_DOWN, EGG_FRONT, EGG_BACK = 0.78, 1.12, 1.30, 0.90, 1.02  # head units

# pose and expression of a frame: name -> neutral value; angles in radians, the others without unit
POSE = {
    "yaw": 0.0,
    "pitch": 0.0,
    "roll": 0.0,
    "shift_x": 0.0,
    "shift_y": 0.0,
    "jaw_open": 0.0,
    "mouth_wide": 0.0,
    "mouth_round": 0.0,
    "lip_press": 0.0,
    "smile": 0.0,
    "blink_left": 0.0,
    "blink_right": 0.0,
    "brow_left": 0.0,
    "brow_right": 0.0,
    "frown": 0.0,
    "gaze_x": 0.0,
    "gaze_y": 0.0,
}


def egg_scale(d: Tensor) -> Tensor:
    """Distance (B, N) from the centre to the egg along unit directions d (B, 3, N)."""
    x, y, z = d.unbind(1)
    b = torch.where(y > 0, EGG_DOWN, EGG_UP)
    c = torch.where(z > 0, EGG_FRONT, EGG_BACK)
    return ((x / EGG_X) ** 2 + (y / b) ** 2 + (z / c) ** 2).rsqrt()


def chart_direction(chart: Tensor) -> Tensor:
    """Unit directions (B, 3, N) of points (B, N, 2) of the front half of the chart."""
    x, y = chart.unbind(-1)
    b = torch.where(y > 0, EGG_DOWN, EGG_UP)
    z = EGG_FRONT * (1 - (x / EGG_X) ** 2 - (y / b) ** 2).clamp_min(0.01).sqrt()
    return torch.nn.functional.normalize(torch.stack([x, y, z], 1), dim=1)


class Face:
    """Curves of a batch of faces in the chart.

    ``traits`` and ``pose`` are tensors (B,) by name, all fields are (B, 1). ``side`` is -1 for the left and 1
    for the right side of the image.
    """

    def __init__(self, traits: dict[str, Tensor], pose: dict[str, Tensor]):
        t = {k: v[:, None] for k, v in traits.items()}
        p = {k: v[:, None] for k, v in pose.items()}
        self.traits, self.pose = t, p
        # jaw and mouth
        self.drop = 0.21 * p["jaw_open"]
        rounding, press = p["mouth_round"], p["lip_press"]
        self.mouth_y = 0.675 + t["mouth_height"]
        self.mouth_half = t["mouth_width"] * (
            1 + 0.22 * p["mouth_wide"] - 0.40 * rounding + 0.20 * p["smile"]
        )
        self.corner_rise = 0.085 * p["smile"] - 0.02 * p["frown"] + t["mouth_corner"] - 0.35 * self.drop
        thin = 1 - 0.55 * press - 0.15 * p["smile"].clamp_min(0) + 0.2 * rounding
        self.upper_lip, self.lower_lip = t["upper_lip"] * thin, t["lower_lip"] * thin
        self.gap_up, self.gap_down = 0.16 * self.drop, self.drop
        self.pout = 0.06 * rounding - 0.03 * press
        # nose
        self.nose_tip_y = 0.335 + t["nose_length"]
        self.nose_base_y = 0.44 + t["nose_length"]
        # eyes, left of the image first
        self.eye_x, self.eye_y = t["eye_distance"], t["eye_height"]
        self.eye_half = t["eye_width"]

    # -- eyes ---------------------------------------------------------------------------------
    def eye_local(self, x: Tensor, y: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Chart to axes of the eye: u in [-1, 1] from the outer (-1) to the inner corner, v down."""
        dx, dy = (x - side * self.eye_x) * -side, y - self.eye_y
        cos, sin = self.traits["eye_tilt"].cos(), self.traits["eye_tilt"].sin()
        return (dx * cos + dy * sin) / self.eye_half, dy * cos - dx * sin

    def eye_chart(self, u: Tensor, v: Tensor, side: int) -> Tensor:
        """Inverse of :meth:`eye_local`: positions (B, n, 2) in the chart."""
        cos, sin = self.traits["eye_tilt"].cos(), self.traits["eye_tilt"].sin()
        a = u * self.eye_half
        dx, dy = a * cos - v * sin, a * sin + v * cos
        return torch.stack([side * self.eye_x - side * dx, self.eye_y + dy], -1)

    def lids(self, u: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Upper and lower rim of the lid opening at u; they meet below the middle when the eye closes."""
        blink = self.pose["blink_left" if side < 0 else "blink_right"]
        arc = (1 - u * u).clamp_min(0)
        lower = self.traits["eye_lower"] * arc * (1 + 0.15 * u)
        smile = self.pose["smile"].clamp_min(0)
        lower = lower * (1 - 0.35 * smile)
        lift = 1 + 0.25 * self._brow(side).clamp_min(0)
        upper = -self.traits["eye_open"] * arc.sqrt() * (1 + 0.18 * u) * lift
        return upper + blink * (0.85 * lower - upper), lower

    def iris(self, side: int) -> tuple[Tensor, Tensor, float]:
        """Centre (u in chart lengths, v) in the axes of the eye, and the radius."""
        gaze_x = self.pose["gaze_x"] * -side
        return 0.45 * self.eye_half * gaze_x, 0.045 * self.pose["gaze_y"] - 0.012, 0.068

    # -- brows --------------------------------------------------------------------------------
    def _brow(self, side: int) -> Tensor:
        return self.pose["brow_left" if side < 0 else "brow_right"]

    def brow_curve(self, s: Tensor, side: int) -> Tensor:
        """Centre line (B, n, 2) of a brow at s from 0, the outer end, to 1, the inner end."""
        t = self.traits
        inner_x = 0.135 - 0.02 * self.pose["frown"]
        x = inner_x + t["brow_length"] * (1 - s)
        arch = (t["brow_arch"] + 0.03) * torch.sin(math.pi * (s * 0.9 + 0.1)) ** 2
        rise = 0.085 * self._brow(side) - 0.06 * self.pose["frown"] * s
        base = self.eye_y - 0.185 - t["brow_height"]
        y = base - arch - rise - t["brow_tilt"] * (1 - s) + 0.05 * (1 - s) ** 2
        return torch.stack([side * x, y.expand_as(x)], -1)

    # -- mouth --------------------------------------------------------------------------------
    def lips(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heights in the chart of the rims of the lips at u in [-1, 1], from corner to corner.

        Returns the outer and inner rim of the upper lip, and the inner and outer rim of the lower lip.
        """
        arc = (1 - u * u).clamp_min(0)
        base = self.mouth_y - self.corner_rise * u * u
        peaks, notch = torch.exp(-(((u.abs() - 0.28) / 0.2) ** 2)), torch.exp(-((u / 0.14) ** 2))
        bow = 1 + self.traits["cupid_bow"] * (0.28 * peaks - 0.32 * notch)
        upper_inner = base - self.gap_up * arc
        lower_inner = base + self.gap_down * arc.sqrt() * (1 - 0.25 * u * u) + 0.004
        upper_outer = upper_inner - self.upper_lip * bow * arc**0.7
        lower_outer = lower_inner + self.lower_lip * arc**0.6
        return upper_outer, upper_inner, lower_inner, lower_outer

    # -- the 68 points ------------------------------------------------------------------------
    def inner_landmarks(self) -> Tensor:
        """iBUG points 17-67 (brows, nose, eyes, lips), then the two pupils: (B, 53, 2) in the chart."""
        s = self._row(0.0, 0.25, 0.5, 0.75, 1.0)
        right_eye = self._eye_landmarks(1)
        parts = [
            self.brow_curve(s, -1),
            self.brow_curve(s, 1).flip(1),
            *self._nose_landmarks(),
            self._eye_landmarks(-1),
            right_eye[:, [3, 2, 1, 0, 5, 4]],  # starts at the inner corner
            *self._lip_landmarks(),
            *(self._pupil(side) for side in (-1, 1)),
        ]
        return torch.cat(parts, 1)

    def _row(self, *values: float) -> Tensor:
        """Values as a tensor (1, n)."""
        return torch.tensor(values, device=self.mouth_y.device, dtype=self.mouth_y.dtype)[None]

    def _positions(self, x: Tensor, y: Tensor) -> Tensor:
        """Coordinates (B or 1, n) as positions (B, n, 2)."""
        zero = 0 * self.mouth_y
        return torch.stack(torch.broadcast_tensors(x + zero, y + zero), -1)

    def _nose_landmarks(self) -> tuple[Tensor, Tensor]:
        """The ridge (B, 4, 2) and the base (B, 5, 2)."""
        heights = self._row(0, 1 / 3, 2 / 3, 1) * (self.nose_tip_y - self.eye_y)
        ridge = self._positions(self._row(0, 0, 0, 0), self.eye_y + heights)
        x = self.traits["nose_width"] * self._row(-0.95, -0.48, 0, 0.48, 0.95)
        base = self._positions(x, self.nose_base_y + self._row(-0.025, 0.0, 0.012, 0.0, -0.025))
        return ridge, base

    def _eye_landmarks(self, side: int) -> Tensor:
        """Outer corner, two points above, inner corner, two points below: (B, 6, 2)."""
        u_top, u_bottom = self._row(-0.38, 0.38), self._row(0.38, -0.38)
        zero = 0 * self.mouth_y
        points = [
            self.eye_chart(zero - 1, zero, side),
            self.eye_chart(u_top + zero, self.lids(u_top, side)[0], side),
            self.eye_chart(zero + 1, zero, side),
            self.eye_chart(u_bottom + zero, self.lids(u_bottom, side)[1], side),
        ]
        return torch.cat(points, 1)

    def _lip_landmarks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Upper and lower line of the outer lips (B, 7 + 5, 2), then of the inner lips (B, 5 + 3, 2)."""
        rims = (  # number of the rim in :meth:`lips`, u from the first to the last point
            (0, self._row(-1, -0.62, -0.26, 0, 0.26, 0.62, 1)),
            (3, self._row(0.62, 0.26, 0, -0.26, -0.62)),
            (1, self._row(-0.84, -0.30, 0, 0.30, 0.84)),
            (2, self._row(0.30, 0, -0.30)),
        )
        upper, lower, inner_upper, inner_lower = (
            self._positions(u * self.mouth_half, self.lips(u)[number]) for number, u in rims
        )
        return upper, lower, inner_upper, inner_lower

    def _pupil(self, side: int) -> Tensor:
        u, v, _ = self.iris(side)
        return self.eye_chart(u / self.eye_half, v, side)
