"""Landmark adaptation: the motion of a driver with the face of a source, by a linear model of faces in 3D.

The landmarks of a frame are a scaled orthographic projection of a shape: mean + identity (one for each
subject) + expression (one for each frame). The model is fitted to landmark tracks by alternating least
squares. The paper names the missing adaptation as a limitation (section 5). Models that are linear in
identity and expression are the classical solution (Blanz & Vetter 1999; Cao et al. 2014).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from talking_heads.data.crops import clip_square, to_crop
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.weight_files import HEADER

Array = NDArray[np.float64]
FILE = WEIGHTS / "face_shape.safetensors"
LIDS = (slice(36, 42), slice(42, 48))  # the points around either pupil
IDENTITIES, EXPRESSIONS = 20, 10  # components
# weights of the priors of the identity (one for a track) and of the expression (one for a frame)
IDENTITY_PRIOR, EXPRESSION_PRIOR = 2e-2, 2e-3
BLOCK = 500  # frames whose rotated components are in memory at once: 0.1 MB a frame


def blocks(count: int) -> Iterator[slice]:
    """Consecutive parts of so many frames, each of at most ``BLOCK``."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


@dataclass
class Camera:
    """Scaled orthographic cameras of n frames.

    ``scale`` (n,) is in pixels for a unit of the shape, ``rotation`` is (n, 2, 3), ``shift`` is (n, 2) in
    pixels.
    """

    scale: Array
    rotation: Array
    shift: Array

    def select(self, frames: slice) -> "Camera":
        """The cameras of some of the frames."""
        return Camera(self.scale[frames], self.rotation[frames], self.shift[frames])

    @classmethod
    def join(cls, cameras: Sequence["Camera"]) -> "Camera":
        """The cameras of all frames, of parts that follow each other."""
        parts = ((camera.scale, camera.rotation, camera.shift) for camera in cameras)
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def project(self, shapes: Array) -> Array:
        """Shapes (n, 68, 3) or (68, 3) to points (n, 68, 2) in pixels."""
        return self.scale[:, None, None] * self.rotate(shapes) + self.shift[:, None]

    def unproject(self, points: Array) -> Array:
        """Points (n, 68, 2) in pixels to rotated shapes without depth (n, 68, 2)."""
        return (points - self.shift[:, None]) / self.scale[:, None, None]

    def rotate(self, shapes: Array) -> Array:
        """Shapes (n, 68, 3) or (68, 3) to rotated shapes without depth (n, 68, 2)."""
        return shapes @ self.rotation.transpose(0, 2, 1)

    def rotate_basis(self, basis: Array) -> Array:
        """The shapes of a basis (k, 68, 3), rotated as in every frame: (n, k, 136)."""
        rotated = basis[None] @ self.rotation[:, None].transpose(0, 1, 3, 2)
        return rotated.reshape(len(self.rotation), len(basis), -1)


def find_cameras(points: Array, shapes: Array) -> Camera:
    """The cameras whose projections of shapes (n, 68, 3) are nearest to points (n, 68, 2).

    They are a least-squares solution, which an SVD makes orthographic.
    """
    point_centre, shape_centre = points.mean(1), shapes.mean(1)
    p, s = points - point_centre[:, None], shapes - shape_centre[:, None]
    affine = np.linalg.solve(s.transpose(0, 2, 1) @ s, s.transpose(0, 2, 1) @ p).transpose(0, 2, 1)
    u, sizes, v = np.linalg.svd(affine, full_matrices=False)
    rotation, scale = u @ v, sizes.mean(1)
    rotated_centre = (rotation @ shape_centre[..., None])[..., 0]
    return Camera(scale, rotation, point_centre - scale[:, None] * rotated_centre)


@dataclass
class Track:
    """A face in n frames: cameras, ``identity`` (k,), and ``expression`` (n, m) of every frame."""

    camera: Camera
    identity: Array
    expression: Array


