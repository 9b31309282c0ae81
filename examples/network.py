# network.py
import numpy as np

from bench.experiments.hivemind.network.scenario import fastest
from bench.experiments.hivemind.network.tasks import Field, present, tasks
from netem.cellular.iab import IabRoute
from netem.trace import read
from netem.traces import packaged
from nodes.costs.devices import GTX_1080TI_SERVER, RASPBERRY_PI_3BP, RTX_2080_PC, predict_profile
from nodes.costs.workload import load_workload


class Mine:
    """A UE, one MEC server and a cloud; the UE's link follows a trace, the other is steady."""

    coherence_s = 0.1

    def __init__(self):
        steps = read(packaged()["5g-mmwave-walking"]).resampled(self.coherence_s).changes
        rates_bps = np.array([step.rate_bps for step in steps])
        self.rates_bps = {"air": rates_bps, "wire": np.full(len(rates_bps), 50e6)}

    def route(self, t):
        return IabRoute(nodes=("ue", "mec", "cloud"), links=("air", "wire"))


# For your own machines, measure profiles there: see the module nodes.costs.profile.
machines = {"ue": RASPBERRY_PI_3BP, "mec": RTX_2080_PC, "cloud": GTX_1080TI_SERVER}
profiles = {name: predict_profile(machine, load_workload("resnet18-88")) for name, machine in machines.items()}
field = Field(
    network=Mine(),
    layer_s={name: profile.forward_s for name, profile in profiles.items()},
    frame_bytes=[*profiles["ue"].boundary_bytes[:-1], 0],
    sci_bytes=4 * len(profiles["ue"].boundary_bytes),
    delay_s=0.005,
)
journeys = tasks(field, fastest(field, "hivemind"), present(field), [0.1 * k for k in range(500)])
latency_ms = 1e3 * np.array([journey.latency_s for journey in journeys])
print(f"median {np.median(latency_ms):.1f} ms, 95th percentile {np.quantile(latency_ms, 0.95):.1f} ms")
