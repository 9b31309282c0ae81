"""What follows a moving client, against brute force over everything that the controller may do, its cost told anew."""

from itertools import combinations
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.splitting import migration
from nodes.splitting.migration import CLOUD, BackhaulLink, Controller, EdgeNetwork, Model, State, route_s

World = tuple[EdgeNetwork, Model]
EDGES = ("a", "b", "c")
attachments = st.integers(1, 4).map(
    lambda clients: st.lists(st.sampled_from(EDGES), min_size=clients, max_size=clients)
)
courses = attachments.flatmap(lambda attached: st.lists(attached, min_size=2, max_size=5))


def numbers(count: int, least: int, most: int) -> Any:
    return st.lists(st.integers(least, most), min_size=count, max_size=count)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[EdgeNetwork, Model]:
    layers = draw(st.integers(1, 4))
    pairs = [*combinations(EDGES, 2), *((edge, CLOUD) for edge in EDGES)]
    links = {pair: BackhaulLink(draw(st.sampled_from([2.0, 8.0, 16.0])), draw(st.integers(0, 1))) for pair in pairs}
    layer_s = {server: [float(one) for one in draw(numbers(layers, 0, 3))] for server in (*EDGES, CLOUD)}
    network = EdgeNetwork(EDGES, links, layer_s, draw(st.integers(0, 10)))
    model = Model([*draw(numbers(layers, 1, 4)), 0], draw(numbers(layers, 0, 5)), draw(numbers(layers, 0, 20)))
    return network, model


def byte_times(network: EdgeNetwork) -> dict[str, dict[str, float]]:
    """Seconds a byte takes from each server to each, on the fastest way."""
    found = networkx.Graph()
    for (one, other), link in network.links.items():
        found.add_edge(one, other, byte_s=8 / link.rate_bps)
    return dict(networkx.all_pairs_dijkstra_path_length(found, weight="byte_s"))


@settings(max_examples=50)
@given(worlds())
def test_parameters_take_the_fastest_way(world: World) -> None:
    network, _ = world
    lengths = byte_times(network)
    for (source, target), route in network.routes.items():
        assert route_s(route, 1) == pytest.approx(lengths[source][target])


def batch_s(network: EdgeNetwork, model: Model, edge: str, holder: str, used: int) -> float:
    """A batch of one client that is at ``edge`` and trains the copy at ``holder``, hop by hop, forward and backward."""
    crossing = [(link, model.boundary_bytes[0]) for link in network.routes[edge, holder]]
    if used < len(model.held_bytes):
        crossing += [(link, model.boundary_bytes[used]) for link in network.routes[holder, CLOUD]]
    hops = sum(2 * (8 * size / link.rate_bps + link.delay_s) for link, size in crossing)
    return hops + sum(network.layer_s[holder][:used]) + sum(network.layer_s[CLOUD][used:])


def fitting(network: EdgeNetwork, model: Model) -> list[int]:
    """How many layers an edge may store."""
    return [used for used in range(len(model.held_bytes) + 1) if sum(model.held_bytes[:used]) <= network.storage_bytes]


@settings(max_examples=200)
@given(worlds(), st.sampled_from(EDGES), st.sampled_from(EDGES), st.sampled_from([0.5, 1.0, 8.0]), st.integers(1, 3))
def test_one_clients_layers_go_where_its_stay_costs_least(
    world: World, first: str, then: str, stay_rounds: float, batches: int
) -> None:
    network, model = world
    layers = len(model.held_bytes)
    lengths = byte_times(network)
    controller = Controller(network, model, "migrate", 1, batches, stay_rounds)
    before = controller.begin([first])
    held = before.used[first]

    def cost(holder: str, used: int) -> float:
        stay_s = stay_rounds * batches * batch_s(network, model, then, holder, used)
        where = [first if layer < held else CLOUD for layer in range(layers)]
        to = [holder if layer < used else CLOUD for layer in range(layers)]
        moves = zip(where, to, model.held_bytes, strict=True)
        return stay_s + sum(size * lengths[source][target] for source, target, size in moves)

    options = {(then, used) for used in fitting(network, model)} | ({(first, held)} if held else set())
    after = controller.follow(before, [then])
    (holder,) = after.holders
    assert (holder, after.used[holder]) in options
    assert cost(holder, after.used[holder]) == pytest.approx(min(cost(*option) for option in options))
    assert after.stored == ({holder: after.used[holder]} if after.used[holder] else {})
    moved_s = sum(route_s(route, model.held_bytes[layer]) for _, layer, route in controller.arrivals(before, after))
    stay_s = stay_rounds * batches * batch_s(network, model, then, holder, after.used[holder])
    assert moved_s == pytest.approx(cost(holder, after.used[holder]) - stay_s)


