"""The user study as one HTML page that can be sent to colleagues: it opens from the file system and needs no network.

Pictures are embedded; which one is the fake is not in the page. Answers live in the browser until they are downloaded as CSV
(columns ``user_study.ANSWERS``): a half-finished sheet goes on where it was, and an answer can be given once only.
"""

import base64
import csv
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
from ..evaluation.user_study import ANSWERS, TEXT, Triplet
from ..look import panels

TOO_SOON = 0.3  # seconds: a second click that belongs to the picture before
PAGE = Template(Path(__file__).with_name("study_page.html").read_text(), autoescape=select_autoescape(default=True))


def png(image: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as base64 PNG."""
    return base64.b64encode(cv2.imencode(".png", image[..., ::-1])[1].tobytes()).decode()


def write_page(triplets: Sequence[Triplet], numbers: Sequence[int], path: Path, title: str = "Which one is the fake?") -> Path:
    """The page of one sheet: the triplets of these numbers, in this order."""
    pictures = [[png(p) for p in triplets[n].pictures] for n in numbers]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.render(title=title, columns=",".join(ANSWERS), study=user_study.tag(triplets), tag=user_study.sheet_tag(triplets, numbers), count=len(numbers),
                                too_soon=round(1000 * TOO_SOON), pictures=Markup(json.dumps(pictures)), numbers=Markup(json.dumps(list(numbers)))))
    return path


def ask(triplets: Sequence[Triplet], numbers: Sequence[int], path: Path, rater: str) -> widgets.VBox:
    """The same sheet in a notebook: every answer is appended to ``path`` at once; what is answered is not asked again."""
    study, sheet, known = user_study.tag(triplets), user_study.sheet_tag(triplets, numbers), pd.DataFrame(columns=ANSWERS)
    if path.exists():
        known = pd.read_csv(path, dtype=TEXT, keep_default_na=False)
        if tuple(known.columns) != ANSWERS:
            raise ValueError(f"{path}: answers of another version; move the file away")
    done = known[(known["rater"] == rater) & (known["study"] == study) & (known["sheet"] == sheet)]
    left = [n for n in numbers if n not in set(done["triplet"])]
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
        with open(path, "a", newline="") as out:
            rows = csv.writer(out, lineterminator="\n")
            rows.writerows([] if begun else [ANSWERS])
            rows.writerow([study, sheet, len(numbers), rater, left.pop(0), choice, f"{time.time() - shown[0]:.2f}"])
        show()

    for k, button in enumerate(buttons):
        button.on_click(lambda _, k=k: answer(k))
    show()
    return widgets.VBox([place, widgets.HBox([widgets.VBox(pair) for pair in zip(pictures, buttons)])])
