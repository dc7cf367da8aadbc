"""Colours of the points that rays hit: skin, eyes, lips, hair, clothes, background, light.

Colours are (B, 3, N) in [0, 1], constant ones (B, 3, 1); coordinates are those of the face's chart
(:mod:`anatomy`). Edges are blurred by the width of a pixel, so that pictures of every size are anti-aliased.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from talking_heads.data.speakers.anatomy import Face, egg_scale
from talking_heads.data.speakers.surface import beard_mask, bump, ear_offset, smoothstep, waves

# appearance of a video: name -> (low, high); drawn for every video of an identity
STYLE = {
    "distance": (6.0, 12.0),
    "light_x": (-0.9, 0.9),
    "light_y": (-0.9, 0.1),
    "light_power": (0.45, 0.85),
    "ambient": (0.44, 0.62),
    "warmth": (-0.10, 0.10),
    "exposure": (0.86, 1.14),
    "contrast": (0.92, 1.08),
    "background_hue": (0.0, 1.0),
    "background_light": (0.15, 0.85),
    "background_saturation": (0.0, 0.40),
    "background_kind": (0.0, 3.0),
    "background_x": (-1.0, 1.0),
    "background_seed": (0.0, 100.0),
    "cloth_hue": (0.0, 1.0),
    "cloth_light": (0.10, 0.90),
    "cloth_saturation": (0.0, 0.75),
    "cloth_pattern": (0.0, 3.0),
    "collar": (0.0, 3.0),
    "build": (0.0, 1.0),
    "lean": (-0.18, 0.18),
}


def rgb(r: float, g: float, b: float, like: Tensor) -> Tensor:
    """A colour (3, 1) with the device and type of a tensor."""
    return torch.tensor([r, g, b], device=like.device, dtype=like.dtype)[:, None]


def mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Interpolate linearly from a, where weight (B, N) is 0, to b, where it is 1."""
    return a + (b - a) * weight[:, None]


def edge(x: Tensor, pixel: Tensor) -> Tensor:
    """An anti-aliased step: from 0 to 1 over about one pixel around x = 0."""
    return (x / (1.2 * pixel) + 0.5).clamp(0, 1)


def hue_colour(hue: Tensor, saturation: Tensor, light: Tensor) -> Tensor:
    """HSL-like colours (B, 3, 1) of (B, 1) tensors in [0, 1]."""
    phase = rgb(0.0, 2 / 3, 1 / 3, hue)
    wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue[:, None] - phase))
    return (light[:, None] * (1 + saturation[:, None] * (1.6 * wheel - 0.9))).clamp(0, 1)


SKIN = (  # from light to dark
    (0.97, 0.81, 0.72),
    (0.90, 0.69, 0.55),
    (0.76, 0.53, 0.38),
    (0.58, 0.39, 0.28),
    (0.42, 0.29, 0.22),
)
IRIS = (  # dark brown, brown, hazel, green, blue
    (0.20, 0.11, 0.06),
    (0.38, 0.22, 0.10),
    (0.36, 0.36, 0.17),
    (0.36, 0.50, 0.42),
    (0.36, 0.55, 0.72),
)


def _colour_scale(colours: tuple[tuple[float, float, float], ...], value: Tensor) -> Tensor:
    """Colours (B, 3, 1) at values (B, 1) in [0, 1] of a scale of five colours."""
    stops = torch.tensor(colours, device=value.device)
    position = value.clamp(0, 0.999) * 4
    low = position.long()
    weight = (position - low)[..., None]
    return (stops[low] + (stops[low + 1] - stops[low]) * weight).transpose(1, 2)


def skin_colour(face: Face) -> Tensor:
    """(B, 3, 1)."""
    tone, warmth = face.traits["skin_tone"], face.traits["skin_warmth"]
    return _colour_scale(SKIN, tone) * (1 + (warmth[:, None] - 0.5) * rgb(-0.02, 0.05, -0.16, tone))


