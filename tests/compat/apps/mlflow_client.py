"""A client of mlflow: makes runs, and reads them back. Its argument is the address."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mlflow

mlflow.set_tracking_uri(sys.argv[1])
experiment = mlflow.set_experiment("apples")
for number in range(3):
    with mlflow.start_run(run_name=f"run {number}") as run:
        mlflow.log_param("kind", "ä")
        for step in range(5):
            mlflow.log_metric("weight", number + step, step=step)
        mlflow.log_text("text\n" * 100_000, "notes.txt")
client = mlflow.MlflowClient()
found = client.search_runs([experiment.experiment_id], order_by=["metrics.weight DESC"])
assert {one.info.status for one in found} == {"FINISHED"}
best = found[0]
assert best.data.params == {"kind": "ä"}
assert best.data.metrics["weight"] == 6
history = client.get_metric_history(best.info.run_id, "weight")
assert [one.value for one in history] == [2, 3, 4, 5, 6]
with tempfile.TemporaryDirectory() as folder:
    path = client.download_artifacts(best.info.run_id, "notes.txt", folder)
    assert Path(path).read_text() == "text\n" * 100_000
print(len(found))
