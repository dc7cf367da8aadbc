"""A face rig: landmarks from the pose of a head and from the openings of its mouth and eyes."""

from dataclasses import dataclass

import numpy as np

from talking_heads.animation.face_shape import Array, Camera, FaceShape
from talking_heads.data.landmarks import openings

ANCHORS = {
    36: "outer corner of the left eye",
    45: "outer corner of the right eye",
    30: "tip of the nose",
    48: "left corner of the mouth",
    54: "right corner of the mouth",
    8: "chin",
}  # landmark numbers; left and right are those of the image
ROUNDS = 3  # of the solver for the openings, which are not quite linear in the expression
STEP = 0.5  # of the central differences


def rotation_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """The rotation (2, 3) of a scaled orthographic camera.

    Angles are in degrees. Positive angles turn the face to the right of the image, down, and clockwise.
    """
    y, p, r = np.radians([yaw, pitch, roll])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    turn_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (turn_z @ turn_x @ turn_y)[:2]


def frontal_openings(model: FaceShape, identity: Array, expression: Array) -> Array:
    """Openings (2,) of the mouth and the eyes of a frontal face, over the distance between the eyes."""
    shape = model.shapes(identity, expression[None])[0]
    return np.array(openings(shape[:, :2]))


@dataclass(frozen=True)
class FaceRig:
    """The face of one identity, with the size and position that it has in a crop. See :meth:`fit`."""

    model: FaceShape
    identity: Array  # (k,)
    rest: Array  # (m,) the expression at rest
    scale: float  # pixels for one unit of the shape
    centre: Array  # (2,) pixels
    controls: Array  # (2, m) the change of expression for one unit of mouth opening and of eye opening

    @classmethod
    def fit(cls, landmarks: Array, model: FaceShape | None = None) -> "FaceRig":
        """A rig for landmarks (n, 68, 2) or (n, 70, 2) in pixels. Pupils, points 68 and 69, are ignored."""
        model = model or FaceShape.load()
        track = model.explain(landmarks[:, :68])
        rest = track.expression.mean(0)
        slopes = []  # of both openings, for each expression component
        for direction in np.eye(len(rest)):
            higher = frontal_openings(model, track.identity, rest + STEP * direction)
            lower = frontal_openings(model, track.identity, rest - STEP * direction)
            slopes.append((higher - lower) / (2 * STEP))
        return cls(
            model=model,
            identity=track.identity,
            rest=rest,
            scale=float(np.median(track.camera.scale)),
            centre=np.median(track.camera.shift, 0),
            controls=np.linalg.pinv(np.stack(slopes, 1)).T,
        )

    def pose(
        self,
        yaw: float = 0,
        pitch: float = 0,
        roll: float = 0,
        mouth: float | None = None,
        eyes: float | None = None,
    ) -> Array:
        """Landmarks (68, 2) in pixels.

        Angles are in degrees; see :func:`rotation_matrix`. ``mouth`` and ``eyes`` are openings over the
        distance between the eyes; None keeps the opening at rest.
        """
        expression = self.rest.copy()
        for _ in range(ROUNDS):
            current = frontal_openings(self.model, self.identity, expression)
            for target, opening, control in zip((mouth, eyes), current, self.controls, strict=True):
                if target is not None:
                    expression = expression + (target - opening) * control
        shape = self.model.shapes(self.identity, expression[None])
        rotation = rotation_matrix(yaw, pitch, roll)
        camera = Camera(np.array([self.scale]), rotation[None], self.centre[None])
        return camera.project(shape)[0]
