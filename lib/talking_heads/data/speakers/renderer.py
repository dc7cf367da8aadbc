"""Rendering of procedural speakers: pictures and landmarks in batches, on any device.

Rays are marched to the tabulated surface of the head (:mod:`surface`); neck, shoulders and glasses are
intersected in closed form; :mod:`paint` computes the colours of the intersections. World coordinates are
those of the head at rest; the camera is at (0, 0, distance) and points along -z.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from talking_heads.data.speakers import paint
from talking_heads.data.speakers.anatomy import Face, chart_direction
from talking_heads.data.speakers.surface import JAW_STEPS, HeadMap, jaw_directions, tabulate, unit

PIVOT = (0.0, 0.75, -0.20)  # the head rotates about the top of the neck


def rotation(pose: dict[str, Tensor]) -> Tensor:
    """Head-to-world rotations (B, 3, 3): pitch (nod), then yaw (turn), then roll (tilt), radians."""

    def axis(angle: Tensor, i: int, j: int) -> Tensor:
        m = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
        m[:, i, i] = m[:, j, j] = angle.cos()
        m[:, i, j], m[:, j, i] = -angle.sin(), angle.sin()
        return m

    return axis(pose["roll"], 0, 1) @ axis(-pose["yaw"], 0, 2) @ axis(-pose["pitch"], 1, 2)


def _pivot(pose: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    pivot = torch.tensor(PIVOT, device=pose["yaw"].device)[None, :, None]
    shift = torch.stack([pose["shift_x"], pose["shift_y"], 0 * pose["shift_x"]], 1)[:, :, None]
    return pivot, shift


def to_world(p: Tensor, pose: dict[str, Tensor]) -> Tensor:
    """Head coordinates (B, 3, N) to world coordinates."""
    pivot, shift = _pivot(pose)
    return rotation(pose) @ (p - pivot) + pivot + shift


def to_head(p: Tensor, pose: dict[str, Tensor]) -> Tensor:
    """World coordinates (B, 3, N) to head coordinates."""
    pivot, shift = _pivot(pose)
    return rotation(pose).transpose(1, 2) @ (p - pivot - shift) + pivot


def project(p: Tensor, distance: Tensor) -> Tensor:
    """Perspective projection (B, N, 2) of world points (B, 3, N) to the plane z = 0."""
    scale = distance[:, None] / (distance[:, None] - p[:, 2])
    return (p[:, :2] * scale[:, None]).transpose(1, 2)


def _camera(style: dict[str, Tensor]) -> Tensor:
    return F.pad(style["distance"][:, None], (2, 0))[:, :, None]


@dataclass
class Scene:
    """A batch of B frames of speakers, prepared for rendering."""

    face: Face
    head: HeadMap
    pose: dict[str, Tensor]
    style: dict[str, Tensor]
    seeds: Tensor  # (B,) of the texture of skin and hair


def arrange(
    traits: dict[str, Tensor], pose: dict[str, Tensor], style: dict[str, Tensor], seeds: Tensor, size: int
) -> Scene:
    """A scene from tensors (B,) of traits, pose, style and seeds, with a map for pictures of size² pixels."""
    cells = 80 if size <= 80 else 128
    if size > 128:
        cells = 224
    with torch.no_grad():
        face = Face(traits, pose)
        return Scene(face, tabulate(face, seeds, cells), pose, style, seeds)


@torch.no_grad()
def landmarks(scene: Scene) -> tuple[Tensor, Tensor]:
    """Exact landmarks of a scene: 68 iBUG points and two pupils.

    The jaw line follows the visible contour as in the iBUG annotation: a jaw point that is out of sight moves
    to the contour at its height. Returns positions (B, 70, 2) on the plane z = 0 and whether the head hides
    the anatomical point, (B, 70) bool.
    """
    head, pose, style = scene.head, scene.pose, scene.style
    b = len(scene.seeds)
    jaw = to_world(head.skin_points(jaw_directions(scene.seeds.device).expand(b, -1, -1)), pose)
    flat = project(jaw, style["distance"]).reshape(b, 17, JAW_STEPS, 2)
    side = torch.linspace(-1, 1, 17, device=scene.seeds.device)
    sideways = torch.stack([side * (side.abs() > 0.2), 0 * side], -1)
    outward = sideways @ rotation(pose)[:, :2, :2].transpose(1, 2)
    best = (flat * outward[:, :, None]).sum(-1).argmax(-1)
    contour = flat.gather(2, best[:, :, None, None].expand(-1, -1, 1, 2))[:, :, 0]
    inner = to_world(head.skin_points(chart_direction(scene.face.inner_landmarks())), pose)
    xy = torch.cat([contour, project(inner, style["distance"])], 1)
    anatomical = torch.cat([jaw.reshape(b, 3, 17, JAW_STEPS)[..., 0], inner], 2)
    return xy, _hidden(anatomical, head, pose, style)


def _hidden(p: Tensor, head: HeadMap, pose: dict[str, Tensor], style: dict[str, Tensor]) -> Tensor:
    """Whether the head is between world points (B, 3, N) and the camera: (B, N) bool."""
    ray = unit(_camera(style) - p)
    hidden = torch.zeros_like(p[:, 0], dtype=torch.bool)
    for step in torch.linspace(0.08, 1.5, 24).tolist():
        x, y, z = (to_head(p + step * ray, pose) / head.stretch).unbind(1)
        length = (x * x + y * y + z * z).sqrt()
        hidden |= length < head.radius(x, y, z, length) - 0.04
    return hidden


def pixel_plane(window: Tensor, size: int) -> Tensor:
    """Points (B, 2, size²) on the plane z = 0 behind the pixels of windows (B, 3): centre x, y, half side."""
    c = (torch.arange(size, device=window.device, dtype=torch.float32) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(c, c, indexing="ij")
    return window[:, :2, None] + window[:, 2:, None] * torch.stack([x, y]).reshape(1, 2, -1)


def to_pixels(xy: Tensor, window: Tensor, size: int) -> Tensor:
    """Convert points (B, N, 2) on the plane z = 0 to pixels of windows (B, 3) with size² pixels.

    Whole numbers are pixel centres.
    """
    centre, half = window[:, None, :2], window[:, None, 2:]
    return (xy - centre + half) / (2 * half) * size - 0.5


def march(
    head: HeadMap, camera: Tensor, ray: Tensor, near: Tensor, far: Tensor, steps: int = 20
) -> tuple[Tensor, Tensor]:
    """First intersection of rays ``camera + t ray`` with the head, (B, 3, N) in unstretched head coordinates.

    Regular steps find the interval, three steps of regula falsi the depth. Returns t (B, N), and whether the
    ray hits the head, (B, N) bool.
    """
    (ox, oy, oz), (dx, dy, dz) = camera.unbind(1), ray.unbind(1)

    def outside(t: Tensor) -> Tensor:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        length = (x * x + y * y + z * z).sqrt()
        return length - head.radius(x, y, z, length)

    t0 = near.expand_as(dx)
    f0 = outside(t0)
    low, f_low, high, f_high = t0, f0, t0, f0
    hit = torch.zeros_like(dx, dtype=torch.bool)
    for i in range(1, steps + 1):
        t1 = (near + (far - near) * (i / steps)).expand_as(dx)
        f1 = outside(t1)
        first = (f1 < 0) & ~hit
        low, f_low = torch.where(first, t0, low), torch.where(first, f0, f_low)
        high, f_high = torch.where(first, t1, high), torch.where(first, f1, f_high)
        hit |= first
        t0, f0 = t1, f1
    for _ in range(3):
        mid = low + (high - low) * (f_low / (f_low - f_high).clamp_min(1e-6)).clamp(0.05, 0.95)
        f_mid = outside(mid)
        inside = f_mid < 0
        high, f_high = torch.where(inside, mid, high), torch.where(inside, f_mid, f_high)
        low, f_low = torch.where(inside, low, mid), torch.where(inside, f_low, f_mid)
    return 0.5 * (low + high), hit


def ellipsoid(origin: Tensor, ray: Tensor, centre: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """First intersection of rays (B, 3, N) with ellipsoids (B, 3, 1).

    Returns t (B, N), 1e3 for rays that miss, and unit normals (B, 3, N).
    """
    o, d = (origin - centre) / radii, ray / radii
    a, b, c = (d * d).sum(1), (o * d).sum(1), (o * o).sum(1) - 1
    disc = b * b - a * c
    t = torch.where(disc > 0, (-b - disc.clamp_min(0).sqrt()) / a, 1e3)
    return t, unit((o + t.clamp_max(2)[:, None] * d) / radii)


def body_parts(face: Face, style: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Centres and radii (B, 3, 1) of neck, yoke and torso."""
    build, lean = style["build"], style["lean"]
    breadth = 0.50 + 0.12 * build - 0.05 * (face.traits["pitch"][:, 0] - 150) / 100

    def vector(*values: Tensor | float) -> Tensor:
        return torch.stack([value + 0 * build for value in values], 1)[:, :, None]

    return {
        "neck": (vector(0.3 * lean, 1.2, -0.22), vector(breadth, 1.25, breadth * 0.95)),
        "yoke": (vector(0.7 * lean, 1.95, -0.36), vector(1.15 + 0.2 * build, 0.66, 0.56)),
        "torso": (vector(lean, 2.85, -0.40), vector(1.80 + 0.25 * build, 1.36, 0.82)),
    }


