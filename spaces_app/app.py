"""Opens the page: `medsyn space`, or `python app.py` on Spaces."""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from medsyn.errors import UserError, add_debug_option, command

EVERY, KEPT = 60, 600  # seconds: how often files are looked at, and how old one may become


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="medsyn space",
        description="Serve the demo page on this machine: read images, see where a word is, find reports and images, "
        "make images from words. With no option it starts on the small models and images that come with it.",
        epilog="Research only. Not for clinical use.",
    )
    made.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="PATH",
        help="a model's folder or Hub id; may stand several times",
    )
    made.add_argument(
        "--dataset", metavar="PATH", help="the images and reports to pick from and to search: folder or Hub id"
    )
    made.add_argument(
        "--generator",
        action="append",
        default=[],
        metavar="PATH",
        help="a diffusion pipeline to make images with, beside the phantom: folder or Hub id; may stand several times",
    )
    made.add_argument("--host", help="address to listen on (default: this machine only, 127.0.0.1; 0.0.0.0 for all)")
    made.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which browsers may reach the page; repeatable (default: the loopback and --host)",
    )
    made.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860 on)")
    made.add_argument("--seed", type=int, default=0, help="the first seed that the tab Make proposes (default: 0)")
    add_debug_option(made)
    return made


def prepare() -> Path:
    """Settings that gradio reads when it is imported: nothing is reported to anybody, and what people upload lies in a
    folder of this process alone, which goes when it ends; the folder is returned."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="medsyn-space-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def check_free(host: str, port: int) -> None:
    """Listens for a moment, before anything is loaded; gradio would try a hundred ports of an address not its own.

    Raises:
        OSError: The address is not this machine's, or the port is taken.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    socket.create_server(address, family=family).close()


def sweep(folder: Path) -> None:
    """Deletes, as long as the process runs, every file of `folder` that is older than `KEPT` seconds.

    Gradio's own `delete_cache` knows whole uploads alone: of one that was broken off it would keep the part that came.
    """
    from spaces_app.guard.uploads import delete_old

    while True:
        delete_old(folder, KEPT)
        time.sleep(EVERY)


@command("medsyn space", interrupted="the page is closed")
def main(argv: list[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns 0, or 1 where it cannot start."""
    options = parser().parse_args(argv)
    if not 0 <= options.seed < 2**31:
        parser().error(f"argument --seed: {options.seed} is not from 0 to {2**31 - 1}")
    if options.port is not None and not 1 <= options.port < 2**16:
        parser().error(f"argument --port: {options.port} is not from 1 to {2**16 - 1}")
    in_space = "SPACE_ID" in os.environ  # a proxy stands before it, and no dataset there is anybody's secret
    host = options.host or ("0.0.0.0" if in_space else "127.0.0.1")
    try:
        check_free(host, options.port or 0)
    except OSError as error:
        raise UserError(f"{options.host or ''}:{options.port or ''} cannot be listened on: {error}") from None
    if options.host is None and not in_space and os.environ.get("GRADIO_SERVER_NAME", host) != host:
        print("medsyn space: GRADIO_SERVER_NAME is not heeded; use --host", file=sys.stderr)
    folder = prepare()
    print("medsyn space: loading models and images, a few seconds ...", file=sys.stderr, flush=True)
    from spaces_app.interface import build
    from spaces_app.serving import serving
    from spaces_app.workbench import Workbench

    bench = Workbench.start(options.model, options.dataset, options.generator)
    page = build(bench, options.seed)
    hosts = None if in_space else frozenset(name.lower() for name in (host, *options.allow_host))
    _, url, _ = page.launch(
        server_name=host,
        server_port=options.port,
        prevent_thread_lock=True,
        quiet=True,
        **serving(hosts, any_address=host in ("0.0.0.0", "::")),
    )
    reach = "every machine that reaches it" if host in ("0.0.0.0", "::") else f"{host} alone"
    print(
        f"medsyn space: open {url} in a browser (it listens on {reach}); Ctrl-C ends it", file=sys.stderr, flush=True
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as a host ends it; the folder of uploads goes all the same
    threading.Thread(target=sweep, args=(folder,), daemon=True).start()
    # The page is up and nobody waits for this, but the process does: torch aborts where it is cut off at work.
    threading.Thread(target=bench.warm_up).start()
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
