# job.py
from nodes.spec import DataSpec, Job, OptimizerSpec, StageSpec
from nodes.training.in_process import run_in_process

job = Job(
    model="own_model:small_resnet",
    input_shape=(3, 16, 16),
    classes=10,
    nodes=("ue", "mec", "cloud"),
    splits=(3, 5),  # layers done when leaving the UE and the MEC server
    stages=(StageSpec(name="int8"), StageSpec()),  # one for each link
    data=DataSpec(name="digits", train_samples=256, test_samples=64),
    optimizer=OptimizerSpec(name="adam", lr=0.01),
    epochs=2,
    batch_size=32,
    threads=1,
)
outcome = run_in_process(job)
for node in outcome.nodes:
    uplink = {kind: traffic.payload_bytes for kind, traffic in node.sent_uplink.items()}
    print(f"{node.name}: {node.layers} layers, payload bytes sent towards the cloud: {uplink}")
print(f"{len(outcome.losses)} training steps")