@dataclass
class FaceShape:
    """A linear model of faces: ``mean`` (68, 3), ``identity`` (k, 68, 3), ``expression`` (m, 68, 3).

    The components are scaled so that their coefficients have unit variance.
    """

    mean: Array
    identity: Array
    expression: Array

    def shapes(self, identity: Array, expression: Array) -> Array:
        """Identity (k,) or (n, k) and expressions (n, m) to shapes (n, 68, 3)."""
        by_identity = np.tensordot(identity, self.identity, 1)
        by_expression = np.tensordot(expression, self.expression, 1)
        return self.mean + by_identity + by_expression

    def explain(
        self,
        points: Array,
        rounds: int = 4,
        identity_prior: float = IDENTITY_PRIOR,
        expression_prior: float = EXPRESSION_PRIOR,
    ) -> Track:
        """Cameras, identity and expressions of the landmarks (n, 68, 2) of one subject, in pixels.

        Frames are taken block by block, so that memory hardly grows with their number.
        """
        identity, expression = np.zeros(len(self.identity)), np.zeros((len(points), len(self.expression)))
        for _ in range(rounds):
            cameras, matrix, vector = [], np.zeros((len(identity),) * 2), np.zeros(len(identity))
            for frames in blocks(len(points)):
                camera = find_cameras(points[frames], self.shapes(identity, expression[frames]))
                rest = self._deviations(points[frames], camera)
                expression_basis = camera.rotate_basis(self.expression)  # (n, m, 136)
                target = rest - np.einsum("nm,nmd->nd", expression[frames], expression_basis)
                design = np.concatenate(camera.rotate_basis(self.identity), 1).T  # (136 n, k)
                matrix += design.T @ design
                vector += design.T @ target.ravel()
                cameras.append(camera)
            identity = _solve(matrix, vector, identity_prior)
            for frames, camera in zip(blocks(len(points)), cameras, strict=True):
                identity_basis = camera.rotate_basis(self.identity).transpose(1, 0, 2)
                rest = self._deviations(points[frames], camera) - np.tensordot(identity, identity_basis, 1)
                pairs = zip(camera.rotate_basis(self.expression), rest, strict=True)
                expression[frames] = [_ridge(basis.T, frame, expression_prior) for basis, frame in pairs]
        return Track(Camera.join(cameras), identity, expression)

    def _deviations(self, points: Array, camera: Camera) -> Array:
        """What cameras leave to identity and expression, (n, 136)."""
        return (camera.unproject(points) - camera.rotate(self.mean)).reshape(len(points), -1)

    def place(self, points: Array, numbers: Sequence[int], rounds: int = 6) -> Array:
        """The likeliest 68 landmarks (68, 2) of a face of which some points (k, 2) are given.

        ``numbers`` are the landmark numbers of the given points. Raises ValueError for fewer than four.
        """
        if len(numbers) < 4:
            raise ValueError(f"four points or more are needed to place a face, not {len(numbers)}")
        reduced = FaceShape(self.mean[numbers], self.identity[:, numbers], self.expression[:, numbers])
        given = np.asarray(points, np.float64)[None]
        track = reduced.explain(given, rounds, identity_prior=0.1, expression_prior=1.0)
        return track.camera.project(self.shapes(track.identity, track.expression))[0]

    def adapt(self, driver: Array, source: Array, size: int) -> Array:
        """The motion of a driver (n, 68, 2) with the face of a source (m, 68, 2): landmarks (n, 68, 2).

        All are in pixels, the result in a crop of ``size``² pixels that is laid around it as around any clip.
        If the driver has pupils, points 68 and 69, they keep their place between the lids.
        """
        motion, face = self.explain(driver[:, :68]), self.explain(source[:, :68])
        points = np.concatenate(
            [
                motion.camera.select(frames).project(self.shapes(face.identity, motion.expression[frames]))
                for frames in blocks(len(driver))
            ]
        )
        pupils = [
            carry(driver[:, 68 + k], driver[:, lids], points[:, lids])
            for k, lids in enumerate(LIDS[: driver.shape[1] - 68])
        ]
        return to_crop(np.stack([*points.swapaxes(0, 1), *pupils], 1), clip_square(points), size)

    def save(self, path: Path, metadata: dict) -> None:
        """Write a safetensors file with its provenance."""
        tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in vars(self).items()}
        save_file(tensors, path, {HEADER: json.dumps(metadata)})

    @classmethod
    def load(cls, path: Path = FILE) -> "FaceShape":
        """The model of a file."""
        return cls(**{name: value.astype(np.float64) for name, value in load_file(path).items()})


def carry(point: Array, before: Array, after: Array) -> Array:
    """Points (n, 2), moved like the points around them from ``before`` (n, k, 2) to ``after``.

    The motion is a rotation, a scaling and a shift.
    """
    z, w, p = (xy[..., 0] + 1j * xy[..., 1] for xy in (before, after, point))
    z_centre, w_centre = z.mean(1), w.mean(1)
    z, w = z - z_centre[:, None], w - w_centre[:, None]
    result = w_centre + (p - z_centre) * (z.conj() * w).sum(1) / (abs(z) ** 2).sum(1)
    return np.stack([result.real, result.imag], -1)


