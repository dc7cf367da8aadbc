"""The surface of a head: a radius for every direction, so that the whole head is star-shaped.

The radii of skin and hair are tabulated once per frame on a map of all directions. The map is Lambert's
azimuthal equal-area projection, centred on the face, which has the details. Rays and landmarks interpolate
the map bilinearly.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from talking_heads.data.speakers.anatomy import Face, egg_scale


def unit(v: Tensor) -> Tensor:
    """Vectors (B, 3, N) scaled to length 1."""
    x, y, z = v.unbind(1)
    return v * (x * x + y * y + z * z).clamp_min(1e-12).rsqrt()[:, None]


def bump(x: Tensor, sx: float | Tensor, y: Tensor, sy: float | Tensor) -> Tensor:
    """A Gaussian of (x, y) with widths (sx, sy) and maximum 1."""
    return torch.exp(-((x / sx) ** 2) - (y / sy) ** 2)


def smoothstep(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """A smooth transition from 0 at x = low to 1 at x = high."""
    s = ((x - low) / (high - low)).clamp(0, 1)
    return s * s * (3 - 2 * s)


def waves(d: Tensor, seeds: Tensor, frequency: float, count: int = 5) -> Tensor:
    """Smooth noise (B, N) at directions d (B, 3, N), one pattern per seed (B,).

    Its mean is zero, its range about [-1, 1].
    """
    steps = torch.arange(count, device=d.device, dtype=d.dtype)
    phase = seeds[:, None] * 12.9898 + steps * 4.1414
    axes = torch.stack([torch.sin(phase * 1.7), torch.sin(phase * 2.3 + 1), torch.sin(phase * 3.1 + 2)], -1)
    axes = F.normalize(axes, dim=-1) * (frequency * (0.7 + 0.6 * steps / count))[:, None]
    return torch.sin(axes @ d + phase[:, :, None]).mean(1) * 1.6


def map_directions(size: int, device: torch.device) -> Tensor:
    """Unit directions (1, 3, size²) of the cells of the map."""
    c = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(c, c, indexing="ij")
    r2 = (u * u + v * v).clamp_max(0.999)
    scale = (1 - r2).sqrt() * 2
    inside = (u * u + v * v).clamp_min(1e-9).sqrt()
    shrink = (r2.sqrt() / inside).clamp_max(1.0)
    return torch.stack([u * shrink * scale, v * shrink * scale, 1 - 2 * r2]).reshape(1, 3, -1)


def map_coordinates(x: Tensor, y: Tensor, z: Tensor, length: Tensor) -> Tensor:
    """Map coordinates (..., 2) in [-1, 1], for ``grid_sample``, of points at distance ``length``."""
    shrink = (2 * length * (length + z).clamp_min(1e-3)).rsqrt()
    return torch.stack([x * shrink, y * shrink], -1)


def crown(dy: Tensor) -> Tensor:
    """Excess breadth of a skull over an egg near its top, as a fraction of the radius."""
    return 0.07 * torch.exp(-(((dy + 0.72) / 0.24) ** 2))


def skin_radius(d: Tensor, face: Face) -> Tensor:
    """Radius (B, N) of the skin at directions d (1, 3, N)."""
    t = face.traits
    dx, dy, dz = d.unbind(1)
    s = egg_scale(d)
    x, y = s * dx, s * dy
    ax, front = x.abs(), torch.sigmoid((dz - 0.05) / 0.06)
    # skull, jaw, chin
    taper = smoothstep(dy, 0.35, 0.88) * smoothstep(dx.abs(), 0.04, 0.45)
    shape = 1 + (t["jaw_width"] - 0.03) * taper + crown(dy)
    shape = shape - 0.36 * smoothstep(dy, 0.12, 0.72) * torch.sigmoid((0.02 - dz) / 0.09)
    shape = shape - 0.26 * torch.sigmoid((dy - 0.955) / 0.025)
    shape = shape + 0.90 * face.drop * smoothstep(dy, 0.50, 0.92) * front
    shape = shape + t["temples"] * bump(dx.abs() - 0.80, 0.25, dy + 0.25, 0.22)
    r = s * shape
    r = r + t["forehead"] * bump(x, 0.45, y + 0.55, 0.30) * front
    r = r + t["jaw_fullness"] * bump(ax - 0.50, 0.16, y - 0.82, 0.20) * front
    chin_y = 1.03 + t["chin_length"] * 0.6 + 0.5 * face.drop
    chin = 0.03 + t["chin_forward"] + 0.6 * t["chin_length"].clamp_min(0)
    r = r + chin * bump(x, t["chin_width"] + 0.05, y - chin_y, 0.13) * front
    r = r + 0.55 * t["chin_length"] * smoothstep(dy, 0.70, 0.88) * bump(x, 0.30, y - 1.0, 0.4)
    r = r - 0.022 * t["chin_cleft"] * bump(x, 0.035, y - chin_y, 0.07)
    # cheeks, brow ridge, sockets
    smile = face.pose["smile"].clamp_min(0)
    r = r + (t["cheekbones"] + 0.03 * smile) * bump(ax - 0.47, 0.17, y - 0.27 + 0.04 * smile, 0.13) * front
    r = r + t["cheek_fullness"] * bump(ax - 0.44, 0.17, y - 0.60, 0.18) * front
    r = r + 0.030 * bump(ax - 0.26, 0.22, y - face.eye_y + 0.20, 0.07) * front
    eye = ax - face.eye_x
    r = r - t["eye_depth"] * bump(eye, 0.19, y - face.eye_y + 0.02, 0.12) * front
    r = r + 0.045 * bump(eye, 0.12, y - face.eye_y - 0.005, 0.085) * front
    r = r - 0.05 * bump(ax - 0.13, 0.07, y - face.eye_y - 0.02, 0.10) * front
    # nose
    top, tip, base = face.eye_y - 0.10, face.nose_tip_y, face.nose_base_y
    ridge = ((y - top) / (tip - top)).clamp(0, 1)
    height = t["nose_bridge"] + (t["nose_height"] - t["nose_bridge"]) * ridge**1.3
    height = height + t["nose_hump"] * bump(ridge - 0.5, 0.25, ridge * 0, 1.0)
    height = height * smoothstep(y, top - 0.12, top + 0.10) * torch.sigmoid((base - 0.025 - y) / 0.018)
    width = t["nose_bridge_width"] + (0.62 * t["nose_width"] - 0.45 * t["nose_bridge_width"]) * ridge**2
    r = r + height * torch.exp(-((ax / width) ** 2.0)) * front
    wing = torch.sigmoid((base - 0.01 - y) / 0.018)
    wing_bump = bump(ax - 0.72 * t["nose_width"], 0.30 * t["nose_width"], y - base + 0.075, 0.065)
    r = r + 0.36 * t["nose_height"] * wing_bump * wing * front
    # mouth: lips follow their curves in the chart
    u = x / face.mouth_half
    inside = (1 - u * u).clamp_min(0)
    upper_outer, upper_inner, lower_inner, lower_outer = face.lips(u.clamp(-1, 1))
    mid_up, mid_low = 0.5 * (upper_outer + upper_inner), 0.5 * (lower_inner + lower_outer)
    lip = inside.sqrt() * front
    upper_profile = torch.exp(-(((y - mid_up) / (0.35 * face.upper_lip + 0.035)) ** 2))
    lower_profile = torch.exp(-(((y - mid_low) / (0.35 * face.lower_lip + 0.035)) ** 2))
    r = r + (0.042 + 0.3 * t["upper_lip"] + face.pout) * upper_profile * lip
    r = r + (0.040 + 0.3 * t["lower_lip"] + face.pout) * lower_profile * lip
    r = r - 0.030 * torch.exp(-(((y - lower_outer - 0.06) / 0.05) ** 2)) * lip
    # the inside of the mouth, behind the teeth
    inner_mouth = torch.sigmoid((y - upper_inner - 0.10) / 0.015) * torch.sigmoid((lower_inner - y) / 0.012)
    r = r - 0.10 * (inner_mouth * lip) * smoothstep(face.drop, 0.01, 0.06)
    # folds beside the nose, beard, ears
    fold = torch.exp(-(((ax - 0.20 - 0.30 * (y - 0.42)) / 0.035) ** 2))
    r = r - 0.03 * t["wrinkles"] * fold * smoothstep(y, 0.36, 0.50) * smoothstep(-y, -0.85, -0.70) * front
    growth = beard_mask(x, y, face)
    r = r + t["beard_length"] * growth * smoothstep(t["beard"], 0.5, 0.8) * torch.sigmoid((dz + 0.15) / 0.05)
    return r + ear_height(d, face)


def ear_offset(d: Tensor, face: Face) -> Tensor:
    """Elliptic distance (B, N) from the centre of an ear, 1 at its rim, at directions d (1, 3, N)."""
    s = egg_scale(d)
    y, z = s * d[:, 1], s * d[:, 2]
    size = face.traits["ear_size"]
    length, breadth = y - 0.17, z + 0.10 + 0.18 * (y - 0.17)
    return (((length / (0.31 * size)) ** 2 + (breadth / (0.155 * size)) ** 2) + 1e-6).sqrt()


def ear_height(d: Tensor, face: Face) -> Tensor:
    """Height (B, N) of the ears above the skin at directions d (1, 3, N)."""
    q = ear_offset(d, face)
    shell = torch.sigmoid((1 - q) / 0.10) - 0.45 * torch.exp(-((q / 0.55) ** 2))
    long_hair = smoothstep(face.traits["hair_length"], 0.25, 0.32)
    flat = 1 - 0.9 * long_hair * smoothstep(face.traits["hair_amount"], 0.10, 0.14)
    return (face.traits["ear_protrusion"] + 0.03) * flat * shell * smoothstep(d[:, 0].abs(), 0.35, 0.6)


def beard_mask(x: Tensor, y: Tensor, face: Face) -> Tensor:
    """Growth (B, N) of a beard, 0 to 1, at positions of the chart."""
    ax = x.abs()
    cheek_line = 0.70 - 0.45 * smoothstep(ax, 0.30, 0.72)
    chin = torch.sigmoid((y - cheek_line) / 0.035)
    bare = bump(ax - 0.16, 0.10, y - face.mouth_y - face.drop - 0.17, 0.06)  # below the corners of the lip
    return chin * (1 - 0.7 * bare)


def hair_radius(d: Tensor, face: Face, seeds: Tensor) -> Tensor:
    """Radius (B, N) of the hair at directions d (1, 3, N); smaller than the skin's where no hair grows."""
    t = face.traits
    dx, dy, dz = d.unbind(1)
    s = egg_scale(d)
    height = -s * dy
    angle = torch.atan2(dx, dz)
    a = angle.abs() / math.pi
    # height of the hair line at angles a: forehead, temple, sideburn, above the ear, nape
    fringe = torch.sigmoid((t["hair_fringe"] - 0.6) / 0.04)
    coarse, fine = torch.sin(angle * 23 + 9 * seeds[:, None]), torch.sin(angle * 41 + seeds[:, None])
    strands = 0.03 * coarse + 0.02 * fine
    forehead = t["hairline"] * (1 - fringe) + (0.30 + strands) * fringe
    temple = (t["hairline"] + 0.02 + t["hair_recession"]) * (1 - fringe) + 0.30 * fringe
    line = forehead + (temple - forehead) * smoothstep(a, 0.05, 0.17)
    line = line + (0.28 - temple) * smoothstep(a, 0.20, 0.34)
    line = line - 0.30 * smoothstep(a, 0.36, 0.42) + 0.24 * smoothstep(a, 0.44, 0.50)
    line = line - 0.62 * smoothstep(a, 0.56, 0.66) - 0.35 * smoothstep(a, 0.68, 0.8)
    line = line + 0.10 * t["hair_part"] * torch.sin(angle) * smoothstep(-a, -0.3, 0.0)
    # thickness above the line
    curl = t["hair_curl"] * (0.045 * waves(d, seeds, 17.0) + 0.025 * waves(d, seeds + 3, 31.0))
    volume = t["hair_sides"] + (t["hair_volume"] - t["hair_sides"]) * smoothstep(height, 0.15, 0.85)
    volume = volume * (0.15 + 0.85 * smoothstep(t["hair_amount"], 0.30, 0.62)) + 0.012
    volume = volume * (1 + 0.5 * smoothstep(t["hair_curl"], 0.6, 1.0))
    volume = volume + curl * smoothstep(t["hair_amount"], 0.35, 0.6)
    groove = 0.05 * bump(angle - 0.9 * t["hair_part"], 0.07, (height - 0.95).clamp_max(0), 0.5) * (1 - fringe)
    elevation = height - line
    thickness = (elevation.clamp_min(0) / 0.22).clamp_max(1).sqrt()
    r = s * (1 + crown(dy) + (volume - groove) * thickness) - 2.5 * (-elevation).clamp_min(0)
    # hair that hangs down: a curtain beside and behind the face
    length = t["hair_length"]
    lowest = 0.35 + 1.75 * smoothstep(length, 0.30, 0.95)
    width = 0.84 + t["hair_sides"] * 0.9 + 0.02 * strands * 10
    side_radius = (dx * dx + (dz / 1.08) ** 2).clamp_min(1e-4).rsqrt() * width
    lower_radius = lowest / dy.clamp_min(0.05)
    drape = (side_radius**-6 + lower_radius**-6) ** (-1 / 6) + curl
    opening = 0.40 + 0.05 * torch.sin(height * 5 + seeds[:, None])
    drape = drape.clamp_max(2.3) - 5 * (opening - a).clamp_min(0)
    drape = drape - 0.5 * height.clamp_min(0) - 6 * (height - 0.32).clamp_min(0)
    r = torch.maximum(r, torch.where(length > 0.30, drape, -torch.ones_like(drape)))
    return torch.where(t["hair_amount"] < 0.12, torch.full_like(r, -1.0), r)


