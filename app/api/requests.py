"""From the body of a job to the request that is stored: names resolved, every field checked.

`POST /jobs` and `POST /estimates` both go through `distill_request`, so that an estimate fails
exactly where the job would.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from app.api.bodies import MAX_THREADS, PARTS
from app.api.models import find_model, is_here
from app.api.names import find_dataset, is_hub_id
from app.api.problems import Problem
from app.jobs.service import Service
from distillery.errors import ConfigError
from distillery.models.config import PUBLISHED_BASES
from generator.config import DistillConfig, field_types, from_dict

OWN = ("dataset", "name", "metadata", "priority", "acknowledge_licence", "ipc")
MODEL_FIELDS = (
    ("base", "reference", ("auto", "pixel")),
    ("select", "features", ("proxy",)),
    ("label", "teacher", ("own",)),
)  # fmt: skip
"""Fields that name a model, with the words that name none."""


def distill_request(body: Any, service: Service) -> dict[str, Any]:
    """Return the nested dict of what the caller set, as `generator.plan.make_plan` takes it.

    Args:
        body: A `JobBody`.
        service: For the names of datasets and the settings.

    Raises:
        Problem: What is wrong with it.
    """
    sent = body.model_dump(exclude_unset=True, exclude_none=True)
    request = {name: value for name, value in sent.items() if name not in OWN}
    if body.ipc is not None:
        request["images_per_class"] = body.ipc
    request["data"] = {**request.get("data", {}), **_dataset(body, service)}
    _check_models(request, body, service)
    _check_ranges(request)
    return request


def _dataset(body: Any, service: Service) -> dict[str, Any]:
    """Return the dataset as `DataConfig` names it."""
    kind, name, revision = None, body.dataset, None
    if not isinstance(name, str):
        kind, name, revision = body.dataset.type, body.dataset.id, body.dataset.revision
    place = find_dataset(kind, name, settings=service.settings, uploads=service.datasets)
    if revision and place.kind != "hub":
        raise _field_problem("#/dataset/revision", "only a Hub dataset has a revision")
    found: dict[str, Any] = {"dataset": place.reference}
    if revision:
        found["revision"] = revision
    if place.kind == "hub":
        if service.settings.allow_download:
            found["allow_download"] = True
        elif not _is_cached(place.reference, service):
            detail = (
                f"{name!r} is no dataset of this service, and downloads from the Hub are off "
                "(DISTILLERY_ALLOW_DOWNLOAD): name one of GET /datasets, or upload it"
            )
            raise _field_problem("#/dataset", detail, "dataset_not_found")
    return found


def _is_cached(reference: str, service: Service) -> bool:
    """Say whether a dataset of the Hub has been fetched here before."""
    name = reference.partition("@")[0].replace("/", "--")
    return (service.settings.hub_cache / f"datasets--{name}").is_dir()


def _check_models(request: dict[str, Any], body: Any, service: Service) -> None:
    """Refuse models by path, downloads that are switched off, and licences nobody knows of."""
    allowed = service.settings.allow_download
    base = request.get("base", {})
    if base.get("allow_download") and not allowed:
        detail = "downloads are off on this service (DISTILLERY_ALLOW_DOWNLOAD)"
        raise _field_problem("#/base/allow_download", detail, "download_not_allowed")
    named: list[tuple[str, str]] = []
    for part, field, words in MODEL_FIELDS:
        reference = request.get(part, {}).get(field)
        if reference is None or reference in words:
            continue
        if part == "base" and (folder := find_model(service.settings, reference)):
            request["base"] = {**request["base"], "reference": str(folder)}
            continue
        if not is_hub_id(reference) or "@" in reference:
            expected = ", ".join(repr(word) for word in words)
            expected += ", one of GET /models" if part == "base" else ""
            detail = f"{part}.{field} must be {expected} or a Hub id 'owner/name'"
            raise _field_problem(f"#/{part}/{field}", detail, "model_unsupported")
        named.append((f"#/{part}/{field}", reference))
        if allowed:
            request["base"] = {**request.get("base", {}), "allow_download": True}
    published = PUBLISHED_BASES.get(base.get("reference", ""))
    if published and published.non_commercial and not body.acknowledge_licence:
        detail = (
            f"the licence of {base['reference']}, {published.licence}, forbids commercial use and "
            "the result inherits it: send acknowledge_licence true, or choose base.reference pixel"
        )
        raise _field_problem("#/acknowledge_licence", detail, "license_not_accepted")
    for pointer, reference in named:
        if not allowed and not is_here(service.settings, reference):
            detail = (
                f"{reference} was never fetched here, and downloads from the Hub are off "
                "(DISTILLERY_ALLOW_DOWNLOAD): choose another, or ask the operator"
            )
            raise _field_problem(pointer, detail, "download_not_allowed")


def _check_ranges(request: Mapping[str, Any]) -> None:
    """Ask the configuration itself, part by part, so that the answer points to the field."""
    hints = field_types(DistillConfig)
    for part in PARTS:
        if part in request:
            try:
                from_dict(request[part], hints[part], f"{part}.")
            except ConfigError as error:
                at = _pointer(str(error), hints[part], request[part], f"#/{part}")
                raise _field_problem(at, str(error)) from None
    threads = request.get("num_threads")
    if threads is not None and threads > MAX_THREADS:
        raise _field_problem("#/num_threads", f"num_threads must be 1 to {MAX_THREADS}")
    try:
        from_dict(request)
    except ConfigError as error:
        raise _field_problem(
            _pointer(str(error), DistillConfig, request, "#"), str(error)
        ) from None


def _pointer(message: str, kind: Any, sent: Mapping[str, Any], at: str) -> str:
    """Return the pointer of the sent field that a message speaks of, `at` where none is named."""
    hints = field_types(kind)
    for field in fields(kind):
        value = sent.get(field.name)
        if is_dataclass(hints[field.name]) and isinstance(value, Mapping):
            inner = _pointer(message, hints[field.name], value, f"{at}/{field.name}")
            if inner != f"{at}/{field.name}":
                return inner
        elif field.name in sent and re.search(rf"\b{field.name}\b", message):
            return f"{at}/{field.name}"
    return at


def _field_problem(pointer: str, detail: str, code: str = "validation_failed") -> Problem:
    """Return the refusal of one field."""
    detail = detail[:500]
    kind = "invalid_value" if code == "validation_failed" else code
    return Problem(code, detail, errors=[{"pointer": pointer, "code": kind, "detail": detail}])
