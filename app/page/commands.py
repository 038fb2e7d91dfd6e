"""Commands that a reader can copy: the same job from a terminal, and the result in a program."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from app.api.names import BUILTIN


def curl_text(base_url: str, body: Mapping[str, Any], *, is_auth_on: bool) -> str:
    """Return the curl command that starts a job."""
    key = ' \\\n  -H "Authorization: Bearer $DISTILLERY_API_KEY"' if is_auth_on else ""
    return f"curl {base_url}/jobs{key} \\\n  --json {shlex.quote(json.dumps(body))}"


def same_texts(base_url: str, body: Mapping[str, Any], *, is_auth_on: bool) -> dict[str, str]:
    """Return the ways to ask for a job without this page, by name."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in body.items())
    ipc, dataset = body.get("ipc", 10), str(body.get("dataset", "digits"))
    return {
        "curl": curl_text(base_url, body, is_auth_on=is_auth_on),
        "python": python_text(base_url, arguments, is_auth_on=is_auth_on),
        "cli": f"distillery run {shlex.quote(local_name(dataset))} --ipc {ipc}",
    }


def local_name(dataset: str) -> str:
    """Return what the command line takes for a dataset; uploads and mounted ones are paths there.

    The same as `localName` in static/commands.js.
    """
    return dataset if dataset in BUILTIN or "/" in dataset else f"path/to/{dataset}"


def python_text(base_url: str, arguments: str, *, is_auth_on: bool) -> str:
    """Return the Python lines that start a job and fetch its result; as in static/commands.js."""
    key = ', api_key="dst_..."' if is_auth_on else ""
    return (
        f'import distillery\n\nclient = distillery.Client("{base_url}"{key})\n'
        f'job = client.jobs.create({arguments})\njob.wait().download("out")'
    )


def loader_texts(base_url: str, job_id: str, *, is_auth_on: bool) -> list[dict[str, str]]:
    """Return snippets that fetch and load a bundle, each with its title."""
    key = ' \\\n  -H "Authorization: Bearer $DISTILLERY_API_KEY"' if is_auth_on else ""
    return [
        {
            "title": "Distillery",
            "code": "import distillery\n\n"
            'data = distillery.load("distilled.safetensors")  # verified to its last byte\n'
            "train = data.torch()  # torch Dataset of (uint8 image, label)",
        },
        {
            "title": "Hugging Face datasets",
            "code": "from datasets import load_dataset\n\n"
            'train = load_dataset("parquet", data_files="train-00000-of-00001.parquet")["train"]\n'
            'train[0]["image"], train[0]["label"]',
        },
        {
            "title": "safetensors",
            "code": "from safetensors.numpy import load_file\n\n"
            'tensors = load_file("distilled.safetensors")\n'
            'tensors["images"], tensors["labels"]  # uint8 (N, C, H, W), int64 (N,)',
        },
        {
            "title": "Command line",
            "code": f"distillery download {job_id}  # resumes and verifies",
        },
        {
            "title": "curl",
            "code": "curl -C - -o distilled.safetensors \\\n"
            f"  {base_url}/jobs/{job_id}/bundle{key}",
        },
    ]
