"""Pretrained networks that a user may fetch: source, licence and digest.

``python -m talking_heads weights list | fetch | verify``. None of them ships with the project, and none is
fetched without a command. Where the publisher gives no full digest, the digest of the first download is
recorded, and later files must have the same one.
"""

import importlib.util
import json
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from talking_heads.config import digest, fits
from talking_heads.files import appended, sha256, waiting_lock, write_text
from talking_heads.nn.downloads import discard, download

OWN_WEIGHTS = "TALKING_HEADS_WEIGHTS"  # environment variable: a folder for fetched networks


@dataclass(frozen=True)
class Pretrained:
    """A file that can be fetched."""

    file: str
    url: str
    licence: str
    used_for: str
    prefix: str = ""  # leading hex digits of the sha256, where they are published
    hub: bool = True  # in the folder where torch.hub, pytorch-fid and face-alignment expect it
    member: str = ""  # the file's name inside the zip archive at ``url``
    package: str = ""  # the Python package that contains the file, in place of a download
    mirror: str = ""  # where the file itself lies, too


PRETRAINED = {
    "vgg19": Pretrained(
        "vgg19-d01eb7cb.pth",
        "https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth",
        "Creative Commons Attribution 4.0 (VGG group)",
        "content loss of the paper's profiles",
        "d01eb7cb",
        hub=False,
        mirror="https://s3-us-west-2.amazonaws.com/jcjohns-models/vgg19-d01eb7cb.pth",
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
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        hub=False,
        member="w600k_r50.onnx",
        mirror="https://huggingface.co/public-data/insightface/resolve/main/models/buffalo_l/w600k_r50.onnx",
    ),
    "s3fd": Pretrained(
        "s3fd-619a316812.pth",
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        "BSD-3-Clause",
        "face detection in prepare",
        "619a316812",
        mirror="https://huggingface.co/vinthony/SadTalker/resolve/main/hub/checkpoints/s3fd-619a316812.pth",
    ),
    "2dfan4": Pretrained(
        "2DFAN4-11f355bf06.pth.tar",
        "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
        "BSD-3-Clause",
        "landmarks in prepare",
        "11f355bf06",
        mirror="https://eyalgruss.com/fomm/2DFAN4-11f355bf06.pth.tar",
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
    return Path(os.environ.get(OWN_WEIGHTS, Path.home() / ".cache" / "talking_heads"))


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

    Raises ValueError where it contradicts the published digits or the recorded digest.
    """
    network, path = PRETRAINED[name], path or path_of(name)
    found, digests = sha256(path), _read_digests()
    recorded = digests.get(network.file)
    expected = recorded or network.prefix
    if not found.startswith(network.prefix) or (recorded and recorded != found):
        raise ValueError(
            f"{path}: sha256 {found[:16]}… is not {expected[:16]}…: the file is damaged or another one; "
            f"delete it and run 'python -m talking_heads weights fetch {name}'"
        )
    if not recorded:
        write_text(_digests_path(), json.dumps({**digests, network.file: found}, indent=1))
    return found


def fetch(name: str) -> Path:
    """Download and verify a file; it appears by rename. A file that exists and verifies is left alone.

    An interrupted call is resumed. Where the first source fails, the mirror is tried, and what has arrived of
    the first file is deleted. Raises OSError where
    all downloads fail, ValueError where a file has another digest.
    """
    path, network = path_of(name), PRETRAINED[name]
    if path.exists():
        verify(name)
        return path
    if network.package:
        raise ValueError(missing(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    weights_folder().mkdir(parents=True, exist_ok=True)
    sources = {network.mirror: "", network.url: network.member}  # the last one first
    sources.pop("", None)
    with waiting_lock(weights_folder()):
        while not path.exists():  # another process may have fetched it
            url, member = sources.popitem()
            try:
                _fetch_from(url, member, name)
            except (OSError, ValueError) as error:
                if not sources:
                    raise
                print(f"  {error}; trying the second source", flush=True)
                discard(_download_path(url, name))
    return path


def _fetch_from(url: str, member: str, name: str) -> None:
    """Download a file, or the archive in which it is a ``member``, and put it in place."""
    downloaded = _download_path(url, name)
    download(url, downloaded)
    try:
        if member:
            _extract(downloaded, member, url)
        verify(name, downloaded)
        downloaded.replace(path_of(name))
    finally:
        downloaded.unlink(missing_ok=True)


def _download_path(url: str, name: str) -> Path:
    """Where a download from a source appears, beside the file's own path."""
    path = path_of(name)
    return path.with_name(f"{path.name}-{digest(url)}")


def _extract(archive_path: Path, ending: str, url: str) -> None:
    """Replace a zip archive by its member whose name ends in ``ending``. Raises ValueError."""
    extracted = appended(archive_path, ".member")
    try:
        with zipfile.ZipFile(archive_path) as archive:
            member = next((name for name in archive.namelist() if name.endswith(ending)), None)
            if member is None:
                raise ValueError(f"{url}: the archive holds no {ending}")
            with archive.open(member) as source, extracted.open("wb") as target:
                shutil.copyfileobj(source, target)
        extracted.replace(archive_path)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{url}: not a readable zip archive ({error}); fetch it again") from error
    finally:
        extracted.unlink(missing_ok=True)


def status(name: str) -> str:
    """The state of a file: "here", "missing" or "damaged"."""
    if not path_of(name).exists():
        return "missing"
    try:
        verify(name)
    except ValueError:
        return "damaged"
    return "here"
