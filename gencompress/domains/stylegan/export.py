"""Write a pruned generator as a folder."""

from __future__ import annotations

from pathlib import Path

from gencompress.core.plan import Plan
from gencompress.domains.stylegan.load import Networks, write_networks
from gencompress.run.atomic import write_dir


def export_networks(networks: Networks, plan: Plan, out: Path | str, *, card: str | None = None) -> Path:
    """Save networks with their plan; the folder appears whole or not at all, and `load_networks` opens it.

    Args:
        networks: the pruned generator, and perhaps the discriminator.
        plan: what was removed, saved as ``plan.json``.
        out: the folder to make.
        card: text of the model card, saved as ``README.md``.

    Raises:
        RunError: `out` is there and not empty, or the disk is full; nothing is left behind.
    """
    out = Path(out)
    with write_dir(out) as folder:
        write_networks(networks, folder)
        (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
    return out