@settings(max_examples=100)
@given(worlds(), st.lists(st.sampled_from(EDGES), min_size=2, max_size=4), st.integers(1, 3))
def test_first_copies_are_the_best_that_fit_with_keeping_them_in_step(
    world: World, attached: list[str], batches: int
) -> None:
    network, model = world
    state = Controller(network, model, "migrate", len(attached), batches, 5.0).begin(attached)
    for edge in set(attached):
        sharing = attached.count(edge)

        def cost(used: int, edge: str = edge, n: int = sharing) -> float:
            trips = 1 if n == len(attached) else 2
            step_s = trips * route_s(network.routes[edge, CLOUD], sum(model.parameter_bytes[:used]))
            work_s = n * sum(network.layer_s[edge][:used]) + sum(network.layer_s[CLOUD][used:])
            up = network.routes[edge, CLOUD] if used < len(model.held_bytes) else ()
            hops = sum(2 * (8 * n * model.boundary_bytes[used] / link.rate_bps + link.delay_s) for link in up)
            return batches * (work_s + hops) + step_s

        assert cost(state.used[edge]) == pytest.approx(min(map(cost, fitting(network, model))))


@settings(max_examples=100)
@given(worlds(), st.sampled_from(["migrate", "stay", "replicate"]), courses)
def test_whatever_happens_copies_fit_and_clients_have_one(world: World, strategy: Any, course: list[list[str]]) -> None:
    network, model = world
    controller = Controller(network, model, strategy, len(course[0]), 2, 2.0)
    first = state = controller.begin(course[0])
    for attached in course[1:]:
        before, state = state, controller.follow(state, attached)
        for edge, count in state.stored.items():
            assert sum(model.held_bytes[:count]) <= network.storage_bytes
            assert strategy != "migrate" or edge in state.holders
        for edge, holder in zip(attached, state.holders, strict=True):
            assert state.used[holder] <= state.stored.get(holder, 0)
            assert holder == edge or state.stored[holder]
        arrivals = controller.arrivals(before, state)
        assert strategy == "migrate" or not arrivals
        assert all((one.server in EDGES) or not controller.synchronised for one in arrivals)
        assert strategy != "stay" or state.stored == first.stored


def line(across_bps: float = 8.0, cloud_bps: float = 2.0) -> EdgeNetwork:
    """Two edges beside each other; by default, the route to the cloud takes four times as long."""
    rates = {("a", "b"): across_bps, ("a", CLOUD): cloud_bps, ("b", CLOUD): cloud_bps}
    links = {pair: BackhaulLink(rate_bps, 0.0) for pair, rate_bps in rates.items()}
    return EdgeNetwork(("a", "b"), links, {server: [0.0, 0.0] for server in ("a", "b", CLOUD)}, 10)


MODEL = Model([4, 1, 0], [6, 20], [3, 10])


def test_layers_move_if_the_stay_is_long_enough_or_an_old_copy_would_have_to_be_kept_in_step() -> None:
    """Going on to the old edge takes 2 x 4 s a batch, moving 6 s once."""
    for stay_rounds, holder in ((0.7, "a"), (0.8, "b")):
        controller = Controller(line(), MODEL, "migrate", 1, 1, stay_rounds)
        before = controller.begin(["a"])
        assert before == State({"a": 1}, {"a": 1}, ("a",))
        assert controller.follow(before, ["b"]).holders == (holder,)
    # A new copy takes 6 s to bring; going on to the old one 16 s; each then 16 s to the cloud and 12 s in step.
    controller = Controller(line(), MODEL, "migrate", 2, 1, 1.0)
    before = controller.begin(["a", "a"])
    assert before.used == {"a": 1}
    assert controller.follow(before, ["b", "b"]).holders == ("b", "b")


