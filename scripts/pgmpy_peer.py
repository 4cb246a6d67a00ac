"""Run in an environment with pgmpy: marginals of a network under many evidence sets, and how long they take.

    python scripts/pgmpy_peer.py NETWORK.bif CASES.json OUTPUT.json --method variable_elimination

``CASES.json`` is a list of {variable: state}. For each case every unobserved variable is queried, as pgmpy's users do:
by its variable elimination, or by its belief propagation, calibrated once. Reading the file is not timed. After
``--limit`` seconds it stops between two queries, and what it has is a lower bound.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
import warnings
from pathlib import Path


def main() -> int:
    """Write seconds and marginals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("network", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds")
    parser.add_argument("--method", choices=["variable_elimination", "belief_propagation"], required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from pgmpy.inference import BeliefPropagation, VariableElimination
    from pgmpy.readwrite import BIFReader

    model = BIFReader(str(options.network)).get_model()
    cases = json.loads(options.cases.read_text())
    began = time.perf_counter()
    if options.method == "variable_elimination":
        engine = VariableElimination(model)
    else:
        engine = BeliefPropagation(model)
        engine.calibrate()
    answers = []
    for evidence in cases:
        found = {}
        for name in model.nodes():
            if name not in evidence and time.perf_counter() - began < options.limit:
                answer = engine.query([name], evidence=evidence, show_progress=False)
                found[name] = dict(zip(answer.state_names[name], answer.values.tolist(), strict=True))
        answers.append(found)
    seconds = time.perf_counter() - began
    finished = all(len(f) + len(e) == len(model.nodes()) for f, e in zip(answers, cases, strict=True))
    record = {"seconds": seconds, "finished": finished, "marginals": answers}
    record["version"] = importlib.metadata.version("pgmpy")
    options.output.write_text(json.dumps(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
