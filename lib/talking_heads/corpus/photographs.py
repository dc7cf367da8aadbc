"""Photographs through Pillow: upright, in eight bits a channel, without transparency."""

import warnings
from pathlib import Path

import numpy as np
import pi_heif
from PIL import Image, ImageOps, UnidentifiedImageError

PHOTOGRAPH_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".jp2",
    ".ppm",
    ".pgm",
    ".tga",
}


class UnreadablePhotograph(ValueError):
    """The file gives no picture; the message says why."""


class NotAPhotograph(UnreadablePhotograph):
    """The file holds something else."""


def read_photograph(path: Path) -> tuple[np.ndarray, str]:
    """A photograph (H, W, 3) uint8, RGB, as its camera meant it to be seen, and what is odd about it (""
    if nothing).

    Of an animation or a stack of pages this is the first picture. Raises :class:`UnreadablePhotograph`, and
    MemoryError.
    """
    if path.stat().st_size == 0:
        raise UnreadablePhotograph("empty file")
    with path.open("rb"):  # what the system refuses is no fault of the photograph
        pass
    pi_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of large pictures and of odd metadata, and reads them
            with Image.open(path) as file:
                pages = getattr(file, "n_frames", 1)
                upright = ImageOps.exif_transpose(file)
                image, note = flatten(_eight_bits(upright))
    except Image.DecompressionBombError as error:
        raise UnreadablePhotograph("more than 178 million pixels; scale it down") from error
    except UnidentifiedImageError as error:
        raise NotAPhotograph("not a readable photograph") from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise UnreadablePhotograph(f"a damaged photograph ({error})") from error
    notes = [note] if note else []
    if pages > 1:
        notes.append(f"the first of {pages} pictures")
    return image, "; ".join(notes)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) or, with transparency, (H, W, 4) uint8."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # Pillow's own conversion clips at 255
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        most = float(values.max())
        # the brightest value tells how many bits are used: 1.0, 8, 10, 12, 14, 16 bits, or its own scale
        top = next((t for t in (1.0, 255, 1023, 4095, 16383, 65535) if most <= t), most)
        top = 255 if image.mode != "F" and top == 1.0 else top
        grey = np.clip(values * (255 / top), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def flatten(image: np.ndarray) -> tuple[np.ndarray, str]:
    """Pixels (H, W, 3 or 4) uint8 without transparency, and a note where there was some.

    What is hidden has no colour worth learning: it becomes the mean colour of the picture's visible border,
    white where none of the border is visible.
    """
    if image.shape[-1] == 3:
        return image, ""
    colours, alpha = image[..., :3], image[..., 3:].astype(np.float32) / 255
    if alpha.min() == 1:
        return np.ascontiguousarray(colours), ""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32)
    seen = edge[edge[:, 3] > 127, :3]
    ground = seen.mean(0) if len(seen) else np.full(3, 255, np.float32)
    flat = (colours * alpha + ground * (1 - alpha)).round().astype(np.uint8)
    return flat, f"transparent parts are filled with {'the colour of the border' if len(seen) else 'white'}"