def test_copies_come_from_the_nearest_place_over_each_link_once_and_the_only_one_goes_to_the_cloud() -> None:
    controller = Controller(line(), MODEL, "migrate", 2, 4, 10.0)
    before = controller.begin(["a", "a"])
    after = controller.follow(before, ["a", "b"])
    assert after == State({"a": 1, "b": 1}, {"a": 1, "b": 1}, ("a", "b"))
    assert controller.arrivals(before, after) == [("b", 0, (BackhaulLink(8.0, 0.0),))]
    before, after = State({"a": 1}, {"a": 1}, ("a", "a")), State({"a": 1, "b": 1}, {"a": 1, "b": 1}, ("a", "b"))
    for clients, hops in ((1, 2), (2, 1)):
        controller = Controller(line(across_bps=1.0, cloud_bps=8.0), MODEL, "migrate", clients, 1, 1.0)
        (arrival,) = controller.arrivals(before, after)
        assert len(arrival.route) == hops
    before, after = State({"a": 1}, {"a": 1}, ("a",)), State({}, {"b": 0}, ("b",))
    alone = Controller(line(), MODEL, "migrate", 1, 1, 1.0)
    assert alone.arrivals(before, after) == [(CLOUD, 0, (BackhaulLink(2.0, 0.0),))]
    synchronised = Controller(line(), MODEL, "migrate", 2, 1, 1.0)
    assert synchronised.arrivals(before, after) == []


def test_copies_of_their_own_go_where_there_is_room() -> None:
    """Two layers of 3 B, of which an edge stores 7 B: one copy. Over two links it takes 12 s, a batch 20 s."""
    links = {(edge, CLOUD): BackhaulLink(8.0, 0.0) for edge in EDGES}
    network = EdgeNetwork(EDGES, links, {server: [0.0, 0.0] for server in (*EDGES, CLOUD)}, 7)
    model = Model([5, 9, 0], [3, 3], [3, 3])

    def holders(attached: list[str], stay_rounds: float = 1.0) -> list[str]:
        rounds = migration.follow_separate_copies(network, model, 1, stay_rounds, [tuple(one) for one in attached])
        assert all(state.stored == {state.holders[0]: 2} for one in rounds for state in one)
        return ["".join(state.holders[0] for state in one) for one in rounds]

    assert holders(["ab", "ab"]) == ["ab", "ab"]
    assert holders(["aa", "aa", "ca", "ca"]) == ["ab", "ab", "ca", "ca"]  # b is nearest with room; then a has some
    assert holders(["ab", "bb", "bb"]) == ["ab", "ab", "ab"]  # b is full
    assert holders(["ab", "ba"]) == ["ab", "ab"]  # who comes first by number finds it full
    assert holders(["a", "b"], 0.5) == ["a", "a"]  # 10 s of data that goes on there, against 12 s
    assert holders(["a", "b"], 0.7) == ["a", "b"]
    with pytest.raises(ValueError, match="no edge can store 6 bytes for client 3"):
        migration.follow_separate_copies(network, model, 1, 1.0, [("a",) * 4])


def test_data_is_forwarded_to_no_edge_without_a_copy():
    """The route of c's data over a is as fast as its own link to the cloud, with less delay; but a has no copy."""
    slow, fast = BackhaulLink(2.0, 0), BackhaulLink(16.0, 0)
    links = {("a", "b"): slow, ("a", "c"): fast, ("b", "c"): slow, ("a", CLOUD): fast, ("b", CLOUD): slow}
    links[("c", CLOUD)] = BackhaulLink(8.0, 1)
    network = EdgeNetwork(EDGES, links, {key: [0.0] for key in (*EDGES, CLOUD)}, 0)
    controller = Controller(network, Model([1, 0], [1], [1]), "migrate", 2, 1, 1.0)
    state = controller.follow(controller.begin(["a", "a"]), ["a", "c"])
    assert state.holders == ("a", "c")
    assert state.stored == {}
