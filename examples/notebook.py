# notebook.py
# %%
import bench

frame = bench.run("pipeline", scale="smoke", only="chains")

# %%
rates = frame[frame.metric == "samples_per_s"]
print(rates.pivot_table("value", index="case.stage", columns="case.link", observed=True))
