"""One readable recipe per paper. `RECIPES` is the explicit table of all of them."""

from __future__ import annotations

# name -> "module:function", imported only when it is asked for; the function takes the open `gencompress.run.Run`
RECIPES: dict[str, str] = {
    "ecodiff": "gencompress.pipelines.ecodiff:ecodiff",
    "one_shot": "gencompress.pipelines.one_shot:one_shot",
}

# what `gencompress eval`, `export` and `report` call on a finished run: evaluate(run), export(run, out, portable),
# report(run) -> path of the report
ACTIONS: dict[str, str] = {
    "eval": "gencompress.pipelines.actions:evaluate",
    "export": "gencompress.pipelines.actions:export",
    "report": "gencompress.pipelines.actions:report",
}
