"""The precision that products of float32 matrices ask for.

`torch_xla.backends.set_mat_mul_precision` sets it for a process. An operation that is lowered
without it computes as the device does where nobody asks: a TPU from one product of bfloat16. In
torch_xla 2.9.0 einsum is such an operation, and torchprime's linear layers are made of einsum
(docs/findings/precision.md). So what a case asks for is carried into einsum as well, and what each
operation asks for is read out of its HLO and recorded, instead of taken from the switch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

DEFAULT = "default"
"""What a product asks for that names no precision."""

ENUM = {"default": 0, "high": 1, "highest": 2}
"""xla::PrecisionConfig::Precision by torch_xla's name (xla/xla_data.proto)."""

Make = Callable[[list[int], torch.dtype], torch.Tensor]
"""Makes a device tensor without data of a shape and dtype."""

OPERATIONS: Mapping[str, Callable[[Make], torch.Tensor]] = {
    "mm": lambda make: torch.mm(_matrix(make), _matrix(make)),
    "addmm": lambda make: torch.addmm(_matrix(make), _matrix(make), _matrix(make)),
    "bmm": lambda make: torch.bmm(_matrix(make, 2), _matrix(make, 2)),
    "baddbmm": lambda make: torch.baddbmm(*(_matrix(make, 2) for _ in range(3))),
    "mv": lambda make: torch.mv(_matrix(make), make([3], torch.float32)),
    "dot": lambda make: torch.dot(*(make([3], torch.float32) for _ in range(2))),
    "einsum": lambda make: torch.einsum("ij,kj->ik", _matrix(make), _matrix(make)),
}
"""Every operation that torch_xla lowers to products of matrices of its operands, on small ones."""


def _matrix(make: Make, *batch: int) -> torch.Tensor:
    return make([*batch, 3, 3], torch.float32)


def asked_by(operation: str) -> str:
    """The precision that an operation asks for in this process, as its HLO says."""
    import torch_xla
    from torch_xla.core.xla_builder import create_placeholder_tensor

    text = torch_xla._XLAC._get_xla_tensors_hlo([OPERATIONS[operation](create_placeholder_tensor)])
    return least_asked(text)


def least_asked(text: str) -> str:
    """The least precision that a product in the text of an HLO module asks for.

    Raises:
        ValueError: there is no product in it, or one that asks for what is not known.
    """
    found: list[str] = []
    for line in text.splitlines():
        if " dot(" in line:
            asked = re.search(r"operand_precision=\{(\w+),(\w+)\}", line)
            found += asked.groups() if asked else [DEFAULT]
    return min(found, key=list(ENUM).index)


class Products:
    """What the products ask for that are traced from now on."""

    def __init__(self) -> None:
        self.before = _traced()

    def asking(self) -> dict[str, str]:
        """By the name of an operation that was traced, such as "aten::mm", its precision."""
        names = [name for name, count in _traced().items() if count > self.before[name]]
        return {f"aten::{name}": asked_by(name) for name in names}


def _traced() -> dict[str, int]:
    """How often each of OPERATIONS was traced in this process, by torch_xla's counters."""
    from torch_xla.debug import metrics

    return {name: metrics.counter_value(f"xla::{name}") or 0 for name in OPERATIONS}


# --- einsum -----------------------------------------------------------------------------------

_library: Any = None  # kernels are registered for as long as it lives
_carried: str | None = None  # the precision that einsum is made to ask for


