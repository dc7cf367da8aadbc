"""What the commands write: inputs and other people's files stay, bad options and places are refused before
the work.
"""

import ast
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import torch
from films import film
from PIL import Image
from safetensors.torch import save_file
from talking_heads import files
from talking_heads.__main__ import main
from talking_heads.animation import animate
from talking_heads.animation import head_files as heads
from talking_heads.data import video
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.nn.weight_files import load_weights, save_weights

ROOT = Path(__file__).parents[1]
CARD = {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}


@pytest.fixture
def place(tmp_path):
    """A folder with a photograph and a clip, landmarks beside them."""
    me, you = (
        make_clip(ClipSettings(8, 1, 0, 1, 12.5, 96), sound=False),
        make_clip(ClipSettings(8, 2, 0, 12, 12.5, 96), sound=False, only=np.array([0])),
    )
    Image.fromarray(me.frames[0]).save(tmp_path / "me.png")
    np.savez(tmp_path / "me.png.npz", landmarks=me.landmarks)
    film(tmp_path / "you.mp4", np.repeat(you.frames, 12, 0), np.arange(12) / 12.5)
    np.savez(tmp_path / "you.npz", landmarks=np.repeat(you.landmarks[:1], 12, 0))
    return tmp_path


@pytest.fixture
def kept(place, profile, few):
    """A head in that folder."""
    torch.manual_seed(0)
    nets = build_networks(profile.few_shot.networks, 1)
    with torch.no_grad():
        head = Head(nets.generator, nets.embedder.embed(few.x[None], few.y[None])).eval()
    return heads.keep_head(place / "p.head", head, few, profile, CARD)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def animated(place, capsys, *words):
    """``animate`` that must be refused: its message; nothing in the folder changes, and nothing is
    learned.
    """
    before = contents(place)
    assert main(["animate", *map(str, words), "--profile", "laptop", "--device", "cpu"]) == 2
    told = capsys.readouterr()
    assert contents(place) == before and "learning" not in told.out
    assert told.err.count("\n") == 1, "one line"
    return told.err


def animate_head(kept, driver, out):
    """The exit status of ``animate`` with a kept head."""
    return main(
        ["animate", "--head", str(kept), "--driver", str(driver), "--out", str(out), "--device", "cpu"]
    )


@pytest.mark.parametrize("out", ["you.mp4", "./you.mp4", "hard.mp4", "link.mp4", "sub/../you.mp4"])
def test_a_driver_is_never_overwritten(place, kept, out, capsys):
    os.link(place / "you.mp4", place / "hard.mp4")
    (place / "link.mp4").symlink_to("you.mp4")
    (place / "sub").mkdir()
    assert "is an input" in animated(
        place, capsys, "--head", kept, "--driver", place / "you.mp4", "--out", place / out
    )


@pytest.mark.parametrize(
    "option, name",
    [
        ("--keep", "me.png"),
        ("--keep", "you.mp4"),
        ("--keep", "you.npz"),
        ("--keep", "me.png.npz"),
        ("--keep", "o.mp4"),
        ("--keep", "o.mp4/me.head"),
    ],
)
def test_no_output_is_an_input_or_another_output(place, option, name, capsys):
    told = animated(
        place,
        capsys,
        "--photo",
        place / "me.png",
        "--driver",
        place / "you.mp4",
        "--out",
        place / "o.mp4",
        option,
        place / name,
    )
    assert f"{option} {place / name}: " in told and "choose another name" in told


