"""The commands that make videos of heads."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from talking_heads import config
from talking_heads.commands.options import AMOUNT, COUNT, NATURAL, WEIGHTS, Subcommands, add_video_options

if TYPE_CHECKING:
    from talking_heads.animation.export import Check

DENOISERS = ("pytorch", "auto", "onnxruntime", "openvino")  # engines of the denoising network
ENGINES = (*DENOISERS, "onnxruntime-int8", "openvino-int8")  # of a head


def animate(args: argparse.Namespace) -> None:
    from talking_heads.animation.animate import Request
    from talking_heads.animation.animate import animate as make_video

    profile = config.load(args.profile)
    request = Request(
        photos=args.photo or [],
        head=args.head,
        driver=args.driver,
        out=args.out,
        keep=args.keep,
        shots=args.shots,
        person=args.person,
        kind=args.kind,
        raw=args.raw,
        mark=not args.no_mark,
        engine=args.engine,
    )
    print(make_video(request, profile, meta_learned(profile, args.results), args.device))


def meta_learned(profile: config.Profile, results: Path) -> partial:
    """A function that loads the networks from which a profile's heads are learned, on a device."""
    from talking_heads.experiments.few_shot.weights import load_networks, main_variant

    weights = "reference" if profile.few_shot.trainings.reference_weights else "scratch"
    return partial(load_networks, profile, main_variant(profile), weights, results)


def speak(args: argparse.Namespace) -> None:
    from talking_heads.animation import live
    from talking_heads.animation import speak as speaking
    from talking_heads.animation.engines import with_denoiser
    from talking_heads.experiments.diffused.weights import load_model as load

    controls = {"head_motion": args.head_motion, "blink_rate": args.blink_rate}
    control = any(value is not None for value in controls.values())
    if args.fast and (args.steps or args.sampler or control):
        raise ValueError("--fast has its own steps and sampler, and no controls: leave out their options")
    options = {"steps": args.steps, "guidance": args.guidance, "sampler": args.sampler, **controls}
    options |= {"distilled": args.fast or None, "control": control or None}
    changes = {f"diffused.sampling.{name}": value for name, value in options.items() if value is not None}
    profile = config.load(args.profile, changes)

    def load_model(device):
        model = load(profile, args.weights, args.results, device)
        generator, engine = with_denoiser(model.generator, args.engine)
        return generator, model.encoder, model.metadata | {"run": f"{model.metadata['run']}, {engine}"}

    request = speaking.Request(
        sound=args.sound,
        out=args.out,
        photo=args.photo,
        face=args.face,
        keep=args.keep,
        person=args.person,
        kind=args.kind,
        seed=args.seed,
        mark=not args.no_mark,
    )
    if args.live:
        written = live.speak_live(request, profile, load_model, args.device, sys.stdin.buffer)
    else:
        written = speaking.speak(request, profile, load_model, args.device)
    print(f"written: {written}")


def export(args: argparse.Namespace) -> None:
    from talking_heads.animation import export as exporting

    args.out = choose_output(args)
    if args.to == "web":
        print(f"written: {export_page(args)}")
        return
    if args.before or args.driver or args.runtime:
        raise ValueError("--before, --driver and --runtime are for --to web")
    check = exporting.export_head(args.head, args.out, args.to, args.int8) if args.head else export_step(args)
    print(f"written: {args.out}; {check}")


def choose_output(args: argparse.Namespace) -> Path:
    """The file of an export: by default beside the head, where that replaces none (else ValueError)."""
    from talking_heads.animation.export import FORMATS, outputs_of

    if args.out:
        return args.out
    source = args.head or Path("diffusion_step")
    out = source.with_suffix({**FORMATS, "web": ".html"}[args.to])
    for path in outputs_of(out, args.to).values():
        if path.exists():
            raise ValueError(f"{path}: exists; name the file to write with --out")
    return out


def export_step(args: argparse.Namespace) -> "Check":
    from talking_heads.animation import export as exporting
    from talking_heads.experiments.diffused.clips import training_windows
    from talking_heads.experiments.diffused.weights import load_model

    profile = config.load(args.profile, {"diffused.sampling.distilled": True} if args.fast else {})
    model, batches = load_model(profile, args.weights, args.results), []
    if args.int8:
        windows = training_windows(profile, args.data, exporting.CALIBRATION + 1, exporting.CALIBRATED)
        inputs = partial(exporting.window_inputs, model.generator, model.encoder)
        batches = [inputs(batch, seed) for seed, batch in enumerate(windows)]
    metadata = {"run": model.metadata["run"]}
    return exporting.export_step(model.generator, args.out, args.to, metadata, batches)


