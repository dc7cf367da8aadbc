"""Pretrained networks that a user may fetch: from where, under which licence, with which digest.

``python -m talking_heads weights list | fetch | verify``. Nothing here ships with the project and
nothing is fetched unasked. A file whose full digest is not published is recorded when it is first
fetched and held to that record ever after.
"""

import http.client
import json
import os
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from .files import write_text
from .profiles import fits
from .tensors import sha256


@dataclass(frozen=True)
class Pretrained:
    file: str
    url: str
    licence: str
    used_for: str
    prefix: str = ""  # leading hex digits of the sha256, where the file's name carries them
    hub: bool = True  # lies where torch.hub, pytorch-fid and face-alignment look for it
    member: str = ""  # the file's name inside the zip archive at ``url``


PRETRAINED = {
    "vgg19": Pretrained("vgg19-d01eb7cb.pth", "https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth",
                        "Creative Commons Attribution 4.0 (VGG group)", "content loss of the paper's profiles", "d01eb7cb", hub=False),
    "vggface": Pretrained("vgg_face_dag.pth", "https://www.robots.ox.ac.uk/~albanie/models/pytorch-mcn/vgg_face_dag.pth",
                          "Creative Commons Attribution Non-Commercial (VGG group)", "content loss of the paper's profiles", hub=False),
    "inception": Pretrained("pt_inception-2015-12-05-6726825d.pth",
                            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
                            "Apache-2.0", "FID and KID", "6726825d"),
    "arcface": Pretrained("w600k_r50.onnx", "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
                          "non-commercial research", "CSIM", hub=False, member="w600k_r50.onnx"),
    "s3fd": Pretrained("s3fd-619a316812.pth", "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
                       "BSD-3-Clause", "face detection in prepare", "619a316812"),
    "2dfan4": Pretrained("2DFAN4-11f355bf06.pth.tar", "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
                         "BSD-3-Clause", "landmarks in prepare", "11f355bf06"),
}
FACE_ALIGNMENT = ("s3fd", "2dfan4")


def own_folder() -> Path:
    return Path(os.environ.get("TALKING_HEADS_WEIGHTS", Path.home() / ".cache" / "talking_heads"))


def path_of(name: str) -> Path:
    """Where the file lies or would lie. Raises ValueError for an unknown name."""
    if name not in PRETRAINED:
        raise ValueError(f"no pretrained network {name!r}; there are: {', '.join(PRETRAINED)}")
    one = PRETRAINED[name]
    if not one.hub:
        return own_folder() / one.file
    home = Path(os.environ.get("TORCH_HOME", Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch"))
    return home / "hub" / "checkpoints" / one.file


def find(name: str) -> Path:
    """The file, verified. Raises FileNotFoundError with the remedy where it is missing, ValueError where it is damaged."""
    path = path_of(name)
    if not path.exists():
        raise FileNotFoundError(missing(name))
    verify(name)
    return path


def missing(name: str) -> str:
    one = PRETRAINED[name]
    place = str(path_of(name)).replace(str(Path.home()), "~")
    return (f"{one.file} ({one.used_for}; licence: {one.licence}) is missing: "
            f"run 'python -m talking_heads weights fetch {name}', or put {one.url} at {place}")


def _records() -> Path:
    return own_folder() / "digests.json"


def _recorded() -> dict[str, str]:
    if not _records().exists():
        return {}
    try:
        digests = json.loads(_records().read_text(encoding="utf-8"))
        if not fits(digests, dict) or not all(fits(v, str) for v in digests.values()):
            raise ValueError("not a table of digests")
    except ValueError as error:
        raise ValueError(f"{_records()}: damaged ({error}); delete it, and digests are recorded anew") from error
    return digests


def verify(name: str, path: Path | None = None) -> str:
    """The file's sha256. Raises ValueError where it contradicts its name or what was recorded before.

    Where nothing is known of the digest, this one is recorded.
    """
    one, path = PRETRAINED[name], path or path_of(name)
    digest = sha256(path)
    known = _recorded().get(one.file)
    if not digest.startswith(one.prefix) or (known and known != digest):
        raise ValueError(f"{path}: sha256 {digest[:16]}… is not {known or one.prefix + '…'}: the file is damaged or another one; "
                         f"delete it and run 'python -m talking_heads weights fetch {name}'")
    if not known:
        write_text(_records(), json.dumps({**_recorded(), one.file: digest}, indent=1))
    return digest


def fetch(name: str, url: str | None = None) -> Path:
    """Download, verify and put in place (by rename); what is there already and verifies is left alone.

    Raises OSError where the download fails, ValueError where the file is not what it should be.
    """
    path, one = path_of(name), PRETRAINED[name]
    if path.exists():
        verify(name)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        arrived = Path(folder) / one.file
        _download(url or one.url, arrived)
        if one.member:
            try:
                with zipfile.ZipFile(arrived) as archive:
                    inside = next((m for m in archive.namelist() if m.endswith(one.member)), None)
                    if inside is None:
                        raise ValueError(f"{url or one.url}: the archive holds no {one.member}")
                    extracted = Path(archive.extract(inside, folder))
            except (zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{url or one.url}: not a readable zip archive ({error}); fetch it again") from error
            os.replace(extracted, arrived)
        verify(name, arrived)
        os.replace(arrived, path)
    return path


def _download(url: str, path: Path) -> None:
    """Raises OSError where the server cannot be reached, or sends less than it announces."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response, open(path, "wb") as out:
            shutil.copyfileobj(response, out)
            announced = response.headers.get("Content-Length")
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url}: the download failed ({error}); try again, or put the file in place by hand") from error
    if announced is not None and int(announced) != path.stat().st_size:
        raise OSError(f"{url}: {path.stat().st_size} of {announced} bytes arrived; try again")


def status(name: str) -> str:
    """"here", "missing" or "damaged"."""
    if not path_of(name).exists():
        return "missing"
    try:
        verify(name)
    except ValueError:
        return "damaged"
    return "here"
