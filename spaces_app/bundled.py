"""What the Space can open without being given anything: its bundle, and a finished demo in the working directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUNDLE = Path(__file__).parent / "bundle"
DEMO = "demo-results"


@dataclass(frozen=True)
class Openable:
    """Models and the dataset that goes with them.

    Args:
        name (`str`): What a person calls it: `bundle` or `demo`.
        models (`dict[str, Path]`): Folders that `AutoModel` reads, by the name to show.
        dataset (`Path`): A folder that `load_dataset` reads; its images took no part in the training if the split is
            `test`.
    """

    name: str
    models: dict[str, Path]
    dataset: Path


def bundle_paths(folder: str | Path = ".") -> list[Openable]:
    """The bundle first, then a finished `medsyn demo`.

    Args:
        folder (`str` or `Path`, *optional*, defaults to `"."`): Where `demo-results/` may lie.

    Raises:
        FileNotFoundError: If the bundle is incomplete, with the command that makes it.
    """
    models = {path.parent.name: path.parent for path in sorted(BUNDLE.glob("models/*/config.json"))}
    dataset = BUNDLE / "medsyn-cxr"
    if not models or not (dataset / "manifest.json").is_file():
        raise FileNotFoundError(f"{BUNDLE} holds no models or no images; make them with `python -m scripts.bundle`")
    openable = [Openable("bundle", models, dataset)]
    demo = Path(folder) / DEMO
    finished = ("results.md", "encoder/config.json", "encoder/model.safetensors", "medsyn-cxr/manifest.json")
    if all((demo / name).is_file() for name in finished):
        openable.append(Openable("demo", {"demo": demo / "encoder"}, demo / "medsyn-cxr"))
    return openable
