"""Causal language modelling with the Hugging Face Trainer of an installed transformers.

Takes the arguments of `examples/pytorch/language-modeling/run_clm.py`, which the packages of
transformers do not contain: model, tokenizer and text by name or path, and every argument of
TrainingArguments. It trains; it does not evaluate or push.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import transformers
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclass
class ModelArguments:
    """Which model and tokenizer."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "weights to start from"})
    config_name: str | None = field(default=None, metadata={"help": "configuration of a new model"})
    tokenizer_name: str | None = field(default=None, metadata={"help": "tokenizer, if another"})
    torch_dtype: str | None = field(default=None, metadata={"help": "dtype of the weights"})
    cache_dir: str | None = field(default=None, metadata={"help": "cache of downloads"})
    low_cpu_mem_usage: bool = field(default=False, metadata={"help": "do not initialise twice"})


@dataclass
class DataArguments:
    """Which text, and how it is cut into rows."""

    dataset_name: str | None = field(default=None, metadata={"help": "data set on the hub"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "its configuration"})
    train_file: str | None = field(
        default=None, metadata={"help": "text or JSON lines to train on"}
    )
    block_size: int | None = field(default=None, metadata={"help": "tokens in a row"})
    validation_split_percentage: int = field(default=5, metadata={"help": "kept from training"})
    overwrite_cache: bool = field(default=False, metadata={"help": "tokenize anew"})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "processes"})
    keep_linebreaks: bool = field(default=True, metadata={"help": "keep the ends of lines"})


@dataclass
class PatchArguments:
    """What is worked around, so that one can see beyond a defect that stops training."""

    patch_fsdp_xla: bool = field(
        default=False, metadata={"help": "known defects of FSDPv2 on XLA; see docs/gate.md"}
    )


class PatchedTrainer(Trainer):
    """A Trainer that gets by without what the XLA path lost in transformers 5.3.

    There the creation of the optimizer is put off until the model is wrapped, and then left out.
    """

    optimizer: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the optimizer where the Trainer has not done so."""
        if self.optimizer is None:
            self.create_optimizer()
            self.optimizer = self.accelerator.prepare(self.optimizer)
        return super().create_scheduler(num_training_steps, optimizer)


def build_model(model: ModelArguments) -> Any:
    """The model that was asked for: pretrained weights, or a new one from a configuration.

    Raises SystemExit with a sentence where the arguments name neither.
    """
    # The keyword was renamed in transformers 4.56; the old one warns there and is gone later.
    new = "dtype" in inspect.signature(transformers.PreTrainedModel._from_config).parameters
    keyword = "dtype" if new or transformers.__version__ >= "5" else "torch_dtype"
    dtype = (
        {}
        if model.torch_dtype in (None, "auto")
        else {keyword: getattr(torch, str(model.torch_dtype))}
    )
    if model.model_name_or_path:
        return AutoModelForCausalLM.from_pretrained(
            model.model_name_or_path, cache_dir=model.cache_dir, **dtype
        )
    if not model.config_name:
        raise SystemExit("hf_clm.py: name a --model_name_or_path or a --config_name")
    config = AutoConfig.from_pretrained(model.config_name, cache_dir=model.cache_dir)
    return AutoModelForCausalLM.from_config(config, **dtype)


def build_rows(data: DataArguments, tokenizer: Any, cache_dir: str | None) -> Any:
    """The training rows: the text, tokenized, joined, and cut into blocks of equal length."""
    if data.train_file:
        kind = "text" if data.train_file.endswith(".txt") else "json"
        lines = {"keep_linebreaks": data.keep_linebreaks} if kind == "text" else {}
        split = f"train[{data.validation_split_percentage}%:]"
        raw = load_dataset(
            kind, data_files={"train": data.train_file}, split=split, cache_dir=cache_dir, **lines
        )
    elif data.dataset_name:
        raw = load_dataset(
            data.dataset_name, data.dataset_config_name, split="train", cache_dir=cache_dir
        )
    else:
        raise SystemExit("hf_clm.py: name a --train_file or a --dataset_name")
    column = "text" if "text" in raw.column_names else raw.column_names[0]
    length = min(data.block_size or 1024, tokenizer.model_max_length)

    def tokenize(samples: dict[str, Any]) -> Any:
        return tokenizer(samples[column])

    def cut(samples: dict[str, Any]) -> dict[str, Any]:
        joined = {key: list(chain(*values)) for key, values in samples.items()}
        total = len(joined["input_ids"]) // length * length
        blocks = {
            key: [values[i : i + length] for i in range(0, total, length)]
            for key, values in joined.items()
        }
        return {**blocks, "labels": [list(block) for block in blocks["input_ids"]]}

    options: dict[str, Any] = {
        "batched": True,
        "num_proc": data.preprocessing_num_workers,
        "load_from_cache_file": not data.overwrite_cache,
    }
    return raw.map(tokenize, remove_columns=raw.column_names, **options).map(cut, **options)


def main() -> None:
    """Train as the command line says."""
    parser = HfArgumentParser((ModelArguments, DataArguments, PatchArguments, TrainingArguments))
    model_arguments, data_arguments, patches, training = parser.parse_args_into_dataclasses()
    if patches.patch_fsdp_xla:
        # Up to transformers 4.45 TrainingArguments sets it for XLA too, and accelerate then looks
        # for a configuration of torch's own FSDP.
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(
        model_arguments.tokenizer_name
        or model_arguments.model_name_or_path
        or model_arguments.config_name
    )
    model = build_model(model_arguments)
    with training.main_process_first(desc="tokenizing"):
        rows = build_rows(data_arguments, tokenizer, model_arguments.cache_dir)
    trainer = (PatchedTrainer if patches.patch_fsdp_xla else Trainer)(
        model=model, args=training, train_dataset=rows, data_collator=default_data_collator
    )
    result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.log_metrics("train", result.metrics)


if __name__ == "__main__":
    main()
