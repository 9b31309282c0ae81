"""Schemes of parallel split learning as rows of one table."""

from typing import Literal, NamedTuple

SchemeName = Literal["sl", "sflv1", "sflv2", "psl", "psl-averaged", "epsl", "psl-async", "fl"]


class Scheme(NamedTuple):
    """Who trains when; what the server has; what becomes of the clients' parts after a round."""

    order: Literal["in turn", "at once", "at will"]
    server: Literal["none", "one by one", "copies", "joint"]
    clients: Literal["hand on", "average", "keep"]


SCHEMES: dict[str, Scheme] = {
    "sl": Scheme("in turn", "one by one", "hand on"),
    "sflv1": Scheme("at once", "copies", "average"),
    "sflv2": Scheme("at once", "one by one", "average"),
    "psl": Scheme("at once", "joint", "keep"),
    "psl-averaged": Scheme("at once", "joint", "average"),
    "epsl": Scheme("at once", "joint", "keep"),
    "psl-async": Scheme("at will", "joint", "keep"),
    "fl": Scheme("at once", "none", "average"),
}