@torch.no_grad()
def render(scene: Scene, window: Tensor, size: int, samples: int = 2) -> Tensor:
    """Render images (B, 3, size, size) in [0, 1] of a scene.

    ``window`` (B, 3) is the displayed square of the plane z = 0: centre x, y and half side. Every pixel is
    the mean of ``samples``² rays.
    """
    face, head, pose, style = scene.face, scene.head, scene.pose, scene.style
    fine = size * samples
    plane = pixel_plane(window, fine)
    camera = _camera(style)
    ray = F.pad(plane, (0, 0, 0, 1)) - camera  # reaches the plane z = 0 at t = 1
    pixel = window[:, 2:] * 2 / fine
    colour = paint.background(plane, window, style)
    t_body = _render_body(colour, scene, camera, ray)

    head_camera = to_head(camera, pose) / head.stretch
    head_ray = (rotation(pose).transpose(1, 2) @ ray) / head.stretch
    t_head = _march_near_head(head, head_camera, head_ray, style["distance"])
    visible = t_head < t_body
    painted = visible.any(0).nonzero()[:, 0]
    directions = unit(head_camera + t_head[:, painted].clamp_max(2)[:, None] * head_ray[:, :, painted])
    values = head.sample(directions)
    hit = paint.HeadHit(
        directions=directions,
        radius=values[:, 0],
        skin_radius=values[:, 1],
        cavity=values[:, 5],
        normal=rotation(pose) @ unit(values[:, 2:5]),
    )
    shade = paint.head(hit, face, style, scene.seeds, pixel)
    colour[:, :, painted] = torch.where(visible[:, None, painted], shade, colour[:, :, painted])

    colour = paint.glasses(colour, head_camera * head.stretch, head_ray * head.stretch, t_head, face, pixel)
    image = paint.develop(colour, style).reshape(-1, 3, fine, fine)
    return F.avg_pool2d(image, samples)


