"""A head as a web page: one HTML file that plays in a browser, without a network connection.

The page contains the network as ONNX, onnxruntime-web that computes it, and the face rig that moves the
landmarks. onnxruntime-web is not part of the kit: npm downloads it once, or a folder has it.
"""

import base64
import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Template
from markupsafe import Markup
from scipy.io import wavfile

from talking_heads.animation.export import write_head
from talking_heads.animation.face_rig import STEP, FaceRig, frontal_openings
from talking_heads.animation.head_files import HeadSettings, KeptHead
from talking_heads.animation.synthetic_video import MARK
from talking_heads.config import Profile
from talking_heads.data.frames import to_tensor
from talking_heads.data.landmarks import PARTS, PUPIL, PUPIL_RADIUS
from talking_heads.data.sound import to_int16
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import Networks
from talking_heads.files import replacing, write_text
from talking_heads.nn.pretrained import weights_folder
from talking_heads.nn.spectral_norm import fold

TEMPLATE = Path(__file__).with_name("web_page.html")
PACKAGE, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"
# the files of the package that a page needs, with their SHA-256
RUNTIME = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
SECONDS_OF_NPM = 300
BROWS, EYES = slice(17, 27), slice(36, 48)
DECIMALS = 4  # of numbers in a page


@dataclass(frozen=True)
class Track:
    """What a page can play: landmarks (n, 68, 2) or (n, 70, 2) in pixels, frames a second, and sound
    (samples,), int16 or float in [-1, 1].
    """

    points: np.ndarray
    fps: float
    sound: np.ndarray | None = None
    rate: int = 48_000  # Hz


def write_page(
    head: KeptHead,
    out: Path,
    before: KeptHead | None = None,
    track: Track | None = None,
    int8: bool = False,
    runtime: Mapping[str, Path] | None = None,
) -> Path:
    """Write the page of a head, beside the one ``before`` its fine-tuning where that is given.

    ``runtime`` are onnxruntime-web's files by name. Raises ValueError as :func:`find_runtime` and
    :func:`export.write_head` do.
    """
    files = runtime or find_runtime()
    networks = [network_of(one, int8) for one in (head, before) if one]
    contents = {
        "size": head.settings.image_size,
        "card": {name: str(value) for name, value in head.card.items()},
        "drawing": describe_drawing(head),
        "rig": rig_of(head),
        "networks": [to_base64(network) for network in networks],
        "track": track_of(track) if track else None,
        "runtime": [to_base64(files[name].read_bytes()) for name in RUNTIME],
    }
    template = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    text = Markup(json.dumps(contents).replace("</", "<\\/"))
    card = {name: head.card[name] for name in ("person", "kind")}
    write_text(out, template.render(**card, mark=MARK, contents=text))
    return out


def before_fine_tuning(head: KeptHead, networks: Networks, profile: Profile) -> KeptHead:
    """The head of the same training frames without fine-tuning, from meta-learned networks of a profile,
    which become unusable for training.

    Raises ValueError where the head belongs to other settings.
    """
    if head.settings != HeadSettings.of_profile(profile):
        raise ValueError(f"the head was not learned with profile {profile.name}; name its own with --profile")
    with torch.no_grad():
        x, y = to_tensor(head.images), head.draw(head.points)
        e_new = networks.embedder.eval().embed(x[None], y[None])
        return dataclasses.replace(head, head=Head(fold(networks.generator), e_new).eval(), network=None)


