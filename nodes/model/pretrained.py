"""Where do published weights come from? torchvision's, fetched once and kept where torch.hub keeps what it fetches."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from torch import hub, nn

from nodes.errors import ModelError, one_line
from nodes.model.checkpoint import read_weights

COUNTER = "num_batches_tracked"  # of batch norms: files that are older than it lack it


def is_published(model: str) -> bool:
    """Whether torchvision has weights of ``model``; asks nobody."""
    from torchvision import models  # noqa: PLC0415  (seconds)

    return model in models.list_models(module=models) and bool(list(models.get_model_weights(model)))


def published_weights(model: str, network: nn.Module) -> Path:
    """The file of torchvision's best weights of ``model``, whose names are those of ``network``.

    What is fetched is checked by its hash. Raises ModelError if there are no such weights, if they cannot be fetched,
    or if a layer of ``network`` is not in them (one of another shape, as the last for other classes, may be).
    """
    if not is_published(model):
        raise ModelError(f"torchvision has no weights of {model!r}")
    from torchvision import models  # noqa: PLC0415

    url = models.get_model_weights(model).DEFAULT.url
    name = PurePosixPath(urlparse(url).path).name
    path = Path(hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        _fetch(model, url, path)
    found = read_weights(str(path), torch.device("meta"))
    lacking = [name for name in network.state_dict() if name not in found and not name.endswith(COUNTER)]
    if lacking:
        raise ModelError(f"weights {path}: {len(lacking)} layers of {model} are not there, {lacking[0]} for one")
    return path


def _fetch(model: str, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = hub.HASH_REGEX.search(path.name)
    try:
        hub.download_url_to_file(url, str(path), prefix.group(1) if prefix else None, progress=False)
    except Exception as error:  # whatever the network does
        raise ModelError(f"weights of {model} cannot be fetched from {url} to {path}: {one_line(error)}") from None
