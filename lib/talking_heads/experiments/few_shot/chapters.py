"""The chapters on few-shot heads: what each needs and promises, and the captions of its figures."""

from talking_heads.data import planning
from talking_heads.data.speakers import clips
from talking_heads.experiments.few_shot import claims, protocol, tables, timing
from talking_heads.few_shot import fine_tuning, meta_learning
from talking_heads.few_shot.baselines import training as baselines
from talking_heads.metrics import observer
from talking_heads.workbook.stages import Chapter

# versions of the code that the chapters' results depend on; they stand beside that code
VERSIONS = {
    "speakers": clips.VERSION,
    "preparing": planning.VERSION,
    "meta-learning": meta_learning.VERSION,
    "fine-tuning": fine_tuning.VERSION,
    "baselines": baselines.VERSION,
    "protocol": protocol.VERSION,
    "observer": observer.VERSION,
    "tables": tables.VERSION,
    "claims": claims.VERSION,
    "timing": timing.VERSION,
}

CAPTIONS = {
    "claims": "The claims of Zakharov et al. 2019: verdicts of their parts, and of each claim",
    "start_here": "A talking head from the reference weights",
    "speakers": "The corpus: one row an identity, other clothes and light in every video",
    "landmarks": "Frames, landmarks and landmark images",
    "losses": "What the losses see",
    "meta_learning": "Meta-learning from nothing for its budget, beside the reference",
    "meta_curves": "Losses and scores of meta-learning",
    "identity_gap": "The identity gap before and after fine-tuning",
    "tuning_curves": "Fine-tuning",
    "figure3": "As the paper's Figure 3: the small corpus",
    "figure4": "As the paper's Figure 4: the large corpus",
    "figure6": "As the paper's Figure 6: ablations",
    "figure6_others": "The other ablations",
    "figure10": "As the paper's Figure 10: two identities at every T that was run, small corpus",
    "figure11": "As the paper's Figure 11: many identities, small corpus",
    "figure12": "As the paper's Figure 12: two identities at every T, large corpus",
    "figure13": "As the paper's Figure 13: many identities, large corpus",
    "stability": "Short trainings with and without L_FM",
    "puppeteering": "A head driven by another identity, with adapted landmarks",
    "same_person": "A head driven by another video of the same identity",
    "sixteen": "A head of sixteen frames",
    "figure1": "As the paper's Figure 1: driven by the same identity and by another one",
    "figure5": "As the paper's Figure 5: one-shot heads driven by other identities",
    "figure7": "As the paper's Figure 7: more of them",
    "figure8": "As the paper's Figure 8: driven by another video of the same identity, T = 8",
    "figure9": "As the paper's Figure 9: the same with T = 16",
    "gap": "The identity gap of two identities at T = 1 and 8, with what differs from the truth",
    "by_hand": "One head moved by hand: turned, mouth and eyes opened, one landmark pulled",
    "adaptation": "A stranger's landmarks, raw and adapted, where the truth is known",
    "gaze": "Eyes of heads that look aside, told by 68 points and told where the pupils are",
    "triplets": "Which one is the fake?",
    "astronaut": "A head from one photograph, by weights that have seen rendered people only",
}
ANSWERS = ("study/answers/*.csv",)  # of the user study
TRAINING = ("03_meta_learning",)
CHAPTERS = (
    Chapter(
        "00_start_here",
        "the map, and a talking head from the reference weights",
        (),
        ("figures/start_here.png",),
        0.3,
    ),
    Chapter(
        "01_speakers_and_landmarks",
        "renders and prepares the corpus",
        (),
        ("figures/speakers.png", "figures/landmarks.png", "verification.json"),
        3.0,
    ),
    Chapter(
        "02_networks_and_losses",
        "shapes, sizes, losses",
        ("01_speakers_and_landmarks",),
        ("tables/sizes.csv", "figures/losses.png"),
        0.1,
    ),
    Chapter(
        "03_meta_learning",
        "meta-learning from nothing, for its budget",
        ("01_speakers_and_landmarks",),
        ("figures/meta_learning.png", "figures/meta_curves.png"),
        1.7,
    ),
    Chapter(
        "04_fine_tuning",
        "one new person, before and after",
        ("01_speakers_and_landmarks",),
        ("figures/identity_gap.png", "figures/tuning_curves.png"),
        1.0,
        trained_by=TRAINING,
    ),
    Chapter(
        "05_comparison",
        "Table 1: all methods",
        ("01_speakers_and_landmarks",),
        (
            "tables/table1.csv",
            "tables/table1.md",
            "tables/table1.tex",
            "tables/differences.csv",
            "tables/observed.csv",
            *(f"figures/figure{n}.png" for n in (3, 4, 10, 11, 12, 13)),
        ),
        8.4,
        trained_by=TRAINING,
        reads=ANSWERS,
        alone=True,
    ),
    Chapter(
        "06_ablations",
        "what each part is worth",
        ("05_comparison",),  # whose cells it goes on with
        ("tables/ablations.csv", "tables/stability.csv", "figures/figure6.png", "figures/figure6_others.png"),
        6.1,
        alone=True,
    ),
    Chapter(
        "07_timing",
        "Table 2: predicted and measured",
        ("01_speakers_and_landmarks",),
        ("tables/table2.csv", "tables/timings.csv"),
        5.1,
        reads=("tables/benchmark.csv",),  # which another command writes
        alone=True,
    ),
    Chapter(
        "08_claims",
        "which of the paper's claims hold here",
        ("05_comparison", "06_ablations", "07_timing"),
        ("tables/claims.csv", "tables/explanations.csv", "tables/blur.csv", "figures/claims.png"),
        0.9,
    ),
    Chapter(
        "09_identity_gap",
        "looking at the gap, by hand",
        ("01_speakers_and_landmarks",),
        ("figures/gap.png", "figures/by_hand.png"),
        0.5,
        trained_by=TRAINING,
    ),
    Chapter(
        "10_puppeteering",
        "driving one person by another",
        ("01_speakers_and_landmarks",),
        (
            *(f"figures/figure{n}.png" for n in (1, 5, 7, 8, 9)),
            "figures/adaptation.png",
            "tables/adaptation.csv",
            "tables/drivers.csv",
            "clips/puppeteering.mp4",
            "clips/same_person.mp4",
            "clips/sixteen.mp4",
        ),
        1.9,
        trained_by=TRAINING,
    ),
    Chapter(
        "11_your_own_video",
        "a photograph that moves",
        (),
        ("figures/astronaut.png", "clips/astronaut.mp4"),
        0.2,
        trained_by=TRAINING,
    ),
    Chapter(
        "12_user_study",
        "which one is the fake?",
        ("05_comparison",),
        ("figures/triplets.png", "study/key.csv", "study/sheet0.html"),
        0.1,
        reads=ANSWERS,
    ),
)
