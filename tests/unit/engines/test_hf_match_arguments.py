"""What the user wrote is trained with or refused; ours is left out only where that is safe."""

from __future__ import annotations

from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.engines.hf.match_arguments import (
    OPTIONAL,
    SYNONYMS,
    Matched,
    command_line,
    match,
    nearest,
)
from harness.engines.hf.script_arguments import Accepted, ScriptArgument


def flag(name: str, default: bool | None = False, nargs: str | int = "?") -> ScriptArgument:
    return ScriptArgument((name,), nargs, flag=True, type="string_to_bool", default=default)


def accepted(*parameters: ScriptArgument) -> Accepted:
    ours = [
        ScriptArgument(("max_steps",), type="int"),
        ScriptArgument(("learning_rate",), type="float"),
        ScriptArgument(("optim",), choices=("adamw_torch", "adafactor")),
        ScriptArgument(("report_to",), nargs="+"),
        ScriptArgument(("fsdp_config",)),
        flag("do_train"),
        flag("pin_memory", default=True),
        *parameters,
    ]
    return Accepted("run_clm.py", {name: p for p in ours for name in p.options})


def line(wanted: dict[str, Any], *parameters: ScriptArgument) -> list[str]:
    script = accepted(*parameters)
    return command_line(match(wanted, script), script)


class TestUnknown:
    def test_the_argument_and_the_nearest_are_named(self) -> None:
        with pytest.raises(BadInput, match=r"args\.max_step: run_clm\.py takes no such.*max_steps"):
            match({"max_step": 3}, accepted())

    def test_also_where_nothing_is_near(self) -> None:
        names = accepted().parameters
        with pytest.raises(BadInput) as error:
            match({"zzzz": 3}, accepted())
        assert any(f"takes is {name}." in str(error.value) for name in names)

    @pytest.mark.parametrize("name", ["flash_attention", "spmd_2d_sharding"])
    def test_the_fork_is_named_for_what_is_the_forks(self, name: str) -> None:
        with pytest.raises(BadInput, match="pytorch-tpu/transformers@flash_attention"):
            match({name: 4}, accepted(), explicit=(name,))

    def test_null_drops_even_what_is_unknown(self) -> None:
        assert match({"max_step": None}, accepted()) == Matched({})


class TestLeftOut:
    @pytest.mark.parametrize("name", OPTIONAL)
    def test_ours_is_and_that_is_said(self, name: str) -> None:
        matched = match({name: True, "max_steps": 3}, accepted())
        assert matched.arguments == {"max_steps": 3}
        assert [note for note in matched.notes if name in note and OPTIONAL[name] in note]

    @pytest.mark.parametrize("name", OPTIONAL)
    def test_the_users_is_not(self, name: str) -> None:
        with pytest.raises(BadInput, match=name):
            match({name: True}, accepted(), explicit=(name,))

    @pytest.mark.parametrize("name", OPTIONAL)
    def test_what_the_script_knows_is_given(self, name: str) -> None:
        assert match({name: True}, accepted(flag(name))) == Matched({name: True})

    def test_what_is_off_is_left_out_silently(self) -> None:
        assert match({"flash_attention": False}, accepted()) == Matched({})
        assert match({"flash_attention": False}, accepted(), ["flash_attention"]) == Matched({})

    def test_nothing_that_changes_the_training_may_be(self) -> None:
        for name in ("max_steps", "fsdp", "torch_dtype", "optim", "max_grad_norm", "seed"):
            assert name not in OPTIONAL


class TestSynonyms:
    @pytest.mark.parametrize("pair", [*SYNONYMS, *(tuple(reversed(s)) for s in SYNONYMS)])
    def test_the_scripts_own_name_is_used(self, pair: tuple[str, str]) -> None:
        requested, known = pair
        matched = match(
            {requested: "no"}, accepted(ScriptArgument((known,))), explicit=(requested,)
        )
        assert matched.arguments == {known: "no"}
        assert known in matched.notes[0]

    def test_the_name_itself_comes_first(self) -> None:
        both = accepted(ScriptArgument(("torch_dtype",)), ScriptArgument(("dtype",)))
        assert match({"torch_dtype": "auto"}, both) == Matched({"torch_dtype": "auto"})

    def test_its_value_is_checked(self) -> None:
        script = accepted(ScriptArgument(("dtype",), choices=("bfloat16", "float32")))
        with pytest.raises(BadInput, match=r"torch_dtype=bfloat1: .*bfloat16"):
            match({"torch_dtype": "bfloat1"}, script)


