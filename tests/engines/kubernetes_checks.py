"""What an API server of Kubernetes refuses of what it is sent, in its own words. Knows of what our launcher uses only:
a field that is not known here is refused, so that a wrong name does not pass.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
RFC_1123 = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character"
)
SPEC = {
    "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "containers", "enableServiceLinks",
    "imagePullSecrets", "initContainers", "nodeSelector", "priorityClassName", "restartPolicy", "securityContext",
    "serviceAccountName", "terminationGracePeriodSeconds", "tolerations", "volumes",
}  # fmt: skip
CONTAINER = {
    "args", "command", "env", "image", "imagePullPolicy", "name", "resources", "securityContext", "volumeMounts",
    "workingDir",
}  # fmt: skip

Problem = tuple[str, str, str]
"""A field, the API's word for what is wrong with it, and the message."""


class Undecodable(Exception):
    """It is not even looked at: 400."""


def problems(resource: str, body: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with an object; raise Undecodable."""
    found = list(_metadata(body.get("metadata") or {}))
    if resource == "pods":
        found += _pod(body.get("spec") or {})
    elif resource == "secrets":
        for key, value in (body.get("data") or {}).items():
            try:
                base64.b64decode(value, validate=True)
            except ValueError as error:
                raise Undecodable(f"illegal base64 data at input byte 0: {error}") from None
            if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
                found.append((f"data[{key}]", "FieldValueInvalid", "a valid config key must consist of alphanumerics"))
    return found


def _metadata(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    name = metadata.get("name", "")
    if not name:
        yield "metadata.name", "FieldValueRequired", "Required value: name or generateName is required"
    elif not SUBDOMAIN.fullmatch(name) or len(name) > 253:
        yield "metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {RFC_1123}'
    for key, value in (metadata.get("labels") or {}).items():
        prefix, _slash, last = key.rpartition("/")
        if (
            not LABEL_VALUE.fullmatch(last)
            or not last
            or len(last) > 63
            or (prefix and not SUBDOMAIN.fullmatch(prefix))
        ):
            yield "metadata.labels", "FieldValueInvalid", f'Invalid value: "{key}": name part must consist of ...'
        if not isinstance(value, str):
            raise Undecodable(
                f"cannot unmarshal {type(value).__name__} into Go struct field ObjectMeta.metadata.labels"
            )
        if not LABEL_VALUE.fullmatch(value) or len(value) > 63:
            yield "metadata.labels", "FieldValueInvalid", f'Invalid value: "{value}": a valid label must be ...'
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield f"metadata.ownerReferences[{index}].{field}", "FieldValueRequired", "Required value"


def _unknown(where: str, known: set[str], mapping: Mapping[str, Any]) -> None:
    for key in sorted(set(mapping) - known):
        raise Undecodable(f'strict decoding error: unknown field "{where}.{key}"')


def _pod(spec: Mapping[str, Any]) -> Iterator[Problem]:
    _unknown("spec", SPEC, spec)
    containers = spec.get("containers") or []
    if not containers:
        yield "spec.containers", "FieldValueRequired", "Required value"
    if spec.get("restartPolicy", "Always") not in ("Always", "OnFailure", "Never"):
        yield "spec.restartPolicy", "FieldValueNotSupported", "Unsupported value"
    for field, least in (("activeDeadlineSeconds", 1), ("terminationGracePeriodSeconds", 0)):
        number = spec.get(field)
        if number is not None and not isinstance(number, int):
            raise Undecodable(f"cannot unmarshal {number!r} into Go struct field PodSpec.spec.{field} of type int64")
        if number is not None and number < least:
            yield f"spec.{field}", "FieldValueInvalid", f"Invalid value: {number}: must be greater than {least - 1}"
    volumes = [volume.get("name") for volume in spec.get("volumes") or ()]
    for index, name in enumerate(volumes):
        if not name or not LABEL.fullmatch(name):
            yield f"spec.volumes[{index}].name", "FieldValueInvalid", "Invalid value"
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        if toleration.get("operator", "Equal") not in ("Exists", "Equal"):
            yield f"spec.tolerations[{index}].operator", "FieldValueNotSupported", "Unsupported value"
    names = set()
    for index, container in enumerate(containers):
        where = f"spec.containers[{index}]"
        yield from _container(where, container, volumes)
        if container.get("name") in names:
            yield f"{where}.name", "FieldValueDuplicate", f'Duplicate value: "{container["name"]}"'
        names.add(container.get("name"))


def _container(where: str, container: Mapping[str, Any], volumes: list[Any]) -> Iterator[Problem]:
    _unknown(where, CONTAINER, container)
    if not LABEL.fullmatch(container.get("name") or ""):
        yield f"{where}.name", "FieldValueInvalid", f'Invalid value: "{container.get("name")}": {RFC_1123}'
    if not container.get("image"):
        yield f"{where}.image", "FieldValueRequired", "Required value"
    if container.get("imagePullPolicy", "Always") not in ("Always", "IfNotPresent", "Never"):
        yield f"{where}.imagePullPolicy", "FieldValueNotSupported", "Unsupported value"
    if not all(isinstance(word, str) for word in container.get("command") or ()):
        raise Undecodable("cannot unmarshal number into Go struct field Container.command of type string")
    for index, variable in enumerate(container.get("env") or ()):
        if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", variable.get("name") or ""):
            yield f"{where}.env[{index}].name", "FieldValueInvalid", f'Invalid value: "{variable.get("name")}"'
        if "value" in variable and not isinstance(variable["value"], str):
            raise Undecodable("cannot unmarshal number into Go struct field EnvVar.env.value of type string")
        reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
        if "valueFrom" in variable and not (reference and reference.get("name") and reference.get("key")):
            yield f"{where}.env[{index}].valueFrom.secretKeyRef", "FieldValueRequired", "Required value"
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            yield f"{where}.volumeMounts[{index}].name", "FieldValueNotFound", f'Not found: "{mount.get("name")}"'
        if not mount.get("mountPath"):
            yield f"{where}.volumeMounts[{index}].mountPath", "FieldValueRequired", "Required value"
    yield from _resources(where, container.get("resources") or {})


def _resources(where: str, resources: Mapping[str, Any]) -> Iterator[Problem]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for kind, each in (("requests", requests), ("limits", limits)):
        for name, value in each.items():
            if amount_of(value) < 0:
                yield f"{where}.resources.{kind}[{name}]", "FieldValueInvalid", "must be greater than or equal to 0"
            if "/" not in name and name not in ("cpu", "memory", "ephemeral-storage"):
                yield (
                    f"{where}.resources.{kind}[{name}]", "FieldValueInvalid",
                    f'Invalid value: "{name}": must be a standard resource for containers',
                )  # fmt: skip
    for name, value in requests.items():
        if name in limits and amount_of(value) > amount_of(limits[name]):
            yield (
                f"{where}.resources.requests", "FieldValueInvalid",
                f'Invalid value: "{value}": must be less than or equal to {name} limit of {limits[name]}',
            )  # fmt: skip
        if "/" in name and limits.get(name) != value:
            yield f"{where}.resources.limits", "FieldValueRequired", f"Limit must be set for non overcommitable {name}"


def amount_of(quantity: Any) -> float:
    """Return what a quantity is; raise Undecodable if it is none."""
    found = QUANTITY.fullmatch(str(quantity))
    if found is None or found[2] not in UNITS:
        raise Undecodable("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    return float(found[1]) * UNITS[found[2]]
