"""Models of the Hugging Face hub, by their ids: `owner/name`.

The studio uses the internet only here, in `download`, and only at the artist's request. Downloads
go to the cache that other tools share, where a model is a folder like any other. Only
configurations, vocabularies and safetensors files are fetched, no pickles and no programs.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2  # used by huggingface_hub
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import tqdm

from studio import weights
from studio.files import free_bytes
from studio.runtime.environment import network_variables
from studio.weights import ModelError

INDEX = "model_index.json"
TEXTS = (
    *("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"),
    *("added_tokens.json", "chat_template.jinja"),
)
PARTS = {  # of a pipeline, with the stems of their weight files
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
SPARE_BYTES = 1_000_000_000  # of free space that a download leaves
ABANDONED_S = 3600.0  # without progress
SERVER_ERRORS = 500  # HTTP status codes from here on

Progress = Callable[[int, int], None]  # bytes done, bytes in total


def cached(repo: str) -> Path:
    """The folder of a downloaded model. Raises ModelError if it is missing or incomplete."""
    path = try_to_load_from_cache(repo, INDEX)
    if not isinstance(path, str):
        raise ModelError(f"{repo} is not on this computer yet: download it on the Prompt tab.")
    folder = Path(path).parent
    try:
        index = weights.read_json(folder / INDEX)
        for part, stem in PARTS.items():
            if part in index:
                weights.component_header(folder / part, stem)
    except (ModelError, FileNotFoundError) as error:
        raise ModelError(
            f"The download of {repo} is incomplete: continue it on the Prompt tab. {error}"
        ) from error
    return folder


def download(repo: str, progress: Progress, inspect: Callable[[Path], object]) -> Path:
    """Fetch a model into the hub's cache; existing files are not fetched again.

    `inspect` is called with the folder once the configurations are there, before any weights.
    `inspect` and `progress` may raise to stop the download. Raises ModelError with a sentence if
    the download fails.
    """
    _check_environment()
    try:
        info = HfApi().model_info(repo, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if INDEX not in sizes:
            raise ModelError(
                f"{repo} is not a diffusers model: it has no {INDEX}. Download its .safetensors "
                "checkpoint from its page, and enter the path of that file."
            )
        _remove_abandoned(repo)
        texts, weights = wanted(repo, list(sizes))
        total = sum(sizes[name] for name in (*texts, *weights))
        folder = _fetch(repo, info.sha, texts, sizes, progress, 0, total)
        inspect(folder)
        before = sum(sizes[name] for name in texts)
        _require_room(sum(sizes[name] for name in weights if not (folder / name).exists()))
        _fetch(repo, info.sha, weights, sizes, progress, before, total)
        return cached(repo)
    except GatedRepoError as error:
        raise ModelError(
            f"You must agree to the terms of {repo} first. Agree to them on its page, "
            f"{constants.ENDPOINT}/{repo}, sign in with `hf auth login`, and try again."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(_not_there(repo)) from error
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx2.TransportError,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise ModelError(
            f"The hub could not be reached, so the download of {repo} is incomplete. Finished "
            "files are kept: try again when this computer is online. Models that are already here "
            "need no connection."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 404):
            raise ModelError(_not_there(repo)) from error
        why = "has a problem" if status >= SERVER_ERRORS else "refused the request"
        raise ModelError(f"The hub {why} ({status}) for {repo}: try again later.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(_no_room()) from error
        raise ModelError(
            f"{repo} could not be downloaded into {constants.HF_HUB_CACHE}: "
            f"{error.strerror or error}"
        ) from error


def _check_environment() -> None:
    """Raise ModelError if the network variables of the environment are unusable."""
    try:
        httpx2.Client().close()
    except (ValueError, ImportError, OSError, httpx2.InvalidURL) as error:
        names = ", ".join(network_variables())
        raise ModelError(
            f"The hub cannot be reached with these environment variables: {names}: {error}. "
            "Correct or remove them, and start the studio again."
        ) from error


def wanted(repo: str, names: list[str]) -> tuple[list[str], list[str]]:
    """(texts, weights): the files to fetch, of all files of a model.

    fp16 weights, of half the size, if every part has them. Raises ModelError if a part has no
    safetensors file.
    """
    texts = sorted((name for name in names if _is_text(name)), key=lambda name: name != INDEX)
    parts = [part for part in PARTS if f"{part}/config.json" in texts]
    for variant in ("fp16", None):
        found = {part: _weights(names, part, variant) for part in parts}
        if all(found.values()):
            return texts, [name for part in parts for name in found[part]]
    weights = [name for part in parts for name in _weights(names, part, "fp16") or found[part]]
    lost = [part for part in parts if not any(name.startswith(f"{part}/") for name in weights)]
    if lost:
        raise ModelError(
            f"{repo} has no .safetensors file of its {lost[0]}, only files that can hide programs. "
            "Such files are not opened: choose another copy of the model."
        )
    return texts, weights


def _weights(names: list[str], part: str, variant: str | None) -> list[str]:
    """The weight file of a part, or its shards with their index."""
    stem = f"{part}/{PARTS[part]}"
    whole = f"{stem}.{variant}{weights.SUFFIX}" if variant else f"{stem}{weights.SUFFIX}"
    if whole in names:
        return [whole]
    index = f"{stem}{weights.SUFFIX}.index.{f'{variant}.' if variant else ''}json"
    if index not in names:
        return []
    shards = [
        name
        for name in names
        if name.startswith(f"{stem}-" if variant is None else f"{stem}.{variant}-")
        and name.endswith(weights.SUFFIX)
        and (variant is not None or ".fp16" not in name)
    ]
    return [index, *shards]


def _is_text(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return name == INDEX or (
        folder in (*PARTS, "tokenizer", "tokenizer_2", "scheduler")
        and file in (*TEXTS, "config.json", "scheduler_config.json", "tokenizer.json")
    )


def _fetch(
    repo: str,
    commit: str | None,
    names: list[str],
    sizes: dict[str, int],
    progress: Progress,
    done: int,
    total: int,
) -> Path:
    """Fetch files one after the other; gives their folder."""
    folder = Path()
    for name in names:
        before = done
        progress(before, total)

        class Bar(tqdm):  # huggingface_hub reports progress through tqdm
            def __init__(self, *_: Any, **options: Any) -> None:
                self.received = options.get("initial", 0)
                super().__init__(disable=True)

            def update(self, n: float | None = 1, before: int = before) -> None:
                self.received += n or 0
                progress(before + int(self.received), total)

        # The index by the name of the branch, so that the cache records its commit.
        revision = None if name == INDEX else commit
        path = Path(hf_hub_download(repo, name, revision=revision, tqdm_class=Bar))
        folder = path.parents[name.count("/")]
        done = before + sizes[name]
    progress(done, total)
    return folder


def _remove_abandoned(repo: str) -> None:
    """Remove partial files of killed downloads, which huggingface_hub never resumes. Younger ones
    may belong to another tool's running download."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
    for path in folder.glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def _require_room(needed_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = free_bytes(cache)
    if needed_bytes + SPARE_BYTES > free:
        raise ModelError(
            f"{_no_room()} {needed_bytes / 1e9:.1f} GB are missing, {free / 1e9:.1f} GB are "
            f"free, and {SPARE_BYTES / 1e9:.0f} GB must stay free."
        )


def _not_there(repo: str) -> str:
    return (
        f"There is no model {repo} on the hub, or it is private. Check the name; for a private "
        "model sign in with `hf auth login` first."
    )


def _no_room() -> str:
    return (
        f"The disk that holds the hub's cache, {constants.HF_HUB_CACHE}, has no room for this "
        "model. Make some, or set HF_HOME to a folder on another disk before the studio is started."
    )
