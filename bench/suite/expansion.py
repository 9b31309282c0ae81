"""Short forms of a suite's YAML, spelt out: ``defaults``, ``groups``, ``extends``, a file of claims, tables of claims.

Every value keeps the file, line and key where it stands, so that an error in a default is told of the default.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.suite.claim_tables import spelt_out
from bench.suite.document import Document, Key, Node, read_or_note
from bench.suite.fitted import filled
from nodes.imports import did_you_mean
from reports.claims.claim import FORMS

Find = Callable[[str, Path], Path]  # the file that a name means, seen from a folder; raises ValueError
Nodes = dict[str, Node]
SHORT = ("defaults", "groups", "extends", "fit")  # keys of a suite, spelt out in its experiments and claims


def expand(document: Document, find: Find) -> None:
    """Replace the suite in ``document`` by its expanded form; notes problems."""
    if isinstance(document.root.value, dict):
        root = _whole(document, document.root, find, (document.path.resolve(),))
        document.place(_with_defaults(document, root))


def plain(document: Document) -> dict[str, Any]:
    """The expanded suite without the short forms, itself a suite that can be read. Expects no problems in it."""
    suite = {key: value for key, value in document.value.items() if key not in SHORT}
    experiments = suite.get("experiments", [])
    longs = [{key: value for key, value in one.items() if key != "group"} for one in experiments]
    return suite | {"experiments": longs} if longs else suite


def _whole(document: Document, root: Node, find: Find, parents: tuple[Path, ...]) -> Node:
    own = filled(document, dict(root.value))
    if "claims" in own:
        own["claims"] = spelt_out(document, _claims_file(document, own["claims"]))
    extends = own.get("extends")
    if extends is None:
        return replace(root, value=own)
    options: Nodes = extends.value if isinstance(extends.value, dict) else {"suite": extends}
    suite = options.get("suite", extends)
    if not isinstance(suite.value, str):  # its type says so
        return replace(root, value=own)
    try:
        path = find(suite.value, root.path.parent)
        if path.resolve() in parents:
            raise ValueError(f"{suite.value!r} extends this file again")
    except ValueError as error:
        document.note(suite, str(error))
    else:
        other = read_or_note(path)
        document.absorb(other)
        if isinstance(other.root.value, dict):
            base = _whole(document, other.root, find, (*parents, path.resolve()))
            return replace(root, value=own | dict(_extended(document, base.value, own, options)))
    return replace(root, value={key: node for key, node in own.items() if key not in ("experiments", "claims")})


def _claims_file(document: Document, claims: Node) -> Node:
    """The list in the file that ``claims`` names, or ``claims`` itself where it names none."""
    if not isinstance(claims.value, str):
        return claims
    other = read_or_note(claims.path.parent / claims.value)
    document.absorb(other)
    return replace(claims, value=[]) if other.value is None else other.root


def _extended(document: Document, base: Nodes, own: Nodes, options: Nodes) -> Iterator[tuple[str, Node]]:
    """What a suite takes from the one that it extends, ``base``, with its own keys over it."""
    if "defaults" in base:
        yield "defaults", _over(base["defaults"], own.get("defaults"))
    if "groups" in base:
        theirs, ours = base["groups"], own.get("groups", base["groups"])
        if isinstance(theirs.value, dict) and isinstance(ours.value, dict):
            groups = {name: _over(group, ours.value.get(name)) for name, group in theirs.value.items()}
            yield "groups", replace(ours, value=ours.value | groups)
    kept = _chosen(document, _named(base.get("experiments"), "name"), options.get("experiments"))
    if "experiments" in base:
        yield "experiments", _joined(kept, own.get("experiments", replace(base["experiments"], value=[])), "name")
    if "claims" in base:
        names = kept.keys() | _named(own.get("experiments"), "name").keys()
        claims = {name: one for name, one in _named(base["claims"], "claim").items() if _experiments_in(one) <= names}
        claims = _without(document, claims, options.get("without"))
        claims = _replaced(document, claims, options.get("replace"))
        yield "claims", _joined(claims, own.get("claims", replace(base["claims"], value=[])), "claim")


def _chosen(document: Document, known: Nodes, names: Node | None) -> Nodes:
    if names is None or not isinstance(names.value, list):
        return known
    for item in names.value:
        if item.value not in known:
            hint = did_you_mean(str(item.value), known)
            document.note(item, f"no experiment {item.value!r} in the suite that is extended{hint}")
    wanted = [item.value for item in names.value]
    return {name: node for name, node in known.items() if name in wanted}


def _without(document: Document, claims: Nodes, globs: Node | None) -> Nodes:
    for item in globs.value if globs and isinstance(globs.value, list) else []:
        left = {name: node for name, node in claims.items() if not fnmatchcase(name, str(item.value))}
        if len(left) == len(claims):
            document.note(item, f"no claim is called {item.value!r}{did_you_mean(str(item.value), claims)}")
        claims = left
    return claims


def _replaced(document: Document, claims: Nodes, words: Node | None) -> Nodes:
    """``claims`` with other texts in their selectors: experiments, metrics, values of cases."""
    others: Nodes = words.value if words and isinstance(words.value, dict) else {}
    used: set[str] = set()

    def changed(node: Node) -> Node:
        if node.parts:
            return node.mapped(changed)
        if isinstance(node.value, str) and node.value in others:
            used.add(node.value)
            return others[node.value]
        return node

    for name, claim in claims.items():
        forms = {key: changed(claim.value[key]) for key in (*FORMS, "premise") if key in claim.value}
        claims = claims | {name: replace(claim, value=claim.value | forms)}
    for word in others.keys() - used:
        document.note(others[word], f"no claim that is taken over has {word!r}")
    return claims


def _named(items: Node | None, key: str) -> Nodes:
    listed = items.value if items and isinstance(items.value, list) else []
    named = (item for item in listed if isinstance(item.value, dict) and key in item.value)
    return {str(item.value[key].value): item for item in named}


def _experiments_in(node: Node) -> set[str]:
    found = {name for item in node.parts.values() for name in _experiments_in(item)}
    own = node.value.get("experiment") if isinstance(node.value, dict) else None
    return found | {str(own.value)} if own else found


def _joined(kept: Nodes, own: Node, key: str) -> Node:
    """``kept`` with what the list ``own`` has of the same name over them, then the rest of ``own``."""
    if not isinstance(own.value, list):
        return own
    overs = {name: node for name, node in _named(own, key).items() if name in kept}
    over = _over if key == "name" else _claim_over
    rest = [item for item in own.value if item not in overs.values()]
    return replace(own, value=[over(node, overs.get(name)) for name, node in kept.items()] + rest)


def _claim_over(claim: Node, own: Node | None) -> Node:
    if own is None:
        return claim
    gone = FORMS if not own.value.keys().isdisjoint(FORMS) else ()
    found = {key: item for key, item in claim.value.items() if key not in gone} | own.value
    return replace(own, value={key: item for key, item in found.items() if item.value is not None})


def _over(base: Node, own: Node | None, at: Key = ()) -> Node:
    """``own`` over ``base``, parts of experiments that stand ``at`` a key; mappings there are merged key by key.

    Null takes away what it stands over, but in parameters, where it is a value.
    """
    if own is None:
        return base
    if not (_is_merged(at) and isinstance(base.value, dict) and isinstance(own.value, dict)):
        return own
    found = {**base.value, **own.value}
    for key in base.value.keys() & own.value.keys():
        if own.value[key].value is None and at[-1:] != ("parameters",):
            del found[key]
        else:
            found[key] = _over(base.value[key], own.value[key], (*at, key))
    return replace(own, value=found)


def _is_merged(at: Key) -> bool:
    """Whether the mapping that stands ``at`` a key of an experiment is merged, or else replaced as a whole."""
    within = at[2:] if at[:1] == ("scales",) and len(at) > 1 else at
    return within in ((), ("scales",), ("parameters",), ("grid",))


def _with_defaults(document: Document, root: Node) -> Node:
    """``root`` with defaults under each of its experiments; a default of no use is a problem."""
    defaults, groups, experiments = (root.value.get(key) for key in ("defaults", "groups", "experiments"))
    known: Nodes = groups.value if groups and isinstance(groups.value, dict) else {}
    joined: set[str] = set()
    found: list[Node] = []
    for item in experiments.value if experiments and isinstance(experiments.value, list) else []:
        group = item.value.get("group") if isinstance(item.value, dict) else None
        if group and group.value in known:
            joined.add(group.value)
            found.append(_over(known[group.value], item))
        else:
            found.append(item)
            if group and isinstance(group.value, str):
                document.note(group, f"no group {group.value!r}{did_you_mean(group.value, known)}")
    if defaults:
        found = [_over(defaults, item) for item in found]
    used = {id(leaf) for item in found for leaf in _leaves(item)}
    for name, layer in [("", defaults), *known.items()]:
        if not layer or layer.path != root.path:  # of the suite that is extended, which may use it elsewhere
            continue
        if isinstance(layer.value, dict) and "group" in layer.value:
            document.note(layer.value["group"], "a group is given by an experiment, not by its defaults")
        if name and name not in joined:
            document.note(layer, "no experiment is of this group")
            continue
        for leaf in _leaves(layer):
            if id(leaf) not in used and leaf.path == root.path:
                document.note(leaf, "no experiment uses this default")
    return replace(root, value=root.value | ({"experiments": replace(experiments, value=found)} if found else {}))


def _leaves(node: Node, at: Key = ()) -> Iterator[Node]:
    """The parts of ``node`` that are merged as a whole."""
    if _is_merged(at) and isinstance(node.value, dict):
        for key, item in node.value.items():
            yield from _leaves(item, (*at, key))
    else:
        yield node