def carry_into_einsum(precision: str) -> None:
    """Let each einsum of float32 tensors in this process ask for a precision.

    What is lowered in its place is torch_xla's own lowering of the same equation, with the
    precision written into its products. Where torch_xla passes it on by itself, nothing is changed.
    Nor is anything before torch 2.9, which calls no kernel that another takes the place of: einsum
    asks for nothing there, and is observed to. No device is touched: SPMD has to be chosen before.
    """
    global _library, _carried
    if not hasattr(torch.library, "get_kernel"):
        return
    import torch_xla

    _carried = precision
    _library = torch.library.Library("aten", "IMPL")
    own = torch.library.get_kernel("aten::einsum", "XLA")

    def product(equation: str, operands: Sequence[torch.Tensor]) -> torch.Tensor:
        shapes = tuple(tuple(operand.shape) for operand in operands)
        lowered = _asking(own, precision, equation, shapes)
        if lowered is None:
            keys = torch._C.DispatchKeySet(torch._C.DispatchKey.XLA)
            made: torch.Tensor = own.call_boxed(keys, equation, operands)
        else:
            computation, order = lowered
            arguments = [operands[index] for index in order]
            (made,) = torch_xla._XLAC._xla_user_computation("xla::einsum", arguments, computation)
        return made

    class Product(torch.autograd.Function):
        """torch_xla lowers the gradients of an einsum in one piece, which asks for nothing."""

        @staticmethod
        def forward(context: Any, equation: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            context.save_for_backward(x, y)
            context.equation = equation
            return product(equation, (x, y))

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
            x, y = context.saved_tensors
            left, right, result = parts_of(context.equation)
            _, for_x, for_y = context.needs_input_grad
            return (
                None,
                torch.einsum(f"{result},{right}->{left}", gradient, y) if for_x else None,
                torch.einsum(f"{left},{result}->{right}", x, gradient) if for_y else None,
            )

    def kernel(key: str, change: Callable[[str, Sequence[torch.Tensor]], torch.Tensor]) -> None:
        original = torch.library.get_kernel("aten::einsum", key)

        def einsum(keys: Any, equation: str, operands: Sequence[torch.Tensor], path: Any = None):  # type: ignore[no-untyped-def]
            equation = "".join(equation.split())
            if (
                _carried
                and is_one_product(equation)
                and all(x.dtype == torch.float32 for x in operands)
            ):
                return change(equation, operands)
            return original.call_boxed(keys, equation, operands, path=path)

        with warnings.catch_warnings():  # of a kernel that is replaced
            warnings.simplefilter("ignore")
            _library.impl("einsum", einsum, key, with_keyset=True)

    kernel("XLA", product)
    kernel("AutogradXLA", lambda equation, operands: Product.apply(equation, *operands))


def leave_einsum_alone() -> None:
    """Let einsum be lowered by torch_xla as it is again.

    Raises:
        RuntimeError: it is so already.
    """
    global _carried
    if _carried is None:
        raise RuntimeError(
            "no precision is carried into einsum: case.precision asks for none, or torch is older "
            "than 2.9"
        )
    _carried = None


def parts_of(equation: str) -> tuple[str, ...]:
    """The indices of the operands and of the result: ("ij", "kj", "ik") of "ij,kj->ik"."""
    return tuple(re.split(",|->", equation))


def is_one_product(equation: str) -> bool:
    """Whether torch_xla makes one product of an equation; all others it leaves to PyTorch.

    That is so where each index is in two of the two operands and the result
    (`EinsumUtilities::EquationIsValid`, torch_xla/csrc/ops/einsum_utilities.h).
    """
    parts = parts_of(equation)
    return (
        "->" in equation
        and len(parts) == 3
        and all(sum(index in part for part in parts) > 1 for index in set("".join(parts)))
    )


@cache
def _asking(
    own: Any, precision: str, equation: str, shapes: tuple[tuple[int, ...], ...]
) -> tuple[Any, tuple[int, ...]] | None:
    """torch_xla's own computation of an equation, asking for a precision.

    Returns it, and the operand that each of its parameters is; None where it asks for that anyhow.
    """
    import torch_xla
    from torch_xla.core.xla_builder import computation_from_module_proto, create_placeholder_tensor

    operands = [create_placeholder_tensor(list(shape), torch.float32) for shape in shapes]
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.XLA)
    result = own.call_boxed(keys, equation, operands)
    context = torch_xla._XLAC.lowering.LoweringContext("einsum")
    context.build([result])
    module = _hlo_module().FromString(context.hlo())
    instructions = [i for computation in module.computations for i in computation.instructions]
    asked = [ENUM[precision]] * 2
    products = [i.precision_config.operand_precision for i in instructions if i.opcode == "dot"]
    if all(list(precisions) == asked for precisions in products):
        return None
    for precisions in products:
        precisions[:] = asked
    for instruction in instructions:
        instruction.ClearField("metadata")  # of the first call; each has its own
    places = [context.tensor_parameter_id(operand) for operand in operands]
    order = tuple(sorted(range(len(operands)), key=places.__getitem__))
    return computation_from_module_proto("einsum", module.SerializeToString()), order


@cache
def _hlo_module() -> Any:
    """A message of xla.HloModuleProto that knows the fields that are changed, and keeps the rest.

    Field numbers: xla/service/hlo.proto and xla/xla_data.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="parity.proto", package="parity", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED

    def message(name: str, *fields: tuple[str, int, int, str | int]) -> None:
        made = file.message_type.add(name=name)
        for key, number, label, kind in fields:
            if isinstance(kind, str):
                made.field.add(
                    name=key, number=number, label=label, type=field.TYPE_MESSAGE,
                    type_name=f".parity.{kind}",
                )  # fmt: skip
            else:
                made.field.add(name=key, number=number, label=label, type=kind)

    message("PrecisionConfig", ("operand_precision", 1, many, field.TYPE_INT32))
    message("Metadata")
    message(
        "Instruction",
        ("opcode", 2, one, field.TYPE_STRING),
        ("metadata", 7, one, "Metadata"),
        ("precision_config", 51, one, "PrecisionConfig"),
    )
    message("Computation", ("instructions", 2, many, "Instruction"))
    message("Module", ("computations", 3, many, "Computation"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("parity.Module"))
