"""Smaller copies of executed notebooks."""

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image


def compress_pictures(path: Path) -> None:
    """Turn the PNG outputs of an executed notebook into JPEGs where these are smaller."""
    notebook = nbformat.read(path, 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if "image/png" not in output.get("data", {}):
            continue
        png, jpeg = base64.b64decode(output.data["image/png"]), io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG", quality=88, optimize=True)
        if jpeg.tell() < len(png):
            del output.data["image/png"]
            output.data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
    nbformat.write(notebook, path)
