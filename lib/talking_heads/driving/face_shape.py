"""Landmark adaptation: the driver's motion with the source's face, by a linear model of faces in three dimensions.

A frame's landmarks are a scaled orthographic picture of a shape: mean + identity (one per person) + expression (one per
frame). The model is fitted on tracks alone, by alternating least squares. The paper names the missing adaptation as a limit
(section 5); separating pose, identity and expression linearly is the classical answer (Blanz & Vetter 1999; Cao et al. 2014).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ..corpus.crops import clip_square, to_crop

Array = NDArray[np.float64]
FILE = Path(os.environ.get("TALKING_HEADS_OWN_JUDGES") or Path(__file__).parent) / "face_shape.safetensors"
LIDS = (slice(36, 42), slice(42, 48))  # the points around either pupil
IDENTITIES, EXPRESSIONS = 20, 10
STAY, SOFT = 2e-2, 2e-3  # weights of the priors of identity (once a person) and expression (once a frame)


@dataclass
class Camera:
    """Scaled orthographic cameras of n frames: ``scale`` (n,), ``rotation`` (n, 2, 3), ``shift`` (n, 2), in pixels."""

    scale: Array
    rotation: Array
    shift: Array

    def project(self, shapes: Array) -> Array:
        """Shapes (n, 68, 3) or (68, 3) -> points (n, 68, 2)."""
        return self.scale[:, None, None] * (shapes @ self.rotation.transpose(0, 2, 1)) + self.shift[:, None]

    def unproject(self, points: Array) -> Array:
        """Points (n, 68, 2) in units of the shape, turned as they are seen: (n, 68, 2)."""
        return (points - self.shift[:, None]) / self.scale[:, None, None]


def find_cameras(points: Array, shapes: Array) -> Camera:
    """The cameras under which shapes (n, 68, 3) look most like points (n, 68, 2): least squares, made orthographic by an SVD."""
    centre = points.mean(1), shapes.mean(1)
    p, s = points - centre[0][:, None], shapes - centre[1][:, None]
    affine = np.linalg.solve(s.transpose(0, 2, 1) @ s, s.transpose(0, 2, 1) @ p).transpose(0, 2, 1)
    u, sizes, v = np.linalg.svd(affine, full_matrices=False)
    rotation, scale = u @ v, sizes.mean(1)
    return Camera(scale, rotation, centre[0] - scale[:, None] * (rotation @ centre[1][..., None])[..., 0])


@dataclass
class Track:
    """What a face does in n frames: cameras, its ``identity`` (k,), and its ``expression`` (n, m) in every frame."""

    camera: Camera
    identity: Array
    expression: Array


@dataclass
class FaceShape:
    """Linear model of a face: ``mean`` (68, 3), ``identity`` (k, 68, 3) and ``expression`` (m, 68, 3), of unit spread each."""

    mean: Array
    identity: Array
    expression: Array

    def shapes(self, identity: Array, expression: Array) -> Array:
        """Identity (k,) or (n, k) with expressions (n, m) -> shapes (n, 68, 3)."""
        return self.mean + np.tensordot(identity, self.identity, 1) + np.tensordot(expression, self.expression, 1)

    def explain(self, points: Array, rounds: int = 4, stay: float = STAY, soft: float = SOFT) -> Track:
        """Pose, identity and expressions of one person's landmarks (n, 68, 2), pixels; the priors weigh ``stay`` and ``soft``."""
        n = len(points)
        identity, expression = np.zeros(len(self.identity)), np.zeros((n, len(self.expression)))
        for _ in range(rounds):
            camera = find_cameras(points, self.shapes(identity, expression))
            seen = camera.unproject(points)
            of = lambda basis: (basis[None] @ camera.rotation[:, None].transpose(0, 1, 3, 2)).reshape(n, len(basis), -1)
            static, moving, rest = of(self.identity), of(self.expression), (seen - self.mean @ camera.rotation.transpose(0, 2, 1)).reshape(n, -1)
            identity = _ridge(np.concatenate(static, 1).T, (rest - np.einsum("nm,nmd->nd", expression, moving)).ravel(), stay)
            rest = rest - np.tensordot(identity, static.transpose(1, 0, 2), 1)
            expression = np.stack([_ridge(m.T, r, soft) for m, r in zip(moving, rest)])
        return Track(camera, identity, expression)

    def place(self, points: Array, which: Sequence[int], rounds: int = 6) -> Array:
        """All 68 points (68, 2) of a face of which only the points ``which`` are known, (len(which), 2): the likeliest face there.

        Raises ValueError for fewer than four points.
        """
        if len(which) < 4:
            raise ValueError(f"four points or more are needed to place a face, not {len(which)}")
        part = FaceShape(self.mean[which], self.identity[:, which], self.expression[:, which])
        track = part.explain(np.asarray(points, np.float64)[None], rounds, stay=0.1, soft=1.0)
        return track.camera.project(self.shapes(track.identity, track.expression))[0]

    def adapt(self, driver: Array, source: Array, size: int) -> Array:
        """The driver's motion (n, 68, 2) performed by the source's face, known from its own landmarks (m, 68, 2): (n, 68, 2).

        All in pixels, the result in a crop of ``size``² pixels that is laid around it as around any clip. Where the driver has
        pupils, points 68 and 69, they stay where they are between the lids.
        """
        moves, face = self.explain(driver[:, :68]), self.explain(source[:, :68])
        points = moves.camera.project(self.shapes(face.identity, moves.expression))
        pupils = [carry(driver[:, 68 + k], driver[:, lids], points[:, lids]) for k, lids in enumerate(LIDS[:driver.shape[1] - 68])]
        return to_crop(np.stack([*points.swapaxes(0, 1), *pupils], 1), clip_square(points), size)

    def save(self, path: Path, about: dict) -> None:
        """A safetensors file with what made it."""
        save_file({name: np.ascontiguousarray(value, np.float32) for name, value in vars(self).items()}, path, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path = FILE) -> "FaceShape":
        return cls(**{name: value.astype(np.float64) for name, value in load_file(path).items()})


