"""Speech of other languages, with the times of its phonemes: by espeak-ng, where it is installed.

espeak-ng is optional. Its shared library is installed with the program (a package of most Linux
distributions) or with the Python package ``espeakng-loader``.
"""

import ctypes
import ctypes.util
import importlib
import math
import re
from functools import cache

import numpy as np
from scipy.signal import resample_poly

from talking_heads.data.speakers.speech import RATE, Segment

# what espeak-ng says, by language; each about three seconds
SENTENCES = {
    "English": ("en", "Good morning. My name is Ada, and I have never been recorded."),
    "German": ("de", "Guten Morgen. Ich heiße Ada, und niemand hat mich je aufgenommen."),
    "Korean": ("ko", "안녕하세요. 제 이름은 에이다이고, 녹음된 적이 없습니다."),
    "French": ("fr", "Bonjour. Je m'appelle Ada, et personne ne m'a jamais enregistrée."),
    "Polish": ("pl", "Dzień dobry. Mam na imię Ada i nikt mnie nigdy nie nagrał."),
}
# by phoneme of the kit: the symbols of the International Phonetic Alphabet whose mouth shape it represents
PHONEMES = {
    "_": "_ʔ",
    "a": "aɐɑɶ", "ae": "æ", "e": "eɛ", "i": "iɪɨj", "o": "oɔøœɒ", "u": "uʊyʏ", "uh": "əʌɜɤɯɵ", "er": "ɚɝ",
    "m": "m", "b": "b", "p": "p", "f": "f", "v": "vʋβ", "s": "sθ", "z": "z", "sh": "ʃʂɕʒʐʑç", "t": "tʈ",
    "d": "dðɾɖ", "n": "nɲɳ", "l": "lɫʎɭ", "k": "kcqxχhɦ", "g": "ɡgɣɟŋ", "r": "rɹɻʁʀ", "w": "wɥ",
}  # fmt: skip
BY_SIGN = {sign: name for name, signs in PHONEMES.items() for sign in signs}
# shown as the mouth of their second sound
AFFRICATES = {"tʃ": "ʃ", "dʒ": "ʒ", "tɕ": "ɕ", "dʑ": "ʑ", "ts": "s", "dz": "z"}
MODIFIERS = re.compile("[ˈˌːˑ.ʲʰʷʼ̴̠̪̯̥̩̃͡-]")  # stress, length and the like
# of espeak-ng's interface (speak_lib.h)
SYNCHRONOUS, PHONEME_EVENTS, IPA, DONT_EXIT, UTF8 = 2, 0x1, 0x2, 0x8000, 1
PHONEME, LAST = 7, 0  # types of events


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@cache
def _library() -> tuple[ctypes.CDLL, int] | None:
    """The library, ready for use, and its samples a second; None where it is not installed."""
    try:
        loader = importlib.import_module("espeakng_loader")
        path, data = loader.get_library_path(), loader.get_data_path().encode()
    except ImportError:
        path, data = ctypes.util.find_library("espeak-ng"), None
    try:
        library = ctypes.CDLL(str(path)) if path else None
    except OSError:  # for another architecture
        library = None
    if library is None:
        return None
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, data, PHONEME_EVENTS | IPA | DONT_EXIT)
    return (library, rate) if rate > 0 else None


def is_installed() -> bool:
    """Whether :func:`speak` can be used."""
    return _library() is not None


def speak(text: str, language: str) -> tuple[np.ndarray, list[Segment]]:
    """Synthesise a text: sound (n,) int16 at 16 kHz, and its phonemes, mapped to the kit's by mouth shape.

    ``language`` is a code such as "de". Raises RuntimeError where espeak-ng is not installed, and ValueError
    for a language that it does not have or a sign that has no mouth here.
    """
    loaded = _library()
    if loaded is None:
        raise RuntimeError("espeak-ng is not installed: install its program, or pip install espeakng-loader")
    library, rate = loaded
    if library.espeak_SetVoiceByName(language.encode()) != 0:
        raise ValueError(f"espeak-ng has no language {language!r}")
    pieces: list[np.ndarray] = []
    events: list[tuple[float, str]] = []  # start in seconds, and signs

    def receive(wave, count, event) -> int:
        if wave and count:
            pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        number = 0
        while event[number].type != LAST:
            if event[number].type == PHONEME:
                signs = event[number].id.string.decode("utf-8", "ignore")
                events.append((event[number].audio_position / 1000, signs))
            number += 1
        return 0

    callback = _Callback(receive)  # must live as long as the call
    library.espeak_SetSynthCallback(callback)
    words = text.encode()
    library.espeak_Synth(words, len(words) + 1, 0, 1, 0, UTF8, None, None)
    if not pieces or not events:
        raise ValueError(f"espeak-ng says nothing in language {language!r}: {text}")
    sound = np.concatenate(pieces)
    seconds, divisor = len(sound) / rate, math.gcd(RATE, rate)
    resampled = resample_poly(sound.astype(np.float64), RATE // divisor, rate // divisor)
    return np.rint(resampled).clip(-32768, 32767).astype(np.int16), segments_of(events, seconds)


def segments_of(events: list[tuple[float, str]], seconds: float) -> list[Segment]:
    """The phonemes of starts in seconds and signs, to the end of the sound.

    Several signs, as of a diphthong, share their time equally. Raises ValueError as :func:`speak` does.
    """
    starts = [start for start, _ in events]
    segments = [Segment("_", 0.0, starts[0])] if starts and starts[0] > 0 else []
    for (start, signs), end in zip(events, [*starts[1:], seconds], strict=True):
        names = phonemes_of(signs)
        length = (end - start) / len(names)
        segments += [
            Segment(name, start + k * length, start + (k + 1) * length) for k, name in enumerate(names)
        ]
    return [segment for segment in segments if segment.end > segment.start]


def phonemes_of(signs: str) -> list[str]:
    """The kit's phonemes for signs of the International Phonetic Alphabet; none are a pause.

    Raises ValueError for an unknown sign.
    """
    plain = MODIFIERS.sub("", signs).strip()
    for affricate, sign in AFFRICATES.items():
        plain = plain.replace(affricate, sign)
    if unknown := set(plain) - BY_SIGN.keys():
        raise ValueError(f"no mouth for {', '.join(sorted(unknown))} in {signs!r}: add it to PHONEMES")
    return [BY_SIGN[sign] for sign in plain] or ["_"]
