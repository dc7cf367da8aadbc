"""Landmarks of real frames: with face-alignment (Bulat & Tzimiropoulos 2017), in batches, or with dlib
(Kazemi & Sullivan 2014), whose files the optional packages "faces" contain.
"""

import importlib
from typing import Any

import cv2
import numpy as np
import torch

from talking_heads.data.shared_detector import SharedDetector
from talking_heads.nn import pretrained as weights
from talking_heads.progress import Progress

LARGEST = 1280  # pixels of the longer side of frames in which faces are detected
PIXELS = {"cpu": 1_100_000, "cuda": 8_800_000}  # of frames in which faces are detected at once: 16 of 256²
BATCH = {"cpu": 16, "cuda": 128}  # frames


UPSAMPLINGS = 1  # of frames in which dlib finds faces: from 40 pixels on
LARGE = 200  # pixels of the shorter side of frames in which one face is expected: it has 80 pixels or more


def check_weights() -> None:
    """Raise FileNotFoundError where one of the two networks' files is missing.

    The message names the missing files, their source and the folder to put them into.
    """
    missing = [weights.missing(name) for name in weights.FACE_ALIGNMENT if not weights.path_of(name).exists()]
    if missing:
        raise FileNotFoundError(
            "landmarks cannot be found without face-alignment's two networks: " + "; ".join(missing)
        )