def network_of(head: KeptHead, int8: bool) -> bytes:
    """A head as an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        write_head(head, path, "onnx", int8)
        return path.read_bytes()


def to_base64(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def describe_drawing(head: KeptHead) -> dict[str, Any]:
    """How :func:`landmarks.draw` draws this head's landmark images."""
    size = head.settings.image_size
    factor = 4 if size <= 128 else 2
    width = head.settings.landmark_images.line_width * factor
    thickness = max(1, round(width))
    return {
        "parts": PARTS,
        "factor": factor,
        "width": thickness if thickness == 1 else 2 * -(-thickness // 2) + 1,  # that OpenCV draws
        "pupil": PUPIL if head.points.shape[1] == 70 else None,
        "radius": PUPIL_RADIUS * width,
    }


def rig_of(head: KeptHead) -> dict[str, Any]:
    """The numbers of a head's :class:`FaceRig`, and the change of expression that raises the brows."""
    rig = FaceRig.fit(head.points)
    model = rig.model
    rest = frontal_openings(model, rig.identity, rig.rest)
    values = {
        "base": model.mean + np.tensordot(rig.identity, model.identity, 1),
        "expression": model.expression,
        "rest": rig.rest,
        "controls": rig.controls,
        "brows": brow_control(rig),
        "centre": rig.centre,
        "scale": np.array(rig.scale),
        "openings": rest,
    }
    return {name: np.round(value, DECIMALS).tolist() for name, value in values.items()}


def brow_control(rig: FaceRig) -> np.ndarray:
    """The smallest change of expression (m,) that raises the brows by one distance between the eyes, and
    leaves the openings of mouth and eyes as they are.
    """

    def height(expression: np.ndarray) -> np.ndarray:
        shape = rig.model.shapes(rig.identity, expression[None])[0]
        eyes = np.linalg.norm(shape[36:42].mean(0) - shape[42:48].mean(0))
        raised = (shape[EYES, 1].mean() - shape[BROWS, 1].mean()) / eyes
        return np.array([*frontal_openings(rig.model, rig.identity, expression), raised])

    slopes = [
        (height(rig.rest + STEP * direction) - height(rig.rest - STEP * direction)) / (2 * STEP)
        for direction in np.eye(len(rig.rest))
    ]
    return np.linalg.pinv(np.stack(slopes, 1))[:, 2]


def track_of(track: Track) -> dict[str, Any]:
    """A track as a page has it, with its sound as a WAV file."""
    sound = None
    if track.sound is not None:
        file = io.BytesIO()
        wavfile.write(file, track.rate, to_int16(track.sound))
        sound = to_base64(file.getvalue())
    return {"points": np.round(track.points, 2).tolist(), "fps": track.fps, "sound": sound}


# -- onnxruntime-web --------------------------------------------------------------------------------
def find_runtime(folder: Path | None = None) -> dict[str, Path]:
    """The files of onnxruntime-web, by name: of a folder, else those that npm has downloaded, or does now.

    Raises ValueError where they are missing or of another version.
    """
    place = folder or weights_folder() / f"{PACKAGE}-{RUNTIME_VERSION}"
    if folder is None and not all((place / name).exists() for name in RUNTIME):
        download(place)
    files = {name: place / name for name in RUNTIME}
    for name, path in files.items():
        if not path.exists():
            raise ValueError(f"{path}: missing; {place} must have the files of {PACKAGE} {RUNTIME_VERSION}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != RUNTIME[name]:
            raise ValueError(f"{path}: not the file of {PACKAGE} {RUNTIME_VERSION}; delete it")
    return files


def download(place: Path) -> None:
    """Let npm download onnxruntime-web, and keep the files that a page needs in a folder.

    Raises ValueError, which states what to do, where npm is missing or fails.
    """
    package = f"{PACKAGE}@{RUNTIME_VERSION}"
    remedy = f"unpack {package} from npm and name its folder dist with --runtime"
    npm = shutil.which("npm")
    if not npm:
        raise ValueError(
            f"a web page needs {package}, which npm downloads, and npm is not installed: {remedy}"
        )
    print(f"npm downloads {package} (33 MB), once", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [npm, "pack", package, "--silent"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=SECONDS_OF_NPM,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"npm has not downloaded {package} in {SECONDS_OF_NPM} s: {remedy}") from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            cause = (done.stderr.strip().splitlines() or ["no archive"])[-1]
            raise ValueError(f"npm cannot download {package} ({cause}): {remedy}")
        place.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name in RUNTIME:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                with replacing(place / name) as temporary:
                    temporary.write_bytes(file.read())
