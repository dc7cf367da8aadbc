"""The sheets of the user study: an HTML page to send to raters, and the same sheet in a notebook.

The page opens from the file system and needs no network. It contains the images, but not which of them are
fakes. The browser stores the answers until they are downloaded as a CSV file with the columns
``user_study.ANSWER_COLUMNS``. A rater can interrupt a sheet and continue later; every triplet is answered
once.
"""

import base64
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import cv2
import ipywidgets as widgets
import numpy as np
import pandas as pd
from jinja2 import Template, select_autoescape
from markupsafe import Markup

from talking_heads.metrics import user_study
from talking_heads.metrics.user_study import ANSWER_COLUMNS, POSITIONS, TEXT_COLUMNS, Triplet
from talking_heads.widgets import panels

SHORTEST_ANSWER = 0.3  # seconds: an earlier click is a second click on the triplet before
IMAGE_SIDE = 220  # pixels, in a notebook
TEMPLATE = Path(__file__).with_name("study_page.html")


@dataclass(frozen=True)
class Sheet:
    """The triplets of these ``numbers``, in this order."""

    triplets: Sequence[Triplet]
    numbers: Sequence[int]

    @cached_property
    def study(self) -> str:
        """The digest of the whole study."""
        return user_study.study_digest(self.triplets)

    @cached_property
    def digest(self) -> str:
        """The digest of the sheet."""
        return user_study.sheet_digest(self.triplets, self.numbers)


def encode_png(image: np.ndarray) -> str:
    """An image (H, W, 3) uint8 as base64 of a PNG file."""
    _, data = cv2.imencode(".png", image[..., ::-1])
    return base64.b64encode(data.tobytes()).decode()


def write_page(
    triplets: Sequence[Triplet], numbers: Sequence[int], path: Path, title: str = "Which one is the fake?"
) -> Path:
    """Write the page of a sheet, which shows the triplets of these numbers in this order."""
    sheet = Sheet(triplets, numbers)
    images = [[encode_png(image) for image in triplets[number].images] for number in numbers]
    template = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=select_autoescape(default=True))
    page = template.render(
        title=title,
        columns=",".join(ANSWER_COLUMNS),
        study=sheet.study,
        tag=sheet.digest,
        count=len(numbers),
        too_soon=round(1000 * SHORTEST_ANSWER),
        pictures=Markup(json.dumps(images)),
        numbers=Markup(json.dumps(list(numbers))),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def ask(triplets: Sequence[Triplet], numbers: Sequence[int], path: Path, rater: str) -> widgets.VBox:
    """A sheet in a notebook. Every answer is appended to ``path`` at once; answered triplets do not come
    back.

    Raises ValueError where ``path`` has other columns than ``ANSWER_COLUMNS``.
    """
    sheet = Sheet(triplets, numbers)
    return Questions(sheet, path, rater, remaining_numbers(sheet, path, rater)).box


def remaining_numbers(sheet: Sheet, path: Path, rater: str) -> list[int]:
    """The numbers of a sheet's triplets to which ``path`` has no answer of this rater."""
    if not path.exists():
        return list(sheet.numbers)
    answers = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False)
    if tuple(answers.columns) != ANSWER_COLUMNS:
        raise ValueError(f"{path}: answers of another version; move the file away")
    of_sheet = (answers["study"] == sheet.study) & (answers["sheet"] == sheet.digest)
    done = set(answers.loc[of_sheet & (answers["rater"] == rater), "triplet"])
    return [number for number in sheet.numbers if number not in done]


class Questions:
    """The widgets that show one triplet after the other, and the answers that they write."""

    def __init__(self, sheet: Sheet, path: Path, rater: str, remaining: list[int]):
        self.sheet, self.path, self.rater, self.remaining = sheet, path, rater, remaining
        self.start = time.time()  # of the present triplet
        self.progress = widgets.HTML()
        self.images = [widgets.Image(format="png", width=IMAGE_SIDE, height=IMAGE_SIDE) for _ in POSITIONS]
        self.buttons = [self._button(position) for position in POSITIONS]
        columns = [widgets.VBox(pair) for pair in zip(self.images, self.buttons, strict=True)]
        self.box = widgets.VBox([self.progress, widgets.HBox(columns)])
        self.show()

    def _button(self, position: int) -> widgets.Button:
        layout = {"width": f"{IMAGE_SIDE}px"}
        button = widgets.Button(description=f"{position + 1} is the fake", layout=layout)
        button.on_click(partial(self.answer, position))
        return button

    def show(self) -> None:
        """Show the next triplet, or that the sheet is complete."""
        if self.remaining:
            self.progress.value = f"{len(self.remaining)} left"
            pictures = self.sheet.triplets[self.remaining[0]].images
            data = [panels.png(picture, IMAGE_SIDE) for picture in pictures]
        else:
            self.progress.value = "That was the last one. Thank you!"
            data = [b""] * len(POSITIONS)
        for image, button, png in zip(self.images, self.buttons, data, strict=True):
            image.value = png
            button.disabled = not self.remaining
        self.start = time.time()

    def answer(self, choice: int, button: widgets.Button) -> None:
        """Write the choice of a position, unless it comes too early, and show the next triplet."""
        seconds = time.time() - self.start
        if seconds < SHORTEST_ANSWER:
            return
        number = self.remaining.pop(0)
        total = len(self.sheet.numbers)
        row = [self.sheet.study, self.sheet.digest, total, self.rater, number, choice, f"{seconds:.2f}"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(ANSWER_COLUMNS)
            writer.writerow(row)
        self.show()