def test_somebody_elses_file_is_never_overwritten(place, kept, capsys):
    (place / "holiday.mp4").write_bytes((place / "you.mp4").read_bytes())
    (place / "o.mp4.head").write_text("notes")
    both = ["--driver", place / "you.mp4", "--out"]
    assert "holiday.mp4: exists and was not written" in animated(
        place, capsys, "--head", kept, *both, place / "holiday.mp4"
    )
    assert "o.mp4.head: exists and was not written" in animated(
        place, capsys, "--photo", place / "me.png", *both, place / "o.mp4"
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("o.gif", "ending .gif"),
        ("two.head", "ending .head"),
        ("noending", "without an ending"),
        ("o.jpg", "ending .jpg"),
        ("folder.mp4", "is a folder"),
        ("pipe.mp4", "no regular file"),
        ("me.png/o.mp4", "cannot be written"),
        ("loop.mp4", "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_before_learning(place, name, message, capsys):
    (place / "folder.mp4").mkdir()
    os.mkfifo(place / "pipe.mp4")
    (place / "loop.mp4").symlink_to("loop.mp4")
    assert message in animated(
        place, capsys, "--photo", place / "me.png", "--driver", place / "you.mp4", "--out", place / name
    )


def test_a_full_disk_shows_before_learning_and_leaves_nothing(place, capsys, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    told = animated(
        place,
        capsys,
        "--photo",
        place / "me.png",
        "--driver",
        place / "you.mp4",
        "--out",
        place / "new/deep/o.mp4",
    )
    assert "MB are needed, 0 MB are free" in told and not (place / "new").exists()


@pytest.mark.parametrize(
    "name", ["o.mp4", "o.mov", "o.mkv", "o.webm", "12:30.mp4", "file:o.mp4", "o%d.mp4", "ä ö.mp4"]
)
def test_a_video_has_the_format_of_its_name_and_the_name_it_was_given(place, kept, name):
    assert animate_head(kept, place / "you.mp4", place / name) == 0
    wanted = {".webm": "matroska,webm", ".mkv": "matroska,webm"}.get(
        Path(name).suffix, "mov,mp4,m4a,3gp,3g2,mj2"
    )
    with video.open_file(place / name) as container:
        assert container.format.name == wanted
        if name.endswith(".webm"):
            assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
    assert animate.is_ours(place / name) and len(video.open_video(place / name).times) == 12
    assert animate_head(kept, place / "you.mp4", place / name) == 0, "written again"


def test_drivers_are_files_whatever_their_names_look_like(place, kept):
    for name in ("2024-01-05T12:30:11.mp4", "http:x.mp4", "pipe:0.mp4"):
        (place / "you.mp4").rename(place / name)
        (place / "you.npz").rename(place / f"{name}.npz")
        assert animate_head(kept, place / name, place / "o.mp4") == 0
        (place / name).rename(place / "you.mp4")
        (place / f"{name}.npz").rename(place / "you.npz")


def test_a_playlist_opens_no_address(tmp_path):
    """What calls itself a video may name other places; only files are opened."""
    (tmp_path / "a.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(video.UnreadableVideo):
        video.open_video(tmp_path / "a.mp4")


def test_links_are_followed_and_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "o.head").symlink_to("disk/real.head")
    for value in (1.0, 2.0):
        save_weights(tmp_path / "o.head", {"a": torch.tensor([value])}, {"v": value})
        assert (tmp_path / "o.head").is_symlink() and load_weights(tmp_path / "disk/real.head")[1] == {
            "v": value
        }
    with pytest.raises(ValueError, match="no regular file"):
        save_weights(Path("/dev/null"), {"a": torch.zeros(1)}, {})
    assert not Path("/dev/null").is_file()


def test_temporary_names_are_nobodys(tmp_path):
    """Files that earlier versions used as temporary ones stay, and a failure leaves no new one."""
    for name in ("me2.tmp", "pp.part.mp4", "pp.tmp"):
        (tmp_path / name).write_text("mine")
    save_weights(tmp_path / "me2.head", {"a": torch.zeros(1)}, {})
    video.write(tmp_path / "pp.mp4", np.zeros((2, 32, 32, 3), np.uint8), 12.5)
    assert all((tmp_path / name).read_text() == "mine" for name in ("me2.tmp", "pp.part.mp4", "pp.tmp"))
    before = contents(tmp_path)

    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="gone"):
        video.write(tmp_path / "pp.mp4", frames(), 12.5)
    assert contents(tmp_path) == before
    assert files.appended(Path("take1.draft"), ".head") != files.appended(Path("take1.final"), ".head")


def test_written_files_have_the_rights_that_others_have(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "written", "ä")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode and (
        tmp_path / "written"
    ).read_text("utf-8") == "ä"


def test_a_folder_of_photographs_is_learned_from(place, kept, capsys):
    """Without the driver, what this command wrote, and what cannot be read, which it names."""
    (place / "raw.nef").write_bytes(b"raw")
    both = ["--driver", str(place / "you.mp4"), "--device", "cpu"]
    assert main(["animate", "--head", str(kept), "--out", str(place / "made.mp4"), *both]) == 0
    capsys.readouterr()
    assert animate.find_photos([place], place / "you.mp4") == [place / "me.png"]
    told = capsys.readouterr().out
    for message in (
        "you.mp4: left out: it is the driver",
        "made.mp4: left out: this command wrote it",
        "raw.nef: left out: files with the ending",
    ):
        assert message in told
    (place / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing: a folder without photographs"):
        animate.find_photos([place / "nothing"], place / "you.mp4")


def test_the_head_of_another_person_is_not_replaced(place, kept, capsys):
    told = animated(
        place,
        capsys,
        "--photo",
        place / "me.png",
        "--driver",
        place / "you.mp4",
        "--out",
        place / "o.mp4",
        "--keep",
        kept,
    )
    assert "is the head of 'p'" in told


def damaged_heads():
    def change(**more):
        return lambda state, about: about.update(more)

    def card(**more):
        return lambda state, about: about["card"].update(more)

    def settings(value, *path):
        def damage(state, about):
            *sections, key = path
            reduce(getitem, sections, about["settings"])[key] = value

        return damage

    return {
        "no origin": (lambda s, a: a["card"].pop("origin"), "lacks origin"),
        "T as text": (card(T="eight"), "card's T is 'eight', not int"),
        "person as number": (card(person=7), "card's person is 7, not str"),
        "unknown kind": (card(kind="alien"), "kind 'alien'"),
        "card as text": (change(card="me"), "the card is 'me'"),
        "no card": (lambda s, a: a.pop("card"), "the card is None"),
        "short square": (change(square=[1.0, 2.0]), "square is"),
        "square as text": (change(square="big"), "square is 'big'"),
        "negative square": (change(square=[0.0, 0.0, -3.0]), "square is"),
        "size as text": (settings("64", "image_size"), "image_size is '64'"),
        "no settings": (change(settings=None), "settings is None"),
        "width as text": (settings("thin", "landmark_images", "line_width"), "line_width is 'thin'"),
        "other frames": (lambda s, a: s.update(images=s["images"][:, :8]), "images have shape"),
        "no points": (lambda s, a: s.pop("points"), "no array points"),
        "few points": (lambda s, a: s.update(points=s["points"][:, :5]), "points have shape"),
        "NaN": (lambda s, a: s["points"].fill_(float("nan")), "points are not finite"),
        "weights that are NaN": (lambda s, a: s["psi"].fill_(float("nan")), "not finite"),
        "short psi": (lambda s, a: s.update(psi=s["psi"][:, :3]), "damaged head"),
        "a point for a face": (lambda s, a: s["points"].fill_(3), "not a face"),
        "T below one": (card(T=-5), "T is -5"),
        "precision": (settings("fp99", "networks", "precision"), "networks.precision is 'fp99'"),
        "negative width": (settings(-3.0, "landmark_images", "line_width"), "line_width is -3.0"),
        "no network": (lambda s, a: [s.pop(k) for k in list(s) if k.startswith("generator.")], "Missing key"),
        "other network": (settings(7, "networks", "generator_bottleneck"), "damaged head"),
    }


@pytest.mark.parametrize("name", damaged_heads())
def test_a_damaged_head_is_refused_by_field(name, kept):
    damage, message = damaged_heads()[name]
    state, about = load_weights(kept)
    damage(state, about)
    save_file({k: v.contiguous() for k, v in state.items()}, kept, metadata={"about": json.dumps(about)})
    with pytest.raises(ValueError, match=r"p.head: a damaged head") as error:
        heads.load_head(kept)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "a", "b", "--size", "-5"],
        ["prepare", "a", "b", "--size", "0"],
        ["prepare", "a", "b", "--size", "40000"],
        ["prepare", "a", "b", "--size", "64.5"],
        ["prepare", "a", "b", "--frames-per-video", "-1"],
        ["prepare", "a", "b", "--workers", "0"],
        ["animate", "--photo", "a", "--driver", "b", "--out", "c.mp4", "--shots", "-3"],
        ["run", "--jobs", "0"],
        ["meta-learn", "--variant", "ft", "--minutes", "nan"],
        ["meta-learn", "--variant", "ft", "--minutes", "-1"],
        ["search", "--shots", "0"],
        ["search", "--pretraining", "-100"],
        ["judges", "--minutes", "soon"],
    ],
)
def test_numbers_out_of_range_are_refused_with_what_is_wanted(words, capsys):
    with pytest.raises(SystemExit) as error:
        main(words)
    told = capsys.readouterr().err
    assert error.value.code == 2 and "is not a" in told and "Traceback" not in told


