"""A moving picture of clips, for pages that play no video."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from talking_heads.data import video
from talking_heads.files import replacing

FPS, SECONDS = 12.5, 4.0
HEIGHT, CAPTION, MARGIN = 192, 26, 6  # pixels: of a clip, of the line above it, between clips
LARGEST = 3_000_000  # bytes
COLOURS = (128, 96, 64, 48, 32)  # tried in this order


def write_preview(clips: Mapping[str, Path], path: Path) -> Path:
    """An animated GIF of clips, one below the other, each with its name; the shorter ones begin again.

    It has as many colours as fit into ``LARGEST`` bytes. Raises ValueError where none of ``COLOURS`` does.
    """
    strips = [_strip(clip) for clip in clips.values()]
    width = max(strip.shape[2] for strip in strips)
    count = min(round(FPS * SECONDS), max(len(strip) for strip in strips))
    pages = []
    for number in range(count):
        page = Image.new("RGB", (width, len(clips) * (HEIGHT + CAPTION + MARGIN)), "white")
        for row, (name, strip) in enumerate(zip(clips, strips, strict=True)):
            top = row * (HEIGHT + CAPTION + MARGIN)
            ImageDraw.Draw(page).text((4, top + 4), name, "black", ImageFont.load_default(15))
            page.paste(Image.fromarray(strip[number % len(strip)]), (0, top + CAPTION))
        pages.append(page)
    for colours in COLOURS:
        _save(pages, path, colours)
        if path.stat().st_size <= LARGEST:
            return path
    path.unlink()
    raise ValueError(
        f"{path}: larger than {LARGEST / 1e6:g} MB with {COLOURS[-1]} colours; shorten the clips"
    )


def _strip(path: Path) -> np.ndarray:
    """The frames (n, HEIGHT, W, 3) uint8 of a clip, ``FPS`` a second."""
    clip = video.read(path)
    step = max(1, round(clip.fps / FPS))
    frames = [Image.fromarray(frame) for frame in clip.frames[::step][: round(FPS * SECONDS)]]
    return np.stack([np.asarray(f.resize((f.width * HEIGHT // f.height, HEIGHT))) for f in frames])


def _save(pages: list[Image.Image], path: Path, colours: int) -> None:
    palette = pages[0].quantize(colours)
    reduced = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    with replacing(path) as temporary:
        delay = round(1000 / FPS)
        reduced[0].save(
            temporary, format="GIF", save_all=True, append_images=reduced[1:], duration=delay, loop=0
        )
