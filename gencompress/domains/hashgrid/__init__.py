"""Radiance fields on hash grids (Instant-NGP, arXiv 2201.05989), hollowed out by a saliency grid (HollowNeRF).

    from gencompress.domains.hashgrid import FieldSettings, HashField, TrainSettings, read_views, train
    views = read_views("lego/transforms_train.json", background=(1.0, 1.0, 1.0))
    scene, losses = train(views, FieldSettings(), TrainSettings(keep=0.04), NullContext())

Names are imported on first use.
"""

from __future__ import annotations

from gencompress.lazy import attach

_WHERE = {
    **dict.fromkeys(("FieldSettings", "HashField"), "field"),
    **dict.fromkeys(("load_scene", "save_scene"), "files"),
    **dict.fromkeys(("Scene", "render_image", "render_rays"), "render"),
    **dict.fromkeys(("Views", "read_views"), "views"),
    **dict.fromkeys(("TrainSettings", "train"), "training"),
}

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
