"""Pretrained networks that a user may fetch: source, licence and digest.

``python -m talking_heads weights list | fetch | verify``. None of them ships with the project, and none is
fetched without a command. Where the publisher gives no full digest, the digest of the first download is
recorded, and later files must have the same one.
"""

import http.client
import importlib.util
import json
import os
import socket
import tempfile
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch.hub

from talking_heads.config import fits
from talking_heads.files import sha256, write_text

TIMEOUT = 60.0  # seconds without data from a server


@dataclass(frozen=True)
class Pretrained:
    """A file that can be fetched."""

    file: str
    url: str
    licence: str
    used_for: str
    prefix: str = ""  # leading hex digits of the sha256, where the file's name contains them
    hub: bool = True  # in the folder where torch.hub, pytorch-fid and face-alignment expect it
    member: str = ""  # the file's name inside the zip archive at ``url``
    package: str = ""  # the Python package that contains the file, in place of a download


PRETRAINED = {
    "vgg19": Pretrained(
        "vgg19-d01eb7cb.pth",
        "https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth",
        "Creative Commons Attribution 4.0 (VGG group)",
        "content loss of the paper's profiles",
        "d01eb7cb",
        hub=False,
    ),
    "vggface": Pretrained(
        "vgg_face_dag.pth",
        "https://www.robots.ox.ac.uk/~albanie/models/pytorch-mcn/vgg_face_dag.pth",
        "Creative Commons Attribution Non-Commercial (VGG group)",
        "content loss of the paper's profiles",
        hub=False,
    ),
    "inception": Pretrained(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "Apache-2.0",
        "FID and KID",
        "6726825d",
    ),
    "arcface": Pretrained(
        "w600k_r50.onnx",
        "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        "non-commercial research",
        "CSIM",
        hub=False,
        member="w600k_r50.onnx",
    ),
    "s3fd": Pretrained(
        "s3fd-619a316812.pth",
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        "BSD-3-Clause",
        "face detection in prepare",
        "619a316812",
    ),
    "2dfan4": Pretrained(
        "2DFAN4-11f355bf06.pth.tar",
        "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
        "BSD-3-Clause",
        "landmarks in prepare",
        "11f355bf06",
    ),
}
FACE_ALIGNMENT = ("s3fd", "2dfan4")
MODELS = "face_recognition_models"  # of the optional packages "faces"
DLIB_FILE, DLIB_RECOGNISER = "dlib-68", "dlib-recogniser"
PRETRAINED[DLIB_FILE] = Pretrained(
    "models/shape_predictor_68_face_landmarks.dat",
    "./run_all.sh --with faces",
    "iBUG 300-W, no commercial use",
    "landmarks in prepare, in place of face-alignment's",
    package=MODELS,
)
PRETRAINED[DLIB_RECOGNISER] = Pretrained(
    "models/dlib_face_recognition_resnet_model_v1.dat",
    "./run_all.sh --with faces",
    "CC0 (public domain)",
    "CSIM-dlib, the identity similarity of real faces",
    package=MODELS,
)


def weights_folder() -> Path:
    """The folder of the networks that no other library expects in a folder of its choice."""
    return Path(os.environ.get("TALKING_HEADS_WEIGHTS", Path.home() / ".cache" / "talking_heads"))


def path_of(name: str) -> Path:
    """The path of a network's file, whether it exists or not. Raises ValueError for an unknown name."""
    if name not in PRETRAINED:
        raise ValueError(f"no pretrained network {name!r}; there are: {', '.join(PRETRAINED)}")
    network = PRETRAINED[name]
    if network.package:
        return package_folder(network.package) / network.file
    if not network.hub:
        return weights_folder() / network.file
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints" / network.file


