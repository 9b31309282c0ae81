"""All states of a service's node with all events: the next state and the node it connects to, or a ProtocolError."""

import pytest

from nodes.errors import ProtocolError
from nodes.inference.server import ServiceServer
from nodes.inference.service_node import TRANSITIONS, State
from nodes.inference.ue import ServiceUe
from nodes.runtime.actions import Connect, Finish
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.wire.messages import BeginUpdate, Peer, Replaced, Result, Route, Shutdown, TaskLost
from nodes.wire.split_costs import sci

NEAR = [0.0, 0.0]


def route(*names: str) -> Route:
    return Route(nodes=tuple(Peer(name) for name in names))


def server() -> ServiceServer:
    return ServiceServer("mec", SplitControl([1.0], Policy()), lambda previous: lambda now, ahead_s: NEAR)


def ue() -> ServiceUe:
    return ServiceUe("ue", SplitControl([1.0], Policy()), Pace(tasks=1))


EVENTS = {
    "other route": lambda node: node.receive("runner", route("other"), 1.0),
    "same next": lambda node: node.receive("runner", route("cloud"), 1.0),
    "route ends": lambda node: node.receive("runner", route(), 1.0),
    "update": lambda node: node.receive("runner", BeginUpdate(number=7), 1.0),
    "shutdown": lambda node: node.receive("runner", Shutdown(), 1.0),
    "joined": lambda node: node.joined("next", "cloud", 1.0),
    "lost": lambda node: node.lost("next", 1.0),
    "replaced": lambda node: node.receive("next", Replaced(), 1.0),
    "next ended": lambda node: node.receive("next", Shutdown(), 1.0),
    "costs": lambda node: node.receive("next", sci(1, "cloud", NEAR), 1.0),
    "result": lambda node: node.receive("next", Result(assignment=0, step=0), 1.0),
    "task lost": lambda node: node.receive("next", TaskLost(step=0), 1.0),
}
REACHED = {  # the events that lead to a state, on the route to the cloud and one more behind it
    State.UNROUTED: [],
    State.JOINING: ["long route"],
    State.SILENT: ["long route", "joined"],
    State.OPEN: ["long route", "joined", "costs"],
    State.LAST: ["route ends"],
}
LONG = {"long route": lambda node: node.receive("runner", route("cloud", "beyond"), 0.0)}
# Of a node with a previous one, and of the UE: none of them waits, as no task is under way.
EXPECTED = """
             unrouted       joining         silent          open            last
other route  joining:other  joining         joining:other   joining:other   joining:other
same next    joining:cloud  joining         silent          open            joining:cloud
route ends   last:none      joining         last:none       last:none       last
update       error          error           error           open            last
shutdown     unrouted       joining         silent          open            last
joined       error          silent          error           error           error
lost         error          joining:beyond  joining:beyond  joining:beyond  error
replaced     error          error           last:none       last:none       error
next ended   error          error           last:none       last:none       error
costs        error          error           open            open            error
result       error          error           silent          open            error
task lost    error          error           silent          open            error
"""
STATES, *ROWS = EXPECTED.strip().splitlines()
CELLS = [
    (event, State(state), cell)
    for row in ROWS
    for event, cells in [(row[:13].strip(), row[13:].split())]
    for state, cell in zip(STATES.split(), cells, strict=True)
]


@pytest.mark.parametrize("make", [server, ue])
@pytest.mark.parametrize(("event", "state", "cell"), CELLS)
def test_a_node_in_any_state_does_with_any_event_what_is_expected(event, state, cell, make):
    node = make()
    if make is server:
        node.joined("previous", "ue", 0.0)
    for led in REACHED[state]:
        (EVENTS | LONG)[led](node)
    assert node.state is state
    if cell == "error":
        with pytest.raises(ProtocolError, match=f"in state {state.value}"):
            EVENTS[event](node)
        return
    actions = EVENTS[event](node)
    found = [one.peer.name if one.peer else "none" for one in actions if isinstance(one, Connect)]
    assert ":".join([node.state.value, *found]) == cell
    assert (Finish() in actions) == (event == "shutdown")


def test_no_event_of_the_next_node_or_the_runner_is_left_out():
    """``EVENTS`` has three routes; beside the table's events each role has some that every state expects."""
    assert len({event for event in TRANSITIONS if event[0] != "route"}) == len(EVENTS) - 2
    assert {state for _, state, _ in CELLS} == set(State) - {State.WAITING}
    for role in (ServiceServer, ServiceUe):
        assert TRANSITIONS.keys() <= role.transitions.keys()
        own = role.transitions.keys() - TRANSITIONS.keys()
        assert all(set(role.transitions[event][1]) == set(State) for event in own)


@pytest.mark.parametrize("event", EVENTS)
def test_a_node_without_a_previous_one_waits(event):
    node = server()
    LONG["long route"](node)
    assert node.state is State.WAITING
    if event in ("other route", "same next", "route ends", "shutdown"):
        EVENTS[event](node)
        assert node.state is (State.LAST if event == "route ends" else State.WAITING)
    else:
        with pytest.raises(ProtocolError, match="in state waiting"):
            EVENTS[event](node)


def test_a_node_that_waits_connects_once_it_has_a_previous_one():
    node = server()
    EVENTS["other route"](node)
    assert node.joined("previous", "ue", 1.0) == [Connect(Peer("other"))]
    assert node.state is State.JOINING


def test_a_route_that_comes_meanwhile_is_taken_once_the_next_node_is_joined():
    node = ue()
    LONG["long route"](node)
    EVENTS["other route"](node)
    assert EVENTS["joined"](node) == [Connect(Peer("other"))]
