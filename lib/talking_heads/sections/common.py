"""What both systems share: the corpus, what is evaluated, and what is timed."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Layout = Literal["folder", "voxceleb1", "voxceleb2", "crema", "lrw"]
Precision = Literal["auto", "fp32"]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[tuple[Positive, ...], Field(min_length=1)]


class Section(BaseModel):
    """A frozen group of values; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Speakers(Section):
    """Sizes of the corpus of procedural speakers; unused where ``data.source`` is "videos"."""

    meta_identities: Count  # for meta-learning
    meta_videos: Positive  # of each identity
    meta_frames: Positive  # of each video
    meta_fps: Amount
    evaluation_identities: Count  # for validation, and as many for the evaluation set
    evaluation_videos: Positive  # the first has evaluation_frames, the others evaluation_frames_other
    evaluation_frames: Positive
    evaluation_frames_other: Positive
    evaluation_fps: Amount


class Data(Section):
    """The corpus: what is rendered or read, and how it is prepared."""

    source: Literal["speakers", "videos"]  # rendered, or your own
    layout: Layout  # of your own videos
    image_size: Annotated[int, Field(ge=16)]  # pixels of a side
    frames_per_video: Count  # at most, evenly spaced over all clips of a video; 0 keeps all
    speakers: Speakers

    @property
    def real(self) -> bool:
        """Whether the identities are real people, on whom the embedded judges were not trained."""
        return self.source == "videos"


class Protocol(Section):
    """What is evaluated (section 4)."""

    test_videos: Positive  # one of every identity, then a second one, until there are so many
    holdout_frames: Positive
    shots: Channels  # T
    small_shots: Channels  # of these, those at which the rows of the small corpus are computed
    seeds: Positive  # of fine-tuning
    observer_steps: Count  # of training the observers of USER-proxy and Turing-proxy; 0 for none
    stability_steps: Count  # of the trainings with and without L_FM
    stability_seeds: Count  # of each; 0 shows the reference's
    chapters: tuple[str, ...]  # by number, as in "04"; empty for all that the corpus is for
    jobs: bool  # whether jobs prepare, train, evaluate and measure, and chapters read what they left


class Timing(Section):
    """Table 2."""

    profile: str  # whose sizes are timed beside this profile's
    seconds: Amount  # at most, for each row