@dataclass
class HeadMap:
    """The tabulated surface of a batch of heads."""

    table: Tensor  # (B, 6, S, S): radius, radius of the skin, normal (3), cavity
    stretch: Tensor  # (B, 3, 1): breadth, height and depth of the head

    def radius(self, x: Tensor, y: Tensor, z: Tensor, length: Tensor) -> Tensor:
        """Radius (B, N) in the direction of points of the unstretched head at distance ``length`` (B, N)."""
        grid = map_coordinates(x, y, z, length)[:, None]
        return F.grid_sample(self.table[:, :1], grid, mode="bilinear", align_corners=False)[:, 0, 0]

    def sample(self, d: Tensor) -> Tensor:
        """All channels (B, 6, N) at directions d (B, 3, N) of the unstretched head."""
        x, y, z = d.unbind(1)
        grid = map_coordinates(x, y, z, torch.ones_like(x))[:, None]
        return F.grid_sample(self.table, grid, mode="bilinear", align_corners=False)[:, :, 0]

    def skin_points(self, d: Tensor) -> Tensor:
        """Points (B, 3, N) of the skin in head coordinates, at directions d (B, 3, N)."""
        return self.sample(d)[:, 1:2] * d * self.stretch


def tabulate(face: Face, seeds: Tensor, size: int) -> HeadMap:
    """Tabulate a batch of faces on a map of size² cells; ``seeds`` (B,) determine the texture of the hair."""
    d = map_directions(size, seeds.device)
    skin, hair = skin_radius(d, face), hair_radius(d, face, seeds)
    total = torch.maximum(skin, hair)
    b = total.shape[0]
    t = face.traits
    stretch = torch.stack([t["skull_width"], t["skull_height"], t["skull_depth"]], 1)
    p = (total[:, None] * d * stretch).reshape(b, 3, size, size)
    gradient_u = F.pad(p[:, :, :, 2:] - p[:, :, :, :-2], (1, 1))
    gradient_v = F.pad(p[:, :, 2:] - p[:, :, :-2], (0, 0, 1, 1))
    normal = unit(torch.linalg.cross(gradient_u, gradient_v, dim=1))
    grid = total.reshape(b, 1, size, size)
    k = max(3, int(size * 0.045) | 1)
    blurred = grid
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, k, 1, k // 2, count_include_pad=False)
    table = torch.cat([grid, skin.reshape(b, 1, size, size), normal, blurred - grid], 1)
    return HeadMap(table, stretch)


