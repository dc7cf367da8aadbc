"""A baseline from both systems: landmarks that are predicted from sound drive a few-shot head.

The head is learned from the identity frame alone, as in the first system at T = 1.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talking_heads.config import Profile, digest
from talking_heads.data.detection import make_detector
from talking_heads.data.frames import Frames, to_image, to_tensor
from talking_heads.data.landmarks import draw_all
from talking_heads.data.shared_detector import Detect
from talking_heads.devices import in_threads
from talking_heads.diffused.baselines.landmarks import LandmarkPredictor
from talking_heads.experiments.diffused.protocol import BRIDGE
from talking_heads.experiments.diffused.weights import load_predictor
from talking_heads.experiments.few_shot import weights as few_shot
from talking_heads.few_shot import fine_tuning
from talking_heads.few_shot.fine_tuning import fine_tune, set_up
from talking_heads.few_shot.head import feed_forward, generate
from talking_heads.few_shot.networks.build import Networks
from talking_heads.judges.use import find_landmarks
from talking_heads.nn.perceptual import make_extractors

Find = Callable[[np.ndarray], np.ndarray]  # landmarks (n, 68, 2) of images (n, S, S, 3) uint8


@dataclass
class BridgeTalker:
    """A trained predictor of landmarks and meta-learned networks."""

    predictor: LandmarkPredictor
    nets: Networks
    profile: Profile
    extractors: Sequence
    tuned: bool = True  # else feed-forward
    find: Find = find_landmarks

    def talk(
        self,
        identity: Tensor,
        audio: Tensor,
        seeds: Sequence[int],
        earlier: Sequence[Tensor] = (),
        truth: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The frames (B, 3, S, S) of B clips, as :meth:`generation.Generator.talk` yields them."""
        heard = audio[:, :, audio.shape[2] // 2]
        images = to_image(identity)

        def clip(given: tuple[np.ndarray, Tensor, int]) -> np.ndarray:
            return self.clip(*given)

        clips = in_threads(clip, zip(images, heard, seeds, strict=True), identity.device)
        yield from to_tensor(np.stack(clips, 1), identity.device)[len(earlier) :]

    def clip(self, image: np.ndarray, heard: Tensor, seed: int) -> np.ndarray:
        """The frames (n, S, S, 3) uint8 of an identity frame (S, S, 3) uint8 and audio embeddings (n, A); the
        identity frame itself where no face is found in it.
        """
        try:
            points = self.find(image[None])
        except ValueError as error:  # the other clips of an evaluation do not depend on this one
            print(f"  {error}", flush=True)
            return np.repeat(image[None], len(heard), 0)
        track = self.predictor.track(heard, points[0], seed)
        drawn, y = self.draw(points, heard.device), self.draw(track, heard.device)
        train = Frames(image[None], points, to_tensor(image[None], heard.device), drawn)
        if not self.tuned:
            return feed_forward(self.nets, train, y)
        head = fine_tune(set_up(self.nets, train.x, train.y, self.profile, self.extractors), seed)
        return generate(head, y)

    def draw(self, points: np.ndarray, device: torch.device) -> Tensor:
        """Landmark images (n, 3, S, S) of landmarks (n, 68, 2)."""
        section = self.profile.few_shot.landmark_images
        return to_tensor(draw_all(points, self.profile.data.image_size, section.line_width), device)


def detect_landmarks(detect: Detect, images: np.ndarray) -> np.ndarray:
    """Landmarks (n, 68, 2) of images (n, S, S, 3) uint8 of real people. Raises ValueError where one shows no
    face.
    """
    points, faces = detect(list(images))
    if not faces.all():
        raise ValueError(f"{BRIDGE}: no face is found in an identity frame; its clip stands still")
    return points


def load(profile: Profile, weights: str, results: Path, device: torch.device) -> tuple[BridgeTalker, str]:
    """The baseline of a profile, and a digest of all that its frames depend on.

    Raises ValueError where the profile has no meta-learned networks for frames of this size, and as
    :func:`load_predictor` and, for real people, :func:`make_detector` do.
    """
    variant = few_shot.main_variant(profile)
    few_shot_key = few_shot.weights_key(profile, variant, weights, results)
    if few_shot_key == "absent":
        raise ValueError(f"no weights of few-shot heads ({variant})")
    size, clip_size = profile.data.image_size, profile.diffused.clips.image_size
    if size != clip_size:
        raise ValueError(f"few-shot heads have {size}², and the clips {clip_size}²")
    predictor, predictor_key = load_predictor(profile, weights, results, device)
    nets, _ = few_shot.load_networks(profile, variant, weights, results, device)
    find, detector = find_landmarks, ""
    if profile.data.real:
        detect = make_detector(device)
        find, detector = partial(detect_landmarks, detect), detect.name
    extractors = [extractor.to(device) for extractor in make_extractors(profile)]
    sections = (profile.few_shot.losses, profile.few_shot.optimiser, profile.few_shot.fine_tuning)
    names = [detector] if detector else []
    key = digest(predictor_key, few_shot_key, fine_tuning.VERSION, *sections, *names)
    return BridgeTalker(predictor, nets, profile, extractors, variant != "ff", find), key
