"""How inputs are made from a Case: tokenizer, rows of tokens and weights.

Everything is seeded, and by means that do not change between versions of the packages.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.inputs.prepared import Inputs
from harness.models.family import family

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
IGNORED = -100


def make(case: Case, text: str, inputs: Inputs, without_weights: bool = False) -> None:
    """Write everything that `inputs` names into its folder, which exists and is empty.

    without_weights: but for the weights

    Raises BadInput for a text that is too short for the case's steps, and for a vocabulary that is
    too small for a byte-level tokenizer.
    """
    lines = text.splitlines()
    inputs.model.mkdir()
    tokens = _make_tokenizer(case, lines, inputs.model)
    # Trainers cut their own rows first, one after the other, before those of an aligned case take
    # their place: from as many copies of the text as fill its batches twice, so that no epoch of
    # theirs ends within the steps.
    rows = 2 * case.steps * case.global_batch * case.data.sequence_length
    copies = max(1, math.ceil(rows / len(tokens))) if case.aligned or without_weights else 1
    inputs.text.write_text(text * copies)
    document = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    inputs.json_lines.write_text(document * copies)
    needed = math.ceil(case.steps * case.global_batch / case.data.epochs)
    length = case.data.sequence_length
    if case.aligned:
        starts = (len(tokens) - length) // case.data.stride + 1 if len(tokens) >= length else 0
        available, per_row = starts, case.data.stride
    else:
        # the Trainer's script keeps 5 % of the lines for validation
        available, per_row = int(len(tokens) * 0.95) // length, length
    if available < needed:
        raise BadInput(
            f"case.data.text={case.data.text} gives {available} rows of {length} tokens, but "
            f"{case.steps} steps of {case.global_batch} rows need {needed}: name a text of at "
            f"least {needed * per_row} tokens (this one has {len(tokens)}), or ask for fewer "
            "case.steps, more case.data.epochs, a smaller case.global_batch or a shorter "
            "case.data.sequence_length"
        )
    if case.aligned:
        rows_of_all = _make_rows(case, tokens, needed)
        order = _order(case, needed)
        np.savez(inputs.rows, **{name: array[order] for name, array in rows_of_all.items()})
    _write_config(case, inputs)
    if not without_weights:
        shapes = case.parameter_shapes() | family(case.model.family).constants(case.model)
        weights = {name: _weight(case, name, shape) for name, shape in shapes.items()}
        save_file(weights, inputs.weights, metadata={"format": "pt"})


def _make_tokenizer(case: Case, lines: list[str], directory: Path) -> np.ndarray:
    """Train and save a tokenizer; the tokens of all lines, int64 [tokens]."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # A merge makes the text shorter by a token at least: it has no more of them than bytes. The
    # trainer takes memory for as many as it is asked for.
    most = len(SPECIAL_TOKENS) + len(alphabet) + sum(len(line.encode()) for line in lines)
    trainer = trainers.BpeTrainer(
        vocab_size=min(case.model.vocab_size, most),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    if tokenizer.get_vocab_size() > case.model.vocab_size:
        raise BadInput(
            f"case.model.vocab_size={case.model.vocab_size}: a byte-level tokenizer needs at least "
            f"{tokenizer.get_vocab_size()}"
        )
    saved = json.loads(tokenizer.to_str())
    # As "a b", which every release of tokenizers reads: those before 0.20 know no pairs.
    saved["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in saved["model"]["merges"]
    ]
    (directory / "tokenizer.json").write_text(json.dumps(saved))
    beginning, end, padding = SPECIAL_TOKENS
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": beginning,
        "eos_token": end,
        "pad_token": padding,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": case.model.max_positions,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    encoded = tokenizer.encode_batch(lines)
    return np.concatenate([np.array(e.ids, dtype=np.int64) for e in encoded])


def _make_rows(case: Case, tokens: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Tokens and labels of `count` overlapping rows, in a seeded order, unevenly masked.

    And what else a model is given, under transformers' names: attention_mask, position_ids.
    """
    length = case.data.sequence_length
    generator = np.random.Generator(np.random.PCG64(case.seed))
    starts = np.arange(0, len(tokens) - length + 1, case.data.stride)
    starts = generator.permutation(starts)[:count]
    input_ids = np.stack([tokens[start : start + length] for start in starts])
    labels = input_ids.copy()
    prefixes = (generator.random(count) * case.data.masked_prefix * length).astype(np.int64)
    for row, prefix in enumerate(prefixes):
        labels[row, :prefix] = IGNORED
    if case.data.mask_first:
        labels[:, 0] = IGNORED
    rows = {"input_ids": input_ids, "labels": labels}
    _pack(case, rows)
    _pad(case, rows)
    return rows


def _pack(case: Case, rows: dict[str, np.ndarray]) -> None:
    """Cut each row into documents: their positions, and labels without what is not predicted."""
    data, (count, length) = case.data, rows["labels"].shape
    if data.documents == 1 and not data.prompts:
        return
    generator = np.random.Generator(np.random.PCG64([case.seed, data.documents]))
    positions = np.zeros((count, length), dtype=np.int64)
    for row in range(count):
        # At even places: a document has two tokens at least.
        inner = 2 * generator.choice(np.arange(1, length // 2), data.documents - 1, replace=False)
        bounds = [0, *np.sort(inner), length]
        for start, end in itertools.pairwise(bounds):
            positions[row, start:end] = np.arange(end - start)
            prompt = int(generator.random() * data.prompts * (end - start))
            # Its first token is predicted by nothing, or by another document's last.
            masked = max(prompt, int(data.documents > 1))
            rows["labels"][row, start : start + masked] = IGNORED
    if data.positions:
        rows["position_ids"] = positions


def _pad(case: Case, rows: dict[str, np.ndarray]) -> None:
    """End each row with padding, of another length each."""
    if not case.data.padding:
        return
    count, length = rows["labels"].shape
    generator = np.random.Generator(np.random.PCG64([case.seed, length]))
    mask = np.ones((count, length), dtype=np.int64)
    for row in range(count):
        start = length - int(generator.random() * case.data.padding * length)
        mask[row, start:] = 0
        rows["input_ids"][row, start:] = SPECIAL_TOKENS.index("<pad>")
        rows["labels"][row, start:] = IGNORED
    rows["attention_mask"] = mask


def _order(case: Case, rows: int) -> np.ndarray:
    """Which row comes when, int64 [rows of all steps]: as they are, then anew in each epoch."""
    generator = np.random.Generator(np.random.PCG64([case.seed, case.data.epochs]))
    further = [generator.permutation(rows) for _ in range(case.data.epochs - 1)]
    order: np.ndarray = np.concatenate([np.arange(rows), *further])
    return order[: case.steps * case.global_batch]


def _write_config(case: Case, inputs: Inputs) -> None:
    m, of_family = case.model, family(case.model.family)
    config: dict[str, Any] = {
        **of_family.config(m),
        "initializer_range": 0.02,
        "use_cache": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "torch_dtype": "float32",
    }
    if case.aligned:
        # A config.json is no place for `attn_implementation`: from_pretrained drops it. These two
        # were read back by 4.45.2, 4.48.3, 4.57.6 and 5.24.0; the environment rung checks it.
        config["_attn_implementation"] = m.attention_in_transformers
        config["_attn_implementation_internal"] = m.attention_in_transformers
    (inputs.model / "config.json").write_text(json.dumps(config, indent=1))


def _weight(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A seeded fp32 weight that depends on nothing but the case's seed and its own name."""
    seed = [case.seed, zlib.crc32(name.encode())]
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    value = family(case.model.family).draw(case.model, name, normal)
    return value.astype(np.float32)


def perturb(path: Path, dtype: str) -> None:
    """Move each weight of the file by one unit in the last place of `dtype`, up or down."""
    perturbed = {}
    for name, value in load_file(path).items():
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        bits: np.ndarray = value.view(np.uint32)
        place = 1
        if dtype == "bfloat16":
            # Round to nearest even first: that is the weight that the engines train with.
            bits, place = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16, 0x10000
        # Zero has no neighbour of smaller magnitude: one less than its bits is a NaN.
        up = (generator.random(value.shape) < 0.5) | (bits & 0x7FFFFFFF == 0)
        moved = np.where(up, bits + place, bits - place)
        perturbed[name] = moved.astype(np.uint32).view(np.float32)
    save_file(perturbed, path, metadata={"format": "pt"})
