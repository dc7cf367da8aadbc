"""The chapters on Diffused Heads: what each needs and promises, and the captions of its figures."""

from talking_heads.diffused import audio_pretraining, training
from talking_heads.diffused.baselines import training as baselines
from talking_heads.experiments.diffused import claims, clip_metrics, diversity, generalisation, protocol
from talking_heads.experiments.diffused.ablation_table import FIGURE5, METRICS, TABLE
from talking_heads.experiments.diffused.generalisation import TABLE as VOICES
from talking_heads.experiments.diffused.length import METRICS as LENGTH
from talking_heads.experiments.diffused.tables import COMPARED, TABLE1_FILE
from talking_heads.experiments.diffused.turing import METRICS as VOTES
from talking_heads.metrics import clip_observer
from talking_heads.workbook.stages import Chapter

# versions of the code that the chapters' results depend on; they stand beside that code
VERSIONS = {
    "audio encoder": audio_pretraining.VERSION,
    "diffusion": training.VERSION,
    "talking baselines": baselines.VERSION,
    "talking heads": protocol.VERSION,
    "metrics of talking heads": clip_metrics.VERSION,
    "observer of clips": clip_observer.VERSION,
    "claims of Diffused Heads": claims.VERSION,
    "other voices": generalisation.VERSION,
}

