"""The chapters of both systems."""

from talking_heads.experiments.diffused import chapters as diffused
from talking_heads.experiments.few_shot import chapters as few_shot

TITLE = "Neural talking heads"
CHAPTERS = (*few_shot.CHAPTERS, *diffused.CHAPTERS)
CAPTIONS = few_shot.CAPTIONS | diffused.CAPTIONS
VERDICTS = ("claims", "diffused_claims")  # figures with which a report begins
VERSIONS = few_shot.VERSIONS | diffused.VERSIONS
