"""Contents of a probe's page, as plain data."""

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


def header(**more):
    return {
        "model": "Net",
        "isometry": "0.0",
        "size": 1234,
        "samples": 32,
        "likelihood": "categorical",
        "schedule": "geometric",
        "max_overhead": 0.05,
        "seed": 0,
        "measures": ["signal", "norm"],
        **more,
    }


def record(step, measure, values, note=None):
    return {"step": step, "seconds": 0.5 * step, "measure": measure, "values": values, "cost": 0.01, "note": note}


def healthy():
    records = []
    for step in STEPS:
        signal = {
            "q_min": 0.1 / (step + 1),
            "q_max": 1.0 + step,
            "correlation": 0.5,
            "gradient_ratio": 2.0,
            "dead": 0.0,
        }
        records.append(record(step, "signal", signal))
        records.append(record(step, "norm", {"w": 3.0 - step / 100, "b": -1.0}))
        if step:
            records.append(record(step, "training", {"loss": 2.0 / step, "overhead": 0.03}))
    return {"header": header(), "records": records}


def broken():
    content = healthy()
    content["records"] += [
        record(100, "nonfinite", {"first": 100.0}, "1 of 6 parameters hold NaN or infinity, the first is 'a.weight'"),
        record(128, "skipped", {"first": 3.0, "last": 100.0, "times": 7.0}, "norm: over the cap"),
        record(140, "skipped", {"first": 120.0, "last": 120.0, "times": 1.0}, "norm: over the cap"),
        record(0, "bad", {}, "left out: x has no <real> numbers"),
        record(128, "norm", {"w": None, "b": -1.0}),
    ]
    return content


def hostile():
    evil = "<script>window.hacked=1</script>"
    records = [record(step, evil, {evil: float(step), "`code`": 1e-9}, evil) for step in (0, 1, 5)]
    return {"header": header(model=evil, schedule=evil), "records": [*records, record(5, "nonfinite", {}, evil)]}


def empty():
    return {"header": {}, "records": []}