def hair_colour(face: Face) -> Tensor:
    """(B, 3, 1)."""
    light, red, grey = (face.traits["hair_" + name] for name in ("lightness", "redness", "grey"))
    dark, brown = rgb(0.10, 0.075, 0.06, light), rgb(0.36, 0.23, 0.14, light)
    blond, copper = rgb(0.85, 0.68, 0.40, light), rgb(0.66, 0.28, 0.10, light)
    darker = dark + (brown - dark) * (2 * light[:, None])
    lighter = brown + (blond - brown) * (2 * light[:, None] - 1)
    colour = torch.where(light[:, None] < 0.5, darker, lighter)
    colour = mix(colour, copper, 0.75 * (red - 0.45).clamp_min(0) / 0.55)
    silver = rgb(0.62, 0.62, 0.63, light) + 0.22 * (light[:, None] - 0.5)
    return mix(colour, silver, smoothstep(grey, 0.45, 0.95))


def illumination(normal: Tensor, style: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Light on surfaces with unit normals (B, 3, N) in world coordinates.

    Returns the diffuse light (B, 3, N) and the cosine of the highlight (B, 1, N).
    """
    s = {name: values[:, None, None] for name, values in style.items()}
    direction = torch.stack([style["light_x"], style["light_y"], torch.ones_like(style["light_x"])], 1)
    to_light = F.normalize(direction, dim=1)
    key = ((to_light[:, None] @ normal + 0.25) / 1.25).clamp_min(0)
    sky = 0.5 - 0.35 * normal[:, 1:2] + 0.15 * normal[:, 2:]
    warm = s["warmth"] * rgb(1.0, 0.15, -1.0, normal)
    diffuse = s["ambient"] * (0.55 + 0.75 * sky) + s["light_power"] * key * (1 + warm)
    half = F.normalize(to_light + rgb(0.0, 0.0, 1.0, normal)[:, 0], dim=1)
    return diffuse, (half[:, None] @ normal).clamp_min(0)


def background(plane: Tensor, window: Tensor, style: dict[str, Tensor]) -> Tensor:
    """Blurred rooms at points (B, 2, N) of the plane z = 0: a gradient with a lamp, shelves or stripes."""
    xy = (plane - window[:, :2, None]) / window[:, 2:, None]
    s = {name: values[:, None] for name, values in style.items()}
    x, y = xy.unbind(1)
    base = hue_colour(s["background_hue"], s["background_saturation"], s["background_light"])
    fade = 1 - 0.22 * y + 0.18 * x * s["background_x"]
    lamp = torch.exp(-((x - s["background_x"]) ** 2 + (y + 0.5) ** 2) / 0.35)
    boards = torch.tanh(3 * torch.sin(5 * y + s["background_seed"])) * 0.5
    shelves = boards + 0.35 * torch.sin(9 * x + s["background_seed"] * 3)
    stripes = torch.tanh(2 * torch.sin(4.2 * x + s["background_seed"]))
    kind = s["background_kind"]
    extra = torch.where(kind < 1, 0.45 * lamp, torch.where(kind < 2, 0.16 * shelves, 0.14 * stripes))
    return (base * (fade + extra)[:, None]).clamp(0, 1)


def body(p: Tensor, normal: Tensor, face: Face, style: dict[str, Tensor]) -> Tensor:
    """Neck, shoulders and clothes at world points p with unit normals, both (B, 3, N)."""
    s = {name: values[:, None] for name, values in style.items()}
    x, y, z = p.unbind(1)
    diffuse, _ = illumination(normal, style)
    skin = skin_colour(face) * rgb(0.97, 0.94, 0.94, x)
    cloth = hue_colour(s["cloth_hue"], s["cloth_saturation"], s["cloth_light"])
    pattern = s["cloth_pattern"]
    stripes = torch.where(pattern < 2, torch.tanh(3 * torch.sin(9 * y)), torch.tanh(3 * torch.sin(9 * x)))
    lines = torch.where(pattern < 1, torch.zeros_like(x), stripes)
    cloth = cloth * (1 + 0.16 * lines[:, None])
    collar = s["collar"]
    v_neck, turtleneck = 1.80 - 0.9 * (x - s["lean"]).abs(), 1.30 + 0 * x
    depth = torch.where(collar < 1, 1.52 + 0 * x, torch.where(collar < 2, v_neck, turtleneck))
    dressed = ((y - depth) / 0.03).clamp(0, 1)
    seam = torch.exp(-(((y - depth) / 0.045) ** 2))
    colour = mix(skin, cloth, dressed) * (1 - 0.22 * seam[:, None])
    shadow = 1 - 0.55 * smoothstep(-y, -1.55, -0.95) * (0.4 + 0.6 * smoothstep(-z, -0.5, 0.3))
    return colour * diffuse * shadow[:, None]


@dataclass
class HeadHit:
    """Points of the surface of the head that rays hit; radii, cavity and normal are those of the map."""

    directions: Tensor  # (B, 3, N) of the unstretched head
    radius: Tensor  # (B, N)
    skin_radius: Tensor  # (B, N)
    cavity: Tensor  # (B, N) depth below the blurred surface
    normal: Tensor  # (B, 3, N) unit vectors in world coordinates


@dataclass
class ChartPoints:
    """Points of a face in its chart."""

    x: Tensor  # (B, N)
    y: Tensor  # (B, N)
    front: Tensor  # (B, N): 1 on the front half of the head, 0 on the back
    face: Face
    pixel: Tensor  # (B, 1): width of a pixel


def head(hit: HeadHit, face: Face, style: dict[str, Tensor], seeds: Tensor, pixel: Tensor) -> Tensor:
    """Skin and hair; ``pixel`` (B, 1) is the width of a pixel."""
    d, t = hit.directions, face.traits
    scale = egg_scale(d)
    points = ChartPoints(scale * d[:, 0], scale * d[:, 1], smoothstep(d[:, 2], 0.02, 0.16), face, pixel)
    is_hair = ((hit.radius - hit.skin_radius) / 0.012 - 0.2).clamp(0, 1)
    colour = skin(d, points, seeds)
    colour, wet = mouth(colour, points)
    colour = nose(colour, points)
    for side in (-1, 1):
        colour, eye = eyes(colour, points, side)
        colour = brows(colour, points, side)
        wet = torch.maximum(wet, eye)
    diffuse, gloss = illumination(hit.normal, style)
    cavity = hit.cavity
    occlusion = (1 - 2.6 * cavity.clamp(0, 0.12)) * (1 + 0.5 * cavity.clamp(-0.06, 0))
    lit = mix(diffuse * occlusion[:, None], diffuse.mean(1, keepdim=True) * 0.25 + 0.75, 0.8 * wet)
    angle = torch.atan2(d[:, 0], d[:, 2])
    flow = waves(torch.stack([angle * 1.5, d[:, 1] * 0.25, angle.cos()], 1), seeds + 7, 11.0, 4)
    ring = torch.exp(-(((d[:, 1] + 0.72 + 0.06 * flow) / 0.13) ** 2))
    strands = hair_colour(face) * (1 + 0.20 * flow + 0.35 * ring * (1 - 0.6 * t["hair_curl"]))[:, None]
    shadow = (1 - 0.35 * smoothstep(d[:, 1], -0.2, 0.9)) * (1 - 1.6 * cavity.clamp(0, 0.2))
    strands = strands * shadow[:, None]
    density = smoothstep(t["hair_amount"], 0.25, 0.55)  # the scalp is visible through thin hair
    lit_skin = colour * lit + 0.10 * gloss**18 * (1 - 0.8 * wet[:, None])
    return mix(lit_skin, strands * diffuse, is_hair * (0.55 + 0.45 * density))


def skin(d: Tensor, points: ChartPoints, seeds: Tensor) -> Tensor:
    """Skin with blotches, freckles, blush, folds, moles, beard and ears at directions d (B, 3, N)."""
    x, y, front, face = points.x, points.y, points.front, points.face
    t = face.traits
    ax = x.abs()
    # blotches and freckles
    blotch = waves(d, seeds, 7.0)
    colour = skin_colour(face) * (1 + 0.05 * blotch * (0.3 + t["skin_texture"]))[:, None]
    freckles = (waves(d, seeds + 11, 62.0, 7) * waves(d, seeds + 17, 50.0, 7) - 0.20).clamp(0, 0.3) / 0.3
    cheeks = bump(ax - 0.25, 0.38, y - 0.25, 0.30)
    freckles = freckles * smoothstep(t["skin_texture"], 0.45, 1.0) * cheeks * front
    colour = mix(colour, colour * rgb(0.70, 0.55, 0.45, x), 0.55 * freckles)
    # blush of cheeks, nose and ears
    red = bump(ax - 0.40, 0.20, y - 0.38, 0.17) + 0.6 * bump(x, 0.12, y - face.nose_tip_y, 0.12)
    ears = smoothstep(d[:, 0].abs(), 0.55, 0.75) * smoothstep(-ear_offset(d, face), -1.3, -0.8)
    blush = (0.75 * t["blush"] * red * front + 0.35 * ears).clamp(0, 1)
    colour = mix(colour, colour * rgb(1.04, 0.72, 0.68, x), blush)
    # hollows of the ears, eye bags, folds beside the nose, lines on the forehead, crow's feet
    hollow = ears * torch.exp(-((ear_offset(d, face) / 0.45) ** 2))
    bags = bump(ax - face.eye_x + 0.02, 0.14, y - face.eye_y - 0.105, 0.045)
    fold = torch.exp(-(((ax - 0.215 - 0.36 * (y - 0.44)) / 0.020) ** 2))
    fold = fold * smoothstep(y, 0.40, 0.50) * smoothstep(-y, -0.84, -0.70)
    lower_line = torch.exp(-(((y + 0.44 - 0.04 * x * x) / 0.014) ** 2))
    upper_line = torch.exp(-(((y + 0.54 - 0.04 * x * x) / 0.014) ** 2))
    lines = (lower_line + upper_line) * smoothstep(-ax, -0.42, -0.25)
    crow = torch.exp(-(((ax - face.eye_x - face.eye_half - 0.05) / 0.03) ** 2))
    crow = crow * torch.exp(-(((y - face.eye_y) / 0.07) ** 2)) * (0.5 + 0.5 * torch.sin(y * 110))
    wrinkles = t["wrinkles"] * (0.34 * fold + 0.25 * lines + 0.22 * crow)
    dark = 0.50 * hollow + front * (0.30 * t["eye_bags"] * bags + wrinkles)
    colour = mix(colour, colour * rgb(0.58, 0.42, 0.38, x), dark.clamp(0, 1))
    # mole, side arm of the glasses
    mole = smoothstep(-((x - t["mole_x"]) ** 2 + (y - t["mole_y"]) ** 2).sqrt(), -0.036, -0.020) * front
    colour = mix(colour, rgb(0.28, 0.17, 0.13, x), 0.8 * mole)
    arm = edge(0.020 - (y - face.eye_y + 0.03).abs(), 0.02 + 0 * y)
    arm = arm * smoothstep(ax, 0.56, 0.62) * smoothstep(d[:, 2], 0.0, 0.1)
    colour = mix(colour, frame_colour(face), arm * (t["glasses"] > 0.5))
    grain = 1 + 0.16 * waves(d, seeds + 5, 34.0, 4)
    beard = hair_colour(face) * (0.92 * grain)[:, None]
    return mix(colour, beard, 0.90 * _beard_growth(d, points))


def _beard_growth(d: Tensor, points: ChartPoints) -> Tensor:
    """Density (B, N) of beard and moustache."""
    x, y, face = points.x, points.y, points.face
    t = face.traits
    ax = x.abs()
    density = smoothstep(t["beard"], 0.28, 0.72)
    lip_top = face.mouth_y - face.upper_lip - face.gap_up
    droop = 0.5 * (ax / face.mouth_half - 0.5).clamp_min(0) ** 2
    moustache = (
        torch.sigmoid((y - face.nose_base_y - 0.05 - 0.4 * droop) / 0.02)
        * torch.sigmoid((lip_top + 0.03 + droop - y) / 0.025)
        * smoothstep(-ax, -1.30 * face.mouth_half, -0.80 * face.mouth_half)
    )
    front = smoothstep(d[:, 2], -0.25, -0.05)
    beard = beard_mask(x, y, face) * density * front
    return torch.maximum(beard, moustache * points.front * smoothstep(t["moustache"], 0.28, 0.7))


def mouth(colour: Tensor, points: ChartPoints) -> tuple[Tensor, Tensor]:
    """Lips, teeth and tongue; returns the colours, and where the inside of the mouth is visible (B, N)."""
    x, y, face, pixel = points.x, points.y, points.face, points.pixel
    t = face.traits
    u = (x / face.mouth_half).clamp(-1, 1)
    upper_outer, upper_inner, lower_inner, lower_outer = face.lips(u)
    region = edge(face.mouth_half - x.abs(), pixel) * points.front
    # lips
    soft = pixel + 0.010
    lips = edge(y - upper_outer, soft) * edge(lower_outer - y, soft) * region
    natural = skin_colour(face) * rgb(0.86, 0.60, 0.58, x)
    painted = rgb(0.66, 0.13, 0.17, x)
    lip = natural + (painted - natural) * smoothstep(t["lip_colour"], 0.35, 1.0)[:, None] * 0.85
    shade = torch.where(y < upper_inner, 0.84, 1.06 - 0.10 * smoothstep(y, lower_inner, lower_outer))
    colour = mix(colour, lip * shade[:, None], 0.92 * lips)
    # inside of the mouth
    gap = lower_inner - upper_inner
    opening = edge(y - upper_inner, pixel) * edge(lower_inner - y, pixel) * region
    wide_open = smoothstep(gap, 0.006, 0.03)
    inside = rgb(0.20, 0.06, 0.06, x)
    teeth = edge(upper_inner + 0.06 + 0.07 * (1 - u * u) - y, pixel) * smoothstep(-u.abs(), -0.98, -0.80)
    inside = mix(inside, rgb(0.93, 0.90, 0.84, x), teeth * 0.95)
    tongue = bump(x, 0.12, y - lower_inner + 0.01, 0.05) * smoothstep(gap, 0.06, 0.14) * (1 - teeth)
    inside = mix(inside, rgb(0.68, 0.27, 0.27, x), 0.8 * tongue)
    visible = opening * wide_open
    colour = mix(colour, inside, visible)
    # line between closed lips
    line = torch.exp(-(((y - 0.5 * (upper_inner + lower_inner)) / (0.012 + 0.6 * pixel)) ** 2))
    line = line * region * (1 - wide_open)
    return mix(colour, rgb(0.24, 0.08, 0.08, x), 0.75 * line), visible


def nose(colour: Tensor, points: ChartPoints) -> Tensor:
    """Nostrils and the shadow under the tip."""
    x, y, face, pixel = points.x, points.y, points.face, points.pixel
    ax, base, half = x.abs(), face.nose_base_y, face.traits["nose_width"]
    nostril = bump(ax - 0.46 * half, 0.26 * half + 0.3 * pixel, y - base + 0.012, 0.024 + 0.3 * pixel)
    wing = torch.exp(-(((ax - 0.98 * half) / 0.024) ** 2)) * bump(y - base + 0.055, 0.05, 0 * y, 1.0)
    shadow = torch.exp(-(((y - base - 0.012) / 0.022) ** 2)) * smoothstep(-ax, -1.05 * half, -0.7 * half)
    dark = (0.95 * nostril + 0.40 * wing + 0.34 * shadow).clamp(0, 1) * points.front
    return mix(colour, colour * rgb(0.26, 0.14, 0.12, x), dark)


def eyes(colour: Tensor, points: ChartPoints, side: int) -> tuple[Tensor, Tensor]:
    """One eye; returns the colours, and where the eyeball is visible (B, N)."""
    x, front, face, pixel = points.x, points.front, points.face, points.pixel
    t = face.traits
    u, v = face.eye_local(x, points.y, side)
    upper, lower = face.lids(u.clamp(-1, 1), side)
    region = edge((1 - u.abs()) * face.eye_half, pixel) * front
    opening = edge(v - upper, pixel) * edge(lower - v, pixel) * region
    # eyeball: iris, pupil, reflection, shadow of the lid
    ball = rgb(0.95, 0.94, 0.93, x) * (1 - 0.18 * u * u)[:, None]
    iris_u, iris_v, radius = face.iris(side)
    dx, dy = u * face.eye_half - iris_u, v - iris_v
    r = (dx**2 + dy**2).sqrt()
    rim = smoothstep(r, 0.6 * radius, radius)
    iris = _colour_scale(IRIS, t["iris_hue"]) * (1.15 - 0.65 * rim)[:, None]
    ball = mix(ball, iris, edge(radius - r, pixel))
    ball = mix(ball, rgb(0.03, 0.02, 0.02, x), edge(0.42 * radius - r, pixel))
    reflection = edge(0.021 - ((dx + 0.022 * -side) ** 2 + (dy + 0.026) ** 2).sqrt(), pixel)
    ball = mix(ball, rgb(1.0, 1.0, 1.0, x), 0.9 * reflection)
    ball = ball * (1 - 0.38 * torch.exp(-(((v - upper) / 0.030) ** 2)))[:, None]
    colour = mix(colour, ball, opening)
    # lashes, lower rim, crease of the upper lid
    rim_region = smoothstep(-u.abs(), -1.12, -0.98) * front
    lash_width = 0.011 + 0.009 * t["lashes"] + 0.25 * pixel
    lash = torch.exp(-(((v - upper + 0.006) / lash_width) ** 2)) * rim_region
    lower_rim = 0.35 * torch.exp(-(((v - lower) / (0.010 + 0.25 * pixel)) ** 2)) * rim_region
    crease_y = -t["eye_open"] * (1 - (0.85 * u).clamp(-1, 1) ** 2) - 0.038
    crease = torch.exp(-(((v - crease_y) / 0.013) ** 2)) * smoothstep(-u.abs(), -1.15, -0.7) * front
    colour = mix(colour, colour * rgb(0.50, 0.36, 0.32, x), 0.75 * t["eye_crease"] * crease)
    colour = mix(colour, rgb(0.10, 0.06, 0.05, x), (0.55 + 0.40 * t["lashes"]) * lash + lower_rim)
    return colour, opening


def brows(colour: Tensor, points: ChartPoints, side: int) -> Tensor:
    """One brow."""
    x, y, face = points.x, points.y, points.face
    t = face.traits
    inner_x = 0.135 - 0.02 * face.pose["frown"]
    s = 1 - (x * side - inner_x) / t["brow_length"]  # 0 at the outer end, as in Face.brow_curve
    centre = face.brow_curve(s.clamp(0, 1), side)[..., 1]
    thickness = t["brow_thickness"] * (0.45 + 0.75 * smoothstep(s, 0.0, 0.55)) + 0.006
    hair = edge(thickness - (y - centre).abs(), points.pixel + 0.014)
    hair = hair * smoothstep(s, -0.03, 0.06) * smoothstep(-s, -1.05, -0.93) * points.front
    return mix(colour, hair_colour(face) * 0.62, t["brow_darkness"] * 0.95 * hair)


def glasses(colour: Tensor, camera: Tensor, ray: Tensor, t_head: Tensor, face: Face, pixel: Tensor) -> Tensor:
    """Rims and bridge of glasses in a plane in front of the eyes.

    ``camera`` and ``ray`` (B, 3, N) are in head coordinates, ``t_head`` (B, N) is where rays hit the head.
    """
    t = face.traits
    worn = (t["glasses"] > 0.5).float()
    if not worn.any():
        return colour
    plane_z = (0.86 + 0.5 * t["nose_bridge"]) * t["skull_depth"]
    step = (plane_z - camera[:, 2]) / ray[:, 2]
    x = (camera[:, 0] + step * ray[:, 0]) / t["skull_width"]
    y = (camera[:, 1] + step * ray[:, 1]) / t["skull_height"] - face.eye_y - 0.02
    half, corner = t["glasses_size"], t["glasses_roundness"]
    height = half * (0.62 + 0.30 * corner)
    radius = height * (0.25 + 0.75 * corner)
    offset = torch.maximum(face.eye_x + 0.015, half + 0.05)
    qx, qy = (x.abs() - offset).abs() - (half - radius), y.abs() - (height - radius)
    outside = (qx.clamp_min(0) ** 2 + qy.clamp_min(0) ** 2).sqrt()
    distance = outside + torch.maximum(qx, qy).clamp_max(0) - radius
    rim = edge(0.017 + 0.012 * t["glasses_darkness"] - distance.abs(), pixel)
    bridge = edge(0.016 - (y + 0.05).abs(), pixel) * (x.abs() < offset - half + 0.01)
    visible = worn * (step < t_head + 0.02)
    frame = torch.maximum(rim, bridge) * visible
    colour = mix(colour, colour * 0.92 + 0.05 * rgb(0.80, 0.86, 0.92, x), edge(-distance, pixel) * visible)
    return mix(colour, frame_colour(face), frame)


def frame_colour(face: Face) -> Tensor:
    """(B, 3, 1)."""
    dark = face.traits["glasses_darkness"]
    return mix(rgb(0.50, 0.42, 0.30, dark), rgb(0.07, 0.06, 0.06, dark), dark)


def develop(colour: Tensor, style: dict[str, Tensor]) -> Tensor:
    """Apply exposure and contrast of the camera, and clip to [0, 1]."""
    lit = colour * style["exposure"][:, None, None]
    return ((lit - 0.45) * style["contrast"][:, None, None] + 0.45).clamp(0, 1)
