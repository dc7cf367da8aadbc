"""The traits of a procedural speaker, which are the same in all videos of an identity.

Every trait is a number in a range. Lengths are in head units: 1.0 is 10 cm on an adult head. The origin lies
between the ears at the height of the eyes; x points to the right of the image, y down and z to the viewer.
Facial proportions are rounded values of anthropometric tables.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Trait:
    """Range and meaning of one trait."""

    low: float
    high: float
    meaning: str


TRAITS: dict[str, Trait] = {
    # skull and outline
    "skull_width": Trait(0.90, 1.12, "breadth of the whole head"),
    "skull_height": Trait(0.93, 1.08, "height of the whole head"),
    "skull_depth": Trait(0.94, 1.06, "depth of the whole head"),
    "forehead": Trait(-0.05, 0.06, "forehead bulges forward"),
    "temples": Trait(-0.06, 0.03, "temples hollow or full"),
    "jaw_width": Trait(-0.20, 0.04, "jaw corners narrow or square"),
    "jaw_fullness": Trait(-0.07, 0.09, "jowls and lower cheeks"),
    "chin_length": Trait(-0.07, 0.12, "chin up or down"),
    "chin_width": Trait(0.12, 0.30, "spread of the chin"),
    "chin_forward": Trait(-0.03, 0.12, "chin recedes or juts"),
    "chin_cleft": Trait(0.0, 1.0, "dimple in the chin"),
    "cheekbones": Trait(-0.02, 0.09, "cheekbones stand out"),
    "cheek_fullness": Trait(-0.07, 0.07, "cheeks hollow or round"),
    # nose
    "nose_length": Trait(-0.06, 0.09, "tip further up or down"),
    "nose_width": Trait(0.095, 0.19, "half breadth of the wings"),
    "nose_height": Trait(0.11, 0.28, "how far the tip stands out"),
    "nose_bridge": Trait(0.03, 0.11, "height of the bridge between the eyes"),
    "nose_hump": Trait(-0.05, 0.07, "saddle or hump on the ridge"),
    "nose_bridge_width": Trait(0.055, 0.11, "breadth of the ridge"),
    # eyes
    "eye_distance": Trait(0.275, 0.37, "half distance between the pupils"),
    "eye_height": Trait(-0.05, 0.05, "eyes lie higher or lower"),
    "eye_width": Trait(0.135, 0.19, "half length of the lid opening"),
    "eye_open": Trait(0.050, 0.095, "height of the upper lid"),
    "eye_lower": Trait(0.030, 0.060, "depth of the lower lid"),
    "eye_tilt": Trait(-0.14, 0.22, "outer corner down or up, radians"),
    "eye_crease": Trait(0.0, 1.0, "single lid or deep crease"),
    "eye_depth": Trait(0.02, 0.11, "how deep the sockets lie"),
    "iris_hue": Trait(0.0, 1.0, "from dark brown over hazel and green to blue"),
    "lashes": Trait(0.3, 1.0, "darkness of the lid's rim"),
    # brows
    "brow_height": Trait(-0.05, 0.07, "distance from the eye"),
    "brow_thickness": Trait(0.018, 0.060, "half thickness"),
    "brow_arch": Trait(0.0, 0.10, "flat or arched"),
    "brow_tilt": Trait(-0.06, 0.08, "outer end down or up"),
    "brow_length": Trait(0.30, 0.42, "length of a brow"),
    "brow_darkness": Trait(0.35, 1.0, "faint or dark"),
    # mouth
    "mouth_width": Trait(0.195, 0.315, "half breadth at rest"),
    "mouth_height": Trait(-0.06, 0.06, "mouth lies higher or lower"),
    "upper_lip": Trait(0.030, 0.095, "thickness of the upper lip"),
    "lower_lip": Trait(0.045, 0.120, "thickness of the lower lip"),
    "cupid_bow": Trait(0.0, 1.0, "notch of the upper lip"),
    "lip_colour": Trait(0.0, 1.0, "skin-coloured or painted red"),
    "mouth_corner": Trait(-0.03, 0.03, "corners hang or rise at rest"),
    # ears
    "ear_size": Trait(0.75, 1.30, "length of the ears"),
    "ear_protrusion": Trait(0.06, 0.24, "how far the ears stand off"),
    # skin
    "skin_tone": Trait(0.0, 1.0, "light or dark"),
    "skin_warmth": Trait(0.0, 1.0, "pink or olive"),
    "skin_texture": Trait(0.0, 1.0, "freckles and blotches"),
    "blush": Trait(0.0, 1.0, "redness of cheeks and nose"),
    "mole_x": Trait(-0.55, 0.55, "position of a mole, across"),
    "mole_y": Trait(0.10, 0.95, "position of a mole, down"),
    # hair
    "hair_amount": Trait(0.0, 1.0, "bald below 0.12"),
    "hairline": Trait(0.48, 0.80, "height of the hair line above the eyes"),
    "hair_recession": Trait(-0.05, 0.25, "hair line recedes at the temples"),
    "hair_volume": Trait(0.03, 0.26, "thickness of the hair on top"),
    "hair_sides": Trait(0.02, 0.20, "thickness of the hair at the sides"),
    "hair_length": Trait(0.0, 1.0, "cropped, to the chin, over the shoulders"),
    "hair_fringe": Trait(0.0, 1.0, "hair falls into the forehead above 0.6"),
    "hair_part": Trait(-0.5, 0.5, "side of the parting"),
    "hair_curl": Trait(0.0, 1.0, "smooth or curly outline"),
    "hair_lightness": Trait(0.0, 1.0, "black to blond"),
    "hair_redness": Trait(0.0, 1.0, "ash to copper"),
    "hair_grey": Trait(0.0, 1.0, "grey above 0.5"),
    # beard, glasses, age
    "beard": Trait(0.0, 1.0, "none below 0.3, stubble, full beard"),
    "beard_length": Trait(0.0, 0.12, "thickness of the beard"),
    "moustache": Trait(0.0, 1.0, "none below 0.3"),
    "glasses": Trait(0.0, 1.0, "worn above 0.5"),
    "glasses_size": Trait(0.17, 0.25, "half breadth of a lens"),
    "glasses_roundness": Trait(0.2, 1.0, "angular or round"),
    "glasses_darkness": Trait(0.0, 1.0, "light or dark frame"),
    "wrinkles": Trait(0.0, 1.0, "folds beside the nose, lines on the forehead"),
    "eye_bags": Trait(0.0, 1.0, "shadows below the eyes"),
    # voice
    "pitch": Trait(85.0, 260.0, "mean fundamental frequency, hertz"),
    "tract": Trait(0.85, 1.18, "vocal tract length relative to an adult mean"),
}

NAMES = tuple(TRAITS)
VOICE = ("pitch", "tract")  # the traits that are not visible


def draw_traits(rng: np.random.Generator) -> dict[str, float]:
    """Draw the traits of one identity.

    Each trait is drawn from a mixture of a uniform and a bell-shaped distribution over its range, so that
    identities differ visibly. Traits are independent except for those that depend on masculinity (beard, jaw,
    brows, hair length, pitch and tract), age (grey hair, wrinkles and receding hair) and skin tone (hair and
    eyes).
    """
    masculine, age = rng.random(), rng.beta(1.3, 1.6)
    unit = {name: float(rng.random() if rng.random() < 0.6 else rng.beta(3, 3)) for name in NAMES}

    def mix(name: str, target: float, weight: float) -> None:
        unit[name] = (1 - weight) * unit[name] + weight * target

    man = masculine > 0.5
    for name, weight in (("jaw_width", 0.4), ("brow_thickness", 0.4), ("chin_width", 0.3)):
        mix(name, masculine, weight)
    mix("pitch", 1 - masculine, 0.7)
    mix("tract", masculine, 0.6)
    mix("lip_colour", 0.15 if man else unit["lip_colour"], 0.8)
    mix("lashes", 1 - masculine, 0.3)
    mix("hair_length", 0.0 if man else 0.65, 0.75 if man else 0.4)
    mix("hair_recession", age if man else 0.0, 0.6)
    mix("hairline", 0.4 + 0.5 * age if man else 0.35, 0.4)
    mix("wrinkles", age, 0.75)
    mix("eye_bags", age, 0.5)
    bald = man and rng.random() < 0.10 + 0.12 * age
    unit["hair_amount"] = 0.0 if bald else 0.3 + 0.7 * unit["hair_amount"]
    unit["hair_grey"] *= 0.5 + 0.9 * age if age > 0.55 else 0.5
    unit["hair_grey"] = min(unit["hair_grey"], 1.0)
    if not (man and rng.random() < 0.55):
        unit["beard"] = 0.0
    if unit["beard"] > 0.3:
        unit["moustache"] = max(unit["moustache"], unit["beard"] * 0.9)
    elif not (man and rng.random() < 0.15):
        unit["moustache"] = 0.0
    unit["glasses"] = 1.0 if rng.random() < 0.25 else 0.0
    # skin and hair are correlated, as in a population
    mix("hair_lightness", 1 - unit["skin_tone"], 0.55)
    if unit["skin_tone"] > 0.6:
        unit["hair_lightness"] *= 0.35
        unit["hair_redness"] *= 0.4
        mix("iris_hue", 0.05, 0.85)
    return {name: trait.low + unit[name] * (trait.high - trait.low) for name, trait in TRAITS.items()}


def person_rng(seed: int, identity: int, *stream: int) -> np.random.Generator:
    """The random generator of one identity, or of one of its videos, independent of all others."""
    return np.random.default_rng([seed, identity, *stream])


def stack_traits(
    batch: list[dict[str, float]], device: str | torch.device = "cpu"
) -> dict[str, torch.Tensor]:
    """Traits of a batch of speakers: name -> (B,) float32."""
    rows = [[traits[name] for name in NAMES] for traits in batch]
    table = torch.tensor(rows, dtype=torch.float32, device=device)
    return dict(zip(NAMES, table.unbind(1), strict=True))


def unit_vector(traits: dict[str, float]) -> np.ndarray:
    """The traits scaled to [0, 1], in the order of ``NAMES``: (len(NAMES),) float32."""
    values = [(traits[name] - trait.low) / (trait.high - trait.low) for name, trait in TRAITS.items()]
    return np.array(values, np.float32)
