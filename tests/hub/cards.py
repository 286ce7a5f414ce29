"""What the stand-in Hub demands of the YAML at the head of a README, after the Hub's own rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

FRONT_MATTER = re.compile(r"^\s*---[ \t]*\r?\n(.*?)\r?\n?^---[ \t]*(\r?\n|$)", re.DOTALL | re.MULTILINE)
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
    "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c "
    "ms-pl mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "llama2 llama3 gemma unknown other".split()
)
SDKS = ("gradio", "streamlit", "docker", "static")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def front_matter(readme: str) -> dict:
    """
    The metadata of a card; empty where there are none.

    Raises:
        `ValueError`: They are not YAML, or not a mapping.
    """
    found = FRONT_MATTER.match(readme)
    if found is None:
        return {}
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"YAML metadata are not valid: {error}") from error
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ValueError("YAML metadata have to be a mapping")
    return metadata


def card_problems(readme: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors, for which the Hub refuses a card, and warnings, after which it takes it."""
    try:
        metadata = front_matter(readme)
    except ValueError as error:
        return [str(error)], []
    errors = list(_errors(metadata))
    if kind == "model":
        errors += list(_model_index_errors(metadata.get("model-index")))
    if kind == "space":
        errors += list(_space_errors(metadata))
    return errors, [] if metadata or kind == "space" else ["empty or missing yaml metadata in repo card"]


def _listed(value) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _errors(metadata: dict) -> Iterator[str]:
    for value in _listed(metadata.get("license")):
        if value not in LICENSES:
            yield f'"license" with value "{value}" is not one of the Hub\'s licences; use "other" with license_name'
    for value in _listed(metadata.get("language")):
        if not isinstance(value, str) or not re.fullmatch(r"[a-z]{2,3}(-\w+)*|code|multilingual", value):
            yield f'"language" must only contain lowercase characters of ISO 639 codes, not "{value}"'
    tags = metadata.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        yield '"tags" must be an array of strings'
    for key in ("base_model", "datasets"):
        for value in _listed(metadata.get(key)):
            if not isinstance(value, str) or not REPO_ID.fullmatch(value):
                yield f'"{key}" with value "{value}" is not valid; use an id from the Hub'
    for key in ("pretty_name", "pipeline_tag", "library_name", "license_name"):
        if key in metadata and not isinstance(metadata[key], str):
            yield f'"{key}" must be a string'


def _model_index_errors(models) -> Iterator[str]:
    if models is None:
        return
    if not isinstance(models, list):
        yield '"model-index" must be an array'
        return
    for i, model in enumerate(models):
        if not model.get("name"):
            yield f'"model-index[{i}].name" is required'
        for j, result in enumerate(model.get("results") or []):
            where = f"model-index[{i}].results[{j}]"
            for part, keys in (("task", ["type"]), ("dataset", ["type", "name"])):
                for key in keys:
                    if not (result.get(part) or {}).get(key):
                        yield f'"{where}.{part}.{key}" is required'
            for k, metric in enumerate(result.get("metrics") or []):
                for key in ("type", "value"):
                    if metric.get(key) is None:
                        yield f'"{where}.metrics[{k}].{key}" is required'


def _space_errors(metadata: dict) -> Iterator[str]:
    if metadata.get("sdk") not in SDKS:
        yield f'"sdk" must be one of {", ".join(SDKS)}'
    for key in ("colorFrom", "colorTo"):
        if key in metadata and metadata[key] not in COLOURS:
            yield f'"{key}" must be one of {", ".join(COLOURS)}'
    if len(str(metadata.get("short_description", ""))) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'
    for key in ("sdk_version", "python_version", "app_file", "title"):
        if key in metadata and not isinstance(metadata[key], str):
            yield f'"{key}" must be a string'
