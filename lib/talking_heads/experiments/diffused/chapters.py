"""The chapters on Diffused Heads: what each needs and promises, and the captions of its figures."""

from talking_heads.diffused import training
from talking_heads.experiments.diffused import protocol
from talking_heads.workbook.stages import Chapter

# versions of the code that the chapters' results depend on; they stand beside that code
VERSIONS = {"diffusion": training.VERSION, "talking heads": protocol.VERSION}

CAPTIONS = {
    "forward_process": "A face becomes noise",
    "errors": "What an error of the network costs, when it predicts ε and when it predicts v",
    "mouth_box": "The mouth of the lip synchronisation loss",
    "samplers": "Error of two samplers where the optimal denoiser is known",
    "denoised": "A network's estimate of the frame, before and after a short training",
    "diffusion_losses": "Losses of the short training",
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
        ),
        0.7,
    ),
)
