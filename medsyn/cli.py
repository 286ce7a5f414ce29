"""The `medsyn` command: a switchboard from a sub-command's name to the module that does it.

Nothing heavy is imported here, so that `medsyn --help` answers at once; the module is loaded when its name is called.
"""

import importlib
import sys

from medsyn import __version__

COMMANDS = {
    "build": ("dataset_builder.build:main", "build a synthetic chest-radiograph dataset from reports"),
    "pretrain": ("trainers.pretrain:main", "pre-train an image and a text encoder on a dataset"),
    "evaluate": ("trainers.downstream.evaluate:main", "measure frozen encoders: classify, segment, detect"),
    "probe": ("trainers.downstream.linear_probe:main", "alias of evaluate classify"),
    "convert": ("hub_medsyn.checkpoints.convert:main", "convert a published GLoRIA, MGCA or ConVIRT checkpoint"),
    "export-encoders": (
        "hub_medsyn.checkpoints.export_encoders:main",
        "write a checkpoint's encoders for timm and transformers",
    ),
    "data": ("dataset_builder.radiographs.prepare:main", "read real radiographs from their official downloads"),
    "publish": ("hub_medsyn.publishing.publish:main", "publish a dataset, model, encoders, generator or Space"),
    "attach-reports": ("dataset_builder.attach_reports:main", "join reports to a dataset published without its text"),
    "space": ("spaces_app.app:main", "open the demo page in a browser"),
    "demo": ("trainers.demo:main", "reports, images, an encoder and its worth, in ten minutes"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: medsyn <command> [options]\n\n"
        "Synthetic radiographs from radiology reports, and encoders trained on them.\n\n"
        f"commands:\n{lines}\n\n"
        "`medsyn <command> --help` lists the options of a command. Research only: not for clinical use."
    )


def main(argv: list[str] | None = None) -> int:
    """Runs `argv` (*optional*, defaults to `sys.argv[1:]`); returns the exit code: 0 done, 1 failed, 2 bad usage."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"medsyn {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        print(f"medsyn: no command {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module, function = COMMANDS[argv[0]][0].split(":")
    return getattr(importlib.import_module(module), function)(argv[1:]) or 0


if __name__ == "__main__":
    sys.exit(main())
