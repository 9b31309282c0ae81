"""Cases as tasks of a Dask cluster, whose workers see the suite, its code and its data where the runner sees them."""
