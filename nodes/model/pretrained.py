"""Published weights of torchvision's models, downloaded once into the cache of ``torch.hub``."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from torch import hub, nn

from nodes.errors import ModelError, one_line
from nodes.model.weights import ABSENT, COUNTER, fit_weights


def url_of(model: str) -> str:
    """Where torchvision's best weights of ``model`` are published. Uses no network. Raises ModelError for none."""
    from torchvision import models  # noqa: PLC0415  (seconds)

    if model not in models.list_models(module=models) or not list(models.get_model_weights(model)):
        raise ModelError(f"torchvision has no weights of {model!r}; give a file or pretrain_epochs")
    return str(models.get_model_weights(model).DEFAULT.url)


def published_file(model: str) -> Path:
    """The file of those weights in torch's cache, whether or not it is there. Raises ModelError if there are none."""
    return Path(hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url_of(model)).path).name


def check_published(model: str, path: Path, network: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError if the weights at ``path`` lack a layer of ``network``, a state dict.

    A layer of another shape is permitted, such as the last one for other classes.
    """
    fit = fit_weights(str(path), network, "meta")
    lacking = [name for name, why in fit.missing.items() if why == ABSENT and not name.endswith(COUNTER)]
    if lacking:
        raise ModelError(f"weights {path} lack {len(lacking)} layers of {model}, such as {lacking[0]}")


def fetch_published(model: str) -> Path:
    """The file of torchvision's best weights of ``model``, downloaded and checked by hash if it is not there.

    Raises ModelError if there are none, or if the download fails.
    """
    path = published_file(model)
    if not path.exists():
        _fetch(model, url_of(model), path)
    return path


def published_weights(model: str, network: nn.Module) -> Path:
    """``fetch_published``, checked against ``network``. Raises ModelError."""
    path = fetch_published(model)
    check_published(model, path, network.state_dict())
    return path


def _fetch(model: str, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = hub.HASH_REGEX.search(path.name)
    try:
        hub.download_url_to_file(url, str(path), prefix.group(1) if prefix else None, progress=False)
    except Exception as error:  # urllib and the hash check raise many kinds
        raise ModelError(f"weights of {model} cannot be downloaded from {url} to {path}: {one_line(error)}") from None
