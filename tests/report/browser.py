"""The page in a browser: Chromium, without JavaScript, as a person would look at it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from needs import cannot_run


def chromium() -> str:
    """Where Debian's (or Ubuntu's) Chromium is; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or cannot_run("needs a Chromium: `make browser` installs Debian's")


@contextmanager
def opened(page: Path, width: int = 1200, **context: Any) -> Iterator[tuple[Any, list[str]]]:
    """The page, and what it said in the console or asked for beside itself while it was open."""
    from playwright.sync_api import sync_playwright

    rights = ["--no-sandbox"] if os.geteuid() == 0 else []
    trouble: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*rights, "--disable-gpu"])
        try:
            view = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=False, **context)
            tab = view.new_page()
            tab.on("console", lambda message: trouble.append(f"console: {message.text}"))
            tab.on("pageerror", lambda error: trouble.append(f"error: {error}"))
            address = page.as_uri()
            tab.on("request", lambda request: trouble.append(request.url) if request.url != address else None)
            tab.goto(address)
            yield tab, trouble
        finally:
            browser.close()
