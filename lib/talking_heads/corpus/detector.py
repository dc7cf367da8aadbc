"""Landmarks of real frames with face-alignment (Bulat & Tzimiropoulos 2017), in batches."""

import cv2
import numpy as np
import torch

from .. import weights
from ..progress import Progress

LARGEST = 1280  # pixels of the longer side of pictures in which faces are looked for
PIXELS = 1_100_000  # of all pictures in which faces are looked for at once: 16 of 256²


def check_weights() -> None:
    """Raises FileNotFoundError that names both files, where to get and where to put them, if either is missing."""
    if lost := [weights.missing(n) for n in weights.FACE_ALIGNMENT if not weights.path_of(n).exists()]:
        raise FileNotFoundError("landmarks cannot be found without face-alignment's two networks: " + "; ".join(lost))


class Detector:
    """68 landmarks of frames; the two networks are loaded once. Raises what :func:`check_weights` does."""

    def __init__(self, device: str | torch.device = "cpu", batch: int = 16, quiet: bool = True):
        check_weights()
        for name in weights.FACE_ALIGNMENT:
            weights.verify(name)
        import face_alignment
        # compile=False: its default compiles for a minute; no flipped copy: it doubles the cost for a pixel's fraction
        self.fa = face_alignment.FaceAlignment(face_alignment.LandmarksType.TWO_D, device=str(device), flip_input=False, compile=False)
        self.device, self.batch, self.quiet = device, batch, quiet

    @torch.no_grad()
    def __call__(self, frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """RGB frames (H, W, 3) uint8 -> landmarks (n, 68, 2), NaN without a face, and the number of comparable faces (n,).

        Of several faces the largest is taken; one at least half its size is comparable.
        """
        points, faces = np.full((len(frames), 68, 2), np.nan, np.float32), np.zeros(len(frames), int)
        height, width = frames[0].shape[:2]
        shrink = min(1.0, LARGEST / max(height, width))
        batch = max(1, min(self.batch, int(PIXELS / (height * width * shrink**2))))
        progress = Progress("finding landmarks", len(frames), "frames")
        for start in range(0, len(frames), batch):
            chunk = np.stack(frames[start:start + batch])
            small = chunk if shrink == 1 else np.stack([cv2.resize(f, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) for f in chunk])
            tensor = torch.from_numpy(small).permute(0, 3, 1, 2).to(self.device)
            found = {}
            for k, boxes in enumerate(self.fa.face_detector.detect_from_batch(tensor)):
                boxes = [np.concatenate([np.asarray(b)[:4] / shrink, np.asarray(b)[4:]]) for b in boxes]
                if len(boxes):
                    area = np.array([(b[2] - b[0]) * (b[3] - b[1]) for b in boxes])
                    faces[start + k] = int((area > 0.5 * area.max()).sum())
                    found[k] = boxes[int(area.argmax())]
            if found:
                points[[start + k for k in found]] = self._points(chunk[list(found)], list(found.values()))
            if not self.quiet:
                progress.add(len(chunk))
        return points, faces

    def _points(self, images: np.ndarray, boxes: list) -> np.ndarray:
        """The landmark network on a batch of crops, one of each image, as face-alignment makes them: (n, 68, 2)."""
        from face_alignment.utils import crop, get_preds_fromhm
        boxes = np.array(boxes)[:, :4]
        size = boxes[:, 2:] - boxes[:, :2]
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        centres[:, 1] -= 0.12 * size[:, 1]
        scales = size.sum(1) / self.fa.face_detector.reference_scale
        crops = np.stack([crop(i, c, s) for i, c, s in zip(images, centres, scales)]).transpose(0, 3, 1, 2)
        heat = self.fa.face_alignment_net(torch.from_numpy(crops.astype(np.float32) / 255).to(self.device))
        heat = (heat[-1] if isinstance(heat, (list, tuple)) else heat).float().cpu().numpy()
        return np.stack([get_preds_fromhm(h[None], c, s)[1].reshape(68, 2) for h, c, s in zip(heat, centres, scales)])
