"""Prepared inputs: reproducible, uneven enough to expose bugs, and never stale or half made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from harness.base.errors import BadInput
from harness.config.case import AS_SHIPPED, Case
from harness.config.compose import load
from harness.inputs import prepared as inputs_module
from harness.inputs import recipe
from harness.inputs.prepared import Inputs, prepare, with_perturbed_weights
from harness.inputs.recipe import IGNORED


@pytest.fixture(scope="module")
def case() -> Case:
    return dataclasses.replace(load([]).case, steps=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def made(case: Case, root: Path) -> Inputs:
    return prepare(case, root)


def arrays(made: Inputs) -> tuple[Any, Any]:
    with np.load(made.rows) as found:
        return found["input_ids"], found["labels"]


def changed(case: Case, **fields: Any) -> Case:
    data = {k.removeprefix("data_"): v for k, v in fields.items() if k.startswith("data_")}
    model = {k.removeprefix("model_"): v for k, v in fields.items() if k.startswith("model_")}
    rest = {k: v for k, v in fields.items() if not k.startswith(("data_", "model_"))}
    return dataclasses.replace(
        case,
        data=dataclasses.replace(case.data, **data),
        model=dataclasses.replace(case.model, **model),
        **rest,
    )


class TestRows:
    def test_as_many_as_the_steps_need(self, case: Case, made: Inputs) -> None:
        tokens, labels = arrays(made)
        assert tokens.shape == labels.shape == (32, 128)
        assert tokens.dtype == labels.dtype == np.int64
        assert tokens.min() >= 0
        assert tokens.max() < case.model.vocab_size

    def test_they_differ(self, made: Inputs) -> None:
        tokens, _ = arrays(made)
        assert len({row.tobytes() for row in tokens}) == 32

    def test_labels_are_the_tokens_or_do_not_count(self, made: Inputs) -> None:
        tokens, labels = arrays(made)
        assert ((labels == tokens) | (labels == IGNORED)).all()
        assert (labels[:, 0] == IGNORED).all()

    def test_rows_count_unevenly(self, made: Inputs) -> None:
        """Equal label counts hide the mean of means under gradient accumulation."""
        _, labels = arrays(made)
        counts = (labels != IGNORED).sum(1)
        assert len(set(counts)) > 16
        assert counts.min() >= 128 * 0.3
        assert len({*counts.reshape(4, 8).sum(1)}) == 4

    def test_what_is_masked_is_a_prefix(self, made: Inputs) -> None:
        _, labels = arrays(made)
        for row in labels:
            first = int((row != IGNORED).argmax())
            assert (row[first:] != IGNORED).all()

    def test_the_first_label_may_count(self, case: Case, root: Path) -> None:
        _, labels = arrays(
            prepare(changed(case, data_mask_first=False, data_masked_prefix=0.0), root)
        )
        assert (labels != IGNORED).all()

    def test_they_are_rows_of_the_text(self, made: Inputs) -> None:
        tokenizer = Tokenizer.from_file(str(made.model / "tokenizer.json"))
        lines = made.text.read_text().splitlines()
        text = [i for e in tokenizer.encode_batch(lines) for i in e.ids]
        starts = {tuple(text[i : i + 128]) for i in range(0, len(text) - 127, 61)}
        tokens, _ = arrays(made)
        assert all(tuple(row) in starts for row in tokens.tolist())


class TestPackedRows:
    """What rows have beside tokens and labels, and which labels count."""

    def rows(self, case: Case, root: Path, **data: Any) -> dict[str, Any]:
        fields = {f"data_{key}": value for key, value in data.items()}
        made = prepare(changed(case, data_masked_prefix=0.0, **fields), root)
        with np.load(made.rows) as found:
            return {name: found[name] for name in found.files}

    def test_padding_is_neither_attended_to_nor_counted(self, case: Case, root: Path) -> None:
        rows = self.rows(case, root, padding=0.3)
        mask = rows["attention_mask"]
        assert (np.diff(mask) <= 0).all(), "at the end"
        assert len(set(mask.sum(-1))) > 10, "of many lengths"
        assert mask.sum(-1).min() >= 0.7 * 128
        assert (rows["input_ids"][mask == 0] == 2).all()
        assert (rows["labels"][mask == 0] == IGNORED).all()
        assert (rows["labels"][:, 1:][mask[:, 1:] == 1] != IGNORED).all()

    def test_positions_begin_anew_in_each_document(self, case: Case, root: Path) -> None:
        rows = self.rows(case, root, documents=3, positions=True)
        positions = rows["position_ids"]
        starts = positions == 0
        assert (starts.sum(-1) == 3).all()
        assert starts[:, 0].all()
        steps = np.diff(positions)
        assert (steps[~starts[:, 1:]] == 1).all()
        assert len({tuple(row) for row in positions}) > 20
        assert (rows["labels"][starts] == IGNORED).all(), "another document does not predict it"
        assert (rows["labels"][~starts] == rows["input_ids"][~starts]).all()

    def test_documents_without_positions_are_one_context(self, case: Case, root: Path) -> None:
        rows = self.rows(case, root, documents=3)
        assert set(rows) == {"input_ids", "labels"}
        assert ((rows["labels"] == IGNORED).sum(-1) == 3).all()

    def test_prompts_do_not_count(self, case: Case, root: Path) -> None:
        rows = self.rows(case, root, documents=2, positions=True, prompts=0.9)
        share = (rows["labels"] == IGNORED).mean(-1)
        assert share.min() > 0.01
        assert share.max() < 0.9
        assert share.std() > 0.05
        one = self.rows(case, root, prompts=0.5)
        assert set(one) == {"input_ids", "labels"}
        assert 0.1 < (one["labels"] == IGNORED).mean() < 0.4

    def test_what_is_new_draws_nothing_of_what_was(
        self, case: Case, made: Inputs, root: Path
    ) -> None:
        padded = prepare(changed(case, data_padding=0.2), root)
        tokens, labels = arrays(made)
        with np.load(padded.rows) as found:
            kept = found["attention_mask"] == 1
            assert (found["input_ids"][kept] == tokens[kept]).all()
            assert (found["labels"][kept] == labels[kept]).all()


class TestWeights:
    def test_shapes_are_the_models(self, case: Case, made: Inputs) -> None:
        weights = load_file(made.weights)
        assert {n: w.shape for n, w in weights.items()} == case.parameter_shapes()
        assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in weights.values())

    def test_they_are_large_enough_to_expose_bugs(self, made: Inputs) -> None:
        """Tiny weights make the first loss ln(vocabulary), whatever the model does."""
        weights = load_file(made.weights)
        assert weights["lm_head.weight"].std() == pytest.approx(0.1, rel=0.05)
        norm = weights["model.norm.weight"]
        assert norm.mean() == pytest.approx(1, abs=0.1)
        assert norm.std() == pytest.approx(0.2, rel=0.5)

    def test_no_two_parameters_are_alike(self, made: Inputs) -> None:
        weights = load_file(made.weights)
        square = [w.reshape(-1)[:64].tobytes() for w in weights.values()]
        assert len(set(square)) == len(square)

    def test_a_weight_depends_on_its_name_and_the_seed_alone(
        self, case: Case, made: Inputs, root: Path
    ) -> None:
        deeper = load_file(prepare(changed(case, model_layers=3), root).weights)
        for name, weight in load_file(made.weights).items():
            assert (deeper[name] == weight).all()
        other = load_file(prepare(changed(case, seed=43), root).weights)
        assert (other["lm_head.weight"] != deeper["lm_head.weight"]).mean() > 0.99

    def test_the_configuration_is_the_cases(self, case: Case, made: Inputs) -> None:
        config = json.loads((made.model / "config.json").read_text())
        assert config["hidden_size"] == case.model.hidden_size
        assert config["rms_norm_eps"] == case.model.rms_norm_eps
        assert config["rope_theta"] == case.model.rope_theta
        assert config["num_key_value_heads"] == 2
        assert config["attention_dropout"] == 0
        assert config["tie_word_embeddings"] is False


class TestDigest:
    def test_the_same_twice_is_made_once(self, case: Case, made: Inputs, root: Path) -> None:
        before = made.rows.stat()
        assert prepare(case, root) == made
        assert made.rows.stat() == before

    def test_made_again_elsewhere_it_is_the_same(
        self, case: Case, made: Inputs, tmp_path: Path
    ) -> None:
        again = prepare(case, tmp_path)
        assert again.digest == made.digest
        for old, new in zip(arrays(made), arrays(again), strict=True):
            assert (old == new).all()
        assert again.weights.read_bytes() == made.weights.read_bytes()
        assert sorted(p.name for p in again.directory.iterdir()) == [
            "files.json", "model", "rows.npz", "text.jsonl", "text.txt",
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["rows.npz", "model/model.safetensors", "files.json"])
    def test_what_was_damaged_is_made_again(
        self, case: Case, made: Inputs, tmp_path: Path, name: str
    ) -> None:
        ours = prepare(case, tmp_path)
        file = ours.directory / name
        for damage in (lambda: file.write_bytes(file.read_bytes()[:50]), file.unlink):
            damage()
            assert prepare(case, tmp_path) == ours
            assert ours.weights.read_bytes() == made.weights.read_bytes()
            for old, new in zip(arrays(made), arrays(ours), strict=True):
                assert (old == new).all()

    @pytest.mark.parametrize(
        "fields",
        [
            {"seed": 43}, {"steps": 5}, {"global_batch": 4}, {"model_init_std": 0.2},
            {"model_norm_std": 0.1}, {"model_layers": 3}, {"data_stride": 60},
            {"data_masked_prefix": 0.5}, {"data_mask_first": False}, {"model_rope_theta": 1e5},
            {"data_sequence_length": 64}, {"model_rms_norm_eps": 1e-6}, {"data_padding": 0.2},
            {"data_documents": 2}, {"data_positions": True}, {"data_prompts": 0.5},
        ],
    )  # fmt: skip
    def test_whatever_changes_them_changes_it(
        self, case: Case, made: Inputs, fields: dict[str, Any]
    ) -> None:
        text = made.text.read_text()
        assert inputs_module._digest(changed(case, **fields), text) != made.digest
        assert inputs_module._digest(case, text) == made.digest

    def test_another_text_changes_it(self, case: Case, made: Inputs) -> None:
        assert inputs_module._digest(case, made.text.read_text() + "x") != made.digest

    @pytest.mark.parametrize("fields", [{"max_norm": 2.0}, {"window": 9}, {"dtype": "bfloat16"}])
    def test_what_does_not_change_them_does_not(
        self, case: Case, made: Inputs, fields: dict[str, Any]
    ) -> None:
        text = made.text.read_text()
        assert inputs_module._digest(changed(case, **fields), text) == made.digest

    def test_what_failed_leaves_nothing(
        self, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("the disk is full")

        monkeypatch.setattr(recipe, "_write_config", fail)
        with pytest.raises(RuntimeError, match="the disk is full"):
            prepare(case, tmp_path)
        assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
        monkeypatch.undo()
        assert prepare(case, tmp_path).weights.is_file()


class TestText:
    def test_too_short(self, case: Case, tmp_path: Path) -> None:
        (tmp_path / "short.txt").write_text("a few words only\n" * 20)
        short = changed(case, data_text=str(tmp_path / "short.txt"))
        with pytest.raises(BadInput, match=r"case\.data\.text=.* need 32: name a text of at least"):
            prepare(short, tmp_path / "inputs")
        assert not any(p.is_dir() for p in (tmp_path / "inputs").iterdir())

    def test_too_many_steps(self, case: Case, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"or ask for fewer case\.steps"):
            prepare(changed(case, steps=100_000), tmp_path)

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
    def test_it_cannot_be_read(self, case: Case, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "text.txt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadInput, match=r"case\.data\.text=.* cannot be read as text"):
            prepare(changed(case, data_text=str(path)), tmp_path / "inputs")

    def test_a_vocabulary_without_all_bytes(self, case: Case, tmp_path: Path) -> None:
        with pytest.raises(
            BadInput, match=r"vocab_size=100: a byte-level tokenizer needs at least"
        ):
            prepare(changed(case, model_vocab_size=100), tmp_path)

    def test_both_trainers_read_the_same_lines(self, made: Inputs) -> None:
        lines = made.text.read_text().splitlines()
        assert all(line.strip() == line and line for line in lines)
        assert [json.loads(x)["text"] for x in made.json_lines.read_text().splitlines()] == lines

    def test_no_epoch_of_the_trainers_own_rows_ends_within_the_steps(
        self, case: Case, tmp_path: Path
    ) -> None:
        """An accumulating Trainer would end a step there after fewer micro-batches."""
        for global_batch in (8, 16, 64):
            more = changed(case, steps=20, global_batch=global_batch, data_stride=8)
            inputs = prepare(more, tmp_path)
            tokens = Tokenizer.from_file(str(inputs.model / "tokenizer.json"))
            lines = inputs.text.read_text().splitlines()
            assert [
                json.loads(x)["text"] for x in inputs.json_lines.read_text().splitlines()
            ] == lines
            found = sum(len(each.ids) for each in tokens.encode_batch(lines))
            assert found >= 2 * 20 * global_batch * more.data.sequence_length

    def test_as_shipped_has_no_rows(self, case: Case, root: Path) -> None:
        made = prepare(dataclasses.replace(case, kind=AS_SHIPPED), root)
        assert not made.rows.exists()
        assert made.text.is_file()

    def test_as_shipped_text_has_to_last_too(self, case: Case, tmp_path: Path) -> None:
        shipped = dataclasses.replace(case, kind=AS_SHIPPED, steps=1000)
        with pytest.raises(BadInput, match="need 8000"):
            prepare(shipped, tmp_path)


class TestWorkspace:
    """One that cannot be written is told by its key, not by a traceback."""

    SAID = r"^{key}={folder}: it cannot be written \(.*Name another folder by {key}=PATH$"

    @pytest.mark.parametrize("key", ["workspace", "output_dir"])
    def test_a_file_or_a_folder_that_cannot_be_made(
        self, case: Case, tmp_path: Path, key: str
    ) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", Path("/proc/none")):
            with pytest.raises(BadInput, match=self.SAID.format(key=key, folder=folder)):
                prepare(case, folder / "inputs", key)

    def test_perturbed_weights(self, tmp_path: Path) -> None:
        inputs = Inputs(tmp_path / "inputs" / "0123")
        (tmp_path / "inputs" / ".0123-ulp-float32.lock").mkdir(parents=True)
        said = self.SAID.format(key="workspace", folder=tmp_path)
        with pytest.raises(BadInput, match=said):
            with_perturbed_weights(inputs, "float32")


class TestOneUnitInTheLastPlace:
    """The perturbed run's weights: moved by the least that can be, all of them, up and down."""

    @pytest.mark.parametrize(("dtype", "place"), [("float32", 1), ("bfloat16", 1 << 16)])
    def test_every_weight_moves_by_one(self, made: Inputs, dtype: str, place: int) -> None:
        moved = with_perturbed_weights(made, dtype)
        assert moved.digest == f"{made.digest}-ulp-{dtype}"
        for name, weight in load_file(made.weights).items():
            other = load_file(moved.weights)[name]
            assert np.isfinite(other).all()
            old, new = (w.view(np.uint32).astype(np.int64) for w in (weight, other))
            if dtype == "bfloat16":
                old = ((old + 0x7FFF + ((old >> 16) & 1)) >> 16) << 16
            steps = (new - old) / place
            assert set(np.unique(steps)) == {-1.0, 1.0}
            assert 0.3 < (steps > 0).mean() < 0.7

    def test_all_else_stays(self, made: Inputs) -> None:
        moved = with_perturbed_weights(made, "float32")
        assert moved.rows.read_bytes() == made.rows.read_bytes()
        assert (moved.model / "config.json").read_bytes() == (
            made.model / "config.json"
        ).read_bytes()

    def test_it_is_made_once(self, made: Inputs) -> None:
        before = with_perturbed_weights(made, "float32").weights.stat()
        assert with_perturbed_weights(made, "float32").weights.stat() == before

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_zero_has_no_smaller_neighbour(self, tmp_path: Path, dtype: str) -> None:
        inputs = Inputs(tmp_path / "made")
        inputs.model.mkdir(parents=True)
        values = np.array([0.0, -0.0] * 64, np.float32)
        save_file({"w": values}, inputs.weights)
        moved = load_file(with_perturbed_weights(inputs, dtype).weights)["w"]
        assert np.isfinite(moved).all()
        assert (moved != 0).all()
        assert np.abs(moved).max() < 1e-37


