"""Faces from outside the training data: a drawn avatar, and a photograph."""

import numpy as np
from PIL import Image, ImageDraw
from skimage import data as pictures

from talking_heads.animation.animate import astronaut_points
from talking_heads.data.crops import clip_square, crop, keep_inside

DRAWN = 512  # pixels of a side of the drawing, which is then made smaller
SKIN, HAIR, LIPS, SHIRT, WALL = "#f2c9a1", "#7a4a2b", "#c0504d", "#3f72af", "#dbe2ef"


def draw_avatar(size: int) -> np.ndarray:
    """A flat cartoon of a face with its mouth closed, framed as training clips are: (size, size, 3) uint8."""
    picture = Image.new("RGB", (DRAWN, DRAWN), WALL)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 470, 452, 800), SHIRT)
    draw.rectangle((210, 400, 302, 500), "#dba97f")  # neck
    draw.ellipse((110, 30, 402, 400), HAIR)
    for x in (118, 362):
        draw.ellipse((x, 215, x + 32, 275), SKIN)  # ears
    draw.ellipse((130, 70, 382, 435), SKIN)
    draw.chord((126, 40, 386, 320), 200, 340, HAIR)  # fringe
    for x in (200, 312):
        draw.ellipse((x - 28, 205, x + 28, 241), "white", "#5b3a21", 3)
        draw.ellipse((x - 13, 208, x + 13, 238), "#2f4858")
        draw.arc((x - 36, 168, x + 36, 220), 205, 335, "#5b3a21", 9)  # brows
    draw.arc((234, 225, 278, 305), 30, 150, "#c98f68", 7)  # nose
    draw.ellipse((212, 340, 300, 366), LIPS)
    draw.line((214, 353, 298, 353), "#7d2e2b", 4)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))


def example_faces(size: int) -> dict[str, np.ndarray]:
    """Both faces, (size, size, 3) uint8, by name."""
    photograph = pictures.astronaut()
    square = keep_inside(clip_square(astronaut_points()[None, :68]), *photograph.shape[1::-1])
    return {"drawn avatar": draw_avatar(size), "photograph": crop(photograph, square, size)}
