"""The system of Zakharov et al. 2019, and its baselines."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from talking_heads.sections.common import Amount, Channels, Count, Positive, Precision, Section, Share

Variant = Literal["ft", "ff", "small", "no-match", "no-match-one-shot", "pix2pixhd", "x2face"]
VARIANTS: tuple[str, ...] = get_args(Variant)
Pooling = Literal["sum_relu", "relu_sum", "relu_mean"]


class LandmarkImages(Section):
    """How landmarks are drawn."""

    line_width: Annotated[float, Field(gt=0, le=100)]  # pixels
    pupils: Share  # of the episodes whose landmark images show pupils; 0 as in the paper


class Networks(Section):
    """E, G and V (section 3.4)."""

    embedding: Positive  # N
    embedder_channels: Channels
    embedder_attention: Count  # after this many blocks; 0 for none
    discriminator_channels: Channels
    discriminator_attention: Count
    generator_down: Channels
    generator_up: Channels
    generator_bottleneck: Count
    generator_attention_down: Count
    generator_attention_up: Count
    spectral_norm: bool  # in E and G; D always has it
    pool: Pooling  # of E
    pool_discriminator: Pooling  # of V
    precision: Precision  # "auto" is bf16 where the device multiplies it in hardware


class Losses(Section):
    """Terms and weights of equations (3) and (4)."""

    extractors: tuple[
        str, ...
    ]  # "vgg19", "vggface", "attributes", "people"; "attributes@eyes" crops the eyes, "@twice" enlarges
    content_weights: tuple[Amount, ...]  # one for each extractor
    adversarial_weight: Amount
    feature_matching_weight: Amount
    feature_matching_reduce: Literal["mean", "sum"]  # over the residual blocks
    match_weight: Amount
    match_pulls: Literal["embedder", "both"]  # what L_MCH moves: E alone (W is detached), or E and W


class Optimiser(Section):
    """Adam, and the updates of D for each update of G."""

    beta1: Share  # of E and G
    discriminator_beta1: Share
    discriminator_steps: Positive
    shared_episode: bool  # whether one episode serves all updates of a step, not one each


class MetaLearning(Section):
    """Section 3.2."""

    k_shot: Positive  # K
    k_min: Positive  # each batch draws its K from k_min to k_shot
    targets: Positive  # target frames for each embedding
    batch_videos: Positive
    steps: Count  # of FT; FF takes twice as many
    epochs: Count  # of one episode for each video; where not 0, it replaces steps
    content_steps: Count  # with L_CNT alone, before D joins; FT and FF share them
    learning_rate: Amount  # of E and G
    discriminator_learning_rate: Amount
    table_learning_rate: Amount  # of W
    table_start: Literal["random", "embeddings"]  # "embeddings": W starts as the videos' ê when D joins
    learning_rate_decay: bool  # a cosine to a twentieth after the content steps
    ema: Share


class Trainings(Section):
    """What is trained, and for how long on the small corpus and in a chapter."""

    variants: tuple[Variant, ...]
    reference_weights: bool  # whether committed weights fit this profile
    reference_part: str  # the folder among the committed results that has them; "" for the main one
    start_profile: str  # whose reference weights a training starts from, one level deeper; "" for none
    pool: bool  # whether meta-learn trains on identities rendered for it, not on the profile's corpus
    small_share: Share  # of the identities, as the small corpus; 1 where the corpus is the paper's small one
    small_steps: Count
    chapter_steps: Count  # of the chapter that always trains from nothing


class FineTuning(Section):
    """Section 3.3."""

    epochs: Count
    batch: Positive
    learning_rate: Amount
    discriminator_learning_rate: Amount
    adversarial_weight: Amount


class Pix2pixHD(Section):
    """The baseline of Wang et al. 2018."""

    channels: Channels  # of the generator, from full resolution down
    blocks: Count
    discriminator_channels: Positive  # of the first layer
    halvings: Count  # of the patch discriminators; three give patches of 70²
    learning_rate: Amount
    fine_tuning_learning_rate: Amount


class X2Face(Section):
    """The baseline of Wiles et al. 2018."""

    channels: Channels
    embedding: Positive
    driving: Positive
    learning_rate: Amount


class FewShot(Section):
    """The system of Zakharov et al. 2019, and its baselines."""

    landmark_images: LandmarkImages
    networks: Networks
    losses: Losses
    optimiser: Optimiser
    meta_learning: MetaLearning
    trainings: Trainings
    fine_tuning: FineTuning
    pix2pixhd: Pix2pixHD
    x2face: X2Face
