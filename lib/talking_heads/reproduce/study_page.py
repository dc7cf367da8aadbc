"""The user study as one HTML page that can be sent to colleagues: it opens from the file system and needs no network.

Pictures are embedded; which one is the fake is not in the page. Answers live in the browser until they are downloaded as CSV
(study, rater, triplet, choice, seconds): a half-finished sheet goes on where it was, and an answer can be given once only.
"""

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import ipywidgets as widgets
import numpy as np
import pandas as pd
from jinja2 import Template, select_autoescape
from markupsafe import Markup

from ..evaluation import user_study
from ..evaluation.user_study import ANSWERS, Triplet
from ..look import panels

TOO_SOON = 0.3  # seconds: a second click that belongs to the picture before
PAGE = Template(Path(__file__).with_name("study_page.html").read_text(), autoescape=select_autoescape(default=True))


def png(image: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as base64 PNG."""
    return base64.b64encode(cv2.imencode(".png", image[..., ::-1])[1].tobytes()).decode()


def write_page(triplets: Sequence[Triplet], numbers: Sequence[int], path: Path, title: str = "Which one is the fake?") -> Path:
    """The page of one sheet: the triplets of these numbers, in this order. A tag of the pictures keeps the answers of two sheets apart."""
    pictures = [[png(p) for p in triplets[n].pictures] for n in numbers]
    tag = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()[:10]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.render(title=title, tag=tag, study=user_study.tag(triplets), too_soon=round(1000 * TOO_SOON), pictures=Markup(json.dumps(pictures)), numbers=Markup(json.dumps(list(numbers))), count=len(numbers)))
    return path


def ask(triplets: Sequence[Triplet], numbers: Sequence[int], path: Path, rater: str) -> widgets.VBox:
    """The same sheet in a notebook: every answer is appended to ``path`` at once; what is answered is not asked again."""
    study, known = user_study.tag(triplets), pd.DataFrame(columns=ANSWERS)
    if path.exists():
        known = pd.read_csv(path, dtype={"rater": str, "study": str}, keep_default_na=False)
    left = [n for n in numbers if n not in set(known[(known["rater"] == rater) & (known["study"] == study)]["triplet"])]
    place, shown = widgets.HTML(), [time.time()]
    pictures = [widgets.Image(format="png", width=220, height=220) for _ in range(3)]
    buttons = [widgets.Button(description=f"{k + 1} is the fake", layout={"width": "220px"}) for k in range(3)]

    def show() -> None:
        place.value = f"{len(left)} left" if left else "That was the last one. Thank you!"
        for k in range(3):
            buttons[k].disabled = not left
            pictures[k].value = panels.png(triplets[left[0]].pictures[k], 220) if left else b""
        shown[0] = time.time()

    def answer(choice: int) -> None:
        if time.time() - shown[0] < TOO_SOON:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.exists()
        with open(path, "a") as out:
            out.write("" if begun else ",".join(ANSWERS) + "\n")
            out.write(f"{study},{rater},{left.pop(0)},{choice},{time.time() - shown[0]:.2f}\n")
        show()

    for k, button in enumerate(buttons):
        button.on_click(lambda _, k=k: answer(k))
    show()
    return widgets.VBox([place, widgets.HBox([widgets.VBox(pair) for pair in zip(pictures, buttons)])])
