"""`/datasets` and `/models`: what a job can name; uploads."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.context import ApiDep
from app.api.models import base_models
from app.api.names import BUILTIN, NAME, find_mounted, mounted
from app.api.openapi import documented
from app.api.problems import Problem
from app.api.schemas import DatasetList, DatasetOut, ModelList
from app.api.uploads import ARCHIVES, enter, receive, remove
from app.api.views import answer, dataset_json, list_json, place_json

router = APIRouter(tags=["datasets"])
NAME_PATTERN = f"^{NAME.pattern}$"
Name = Annotated[str, Path(max_length=63, pattern=NAME_PATTERN)]


@router.get(
    "/datasets", summary="List datasets", **documented({200: (DatasetList, "All of them.")})
)
def datasets(api: ApiDep) -> Response:
    """Return what comes with the program, what was uploaded and what is mounted."""
    uploads = api.service.datasets.list()
    data = [place_json(name, "builtin") for name in BUILTIN]
    data += [dataset_json(record) for record in uploads]
    taken = {*BUILTIN, *(record.name for record in uploads)}
    data += [place_json(name, "folder") for name in mounted(api.settings) if name not in taken]
    return answer(list_json(data))


@router.get(
    "/datasets/{name}", summary="Look at a dataset",
    **documented({200: (DatasetOut, "The dataset.")}, 404, 422, 503),
)  # fmt: skip
def dataset(api: ApiDep, name: Name) -> Response:
    """Return a dataset; classes and images of a built-in or mounted one are counted now."""
    record = api.service.datasets.get(name)
    if name not in BUILTIN and record is not None:
        return answer(dataset_json(record))
    place = name if name in BUILTIN else find_mounted(api.settings, name)
    if place is None:
        raise Problem("not_found", f"there is no dataset {name!r}")
    facts = api.children.ask({
        "kind": "dataset", "dataset": str(place), "private": [str(api.settings.datasets or "/")]
    })  # fmt: skip
    kind = "builtin" if name in BUILTIN else "folder"
    return answer(place_json(name, kind) | {"facts": facts})


@router.post(
    "/datasets", status_code=201, summary="Upload a dataset",
    **documented(
        {201: (DatasetOut, "It can be used.")}, 400, 409, 413, 415, 422, 503, 507,
        headers={201: ("Location",)}, upload=tuple(ARCHIVES),
    ),
)  # fmt: skip
async def upload(
    request: Request, api: ApiDep,
    name: Annotated[str, Query(max_length=63, pattern=NAME_PATTERN, description="To use in jobs.")],
) -> Response:  # fmt: skip
    """Take an archive of class folders as the body; it is streamed to disk and looked through."""
    path = await receive(request, api, name)
    record = await run_in_threadpool(enter, api, name, path)
    return answer(dataset_json(record), 201, {"Location": f"/datasets/{name}"})


@router.delete(
    "/datasets/{name}", status_code=204, summary="Delete an uploaded dataset",
    **documented({204: (None, "It is gone.")}, 403, 404, 409, 422),
)  # fmt: skip
def delete(api: ApiDep, name: Name) -> Response:
    """Remove an upload that no waiting or running job uses; others cannot be deleted."""
    remove(api, name)
    return Response(status_code=204)


@router.get("/models", summary="List base models", **documented({200: (ModelList, "All.")}))
def models(api: ApiDep) -> Response:
    """Return the bases that `base.reference` can name, with their licences."""
    return answer(list_json(base_models(api.settings)))
