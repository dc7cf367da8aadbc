"""The system of Stypułkowski et al. 2023, and its baselines."""

from typing import Annotated, Literal

from pydantic import Field

from talking_heads.sections.common import Amount, Channels, Count, Positive, Precision, Section, Share

Corpus = Literal["diverse", "plain"]  # of rendered talking clips


class TalkingClips(Section):
    """Training clips with sound at 25 frames a second; all but size and alignment is of rendered ones."""

    image_size: Annotated[int, Field(ge=16)]  # pixels of a side
    alignment: Literal["square", "similarity"]  # one crop for a clip, or every frame to a mean face
    corpus: Corpus  # plain: heads that hardly turn, before few backgrounds
    identities: Count  # one clip of each
    seconds: Amount


class Conditions(Section):
    """What the denoising network is given beside the noisy frame (sections 4.1 to 4.3)."""

    motion_frames: Count  # m_x
    motion_grey: bool
    motion_noise: Share  # the highest level of noise on motion frames in training; 0 as in the paper
    audio_windows: Count  # m_y, on each side
    audio_dropout: Share  # of the training samples, whose sound is left out; 0 as in the paper


class AudioEncoder(Section):
    """The encoder of a window of sound: the paper's on the waveform, or a small one on log-mel spectra."""

    kind: Literal["waveform", "log_mel"]
    embedding: Positive


class DiffusionNetwork(Section):
    """The UNet (section 5.1)."""

    unshuffle: Positive  # pixels of a side that become channels before the first convolution
    channels: Positive
    multipliers: Channels  # of the channels at every resolution
    blocks: Positive  # at every resolution
    embedding: Positive  # width of the embeddings of time and sound
    attention: tuple[Count, ...]  # resolutions (0 the highest) whose blocks attend, beside the middle
    head_channels: Positive  # of the attention
    dropout: Share
    precision: Precision


class Diffusion(Section):
    """The diffusion process and the loss (sections 3 and 4.4)."""

    steps: Positive  # T
    prediction: Literal["epsilon", "velocity"]
    vlb_weight: Amount  # λ_vlb
    lip_weight: Amount  # λ_ls
    min_snr: Amount  # γ of min-SNR weighting (Hang et al. 2023); 0 for none, as in the paper


class DiffusionTraining(Section):
    """Optimisation of the denoising network."""

    steps: Count
    batch: Positive  # of all ranks together
    micro_batch: Positive  # samples whose gradients are computed at once
    learning_rate: Amount
    learning_rate_decay: Share  # of the steps, the last ones, in which it falls to zero; 1 for all
    ema: Share  # 0 for none, as in the paper
    identity_frame: Literal["random", "first"]  # of the clip; random as in the paper
    # self-rollouts: in a share of the batches, or of their parts, the newest motion frames are the network's
    rollout_share: Share  # 0 for none, as in the paper
    rollout_frames: Positive
    rollout_steps: Positive  # denoising steps of a frame, by DDIM


class Sampling(Section):
    """Generation (section 4.5)."""

    sampler: Literal["ddpm", "ddim", "dpm_solver"]
    steps: Positive
    # of the steps among the T: from the last to the first of them, as in the paper; or from the last, without
    # the first, at which hardly any noise is left (Lin et al. 2024)
    spacing: Literal["linspace", "trailing"]
    guidance: Amount  # of the sound; 1 for none, as in the paper
    motion_noise: Share  # level of noise on motion frames (Ho et al. 2022); 0 for none, as in the paper
    # frames after which the identity frame takes the place of the oldest motion frame; 0 for never, as in the
    # paper's text; the authors' code does it after 15
    identity_every: Count
    distilled: bool  # whether the distilled network generates, with its own sampler and steps
    control: bool  # whether head motion and blinks are as the next two say, not as the network draws them
    head_motion: Amount  # speed of the head, relative to the training clips
    blink_rate: Amount  # blinks a second
    blink_guidance: Amount  # how far lids go beyond what the network makes of shut eyes; 1 for not at all


class Control(Section):
    """Layers beside the trained network that learn to obey the controls; the paper has none."""

    steps: Count
    learning_rate: Amount


class Distillation(Section):
    """A network that samples in fewer steps (Salimans & Ho 2022); the paper has none."""

    teacher_steps: Positive  # of DDIM with the trained network
    steps: Positive  # of the distilled one: the teacher's, halved once or more
    training_steps: Count  # of each halving
    learning_rate: Amount


class Sda(Section):
    """The baseline of Vougioukas et al. 2019, a GAN."""

    channels: Positive  # of the generator, at half of the resolution
    identity: Positive  # width of the latent code of the identity frame
    content: Positive  # width of the latent code of the sound
    noise: Positive  # width of the latent code of the noise
    discriminator_channels: Positive
    hidden: Positive  # width of the discriminators of sequences and of synchronisation
    frames: Annotated[int, Field(ge=10)]  # of a training sequence: at least two snippets of 0.2 s
    steps: Count
    batch: Positive  # of all ranks together
    learning_rate: Amount
    sequence_learning_rate: Amount  # of the discriminators of sequences and of synchronisation
    learning_rate_decay: Share  # of the steps, the last ones, in which both fall to zero
    frame_weight: Amount  # λ_img
    sequence_weight: Amount  # λ_seq
    sync_weight: Amount  # λ_sync
    reconstruction_weight: Amount  # λ_rec, of L1


class LandmarkPrediction(Section):
    """The baseline that predicts landmarks from sound, for a few-shot head."""

    hidden: Positive
    components: Positive  # of the motion that the sound does not explain
    frames: Annotated[int, Field(ge=3)]  # of a training sequence
    steps: Count
    batch: Positive  # of all ranks together
    learning_rate: Amount
    mouth_weight: Amount


class TalkingProtocol(Section):
    """What is generated and measured, and what the chapters do beside it."""

    # clips for validation, and as many for the evaluation: one of every identity, then a second one
    identities: Positive
    seconds: Amount  # of each
    batch: Positive  # clips that are generated at once; their frames depend on it, in the last digits
    # of the short training in chapters 20 and 22; ten times as many in chapter 24
    chapter_identities: Positive
    chapter_steps: Count  # of this training; three times as many for the encoder in chapter 21
    chapter_clips: Positive  # validation clips that chapters 21 and 22 generate
    chapter_seconds: Amount  # of the clips in which chapter 22 measures drift
    chapter_trains: bool  # whether chapter 21 trains the network where there are no weights
    ablation_steps: Count  # of each training of the ablations; 0 for none
    ablation_seconds: Amount  # of the clips in which these are measured
    long_identities: Count  # of the clips that show how long quality lasts; 0 for none
    long_seconds: Amount


class Diffused(Section):
    """The system of Stypułkowski et al. 2023."""

    clips: TalkingClips
    conditions: Conditions
    audio_encoder: AudioEncoder
    network: DiffusionNetwork
    diffusion: Diffusion
    training: DiffusionTraining
    sampling: Sampling
    distillation: Distillation
    control: Control
    sda: Sda
    landmarks: LandmarkPrediction
    protocol: TalkingProtocol
