"""One readable recipe per paper. `RECIPES` is the explicit table of all of them."""

from __future__ import annotations

# domain -> name -> "module:function", imported only when it is asked for; the function takes the open
# `gencompress.run.Run`
RECIPES: dict[str, dict[str, str]] = {
    "diffusion": {
        "ecodiff": "gencompress.pipelines.ecodiff:ecodiff",
        "one_shot": "gencompress.pipelines.one_shot:one_shot",
    },
    "sam": {
        "slimsam": "gencompress.pipelines.slimsam:slimsam",
        "one_shot": "gencompress.pipelines.slimsam:one_shot",
    },
    "splats": {
        "splat_prune": "gencompress.pipelines.splat_prune:splat_prune",
    },
}

# domain -> what `gencompress eval`, `export` and `report` call on a finished run: evaluate(run),
# export(run, out, portable), report(run) -> path of the report
ACTIONS: dict[str, dict[str, str]] = {
    "diffusion": {
        "eval": "gencompress.pipelines.actions:evaluate",
        "export": "gencompress.pipelines.finish:export",
        "report": "gencompress.pipelines.actions:report",
    },
    "sam": {
        "eval": "gencompress.pipelines.actions:evaluate",
        "export": "gencompress.pipelines.sam:export",
        "report": "gencompress.pipelines.actions:report",
    },
    "splats": {
        "eval": "gencompress.pipelines.actions:evaluate",
        "export": "gencompress.pipelines.splat_prune:export",
        "report": "gencompress.pipelines.actions:report",
    },
}