def carry(point: Array, here: Array, there: Array) -> Array:
    """Points (n, 2) moved as the points around them, from ``here`` (n, k, 2) to ``there``: turned, scaled and shifted."""
    z, w, p = (v[..., 0] + 1j * v[..., 1] for v in (here, there, point))
    middle = z.mean(1), w.mean(1)
    z, w = z - middle[0][:, None], w - middle[1][:, None]
    moved = middle[1] + (p - middle[0]) * (z.conj() * w).sum(1) / (abs(z) ** 2).sum(1)
    return np.stack([moved.real, moved.imag], -1)


def _ridge(a: Array, b: Array, weight: float) -> Array:
    return np.linalg.solve(a.T @ a + weight * np.eye(a.shape[1]), a.T @ b)


def fit(tracks: Sequence[Array], rounds: int = 3) -> FaceShape:
    """A model of many people's landmark tracks (n_i, 68, 2), one track a person, from pixels alone."""
    points = np.concatenate(tracks).astype(np.float64)
    ends = np.cumsum([len(t) for t in tracks])
    people = np.split(np.arange(len(points)), ends[:-1])
    mean, camera = _rigid(points)
    rest = camera.unproject(points) - mean @ camera.rotation.transpose(0, 2, 1)
    own = np.stack([_shape_of(rest[i], camera.rotation[i]) for i in people])
    person = np.repeat(np.arange(len(tracks)), [len(t) for t in tracks])
    moved = (rest - own[person] @ camera.rotation.transpose(0, 2, 1)) @ camera.rotation
    model = FaceShape(mean + own.mean(0), _principal(own, IDENTITIES), _principal(moved, EXPRESSIONS))
    for _ in range(rounds):
        found = [model.explain(points[i]) for i in people]
        model = _refined(points, model, found)
    return model


def _rigid(points: Array, rounds: int = 20) -> tuple[Array, Camera]:
    """The one shape (68, 3) that explains all frames best, of unit size, and their cameras; begun on half an ellipsoid."""
    flat = points - points.mean(1, keepdims=True)
    flat = (flat / np.sqrt((flat**2).mean((1, 2), keepdims=True))).mean(0)
    shape = np.concatenate([flat, np.sqrt(np.clip(4 - (flat**2).sum(1, keepdims=True), 0, None))], 1)
    for _ in range(rounds):
        shape = (shape - shape.mean(0)) / shape.std()
        camera = find_cameras(points, np.broadcast_to(shape, (len(points), 68, 3)))
        shape = _shape_of(camera.unproject(points), camera.rotation)
    return shape, camera


def _shape_of(seen: Array, rotation: Array) -> Array:
    """The shape (68, 3) whose pictures under the rotations are nearest to ``seen`` (n, 68, 2); near zero where nothing shows it."""
    seen_by = (rotation.transpose(0, 2, 1) @ rotation).sum(0) + 0.1 * np.eye(3)
    return np.linalg.solve(seen_by, (seen @ rotation).sum(0).T).T


def _principal(samples: Array, count: int) -> Array:
    """Principal directions (count, 68, 3) of samples (n, 68, 3), each as long as the samples spread along it."""
    flat = (samples - samples.mean(0)).reshape(len(samples), -1)
    values, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    return (directions * np.sqrt(values.clip(0))).T[::-1][:count].reshape(-1, *samples.shape[1:])


def _refined(points: Array, model: FaceShape, found: Sequence[Track]) -> FaceShape:
    """Mean and bases that explain the points best for the given cameras and coefficients, of unit spread again."""
    camera = Camera(*(np.concatenate([getattr(t.camera, f) for t in found]) for f in ("scale", "rotation", "shift")))
    identity = np.concatenate([np.broadcast_to(t.identity, (len(t.expression), len(t.identity))) for t in found])
    expression = np.concatenate([t.expression for t in found])
    rows = np.concatenate([np.ones((len(points), 1)), identity, expression], 1)
    design = np.einsum("nk,ncd->nckd", rows, camera.rotation).reshape(2 * len(points), -1)
    seen = camera.unproject(points).transpose(0, 2, 1).reshape(2 * len(points), 68)
    solved = _ridge(design, seen, 1.0).reshape(rows.shape[1], 3, 68).transpose(0, 2, 1)
    k = 1 + identity.shape[1]
    spread = rows.std(0)[1:, None, None]
    return FaceShape(solved[0] + np.tensordot(rows.mean(0)[1:], solved[1:], 1), solved[1:k] * spread[:k - 1], solved[k:] * spread[k - 1:])
