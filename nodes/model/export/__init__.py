"""Second front end of a chain: models opened by ``torch.export``."""

from nodes.model.export.front_end import export

__all__ = ["export"]