JAW_STEPS = 24
# right half of the jaw line from the chin to the ear, head units: the outline of a mean human face
JAW_X = (0.0, 0.13, 0.27, 0.40, 0.52, 0.61, 0.67, 0.70, 0.71)
JAW_Y = (1.15, 1.13, 1.045, 0.92, 0.77, 0.60, 0.41, 0.22, 0.03)
JAW_Z = (0.40, 0.38, 0.34, 0.29, 0.24, 0.19, 0.15, 0.12, 0.10)


def jaw_directions(device: torch.device) -> Tensor:
    """Directions from each of the 17 points of the jaw line towards the front: (1, 3, 17 * JAW_STEPS)."""
    half = torch.tensor([JAW_X, JAW_Y, JAW_Z], device=device).T
    mirror = torch.tensor([-1.0, 1.0, 1.0], device=device)
    start = F.normalize(torch.cat([half.flip(0) * mirror, half[1:]]), dim=-1)
    front = torch.stack([0 * start[:, 0], start[:, 1], (1 - start[:, 1] ** 2).sqrt()], -1)
    weight = torch.linspace(0, 0.75, JAW_STEPS, device=device)[None, :, None]
    directions = F.normalize(start[:, None] * (1 - weight) + front[:, None] * weight, dim=-1)
    return directions.reshape(1, -1, 3).transpose(1, 2)