def package_folder(package: str) -> Path:
    """The folder of a package, which need not be installed. The package is not imported."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0] if places else package)


def find(name: str) -> Path:
    """The path of a verified file.

    Raises FileNotFoundError with the remedy where it is missing, ValueError where it is damaged.
    """
    path = path_of(name)
    if not path.exists():
        raise FileNotFoundError(missing(name))
    verify(name)
    return path


def missing(name: str) -> str:
    """The message for a missing file: its use, its licence and the remedy."""
    network = PRETRAINED[name]
    place = str(path_of(name)).replace(str(Path.home()), "~")
    if network.package:
        return (
            f"{network.file} ({network.used_for}; licence: {network.licence}) is missing: "
            f"{network.url} installs it"
        )
    return (
        f"{network.file} ({network.used_for}; licence: {network.licence}) is missing: "
        f"run 'python -m talking_heads weights fetch {name}', or put {network.url} at {place}"
    )


def _digests_path() -> Path:
    return weights_folder() / "digests.json"


def _read_digests() -> dict[str, str]:
    """The recorded digests by file name. Raises ValueError where the record is damaged."""
    path = _digests_path()
    if not path.exists():
        return {}
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))
        if not fits(digests, dict) or not all(fits(v, str) for v in digests.values()):
            raise ValueError("not a table of digests")
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and digests are recorded anew") from error
    return digests


def verify(name: str, path: Path | None = None) -> str:
    """The file's sha256, which is recorded where no digest has been recorded before.

    Raises ValueError where it contradicts the file's name or the recorded digest.
    """
    network, path = PRETRAINED[name], path or path_of(name)
    digest, digests = sha256(path), _read_digests()
    recorded = digests.get(network.file)
    if not digest.startswith(network.prefix) or (recorded and recorded != digest):
        raise ValueError(
            f"{path}: sha256 {digest[:16]}… is not {recorded or network.prefix + '…'}: the file is damaged "
            f"or another one; delete it and run 'python -m talking_heads weights fetch {name}'"
        )
    if not recorded:
        write_text(_digests_path(), json.dumps({**digests, network.file: digest}, indent=1))
    return digest


def fetch(name: str, url: str | None = None) -> Path:
    """Download and verify a file; it appears by rename. A file that exists and verifies is left alone.

    Raises OSError where the download fails, ValueError where the file has another digest.
    """
    path, network = path_of(name), PRETRAINED[name]
    if path.exists():
        verify(name)
        return path
    if network.package:
        raise ValueError(missing(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    url = url or network.url
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        downloaded = Path(folder) / "download"  # not the name of a member, which would overwrite it
        _download(url, downloaded)
        if network.member:
            _extract(downloaded, network.member, url)
        verify(name, downloaded)
        downloaded.replace(path)
    return path


def _extract(archive_path: Path, ending: str, url: str) -> None:
    """Replace a zip archive by its member whose name ends in ``ending``. Raises ValueError."""
    try:
        with zipfile.ZipFile(archive_path) as archive:
            member = next((name for name in archive.namelist() if name.endswith(ending)), None)
            if member is None:
                raise ValueError(f"{url}: the archive holds no {ending}")
            extracted = Path(archive.extract(member, archive_path.parent))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{url}: not a readable zip archive ({error}); fetch it again") from error
    extracted.replace(archive_path)


def _download(url: str, path: Path) -> None:
    """Download with a progress bar.

    Raises OSError where the server cannot be reached, or sends less than it announces.
    """
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub sets no timeout, and does not compare sizes
    try:
        with urllib.request.urlopen(url) as response:
            announced = response.headers.get("Content-Length")
        torch.hub.download_url_to_file(url, str(path), progress=True)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{url}: the download failed ({error}); try again, or put the file in place by hand"
        ) from error
    finally:
        socket.setdefaulttimeout(default)
    size = path.stat().st_size
    if announced is not None and int(announced) != size:
        raise OSError(f"{url}: {size} of {announced} bytes arrived; try again")


def status(name: str) -> str:
    """The state of a file: "here", "missing" or "damaged"."""
    if not path_of(name).exists():
        return "missing"
    try:
        verify(name)
    except ValueError:
        return "damaged"
    return "here"
