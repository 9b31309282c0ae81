"""Published weights of torchvision's models, downloaded once into the cache of ``torch.hub``."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from torch import hub, nn

from nodes.errors import ModelError, one_line
from nodes.model.weights import ABSENT, COUNTER, fit_weights


def is_published(model: str) -> bool:
    """Whether torchvision publishes weights of ``model``. Uses no network."""
    from torchvision import models  # noqa: PLC0415  (seconds)

    return model in models.list_models(module=models) and bool(list(models.get_model_weights(model)))


def published_weights(model: str, network: nn.Module) -> Path:
    """The file of torchvision's best weights of ``model``, downloaded and checked by hash if it is not there.

    Raises ModelError if there are none, if the download fails, or if they lack a layer of ``network``. (A layer of
    another shape is permitted, such as the last one for other classes.)
    """
    if not is_published(model):
        raise ModelError(f"torchvision publishes no weights of {model!r}")
    from torchvision import models  # noqa: PLC0415

    url = models.get_model_weights(model).DEFAULT.url
    name = PurePosixPath(urlparse(url).path).name
    path = Path(hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        _fetch(model, url, path)
    fit = fit_weights(str(path), network.state_dict(), "meta")
    lacking = [name for name, why in fit.missing.items() if why == ABSENT and not name.endswith(COUNTER)]
    if lacking:
        raise ModelError(f"weights {path} lack {len(lacking)} layers of {model}, such as {lacking[0]}")
    return path


def _fetch(model: str, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = hub.HASH_REGEX.search(path.name)
    try:
        hub.download_url_to_file(url, str(path), prefix.group(1) if prefix else None, progress=False)
    except Exception as error:  # urllib and the hash check raise many kinds
        raise ModelError(f"weights of {model} cannot be downloaded from {url} to {path}: {one_line(error)}") from None