def _render_body(colour: Tensor, scene: Scene, camera: Tensor, ray: Tensor) -> Tensor:
    """Paint neck and shoulders into colours (B, 3, N), in place; returns t (B, N) of the intersections."""
    t_body = torch.full_like(ray[:, 0], 1e2)
    normal = torch.zeros_like(ray)
    for centre, radii in body_parts(scene.face, scene.style).values():
        t, n = ellipsoid(camera, ray, centre, radii)
        normal = torch.where((t < t_body)[:, None], n, normal)
        t_body = torch.minimum(t, t_body)
    visible = t_body < 2
    painted = visible.any(0).nonzero()[:, 0]
    point = camera + t_body[:, painted].clamp_max(2)[:, None] * ray[:, :, painted]
    shade = paint.body(point, normal[:, :, painted], scene.face, scene.style)
    colour[:, :, painted] = torch.where(visible[:, None, painted], shade, colour[:, :, painted])
    return t_body


def _march_near_head(head: HeadMap, camera: Tensor, ray: Tensor, distance: Tensor) -> Tensor:
    """t (B, N) of the intersections of rays with the head, 1e3 for rays that miss.

    Only rays that pass the bounding sphere of a head of the batch are marched.
    """
    t_closest = (camera * ray).sum(1, keepdim=True) / (ray * ray).sum(1, keepdim=True)
    closest = camera - t_closest * ray
    near_head = (closest * closest).sum(1) < head.table[:, 0].amax((1, 2))[:, None] ** 2
    marched = near_head.any(0).nonzero()[:, 0]
    depth = distance[:, None]
    t_hit, hit = march(head, camera, ray[:, :, marched], 1 - 1.5 / depth, 1 + 0.9 / depth)
    t_head = torch.full_like(ray[:, 0], 1e3)
    t_head[:, marched] = torch.where(hit, t_hit, 1e3)
    return t_head