def export_page(args: argparse.Namespace) -> Path:
    from talking_heads.animation import animate, web_page
    from talking_heads.animation.head_files import load_head
    from talking_heads.files import check_outputs

    if not args.head or args.fast:
        raise ValueError("--to web writes the page of a head: give --head")
    if args.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {args.out}: a page ends in .html")
    check_outputs({"--out": args.out}, [args.head, *([args.driver] if args.driver else [])])
    head, profile, before, track = load_head(args.head), config.load(args.profile), None, None
    runtime = web_page.find_runtime(args.runtime)  # raises before minutes of detection
    if args.before:
        networks, metadata = meta_learned(profile, args.results)()
        if metadata["commit"] != head.card["weights"]:
            raise ValueError(f"{args.head}: was learned from other weights than those of {profile.name}")
        before = web_page.before_fine_tuning(head, networks, profile)
    if args.driver:
        driver = animate.read_driver(
            args.driver, head.settings.image_size, animate.detector_for([args.driver])
        )
        points = animate.motion_for(head, driver)
        track = web_page.Track(points, driver.fps, driver.sound, driver.rate)
    return web_page.write_page(head, args.out, before, track, args.int8, runtime)


def add_animation(commands: Subcommands) -> None:
    """The commands that make videos."""
    text = "photographs (or a clip) and a driver's clip to a moving head, with the driver's sound"
    c = commands.add(animate, "animate", text, profile="laptop")
    c.add_argument(
        "--photo",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="photographs, a folder of them, or a clip, of one person to learn from",
    )
    c.add_argument("--head", type=Path, help="a kept head instead")
    c.add_argument("--driver", type=Path, required=True, help="the clip whose movements and sound it gets")
    add_video_options(c)
    c.add_argument("--keep", type=Path, help="where to keep the head; <out>.head by default")
    c.add_argument("--shots", type=COUNT, default=8, help="frames to learn from, at most")
    c.add_argument("--person", help="the name on the head's card")
    c.add_argument(
        "--raw", action="store_true", help="the driver's landmarks as they are: neither adapted nor smoothed"
    )
    text = "that computes the head on a CPU; auto measures which is the fastest"
    c.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=text)

    text = "export a head (ONNX, OpenVINO, web page) or a denoising step (ONNX, OpenVINO)"
    c = commands.add(export, "export", text, profile="laptop-full", device=False)
    network = c.add_mutually_exclusive_group(required=True)
    network.add_argument("--head", type=Path, help="a kept head")
    network.add_argument("--diffusion", action="store_true", help="the denoising network of the profile")
    c.add_argument("--to", choices=["onnx", "openvino", "web"], required=True)
    text = "the file to write: .onnx, .xml for OpenVINO, .html; by default beside the head, with its name"
    c.add_argument("--out", type=Path, help=text)
    c.add_argument(
        "--before", action="store_true", help="in a page, the head before its fine-tuning beside it"
    )
    c.add_argument("--driver", type=Path, help="a clip whose motion and sound a page plays")
    text = "the folder dist of onnxruntime-web, which a page contains; npm downloads it by default"
    c.add_argument("--runtime", type=Path, help=text)
    text = "calibrated on a head's training frames, or on training windows; refused where it differs too much"
    c.add_argument("--int8", action="store_true", help=text)
    c.add_argument("--fast", action="store_true", help="the distilled denoising network")
    c.add_argument("--weights", choices=WEIGHTS, default="reference", help="of the denoising network")

    text = "a photograph and a voice to a talking head"
    c = commands.add(speak, "speak", text, profile="laptop-full", resumes=True)
    c.add_argument("--photo", type=Path, help="a photograph of one person")
    c.add_argument("--face", type=Path, help="a kept identity frame instead")
    c.add_argument("--sound", type=Path, required=True, help="any audio or video file with a voice")
    add_video_options(c)
    c.add_argument("--keep", type=Path, help="where to keep the identity frame; <out>.face by default")
    c.add_argument("--person", help="the name on the identity frame's card")
    c.add_argument(
        "--live",
        action="store_true",
        help="write frames while the sound comes in: raw 16-bit samples at 16 kHz, mono, from a file that "
        "grows or, for -, from standard input",
    )
    c.add_argument("--seed", type=NATURAL, default=0, help="another one gives other motion of the head")
    c.add_argument("--fast", action="store_true", help="sample with the distilled network, in fewer steps")
    c.add_argument("--steps", type=COUNT, help="denoising steps of a frame; the profile's by default")
    c.add_argument(
        "--guidance",
        type=AMOUNT,
        help="of the sound: above 1 the lips follow it more closely, and less of the identity is kept",
    )
    c.add_argument("--sampler", choices=["ddpm", "ddim", "dpm_solver"], help="the profile's by default")
    text = "that computes the network on a CPU; auto measures which is the fastest"
    c.add_argument("--engine", choices=DENOISERS, default=DENOISERS[0], help=text)
    c.add_argument(
        "--head-motion",
        type=AMOUNT,
        help="speed of the head, 1 as in the training clips; fast heads close the mouth less often",
    )
    c.add_argument("--blink-rate", type=AMOUNT, help="blinks a second")
    c.add_argument("--weights", choices=WEIGHTS, default="reference")