CAPTIONS = {
    "forward_process": "A face becomes noise",
    "errors": "What an error of the network costs, when it predicts ε and when it predicts v",
    "mouth_box": "The mouth of the lip synchronisation loss",
    "samplers": "Error of two samplers where the optimal denoiser is known",
    "denoised": "A network's estimate of the frame, before and after a short training",
    "diffusion_losses": "Losses of the short training",
    "diffusion_training": "The training of the committed network, on validation identities",
    "sound": "A sound, and how far a jaw is open according to the sound alone",
    "encoder_losses": "A short training of the audio encoder",
    "windows": "Training samples: identity frame, motion frames and target",
    "taken_away": "A clip without one of its conditions",
    "taken_away_lips": "The opening of the mouth with and without the sound",
    "taken_away_scores": "Lips, motion and identity without one of the conditions",
    "talking": "Evaluation identities: true clips and generated ones",
    "lips": "The opening of the mouth, in true and in generated clips",
    "talking_differences": "Lips and identity of the rows for comparison, minus Diffused Heads",
    "steps": "Quality and time by the number of denoising steps",
    "guidance": "What guidance changes",
    "drift": "Identity similarity, second by second",
    "long": "Longer clips of two validation identities",
    "short_training": "Clips after a short training, with the network's own motion frames and with true ones",
    "diffused_claims": "The claims of Stypułkowski et al. 2023: verdicts of their parts, and of each claim",
    "own_sound": "An example identity speaks another sound",
    "sda_validation": "The training of SDA, a GAN: metrics on validation identities",
    "diffused_table1": "As the paper's Table 1: SSIM and PSNR, on different corpora",
    "diffused_table3": "As the paper's Table 3: lips by the sound from both sides and the motion frames",
    "diffused_figure4": "As the paper's Figure 4: identity frames (red), and what is generated from them",
    "diffused_lips": "What a lip reader misreads",
    "without_motion": "Consecutive frames without motion frames, with them, and of the true clip",
    "motion_frames": "Motion by the number of motion frames",
    "sound_and_grey": "Motion frames in grey minus in colour, by the sound from both sides",
    "lip_loss": "What other weights of the lip synchronisation loss change",
    "denoising_steps": "What other numbers of denoising steps change, and their time",
    "guidance_scales": "What other scales of guidance on the sound change",
    "control": "Head motion and blinks by what is asked for",
    "diffused_figure5": "As the paper's Figure 5: the mean optical flow at every pixel",
    "diffused_figure6": "As the paper's Figure 6: other voices, other languages, faces from outside",
}
TABLES = ("table1", "table2", "table3", "lip_metrics")  # of chapter 23
VERDICTS = ("claims", "explanations")  # tables of chapter 25
# tables that a chapter takes from the reference where there are no others
REFERENCE_TABLES = {
    "23_table_of_talking_faces": (METRICS, VOTES),
    "24_motion_and_lips": (METRICS,),
    "25_claims_of_diffusion": (METRICS, LENGTH, VOTES, VOICES, generalisation.FACES),
}
PLAIN_TABLES = {  # as these, of the plain corpus
    "23_table_of_talking_faces": (TABLE1_FILE,),
    "25_claims_of_diffusion": (METRICS, COMPARED),
}
CHAPTERS = (
    Chapter(
        "20_diffusion_on_faces",
        "noise, what the network predicts, losses, one training step",
        (),
        (
            "figures/forward_process.png",
            "figures/errors.png",
            "figures/mouth_box.png",
            "figures/samplers.png",
            "figures/denoised.png",
            "figures/diffusion_losses.png",
            "figures/diffusion_training.png",
        ),
        0.6,
    ),
    Chapter(
        "21_sound_and_motion",
        "what the network is given: sound, motion frames and identity frame",
        (),
        (
            "figures/sound.png",
            "figures/encoder_losses.png",
            "figures/windows.png",
            "figures/taken_away.png",
            "figures/taken_away_lips.png",
            "figures/taken_away_scores.png",
        ),
        1.0,
        diffusion=True,
    ),
    Chapter(
        "22_talking",
        "talking heads of unseen identities; Tables 1 and 3 of Diffused Heads",
        (),
        (
            "tables/talking_table1.csv",
            "tables/talking_table1.md",
            "tables/talking_table1.tex",
            "tables/talking_table3.csv",
            "tables/talking_table3.md",
            "tables/talking_table3.tex",
            "tables/talking_criteria.csv",
            "tables/talking_criteria.md",
            "tables/talking_criteria.tex",
            "tables/talking_metrics.csv",
            "figures/talking.png",
            "figures/lips.png",
            "figures/talking_differences.png",
            "figures/steps.png",
            "figures/guidance.png",
            "figures/drift.png",
            "figures/long.png",
            "figures/short_training.png",
            "clips/talking.mp4",
            "clips/own_sound.mp4",
        ),
        2.8,
        alone=True,
        trained_by=("21_sound_and_motion",),
        diffusion=True,
    ),
    Chapter(
        "23_table_of_talking_faces",
        "Tables 1 to 3 of Diffused Heads: baselines, clips of other programs, votes of people, read lips",
        ("22_talking",),
        (
            *(f"tables/diffused_{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")),
            "figures/sda_validation.png",
            "figures/diffused_table1.png",
            "figures/diffused_table3.png",
            "figures/diffused_figure4.png",
            "figures/diffused_lips.png",
            f"tables/{COMPARED}.csv",
        ),
        0.8,
        trained_by=("21_sound_and_motion",),
        reads=(
            # of the baselines, which another command trains
            "runs/reference/sda/weights.safetensors",
            "runs/reference/landmarks/weights.safetensors",
            f"tables/{METRICS}.csv",
            "scores/*.csv",
            "turing/*/answers/*.csv",
        ),
        diffusion=True,
    ),
    Chapter(
        "24_motion_and_lips",
        "ablations of Diffused Heads: motion frames, sound, lip loss, denoising steps",
        ("23_table_of_talking_faces",),
        (
            *(f"tables/{TABLE}.{kind}" for kind in ("csv", "md", "tex")),
            "figures/without_motion.png",
            "figures/motion_frames.png",
            "figures/sound_and_grey.png",
            "figures/lip_loss.png",
            "figures/denoising_steps.png",
            "figures/guidance_scales.png",
            "figures/control.png",
            "figures/diffused_figure6.png",
        ),
        4.0,
        alone=True,
        trained_by=("21_sound_and_motion",),
        reads=(f"tables/{METRICS}.csv", FIGURE5),
        diffusion=True,
    ),
    Chapter(
        "25_claims_of_diffusion",
        "what Stypułkowski et al. claim, judged by what was measured here",
        ("23_table_of_talking_faces", "24_motion_and_lips"),
        (
            "figures/diffused_claims.png",
            f"tables/{diversity.METRICS}.csv",
            *(f"tables/diffused_{name}.{kind}" for name in VERDICTS for kind in ("csv", "md", "tex")),
        ),
        0.8,
        trained_by=("21_sound_and_motion",),
        reads=(f"tables/{METRICS}.csv", f"tables/{LENGTH}.csv"),
        diffusion=True,
    ),
)
