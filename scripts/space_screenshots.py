"""The README's pictures of the Space: three tabs at a desktop's width and one at a phone's, on the bundled models.

python scripts/space_screenshots.py --out docs/assets
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DESKTOP, PHONE = {"width": 1280, "height": 940}, {"width": 390, "height": 844}
CHROMIUM = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
IMPRESSION = "Moderate right pneumothorax. Cardiac pacemaker."
LIMIT = 200_000  # bytes of a picture
PATIENCE = 120_000  # milliseconds that an answer may take


@contextmanager
def served(seed: int) -> Iterator[str]:
    """The address of the page on the bundle, served as `medsyn space` does."""
    with tempfile.TemporaryDirectory(prefix="medsyn-space-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        from spaces_app.bundled import bundle_paths
        from spaces_app.interface import build
        from spaces_app.serving import serving
        from spaces_app.workbench import Workbench

        bundle = bundle_paths()[0]
        page = build(Workbench.start(list(bundle.models.values()), bundle.dataset), seed)
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **serving())
        try:
            yield url
        finally:
            page.close()


def opened(browser, url: str, size: dict, tab: str):
    """The page with one of its tabs in front; the heat map, the answers or the images are there."""
    page = browser.new_context(viewport=size, reduced_motion="reduce").new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.locator("#read-score-table").wait_for()
    if tab != "read":
        page.locator(f"#tab-{tab}-button").click()
    return page


def show_where(page) -> None:
    page.locator("#where-image .image-over").wait_for()


def show_made(page) -> None:
    page.locator("#make-impression textarea").fill(IMPRESSION)
    page.locator("#make-number input[type=number]").fill("2")
    page.locator("#make-go").click()
    page.locator("#make-image-list figure").nth(1).wait_for()


def keep(page, path: Path, quality: int = 84) -> None:
    """A JPEG of what the window shows, once no answer is awaited and no picture is still being decoded."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => null)))")
    page.wait_for_timeout(500)
    page.wait_for_function("!document.querySelector('.pending')")
    page.screenshot(path=path, type="jpeg", quality=quality)
    size = path.stat().st_size
    if size > LIMIT:
        raise ValueError(f"{path} has {size:,} bytes and may have {LIMIT:,}; lower its quality of {quality}")
    print(f"{path}: {size:,} bytes")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/assets"), help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="of the images in the tab Make (default: 0)")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's executable")
    args = parser.parse_args(argv)
    if not args.chromium:
        parser.error("there is no chromium on the path; name one with --chromium")
    args.out.mkdir(parents=True, exist_ok=True)

    from playwright.sync_api import sync_playwright

    with served(args.seed) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=CHROMIUM)
        keep(opened(browser, url, DESKTOP, "read"), args.out / "space_read.jpg")
        page = opened(browser, url, DESKTOP, "where")
        show_where(page)
        keep(page, args.out / "space_where.jpg")
        page = opened(browser, url, DESKTOP, "make")
        show_made(page)
        keep(page, args.out / "space_make.jpg")
        page = opened(browser, url, PHONE, "where")
        show_where(page)
        keep(page, args.out / "space_phone.jpg")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
