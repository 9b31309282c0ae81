"""The clients' part that an edge server shares: who has it, and who is to get it."""

from nodes.federated.schemes import ClientState, RoundState, Scheme
from nodes.wire.messages import ClientModel


class SharedPart:
    """What ``scheme`` lets clients go on from; ``value`` is None until there is one."""

    def __init__(self, scheme: Scheme, round_state: RoundState) -> None:
        self.value: ClientModel | None = None
        self.scheme, self.round_state = scheme, round_state

    def of(self, client: ClientState | None) -> ClientModel | None:
        """The part that ``client`` is to be tested with; None if that is its own."""
        return self.value if client is None or self.scheme.hands_part(self.round_state, client) else None

    def lacking(self, client: ClientState) -> ClientModel | None:
        """The part, if ``client`` is to have it and does not hold it."""
        return self.of(client) if client.holds is not self.value else None

    def hand(self, client: ClientState) -> ClientModel | None:
        """The part to send to ``client``, which holds it from then on; None if it has it, as from its last server."""
        brought, client.current = client.current, False
        lacking = self.lacking(client)
        if lacking is not None:
            client.holds = lacking
        return None if brought else lacking
