"""What is measured in faces: by the embedded judges in procedural speakers, on which they were trained, by
dlib in real people.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from talking_heads.judges.use import find_landmarks, identity_features, weights_digest
from talking_heads.metrics import recogniser
from talking_heads.metrics.distances import cosine

CSIM_JUDGE = "CSIM-judge"
SIMILARITIES = (CSIM_JUDGE, recogniser.CSIM)  # names, of procedural speakers and of real people


class Face(NamedTuple):
    """Landmarks (n, 68, 2) of the frames of a clip, their identity features (n, d) where a network recognises
    such faces, and the name of the similarity of these features.
    """

    landmarks: np.ndarray
    features: np.ndarray | None = None
    similarity: str = CSIM_JUDGE

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        expected: np.ndarray | None = None,
        *,
        real: bool = False,
        device: str | torch.device = "cpu",
    ) -> "Face":
        """What is found in images (n, S, S, 3) uint8 of procedural speakers, or of ``real`` people, whose
        faces are ``expected`` at landmarks (n, 68, 2).

        Raises FileNotFoundError where dlib is needed and missing.
        """
        landmarks = landmarks_of(images, expected, real=real, device=device)
        if not real:
            return cls(landmarks, identity_features(images, device))
        return cls(landmarks, recogniser.face_features(images, landmarks), recogniser.CSIM)

    def similarity_to(self, truth: "Face") -> np.ndarray:
        """Cosine similarity (n,) of the identity features to true ones."""
        assert self.features is not None and truth.features is not None
        return cosine(self.features, truth.features)

    def true_points(self, points: np.ndarray) -> np.ndarray:
        """The landmarks (n, 68, 2) of these true frames to compare with: ``points``, which are exact, and of
        real people those that are found as in generated frames, so that detectors do not differ.
        """
        return points if self.similarity == CSIM_JUDGE else self.landmarks

    @classmethod
    def unknown(cls, count: int) -> "Face":
        """NaN for real people where dlib is missing."""
        return cls(np.full((count, 68, 2), np.nan), np.full((count, 1), np.nan), recogniser.CSIM)


def landmarks_of(
    images: np.ndarray,
    expected: np.ndarray | None,
    *,
    real: bool = False,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Landmarks (n, 68, 2) of the faces in images (n, S, S, 3) uint8, as :meth:`Face.of` finds them."""
    if not real:
        return find_landmarks(images, device)
    assert expected is not None
    return recogniser.place_landmarks(images, expected)


def features_of(
    images: np.ndarray, expected: np.ndarray, *, real: bool = False, device: str | torch.device = "cpu"
) -> np.ndarray | None:
    """Identity features (n, d) of images (n, S, S, 3) uint8, as :meth:`Face.of` finds them; None for ``real``
    people where dlib is missing.
    """
    if not real:
        return identity_features(images, device)
    return Face.of(images, expected, real=True).features if recogniser.is_installed() else None


def similarity_metric(real: bool) -> str:
    """The name of the identity similarity of procedural speakers, or of real people."""
    return SIMILARITIES[real]


def reliability(real: bool) -> str:
    """A sentence for captions on how well the identity similarity of ``real`` people separates them; "" of
    procedural speakers.
    """
    return f"{recogniser.CSIM} {recogniser.RELIABILITY}." if real else ""


def similarity_in(columns: Iterable[str]) -> str:
    """The name of the identity similarity in a table with these columns."""
    return similarity_metric(recogniser.CSIM in list(columns))


def networks_digest(real: bool) -> str:
    """Changes with the networks that measure procedural speakers, or real people."""
    return recogniser.VERSION if real else weights_digest()


def require_networks(real: bool) -> None:
    """Raise FileNotFoundError, which states the remedy, where dlib is needed for real people and missing."""
    if real:
        recogniser.recogniser()
        recogniser.landmark_network()
