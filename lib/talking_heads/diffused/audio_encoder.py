"""Encoders of windows of sound: (B, n, 3200) samples in [-1, 1] at 16 kHz to embeddings (B, n, size)."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from talking_heads.data.sound import SOUND_RATE
from talking_heads.data.windows import cut_sound, gain_of, neighbours
from talking_heads.sections.diffused import AudioEncoder

# kernel and stride of the paper's convolutions on the waveform; a window of 0.2 s becomes one vector
CONVOLUTIONS = ((80, 16), (4, 2), (4, 2), (4, 2), (10, 5), (5, 5))
CHANNELS = (16, 32, 64, 128, 256, 256)
MELS, FFT, MEL_HOP = 40, 512, 160
FRAMES_AT_ONCE = 128  # whose windows are encoded together
LOUDNESS = 1e-4  # power below which the log spectrum is flat


class WaveformEncoder(nn.Module):
    """The paper's encoder: convolutions on the waveform of a window, then a GRU over a frame's windows."""

    def __init__(self, size: int):
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 1
        for c_out, (kernel, stride) in zip(CHANNELS, CONVOLUTIONS, strict=True):
            layers += [
                nn.Conv1d(c_in, c_out, kernel, stride, padding=(kernel - stride + 1) // 2),
                nn.BatchNorm1d(c_out),
                nn.ReLU(),
            ]
            c_in = c_out
        self.convolutions = nn.Sequential(*layers)
        self.gru = nn.GRU(c_in, size, num_layers=2, batch_first=True)

    def forward(self, sound: Tensor) -> Tensor:
        """(B, n, samples) -> (B, n, size)."""
        features = self.convolutions(sound.flatten(0, 1)[:, None])  # (B n, C, 1)
        return self.gru(features.mean(-1).unflatten(0, sound.shape[:2]))[0]


class LogMelEncoder(nn.Module):
    """A small encoder on the log-mel spectrum of each window alone."""

    def __init__(self, size: int, channels: int = 64):
        super().__init__()
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.layers = nn.Sequential(
            nn.Conv1d(MELS, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(channels, channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv1d(channels, channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.LazyLinear(size),
            nn.Tanh(),
        )
        self.layers(torch.zeros(1, MELS, 1 + 3200 // MEL_HOP))  # gives the linear layer its size

    def log_mel(self, sound: Tensor) -> Tensor:
        """Log-mel spectra (N, mels, instants) of windows (N, samples), about 0 to 1."""
        spectrum = torch.stft(
            sound, FFT, MEL_HOP, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = self.filters @ spectrum.abs().square()
        return (power + LOUDNESS).log10() / 6 + 0.6

    def forward(self, sound: Tensor) -> Tensor:
        """(B, n, samples) -> (B, n, size)."""
        return self.layers(self.log_mel(sound.flatten(0, 1).float())).unflatten(0, sound.shape[:2])


def embed_clip(
    encoder: nn.Module, sound: np.ndarray, count: int, each_side: int, device: str | torch.device = "cpu"
) -> Tensor:
    """Motion audio embeddings (count, 2 m_y + 1, A) of the frames of a clip, of sound (samples,) int16.

    The encoder hears the windows of each frame as it does in training: alone, and at the same loudness.
    """
    gain, embeddings = gain_of(sound), []
    for frames in np.array_split(np.arange(count), -(-count // FRAMES_AT_ONCE)):
        windows = np.stack([cut_sound(sound, neighbours(k, count, each_side)) for k in frames])
        with torch.no_grad():
            embeddings.append(encoder(torch.from_numpy(gain * windows).float().to(device)))
    return torch.cat(embeddings)


def mel_filters() -> Tensor:
    """Triangular filters (mels, frequencies) evenly spaced on the mel scale up to half the sampling rate."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = torch.linspace(mel(60.0), mel(SOUND_RATE / 2), MELS + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    frequencies = torch.linspace(0, SOUND_RATE / 2, FFT // 2 + 1)
    low, centre, high = (edge[:, None] for edge in (hertz[:-2], hertz[1:-1], hertz[2:]))
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def build_encoder(section: AudioEncoder) -> nn.Module:
    """An untrained encoder of a profile."""
    kind = {"waveform": WaveformEncoder, "log_mel": LogMelEncoder}[section.kind]
    return kind(section.embedding)
