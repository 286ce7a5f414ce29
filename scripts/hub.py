"""Runs the stand-in Hub of the tests on this machine, to try publishing on: `make hub`.

```bash
python -m scripts.hub --port 8777 --folder stand-in-hub
```
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.hub.server import StandInHub


def main(argv: list[str] | None = None) -> int:
    """Serves until Ctrl-C; returns 0, or 1 where the port or the folder cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.hub",
        description="Run a stand-in for huggingface.co on this machine, to try publishing on, until Ctrl-C. Its "
        "repositories are kept; other machines cannot reach it.",
    )
    parser.add_argument(
        "--port", type=int, default=8777, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--folder", default="stand-in-hub", help="folder of the repositories (default: ./%(default)s)")
    options = parser.parse_args(argv)
    try:
        hub = StandInHub(options.folder, options.port)
    except OSError as error:
        print(f"scripts.hub: {error}; choose another --port or --folder", file=sys.stderr)
        return 1
    with hub:
        print(
            f"A stand-in for huggingface.co, with its repositories in {Path(options.folder).resolve()}.\n"
            f"It knows the user `{hub.user}` of the organization `{hub.organization}`. In another terminal:\n\n"
            f"  export HF_ENDPOINT={hub.endpoint}\n"
            f"  export HF_TOKEN={hub.token}\n"
            "  export HF_HUB_DISABLE_XET=1\n"
            '  export HF_HOME="$(mktemp -d)"\n\n'
            f"  medsyn publish dataset medsyn-cxr --repo {hub.organization}/medsyn-cxr\n\n"
            f"HF_TOKEN={hub.read_only_token} may only read, {hub.expired_token} is expired,\n"
            f"{hub.somebody_elses_token} belongs to another user. Ctrl-C ends it.",
            flush=True,
        )
        try:
            hub.wait()
        except KeyboardInterrupt:
            print("\nstopped; the repositories are kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