class TestValues:
    @pytest.mark.parametrize("value", [3, "3"])
    def test_an_integer(self, value: Any) -> None:
        assert line({"max_steps": value}) == ["--max_steps=3"]

    @pytest.mark.parametrize("value", [3.5, "many", True, "", [3]])
    def test_no_integer(self, value: Any) -> None:
        with pytest.raises(BadInput, match="max_steps"):
            match({"max_steps": value}, accepted())

    def test_a_float(self) -> None:
        assert line({"learning_rate": 5e-5}) == ["--learning_rate=5e-05"]

    def test_no_float(self) -> None:
        with pytest.raises(BadInput, match="takes a float for learning_rate"):
            match({"learning_rate": "fast"}, accepted())

    def test_a_choice(self) -> None:
        with pytest.raises(BadInput, match=r"optim=adafactr: .*nearest that it takes is adafactor"):
            match({"optim": "adafactr"}, accepted())

    def test_a_list(self) -> None:
        wanted = {"report_to": ["tensorboard", "wandb"], "max_steps": 3}
        assert line(wanted) == ["--report_to", "tensorboard", "wandb", "--max_steps=3"]

    def test_an_empty_list(self) -> None:
        with pytest.raises(BadInput, match="at least one value for report_to"):
            match({"report_to": []}, accepted())

    def test_a_mapping_is_json(self) -> None:
        assert line({"fsdp_config": {"xla": True}}) == ['--fsdp_config={"xla": true}']

    def test_a_value_is_one_word_whatever_is_in_it(self) -> None:
        assert line({"fsdp_config": "a b'$\"c"}) == ["--fsdp_config=a b'$\"c"]

    @pytest.mark.parametrize("name", ["token", "hub_token"])
    def test_a_token_is_refused_and_not_shown(self, name: str) -> None:
        with pytest.raises(BadInput, match="HF_TOKEN") as error:
            match({name: "hf_abc123"}, accepted(ScriptArgument((name,))))
        assert "abc123" not in str(error.value)


class TestFlags:
    def test_true(self) -> None:
        assert line({"do_train": True}) == ["--do_train"]

    def test_false_is_dropped_where_that_is_the_default(self) -> None:
        assert line({"do_train": False}) == []

    def test_false_is_said_where_it_is_not(self) -> None:
        assert line({"pin_memory": False}) == ["--pin_memory=False"]

    @pytest.mark.parametrize("opposite", ["no_group", "no-group"])
    def test_false_by_the_opposite(self, opposite: str) -> None:
        group = flag("group", default=True, nargs=0)
        assert line({"group": False}, group, flag(opposite, nargs=0)) == [f"--{opposite}"]

    def test_false_that_cannot_be_said(self) -> None:
        with pytest.raises(BadInput, match=r"group=false: .*no way to switch it off"):
            line({"group": False}, flag("group", default=True, nargs=0))

    def test_a_boolean_of_an_argument_that_is_no_flag(self) -> None:
        assert line({"fsdp_config": False}) == ["--fsdp_config=False"]


class TestRequired:
    needed = ScriptArgument(("output_dir", "output-dir"), required=True)

    def test_it_is_named(self) -> None:
        with pytest.raises(BadInput, match=r"wants the argument output_dir"):
            match({}, accepted(self.needed))

    def test_any_of_its_names_will_do(self) -> None:
        assert line({"output-dir": "x"}, self.needed) == ["--output-dir=x"]


def test_nearest() -> None:
    assert nearest("fsdp_confg", ["fsdp", "fsdp_config"]) == "fsdp_config"