class Detector:
    """Detects 68 landmarks; the two networks are loaded once. Raises what :func:`check_weights` does."""

    name = "face-alignment"

    def __init__(self, device: str | torch.device = "cpu", batch: int | None = None, quiet: bool = True):
        check_weights()
        for name in weights.FACE_ALIGNMENT:
            weights.verify(name)
        import face_alignment

        # compile=False: compilation, the default, takes a minute;
        # flip_input=False: a flipped copy doubles the cost and gains a fraction of a pixel
        self.fa = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D, device=str(device), flip_input=False, compile=False
        )
        kind = torch.device(device).type
        self.device, self.quiet = device, quiet
        self.batch, self.pixels = batch or BATCH[kind], PIXELS[kind]

    @torch.no_grad()
    def __call__(self, frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Detect landmarks in RGB frames (H, W, 3) uint8 of one size.

        Returns landmarks (n, 68, 2) in pixels, NaN where there is no face, and the number of faces (n,). The
        landmarks are those of the largest face; faces of at most half its area are not counted.
        """
        points, faces = np.full((len(frames), 68, 2), np.nan, np.float32), np.zeros(len(frames), int)
        height, width = frames[0].shape[:2]
        shrink = min(1.0, LARGEST / max(height, width))
        batch = max(1, min(self.batch, int(self.pixels / (height * width * shrink**2))))
        progress = Progress("finding landmarks", len(frames), "frames")
        for start in range(0, len(frames), batch):
            images = np.stack(frames[start : start + batch])
            largest = {}
            for k, boxes in enumerate(self._face_boxes(images, shrink)):
                if boxes:
                    area = np.array([(box[2] - box[0]) * (box[3] - box[1]) for box in boxes])
                    faces[start + k] = int((area > 0.5 * area.max()).sum())
                    largest[k] = boxes[int(area.argmax())]
            if largest:
                numbers = list(largest)
                points[[start + k for k in numbers]] = self._points(images[numbers], list(largest.values()))
            if not self.quiet:
                progress.add(len(images))
        return points, faces

    def _face_boxes(self, images: np.ndarray, shrink: float) -> list[list[np.ndarray]]:
        """Boxes (left, top, right, bottom, score) of the faces in each image, in pixels of the image."""
        small = images
        if shrink != 1:
            small = np.stack(
                [cv2.resize(f, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) for f in images]
            )
        tensor = torch.from_numpy(small).permute(0, 3, 1, 2).to(self.device)
        detections = self.fa.face_detector.detect_from_batch(tensor)
        return [
            [np.concatenate([np.asarray(box)[:4] / shrink, np.asarray(box)[4:]]) for box in boxes]
            for boxes in detections
        ]

    def _points(self, images: np.ndarray, boxes: list[np.ndarray]) -> np.ndarray:
        """Landmarks (n, 68, 2) of one face per image, by the landmark network on face-alignment's crops."""
        from face_alignment.utils import crop, get_preds_fromhm

        corners = np.array(boxes)[:, :4]
        size = corners[:, 2:] - corners[:, :2]
        centres = (corners[:, 2:] + corners[:, :2]) / 2
        centres[:, 1] -= 0.12 * size[:, 1]
        scales = size.sum(1) / self.fa.face_detector.reference_scale
        faces = [crop(image, c, s) for image, c, s in zip(images, centres, scales, strict=True)]
        inputs = np.stack(faces).transpose(0, 3, 1, 2).astype(np.float32) / 255
        heat = self.fa.face_alignment_net(torch.from_numpy(inputs).to(self.device))
        heat = (heat[-1] if isinstance(heat, list | tuple) else heat).float().cpu().numpy()
        return np.stack(
            [
                get_preds_fromhm(h[None], c, s)[1].reshape(68, 2)
                for h, c, s in zip(heat, centres, scales, strict=True)
            ]
        )


class DlibDetector:
    """Detects 68 landmarks with dlib on the CPU. On eight real clips they lie, on average, 0.05 interocular
    distances from those of another network. Raises FileNotFoundError where dlib or its file is missing, and
    ValueError where that is damaged.
    """

    name = "dlib"

    def __init__(self, quiet: bool = True):
        path = weights.path_of(weights.DLIB_FILE)
        try:
            dlib = importlib.import_module("dlib")
        except ImportError as error:
            raise FileNotFoundError(weights.missing(weights.DLIB_FILE)) from error
        if not path.exists():
            raise FileNotFoundError(weights.missing(weights.DLIB_FILE))
        weights.verify(weights.DLIB_FILE)
        self.find, self.predict = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(path))
        self.rectangle = dlib.rectangle
        self.quiet = quiet

    def __call__(self, frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Detector.__call__`."""
        points, faces = np.full((len(frames), 68, 2), np.nan, np.float32), np.zeros(len(frames), int)
        shrink = min(1.0, LARGEST / max(frames[0].shape[:2]))
        progress = Progress("finding landmarks", len(frames), "frames")
        for number, frame in enumerate(frames):
            image = np.ascontiguousarray(frame)
            if shrink != 1:
                image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            boxes = list(self.find(image, UPSAMPLINGS))
            if boxes:
                largest = max(boxes, key=lambda box: box.area())
                faces[number] = sum(box.area() > 0.5 * largest.area() for box in boxes)
                points[number] = self._points(image, largest) / shrink
            if not self.quiet:
                progress.add(1)
        return points, faces

    def place(self, frames: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Landmarks (n, 68, 2) of one face in each of the RGB frames (n, H, W, 3) uint8: of the detected face
        nearest to the landmarks (n, 68, 2) at which it is ``expected``. Where none is detected, they are
        placed in the box of those.
        """
        upsamplings = UPSAMPLINGS if min(frames.shape[1:3]) < LARGE else 0
        corners = np.concatenate([expected.min(1), expected.max(1)], 1).round().astype(int).tolist()
        landmarks = []
        for frame, box in zip(frames, (self.rectangle(*values) for values in corners), strict=True):
            image = np.ascontiguousarray(frame)
            found = [other for other in self.find(image, upsamplings) if not other.intersect(box).is_empty()]
            nearest = max(found, key=lambda other: other.intersect(box).area(), default=box)
            landmarks.append(self._points(image, nearest))
        return np.stack(landmarks)

    def _points(self, image: np.ndarray, box: Any) -> np.ndarray:
        """Landmarks (68, 2) of the face in a box."""
        return np.array([(point.x, point.y) for point in self.predict(image, box).parts()], np.float32)


def make_detector(device: str | torch.device = "cpu", quiet: bool = True) -> Detector | DlibDetector:
    """face-alignment's networks where they have been fetched, else dlib where it is installed.

    Raises FileNotFoundError, which states both remedies, where neither is there, and ValueError for a
    damaged file.
    """
    try:
        return Detector(device, quiet=quiet)
    except FileNotFoundError as error:
        try:
            return DlibDetector(quiet)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{error}; or use dlib: {weights.PRETRAINED[weights.DLIB_FILE].url}"
            ) from error


def shared_detector(device: str | torch.device) -> SharedDetector:
    """Detectors on a device, on all visible GPUs for "cuda". Raises what :func:`make_detector` does."""
    device = torch.device(device)
    devices = [device]
    if device.type == "cuda" and device.index is None:
        devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return SharedDetector([make_detector(d) for d in devices], BATCH[device.type])
