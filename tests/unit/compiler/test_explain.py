"""The causes of a difference: each test is one way in which a wrong one could be named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from compiled_samples import sample_module, sample_step, texts

from harness.compiler.compiled import GENERATED, CompiledStep, Work, compiled_module
from harness.compiler.explain import BETWEEN, CAUSES_SHOWN, HELD, PRODUCTS, explain
from harness.compiler.origins import module_path
from harness.compiler.slices import Exchange
from harness.record.graph import Collective


def gather(path: str, count: int = 1, shape: str = "f32[16]", size: int = 64) -> Collective:
    return Collective("all-gather", shape, "f32", size, "{{0,1}}", path, count)


def step(*collectives: Collective, work: dict[str, tuple[int, int]] | None = None) -> CompiledStep:
    changes: dict[str, Any] = {"graph": {"collectives": collectives}}
    done = {"lm_head": (100, 1000)} if work is None else work
    changes["work"] = {path: Work(*numbers) for path, numbers in done.items()}
    return sample_step(modules=(sample_module(**changes),))


def test_equal_steps_have_none() -> None:
    assert explain("hf", sample_step(), "torchprime", sample_step()) == ()


def test_a_step_that_is_cut_into_more_modules() -> None:
    """What a trainer reads of a step is computed by a module of its own."""
    one = sample_module()
    reading = dataclasses.replace(one, executions=2)
    found = explain("hf@1", sample_step(modules=(one,)), "hf@2", sample_step(modules=(reading,)))
    assert "hf@1 executes 1 compiled modules a step, hf@2 2" in found


def asking(**asked: int) -> CompiledStep:
    return sample_step(modules=(sample_module(precisions=asked),))


def test_products_that_ask_for_another_precision_explain_the_rest() -> None:
    found = explain("hf", asking(highest=74), "torchprime", asking(default=57, highest=17))
    assert found[0] == (
        "of the float32 matrix products hf's ask for precision highest (74); torchprime's ask for "
        "precision default (57), precision highest (17): a TPU computes them otherwise"
    )


@pytest.mark.parametrize("other", [{"highest": 37}, {"highest": 74}, None], ids=str)
def test_equal_precisions_explain_nothing(other: dict[str, int] | None) -> None:
    """Nor do other numbers of products, nor a step of which they are not known."""
    step = sample_step(modules=(sample_module(precisions=other),))
    assert explain("hf", asking(highest=74), "torchprime", step) == ()


def test_the_precision_is_what_the_trainer_traced() -> None:
    assert sample_module().precisions == {"default": 3}
    files: dict[str, Any] = texts("0.0.52")
    first = "rhs_contracting_dims={0}, "
    asked = f"{first}operand_precision={{highest,highest}}, "
    files["unoptimized"] = files["unoptimized"].replace(first, asked, 1)
    outside: dict[str, Any] = {
        "code": GENERATED,
        "executions": 1,
        "seconds": 1.0,
        "compiler_bytes": 1,
        "devices": 4,
        "slices": 1,
    }
    assert compiled_module(**files, **outside).precisions == {"highest": 1, "default": 2}


def test_a_gather_more_by_its_module() -> None:
    more, less = step(gather("model/lm_head/aten__mm", 2)), step(gather("model/lm_head/aten__mm"))
    for a, b in ((more, less), (less, more)):
        (text,) = explain("a", a, "b", b)
        assert text.startswith("a:" if a is more else "b:")
        assert "model/lm_head" in text
        assert "1 more all-gather of f32[16]" in text


def test_the_same_gather_under_another_name_is_no_difference() -> None:
    a, b = step(gather("x/y/aten__mm")), step(gather("model/y/aten__mm"))
    assert explain("a", a, "b", b) == ()


def exchanging(*paths: str, shape: str = "f32[16]", size: int = 64) -> CompiledStep:
    made = tuple(Exchange("all-reduce", shape, 2, size, path, 1) for path in paths)
    return sample_step(modules=(sample_module(exchanges=made),))


def test_an_exchange_more_between_slices() -> None:
    more, less = exchanging("model/lm_head/aten__mm", "model/norm/aten__mul"), exchanging("model/x")
    for a, b in ((more, less), (less, more)):
        (text,) = explain("a", a, "b", b)
        assert text.startswith("a:" if a is more else "b:")
        assert "1 more all-reduce of f32[16] between slices a step, 64 B" in text
        assert "model/lm_head" in text


def test_an_exchange_of_another_shape() -> None:
    a, b = exchanging("x/aten__mm", size=64), exchanging("x/aten__mm", shape="bf16[16]", size=32)
    assert explain("a", a, "b", b, first=BETWEEN)[0].startswith("a: 1 more all-reduce of f32[16]")


def test_the_same_exchange_under_another_name_is_no_difference() -> None:
    assert explain("a", exchanging("x/aten__mm"), "b", exchanging("y/aten__mm")) == ()


def test_what_slices_exchange_comes_first_where_it_is_asked_for() -> None:
    memory = dataclasses.replace(sample_module().memory, temporaries=10**6)
    a, b = exchanging("x/aten__mm"), sample_step(modules=(sample_module(memory=memory),))
    assert "between slices" in explain("a", a, "b", b, first=BETWEEN)[0]


def test_layers_are_taken_together() -> None:
    a = step(*(gather(f"model/layers/{n}/mlp/aten__mm") for n in range(3)))
    (text,) = explain("a", a, "b", step())
    assert "3 more all-gathers" in text


def test_the_largest_come_first_and_ten_at_most() -> None:
    many = [gather(f"m{n}/aten__mm", shape=f"f32[{n}]", size=4 * n) for n in range(1, 31)]
    found = explain("a", step(*many), "b", step())
    assert len(found) == CAUSES_SHOWN + 1
    assert "f32[30]" in found[0]
    assert f"{30 - CAUSES_SHOWN} smaller" in found[-1]


def test_work_by_module() -> None:
    a = step(work={"model/layers/*/mlp": (300, 10), "lm_head": (1, 10)})
    b = step(work={"model/layers/*/mlp": (100, 10), "lm_head": (1, 10)})
    (text,) = explain("a", a, "b", b)
    assert text.startswith("a: 200 FLOP more")
    assert "model/layers/*/mlp" in text


def test_what_one_side_cuts_finer_is_no_difference() -> None:
    a = step(work={"model/attn": (100, 10), "aten__add (optim/adam.py)": (0, 5)})
    b = step(work={"model/attn/block": (70, 4), "model/attn/q": (30, 6), "aten__add": (0, 5)})
    assert explain("a", a, "b", b) == ()


def test_memory_by_what_it_is_for() -> None:
    memory = dataclasses.replace(sample_module().memory, temporaries=10**6)
    larger = sample_step(modules=(sample_module(memory=memory),))
    (text,) = explain("a", sample_step(), "b", larger)
    assert text.startswith("b:")
    assert "temporaries" in text


def test_the_measure_that_is_asked_for_comes_first() -> None:
    memory = dataclasses.replace(sample_module().memory, temporaries=10**6)
    changes: dict[str, Any] = {"memory": memory, "work": {"lm_head": Work(101, 1000)}}
    a, b = step(), sample_step(modules=(sample_module(**changes),))
    assert "temporaries" in explain("a", a, "b", b)[0]
    assert "temporaries" in explain("a", a, "b", b, first=HELD)[0]
    assert "matrix products" in explain("a", a, "b", b, first=PRODUCTS)[0]


def multiplied(flops: int, traced: int | None) -> CompiledStep:
    module = sample_module(graph={"flops": flops}, traced_flops=traced)
    return sample_step(modules=(module,))


def test_what_the_compiler_executes_again_is_not_what_the_trainer_asked_for() -> None:
    a, b = multiplied(100, traced=400), multiplied(150, traced=400)  # on each of four devices
    for first, second in (("a", a), ("b", b)), (("b", b), ("a", a)):
        (text,) = explain(*first, *second, first=PRODUCTS)
        assert "50 FLOP more of b's" in text
    for traced in (401, None):
        assert explain("a", a, "b", multiplied(150, traced)) == ()
    # One that the compiler could leave out on one side was not executed again on the other.
    assert explain("a", multiplied(50, traced=400), "b", multiplied(100, traced=400)) == ()


def test_kernels() -> None:
    a = sample_step(modules=(sample_module(kernels={"flash": 2}),))
    (text,) = explain("a", a, "b", sample_step())
    assert "flash" in text


@pytest.mark.parametrize(
    ("op_name", "path"),
    [
        ("LlamaForCausalLM/model/layers/3/mlp/up_proj/aten__mm", "model/layers/*/mlp/up_proj"),
        ("backward/model/layers/3/aten__add/aten__add", "backward/model/layers/*"),
        ("model/q_proj/q_proj/einsum_linear_forward/aten__einsum", "model/q_proj"),
        ("LlamaForCausalLM/aten__log_softmax", "aten__log_softmax"),
        ("aten__mul/aten__mul", "aten__mul"),
        ("aten__mm (autograd/graph.py)", "aten__mm (autograd/graph.py)"),
        ("", ""),
    ],
)
def test_the_module_of_an_operation(op_name: str, path: str) -> None:
    assert module_path(op_name) == path
