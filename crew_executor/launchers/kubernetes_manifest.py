"""Manifests of Pods, as plain mappings: a user's template, with ours merged on top. Pure, but for its file."""

from __future__ import annotations

import copy
import importlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .kubernetes_words import CLIENT, CONTAINER

GPUS = "nvidia.com/gpu"
BASE = {"spec": {"automountServiceAccountToken": False, "enableServiceLinks": False}}
"""What Pods are like where the template does not say: workers need no token of the cluster's."""


def check_options(image: Any, numbers: Mapping[str, Any], sequences: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError for options that no Pod can have.

    Args:
        image: the container's.
        numbers: that must be None or above 0, by their names.
        sequences: that must be such, by their names.
    """
    if not isinstance(image, str) or not image:
        raise ValueError(f"image must name a container image, not {image!r}")
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, (int, float)) or not 0 < number < math.inf):
            raise ValueError(f"{name} must be a number above 0, not {number!r}")
        if name == "gpus" and number is not None and number != int(number):
            raise ValueError(f"gpus must be a whole number, not {number!r}")
    for name, each in sequences.items():
        if isinstance(each, (str, Mapping)):
            raise TypeError(f"{name} must be a sequence, not one {type(each).__name__}: give [{each!r}]")


def resources(
    cpus: float, memory_gb: float | None, gpus: float | None, requests: Mapping[str, Any], limits: Mapping[str, Any]
) -> dict[str, dict[str, str]]:  # fmt: skip
    """Return a container's resources; requests and limits win over the rest, and None takes away."""
    memory = None if memory_gb is None else f"{math.ceil(1024 * memory_gb)}Mi"
    both = {"cpu": f"{cpus:g}", "memory": memory}
    kinds = {"requests": {**both, **requests}, "limits": {**both, GPUS: gpus, **limits}}
    return {
        kind: {name: str(value) for name, value in each.items() if value is not None} for kind, each in kinds.items()
    }


def without_none(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said, without what is not."""
    return {key: value for key, value in mapping.items() if value not in (None, "", [], {})}


def merged(below: Any, above: Any) -> Any:
    """Return two manifests as one: mappings are merged, lists are joined, of all else the one above wins."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        whole = {key: copy.deepcopy(value) for key, value in below.items()}
        for key, value in above.items():
            if key == "containers":
                whole[key] = _merged_containers(below.get(key) or [], value)
            else:
                whole[key] = merged(below[key], value) if below.get(key) is not None else copy.deepcopy(value)
        return whole
    if isinstance(below, list) and isinstance(above, list):
        return copy.deepcopy([*below, *above])
    return copy.deepcopy(above)


def _merged_containers(below: Sequence[Mapping[str, Any]], above: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return containers, those of one name as one; a command and its arguments are one thing, and not joined."""
    found = {each["name"]: {**each} for each in below}
    for each in above:
        beneath = found.get(each["name"], {})
        beneath.pop("args", None)
        beneath.pop("command", None)
        found[each["name"]] = merged(beneath, each)
    return list(found.values())


def read_template(template: Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return a Pod's template, checked as far as we must understand it."""
    if template is None:
        return {}
    if isinstance(template, (str, os.PathLike)):
        try:
            yaml = importlib.import_module("yaml")
        except ImportError as error:
            raise LaunchError(f"pod_template={template!r} cannot be read: {error}; {CLIENT}") from None
        with open(template, encoding="utf-8") as file:
            try:
                template = yaml.safe_load(file)
            except yaml.YAMLError as error:
                raise ValueError(f"pod_template={file.name!r} is no YAML: {error}") from None
    if not isinstance(template, Mapping) or not set(template) <= {"apiVersion", "kind", "metadata", "spec"}:
        raise ValueError(f"pod_template must be a Pod, with metadata and spec, not {template!r:.200}")
    containers = (template.get("spec") or {}).get("containers") or []
    if not all(isinstance(each, Mapping) and each.get("name") for each in containers):
        raise ValueError(f"the containers of pod_template must have names; ours is {CONTAINER!r}")
    return copy.deepcopy(dict(template))
