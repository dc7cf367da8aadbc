"""Reading photographs with Pillow: upright, eight bits per channel, without transparency."""

import warnings
from pathlib import Path

import numpy as np
import pi_heif
from PIL import Image, ImageOps, UnidentifiedImageError

PHOTOGRAPH_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga"),
}


class UnreadablePhotograph(ValueError):
    """The photograph cannot be decoded; the message states the cause."""


class NotAPhotograph(UnreadablePhotograph):
    """The file is not a photograph."""


def read_photograph(path: Path) -> tuple[np.ndarray, str]:
    """Read a photograph with the orientation that its metadata states.

    Returns the picture (H, W, 3) uint8, RGB, and a note on what is unusual about it, "" if nothing. Of an
    animation or a file of several pages, this is the first picture. Raises OSError where the file cannot be
    opened, :class:`UnreadablePhotograph`, and MemoryError.
    """
    if path.stat().st_size == 0:
        raise UnreadablePhotograph("empty file")
    with path.open("rb"):  # raises OSError where the system refuses access
        pass
    pi_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            # Pillow warns about large pictures and unusual metadata, but reads them
            warnings.simplefilter("ignore")
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
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UnreadablePhotograph(f"a damaged photograph ({error})") from error
    notes = [note] if note else []
    if pages > 1:
        notes.append(f"the first of {pages} pictures")
    return image, "; ".join(notes)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) or, with transparency, (H, W, 4) uint8."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # Pillow's conversion clips at 255
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        brightest = float(values.max())
        # the brightest value implies the range: 1.0, or 8, 10, 12, 14 or 16 bits; otherwise it is the range
        white = next((top for top in (1.0, 255, 1023, 4095, 16383, 65535) if brightest <= top), brightest)
        white = 255 if image.mode != "F" and white == 1.0 else white
        grey = np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def flatten(image: np.ndarray) -> tuple[np.ndarray, str]:
    """Fill the transparent parts of pixels (H, W, 3 or 4) uint8.

    Colours of transparent pixels are arbitrary and must not be learned. They are replaced by the mean colour
    of the visible border, or by white where none of the border is visible. Returns pixels (H, W, 3) uint8
    and a note, "" where nothing is transparent.
    """
    if image.shape[-1] == 3:
        return image, ""
    colours, alpha = image[..., :3], image[..., 3:].astype(np.float32) / 255
    if alpha.min() == 1:
        return np.ascontiguousarray(colours), ""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32)
    visible = border[border[:, 3] > 127, :3]
    fill = visible.mean(0) if len(visible) else np.full(3, 255, np.float32)
    flat = (colours * alpha + fill * (1 - alpha)).round().astype(np.uint8)
    source = "the colour of the border" if len(visible) else "white"
    return flat, f"transparent parts are filled with {source}"
