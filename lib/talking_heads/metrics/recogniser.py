"""Landmarks and identity features of real faces, the latter by dlib's recogniser (King 2017), for CSIM-dlib.

The optional packages "faces" contain the networks, which were trained on real people; procedural speakers are
measured by :mod:`judges`.
"""

import importlib
from functools import lru_cache
from typing import Any

import numpy as np

from talking_heads.data.detection import DlibDetector
from talking_heads.nn import pretrained

CSIM = "CSIM-dlib"
# measured on frames of eight clips of different people, shrunk to 64²
RELIABILITY = "separates eight people at 64 × 64 without an error (equal error rate 0; 0.005 at 48 × 48)"
VERSION = "dlib-1"  # changed when the same frames give other values
SIZE, PADDING = 150, 0.25  # of the aligned face that the network gets
FEATURES = 128


@lru_cache
def recogniser() -> tuple[Any, Any]:
    """dlib, and its network. Raises FileNotFoundError where one of both is missing."""
    path = pretrained.find(pretrained.DLIB_RECOGNISER)
    try:
        dlib = importlib.import_module("dlib")
    except ImportError as error:
        raise FileNotFoundError(pretrained.missing(pretrained.DLIB_RECOGNISER)) from error
    return dlib, dlib.face_recognition_model_v1(str(path))


@lru_cache
def landmark_network() -> DlibDetector:
    """dlib's landmarks. Raises FileNotFoundError where they are missing."""
    return DlibDetector()


def is_installed() -> bool:
    """Whether :func:`face_features` and :func:`place_landmarks` can be computed."""
    try:
        return bool(recogniser() and landmark_network())
    except FileNotFoundError:
        return False


def place_landmarks(images: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Landmarks (n, 68, 2) of the faces in images (n, H, W, 3) uint8 that are ``expected`` at landmarks
    (n, 68, 2); see :meth:`DlibDetector.place`.

    Raises FileNotFoundError as :func:`landmark_network` does.
    """
    return landmark_network().place(images, expected)


def face_features(images: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Features (n, 128) of faces in images (n, H, W, 3) uint8 with landmarks (n, 68, 2) in pixels.

    Raises FileNotFoundError as :func:`recogniser` does.
    """
    dlib, network = recogniser()
    features = []
    for image, points in zip(images, landmarks, strict=True):
        low, high = points.min(0).round().astype(int), points.max(0).round().astype(int)
        box = dlib.rectangle(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        parts = [dlib.point(int(x), int(y)) for x, y in points.round()]
        shape = dlib.full_object_detection(box, parts)
        details = dlib.get_face_chip_details(shape, SIZE, PADDING)
        chip = dlib.extract_image_chip(np.ascontiguousarray(image), details)
        features.append(np.array(network.compute_face_descriptor(chip)))
    return np.stack(features)
