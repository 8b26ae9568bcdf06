"""From names to models: what is a SAM, what a pipeline, and which experiment takes which."""

from __future__ import annotations

from pathlib import Path

import pytest

import gencompress
from gencompress.errors import ConfigError, ModelError
from gencompress.hub import is_segmenter, locate, locate_segmenter
from tests.domains.sam.tiny import tiny_sam


def test_load_opens_a_sam_by_its_folder(tmp_path: Path) -> None:
    from transformers import SamModel

    tiny_sam().save_pretrained(tmp_path / "sam")
    model = gencompress.load(str(tmp_path / "sam"))
    assert isinstance(model, SamModel)
    with pytest.raises(ModelError, match="no such folder"):
        gencompress.load(str(tmp_path / "absent"))


def test_one_model_alone_is_no_pipeline(tmp_path: Path) -> None:
    assert is_segmenter("sample:emoji_sam") and not is_segmenter("sample:emoji64_sd") and not is_segmenter("owner/name")
    (tmp_path / "config.json").write_text("{}")
    assert is_segmenter(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    assert not is_segmenter(str(tmp_path))


def test_samples_of_another_kind_name_their_experiment() -> None:
    with pytest.raises(ModelError, match=r"is a SAM: use \+experiment=slimsam_sample"):
        locate("sample:emoji_sam")
    with pytest.raises(ModelError, match=r"is a diffusion pipeline: use \+experiment=ecodiff_sample"):
        locate_segmenter("sample:emoji64_sd")
    with pytest.raises(ModelError, match=r"is a scene: use \+experiment=splat_prune"):
        locate_segmenter("sample:guitar")
    with pytest.raises(ConfigError, match="did you mean 'emoji_sam'"):
        locate_segmenter("sample:emoji_sma")
    with pytest.raises(ModelError, match="no folder here, no hub id"):
        locate_segmenter("nowhere at all")
    assert locate_segmenter("owner/name") == "owner/name"