INTERRUPTED = """
import os, signal, sys
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.animation import animate
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
load = config.load
config.load = lambda name: load(name, {"few_shot.fine_tuning.epochs": 1})
stop = getattr(animate, sys.argv[1])
def interrupt(*a, **k):
    os.kill(os.getpid(), signal.SIGINT)
    return stop(*a, **k)
setattr(animate, sys.argv[1], interrupt)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    "where, message",
    [("make_extractors", "nothing was written"), ("motion_for", "the head is kept: go on with --head")],
)
def test_an_interrupt_says_what_is_kept(where, message, place):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            INTERRUPTED,
            where,
            "animate",
            "--photo",
            str(place / "me.png"),
            "--driver",
            str(place / "you.mp4"),
            "--out",
            str(place / "o.mp4"),
            "--device",
            "cpu",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert (place / "o.mp4.head").exists() == ("kept" in message) and not (place / "o.mp4").exists()
    assert not list(place.glob(".*")), "no temporary file is left"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
)
def test_terminals_that_are_not_utf8_get_every_message(environment, place):
    (place / "in").mkdir()
    (place / "in/видео.mp4").write_bytes(b"no video")
    np.savez(place / "in/видео.mp4.npz", landmarks=np.zeros((3, 68, 2)))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "talking_heads",
            "prepare",
            str(place / "in"),
            str(place / "out"),
            "--device",
            "cpu",
        ],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, **environment},
    )
    assert (
        done.returncode == 0 and b"not a readable video" in done.stdout and b"Traceback" not in done.stderr
    ), done.stderr
    assert "видео" in (place / "out/manifest.jsonl").read_text("utf-8")


ONLY_SOME_SYSTEMS = {
    "sched_getaffinity",
    "sched_setaffinity",
    "startfile",
    "getuid",
    "geteuid",
    "memfd_create",
    "sendfile",
    "posix_fadvise",
    "posix_fallocate",
    "clear_refs",
}
NOT_EVERYWHERE = {"winreg", "msvcrt", "spwd", "crypt", "ossaudiodev", "_winapi"}


def test_what_one_system_lacks_is_asked_for_before_it_is_used():
    """The README names Linux and macOS; a list of what is known to be missing on one of them."""
    for path in sorted((ROOT / "lib").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        guarded = {
            n.args[1].value
            for n in ast.walk(tree)
            if isinstance(n, ast.Call)
            and getattr(n.func, "id", "") == "hasattr"
            and isinstance(n.args[1], ast.Constant)
        }
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} & ONLY_SOME_SYSTEMS
        imported = {
            a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
        } & NOT_EVERYWHERE
        assert used <= guarded and not imported, path


def test_opencv_needs_no_screen():
    import cv2

    gui = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
    assert all("NONE" in line for line in gui)
    if sys.platform == "linux":
        library = next(Path(cv2.__file__).parent.glob("cv2*.so"))
        assert "libGL" not in subprocess.run(["ldd", library], capture_output=True, text=True).stdout


def test_a_checkout_keeps_its_line_ends_on_every_system():
    checked = subprocess.run(
        [
            "git",
            "check-attr",
            "eol",
            "binary",
            "--",
            "run_all.sh",
            "environment.yml",
            "lib/talking_heads/__main__.py",
            "results/reference/weights/ft.safetensors",
            "results/reference/figures/gap.png",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if checked.returncode:
        pytest.skip("not a git checkout")
    rows = (line.rsplit(": ", 2) for line in checked.stdout.splitlines())
    attributes = {(name, attribute): value for name, attribute, value in rows}
    for name in ("run_all.sh", "environment.yml", "lib/talking_heads/__main__.py"):
        assert attributes[name, "eol"] == "lf"
    for name in ("results/reference/weights/ft.safetensors", "results/reference/figures/gap.png"):
        assert attributes[name, "binary"] == "set"


def test_a_process_says_that_it_waits_for_another_one(tmp_path, capsys):
    order = []
    with ThreadPoolExecutor() as executor:
        with files.waiting_lock(tmp_path):

            def second():
                with files.waiting_lock(tmp_path):
                    order.append("second")

            waiting = executor.submit(second)
            while "another process works here; waiting for it" not in capsys.readouterr().out:
                assert not waiting.done()
                time.sleep(0.01)
            order.append("first")
        waiting.result()
    assert order == ["first", "second"]
