# notebook.py
# %%
import bench

frame = bench.run("pipeline", scale="smoke", only="accuracy")

# %%
print(frame[frame.metric == "test_accuracy"][["case.nodes", "case.stage", "value"]])
