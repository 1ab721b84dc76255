"""The README keeps its promises."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(section: str, language: str) -> list[str]:
    body = README.split(f"## {section}", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", body, flags=re.DOTALL)


def test_start_holds_the_main_job_and_the_tests():
    main, tests = blocks("Start", "bash")
    assert "qforge demo" in main
    assert "pytest" in tests


def test_the_ten_lines_print_what_the_readme_shows():
    (code,) = blocks("Ten lines", "python")
    (shown,) = blocks("Ten lines", "text")
    assert len(code.strip().splitlines()) <= 12
    with tempfile.TemporaryDirectory(prefix="qforge-readme-") as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=folder
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    def steady(text: str) -> str:
        return re.sub(r"\d+\.\d+ s\)", "SECONDS)", text).strip()

    assert steady(done.stdout) == steady(shown)


def test_every_page_that_the_readme_names_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
