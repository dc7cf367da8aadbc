"""Which version of the code this is."""

import subprocess
from pathlib import Path


def commit() -> str:
    """The git commit of the code, with "+" where it has uncommitted changes; "" outside a checkout."""
    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        except FileNotFoundError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
