"""A CLIP tokenizer from captions: byte-level pair merging (Sennrich et al. 2016) until every word is one token.

Words that were not in the captions fall apart into known pieces and finally bytes, so that no text is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

END = "</w>"
START_TEXT, END_TEXT = "<|startoftext|>", "<|endoftext|>"
WORDS = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_+")  # letters together, digits alone, punctuation together, as CLIP does


def byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2 and CLIP, in their order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(rest)}
    return [letters[b] for b in range(256)]


def learn_merges(captions: list[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair (ties: alphabetical) until every word of the captions is a single token."""
    letters = byte_letters()
    counts = Counter(w for c in captions for w in WORDS.findall(c.lower()))
    words = {w: [letters[b] for b in w.encode()] for w in counts}
    for parts in words.values():
        parts[-1] += END
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        words = {w: _merge(parts, best) for w, parts in words.items()}


def write_tokenizer(captions: list[str], folder: Path, length: int) -> int:
    """Write vocab.json, merges.txt and configs for `CLIPTokenizer.from_pretrained`; returns the vocabulary size."""
    letters = byte_letters()
    merges = learn_merges(captions)
    tokens = [*letters, *(c + END for c in letters), *("".join(m) for m in merges), START_TEXT, END_TEXT]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START_TEXT, "eos_token": END_TEXT, "unk_token": END_TEXT, "pad_token": END_TEXT}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    return len(vocab)


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    at = 0
    while at < len(parts):
        if tuple(parts[at : at + 2]) == pair:
            merged.append("".join(pair))
            at += 2
        else:
            merged.append(parts[at])
            at += 1
    return merged
