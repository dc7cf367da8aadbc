"""A face moved by hand: yaw, pitch, roll in degrees, mouth and eyes as openings; landmarks come out, ready for a head."""

from dataclasses import dataclass

import numpy as np

from ..corpus.landmarks import openings
from .face_shape import Array, Camera, FaceShape

ANCHORS = {36: "left eye, outer corner", 45: "right eye, outer corner", 30: "tip of the nose", 48: "left corner of the mouth",
           54: "right corner of the mouth", 8: "chin"}  # of the picture: left is where you see it


def turn(yaw: float, pitch: float, roll: float) -> Array:
    """The rotation (2, 3) of a scaled orthographic camera; degrees, positive to the picture's right, down, and clockwise."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y)[:2]


@dataclass
class Puppet:
    """The face of somebody's landmarks (m, 68, 2), in their crop; made by :func:`puppet_of`."""

    model: FaceShape
    identity: Array
    rest: Array  # (m,) expression at rest
    scale: float
    centre: Array  # (2,)
    pull: Array  # (2, m): what one unit of mouth and of eye opening changes in the expression

    def points(self, yaw: float = 0, pitch: float = 0, roll: float = 0, mouth: float | None = None, eyes: float | None = None) -> Array:
        """Landmarks (68, 2). ``mouth`` and ``eyes`` are openings over the distance between the eyes; None leaves them at rest."""
        expression = self.rest.copy()
        for _ in range(3):  # openings are not quite linear
            now = openings(self._project(expression, np.eye(3)[:2]))
            for wanted, is_, pull in zip((mouth, eyes), now, self.pull):
                if wanted is not None:
                    expression = expression + (wanted - is_) * pull
        return self._project(expression, turn(yaw, pitch, roll))

    def _project(self, expression: Array, rotation: Array) -> Array:
        shape = self.model.shapes(self.identity, expression[None])
        return Camera(np.array([self.scale]), rotation[None], self.centre[None]).project(shape)[0]


def puppet_of(points: Array, model: FaceShape | None = None) -> Puppet:
    """A puppet with the face, the size and the place of landmarks (m, 68, 2), or of (m, 70, 2), whose pupils it leaves out."""
    model = model or FaceShape.load()
    track = model.explain(points[:, :68])
    step, m = 0.5, len(model.expression)
    rest = track.expression.mean(0)
    puppet = Puppet(model, track.identity, rest, float(np.median(track.camera.scale)), np.median(track.camera.shift, 0), np.zeros((2, m)))
    frontal = lambda e: np.array(openings(puppet._project(e, np.eye(3)[:2])))
    slopes = np.stack([(frontal(rest + step * d) - frontal(rest - step * d)) / (2 * step) for d in np.eye(m)], 1)
    puppet.pull = np.linalg.pinv(slopes).T
    return puppet
