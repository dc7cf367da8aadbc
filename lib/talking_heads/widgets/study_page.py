"""Sheets of the user study and of the Turing test: HTML pages to send to raters, and sheets in a notebook.

A page opens from the file system and needs no network. It contains the images or clips, but not which of
them are fakes. The browser stores the answers until they are downloaded as a CSV file with the columns
``user_study.ANSWER_COLUMNS``. A rater can interrupt a sheet and continue later; every question is answered
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
from talking_heads.metrics.turing_test import CHOICES, SIDE, ClipQuestion
from talking_heads.metrics.user_study import ANSWER_COLUMNS, POSITIONS, TEXT_COLUMNS, Triplet
from talking_heads.widgets import panels

SHORTEST_ANSWER = 0.3  # seconds: an earlier click is a second click on the question before
IMAGE_SIDE = 220  # pixels, in a notebook
TEMPLATE = Path(__file__).with_name("study_page.html")
Questions = Sequence[Triplet] | Sequence[ClipQuestion]


@dataclass(frozen=True)
class Sheet:
    """The questions of these ``numbers``, in this order."""

    questions: Questions
    numbers: Sequence[int]

    @cached_property
    def study(self) -> str:
        """The digest of the whole study."""
        return user_study.study_digest(self.questions)

    @cached_property
    def digest(self) -> str:
        """The digest of the sheet."""
        return user_study.sheet_digest(self.questions, self.numbers)


def encode_png(image: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 as a PNG file."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def data_addresses(question: Triplet | ClipQuestion) -> list[str]:
    """What a page shows of a question, as data: addresses."""
    if isinstance(question, ClipQuestion):
        files, kind = [question.mp4], "video/mp4"
    else:
        files, kind = [encode_png(image) for image in question.images], "image/png"
    return [f"data:{kind};base64,{base64.b64encode(data).decode()}" for data in files]


def write_page(questions: Questions, numbers: Sequence[int], path: Path, title: str = "") -> Path:
    """Write the page of a sheet, which shows the questions of these numbers in this order."""
    sheet, of_clips = Sheet(questions, numbers), isinstance(questions[0], ClipQuestion)
    contents = [data_addresses(questions[number]) for number in numbers]
    template = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=select_autoescape(default=True))
    page = template.render(
        title=title or ("Real or synthetic?" if of_clips else "Which one is the fake?"),
        columns=",".join(ANSWER_COLUMNS),
        study=sheet.study,
        tag=sheet.digest,
        count=len(numbers),
        too_soon=round(1000 * SHORTEST_ANSWER),
        of_clips=of_clips,
        labels=Markup(json.dumps(CHOICES if of_clips else [str(position + 1) for position in POSITIONS])),
        contents=Markup(json.dumps(contents)),
        numbers=Markup(json.dumps(list(numbers))),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def ask(questions: Questions, numbers: Sequence[int], path: Path, rater: str) -> widgets.VBox:
    """A sheet in a notebook. Every answer is appended to ``path`` at once; answered questions do not come
    back.

    Raises ValueError where ``path`` has other columns than ``ANSWER_COLUMNS``.
    """
    sheet = Sheet(questions, numbers)
    return Form(sheet, path, rater, remaining_numbers(sheet, path, rater)).box


def remaining_numbers(sheet: Sheet, path: Path, rater: str) -> list[int]:
    """The numbers of a sheet's questions to which ``path`` has no answer of this rater."""
    if not path.exists():
        return list(sheet.numbers)
    answers = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False)
    if tuple(answers.columns) != ANSWER_COLUMNS:
        raise ValueError(f"{path}: answers of another version; move the file away")
    of_sheet = (answers["study"] == sheet.study) & (answers["sheet"] == sheet.digest)
    done = set(answers.loc[of_sheet & (answers["rater"] == rater), "triplet"])
    return [number for number in sheet.numbers if number not in done]


class Form:
    """The widgets that show one question after the other, and the answers that they write."""

    def __init__(self, sheet: Sheet, path: Path, rater: str, remaining: list[int]):
        self.sheet, self.path, self.rater, self.remaining = sheet, path, rater, remaining
        self.start = time.time()  # of the present question
        self.progress = widgets.HTML()
        if isinstance(sheet.questions[0], ClipQuestion):
            self.buttons = [self._button(choice, label) for choice, label in enumerate(CHOICES)]
            self.media = [widgets.Video(format="mp4", width=SIDE, loop=False, autoplay=True)]
            question = widgets.VBox([*self.media, widgets.HBox(self.buttons)])
        else:
            self.buttons = [self._button(choice, f"{choice + 1} is the fake") for choice in POSITIONS]
            side = {"width": IMAGE_SIDE, "height": IMAGE_SIDE}
            self.media = [widgets.Image(format="png", **side) for _ in POSITIONS]
            columns = zip(self.media, self.buttons, strict=True)
            question = widgets.HBox([widgets.VBox(column) for column in columns])
        self.box = widgets.VBox([self.progress, question])
        self.show()

    @staticmethod
    def files(question: Triplet | ClipQuestion) -> list[bytes]:
        """What ``media`` show of a question."""
        if isinstance(question, ClipQuestion):
            return [question.mp4]
        return [panels.png(image, IMAGE_SIDE) for image in question.images]

    def _button(self, choice: int, label: str) -> widgets.Button:
        button = widgets.Button(description=label, layout={"width": f"{IMAGE_SIDE}px"})
        button.on_click(partial(self.answer, choice))
        return button

    def show(self) -> None:
        """Show the next question, or that the sheet is complete."""
        if self.remaining:
            self.progress.value = f"{len(self.remaining)} left"
            files = self.files(self.sheet.questions[self.remaining[0]])
        else:
            self.progress.value = "That was the last one. Thank you!"
            files = [b""] * len(self.media)
        for medium, data in zip(self.media, files, strict=True):
            medium.value = data
        for button in self.buttons:
            button.disabled = not self.remaining
        self.start = time.time()

    def answer(self, choice: int, button: widgets.Button) -> None:
        """Write a choice, unless it comes too early, and show the next question."""
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
