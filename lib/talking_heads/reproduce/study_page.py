"""The user study as one HTML page that can be sent to colleagues: it opens from the file system and needs no network.

Pictures are embedded; which one is the fake is not in the page. Answers live in the browser until they are downloaded as CSV
(rater, triplet, choice, seconds): a half-finished sheet goes on where it was, and an answer can be given once only.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from markupsafe import Markup
from jinja2 import Template, select_autoescape

from ..evaluation.user_study import Triplet

PAGE = Template(Path(__file__).with_name("study_page.html").read_text(), autoescape=select_autoescape(default=True))


def png(image: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as base64 PNG."""
    return base64.b64encode(cv2.imencode(".png", image[..., ::-1])[1].tobytes()).decode()


def write_page(triplets: Sequence[Triplet], path: Path, title: str = "Which one is the fake?") -> Path:
    """The page of a study. Its name tag, of the pictures, keeps the answers of two studies apart."""
    pictures = [[png(p) for p in x.pictures] for x in triplets]
    tag = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:10]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.render(title=title, tag=tag, pictures=Markup(json.dumps(pictures)), count=len(triplets)))
    return path