def _ridge(a: Array, b: Array, weight: float) -> Array:
    """Ridge regression: x that minimises |a x - b|² + weight |x|²."""
    return _solve(a.T @ a, a.T @ b, weight)


def _solve(matrix: Array, vector: Array, weight: float) -> Array:
    """Ridge regression from its normal equations: ``matrix`` is aᵀa, ``vector`` is aᵀb."""
    return np.linalg.solve(matrix + weight * np.eye(len(matrix)), vector).astype(np.float64)


def fit(tracks: Sequence[Array], rounds: int = 3) -> FaceShape:
    """A model of the landmark tracks (n_i, 68, 2) of many identities, one track each, in pixels."""
    points = np.concatenate(tracks).astype(np.float64)
    lengths = [len(track) for track in tracks]
    frames = np.split(np.arange(len(points)), np.cumsum(lengths)[:-1])  # of every identity
    mean, camera = _rigid(points)
    rest = camera.unproject(points) - camera.rotate(mean)
    deviations = np.stack([_shape_of(rest[index], camera.rotation[index]) for index in frames])
    rest = rest - camera.rotate(deviations[np.repeat(np.arange(len(tracks)), lengths)])
    identity = _principal(deviations, IDENTITIES)
    expression = _principal(rest @ camera.rotation, EXPRESSIONS)
    model = FaceShape(mean + deviations.mean(0), identity, expression)
    for _ in range(rounds):
        model = _refine(points, [model.explain(points[index]) for index in frames])
    return model


def _rigid(points: Array, rounds: int = 20) -> tuple[Array, Camera]:
    """The shape (68, 3) of unit size that explains all frames best, and their cameras.

    The initial shape has the depth of an ellipsoid.
    """
    flat = points - points.mean(1, keepdims=True)
    flat = (flat / np.sqrt((flat**2).mean((1, 2), keepdims=True))).mean(0)
    depth = np.sqrt(np.clip(4 - (flat**2).sum(1, keepdims=True), 0, None))
    shape = np.concatenate([flat, depth], 1)
    for _ in range(rounds):
        shape = (shape - shape.mean(0)) / shape.std()
        camera = find_cameras(points, np.broadcast_to(shape, (len(points), 68, 3)))
        shape = _shape_of(camera.unproject(points), camera.rotation)
    return shape, camera


def _shape_of(views: Array, rotation: Array) -> Array:
    """The shape (68, 3) whose rotated views are nearest to ``views`` (n, 68, 2).

    It is near zero in directions that no view shows.
    """
    normal_matrix = (rotation.transpose(0, 2, 1) @ rotation).sum(0) + 0.1 * np.eye(3)
    return np.linalg.solve(normal_matrix, (views @ rotation).sum(0).T).T


def _principal(samples: Array, count: int) -> Array:
    """Principal directions (count, 68, 3) of samples (n, 68, 3), scaled by their standard deviations."""
    flat = (samples - samples.mean(0)).reshape(len(samples), -1)
    values, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    return (directions * np.sqrt(values.clip(0))).T[::-1][:count].reshape(-1, *samples.shape[1:])


def _refine(points: Array, tracks: Sequence[Track]) -> FaceShape:
    """The model that explains points (n, 68, 2) best, for given cameras, identities and expressions."""
    camera = Camera.join([track.camera for track in tracks])
    identity = np.concatenate([np.tile(track.identity, (len(track.expression), 1)) for track in tracks])
    expression = np.concatenate([track.expression for track in tracks])
    rows = np.concatenate([np.ones((len(points), 1)), identity, expression], 1)
    design = np.einsum("nk,ncd->nckd", rows, camera.rotation).reshape(2 * len(points), -1)
    views = camera.unproject(points).transpose(0, 2, 1).reshape(2 * len(points), 68)
    shapes = _ridge(design, views, 1.0).reshape(rows.shape[1], 3, 68).transpose(0, 2, 1)
    mean = shapes[0] + np.tensordot(rows.mean(0)[1:], shapes[1:], 1)
    components = shapes[1:] * rows.std(0)[1:, None, None]
    k = identity.shape[1]
    return FaceShape(mean, components[:k], components[k:])