class TestEpochs:
    def test_a_further_epoch_has_the_same_rows_in_another_order(
        self, case: Case, root: Path
    ) -> None:
        once = arrays(prepare(dataclasses.replace(case, steps=2), root))
        data = dataclasses.replace(case.data, epochs=2)
        tokens, labels = arrays(prepare(dataclasses.replace(case, data=data), root))
        rows = 2 * case.global_batch
        assert len(tokens) == 2 * rows
        for found, before in zip((tokens, labels), once, strict=True):
            assert (found[:rows] == before).all(), "the first is what one epoch would be"
            assert not (found[rows:] == before).all()
        pairs = [[(*t, *n) for t, n in zip(tokens[part], labels[part], strict=True)]
                 for part in (slice(rows), slice(rows, None))]  # fmt: skip
        assert sorted(pairs[0]) == sorted(pairs[1]), "each row with its own labels"

    def test_one_that_does_not_come_out_even(self, case: Case, root: Path) -> None:
        data = dataclasses.replace(case.data, epochs=3)
        uneven = dataclasses.replace(case, data=data)  # 32 rows, so 11 in an epoch
        tokens, _ = arrays(prepare(uneven, root))
        assert len(tokens) == 4 * case.global_batch
        assert len({row.tobytes() for row in tokens}) == 11

    def test_a_text_has_to_last_for_one(self, root: Path) -> None:
        case = load(["case=llama-tiny-epochs"]).case
        prepare(case, root)
        with pytest.raises(BadInput, match=r"more case\.data\.epochs"):
            prepare(dataclasses.replace(case, data=dataclasses.replace(case.data, epochs=1)), root)


def test_a_model_that_is_too_large_for_weights_is_only_traced(tmp_path: Path) -> None:
    large = load(["case=llama-3-8b", "stage=true", "target=v6e:2x2"]).case
    with pytest.raises(BadInput, match=r"8\.03 billion parameters .*stage=true"):
        prepare(large, tmp_path)
    traced = prepare(large, tmp_path, without_weights=True)
    assert traced.rows.is_file()
    # The trainers' own loaders have to fill two batches of 8 rows of 2,048 tokens.
    assert traced.text.stat().st_size > 2 * 8 * 2048
    assert traced.text.read_text().count("\n") == traced.json_lines.read_text().count("\n")
    assert not traced.weights.exists()
