"""Run the decoder of a transformers Llama with OpenVINO: 1.3 to 3 times as fast as torch on a CPU.

A step reads every weight once, so memory decides its speed. Weights are stored in the narrowest type that holds them
exactly (checkpoints are mostly float16 or bfloat16), or in 8 bits with a scale for a few inputs of an output channel;
sums are computed in float32 or bfloat16. Keys and values are states of the graph, one set for each conversation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.errors import ModelError
from perception_encoder.language_models.reading import PromptReader, PromptState, rotates_alike
from perception_encoder.runtime.machine import check_openvino, float_hint
from perception_encoder.runtime.runtime import Precision

CHUNK = 1024
"""Maximum number of tokens of a prompt that are read at once, which bounds the memory of masks and activations."""
QUANTIZED_TOGETHER, WEIGHTS_TOGETHER = 32, 64
"""Number of inputs of an int8 product, and of weights for one output, that share a scale."""
_ROWS = 64  # of a weight that are rounded at once: they fit the cache
_LOWEST = float(torch.finfo(torch.bfloat16).min)  # of float32, it would become infinite in bfloat16
_HALVES = {torch.bfloat16: "bf16", torch.float16: "f16"}


class OpenVinoLlama(PromptReader):
    """A copy of a Llama's weights, compiled for the CPU; the embeddings of tokens and positions stay the model's."""

    runtime = "openvino"

    def __init__(self, model: Any, precision: Precision) -> None:
        """Convert a model that `fits`; ModelError for weights that are not finite in int8, which would hide them.

        In int8, other values than weights have the type of the model. Raises RuntimeError if the graph is not compiled.
        """
        check_openvino()
        import openvino

        if precision == "int8" and not all(torch.stack(p.aminmax()).isfinite().all() for p in model.parameters()):
            raise ModelError("the language model's weights are bad: they contain NaN or infinity")
        self.model, self.precision = model, precision
        core, graph = openvino.Core(), _Graph(model, precision == "int8")
        half = precision == "bfloat16" if precision != "int8" else model.dtype == torch.bfloat16
        hint = float_hint(half)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "KV_CACHE_PRECISION": hint,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTIZED_TOGETHER if precision == "int8" else 0,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # several processes would share the same cores, and others stay idle
        }
        self.compiled = core.compile_model(graph.build(), "CPU", options)
        self._shared = graph.shared

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether a model is a Llama on a CPU, without biases and RoPE that depends on the text's length."""
        if type(model).__name__ != "LlamaForCausalLM" or model.config.hidden_act != "silu":
            return False
        plain = all(isinstance(map_, nn.Linear) and map_.bias is None for map_ in _linear_maps(model.model.layers[0]))
        return plain and model.device.type == "cpu" and rotates_alike(model)

    def begin(self, padding: Tensor) -> PromptState:
        return _OpenVinoReading(self, padding)


class _OpenVinoReading(PromptState):
    def __init__(self, llama: OpenVinoLlama, padding: Tensor) -> None:
        self.llama, self.padding, self.length = llama, padding[:, None], 0
        self.request = llama.compiled.create_infer_request()

    def copy(self) -> PromptState:
        other = _OpenVinoReading(self.llama, self.padding[:, 0])
        if self.length:
            other.length = self.length
            for mine, its in zip(self.request.query_state(), other.request.query_state(), strict=True):
                its.state = mine.state
        return other

    def add(self, inputs: Tensor) -> Tensor:
        for chunk in inputs.split(CHUNK, dim=1):
            logits = self._add(chunk.float())
        return logits

    def _add(self, inputs: Tensor) -> Tensor:
        self.length += inputs.shape[1]
        columns = torch.arange(self.length)
        rows = columns[-inputs.shape[1] :, None]
        positions = (rows[:, 0] - self.padding).clamp(min=0)  # (B, T)
        cosines, sines = self.llama.model.model.rotary_emb(inputs, positions)
        hidden = (columns > rows) | (columns < self.padding[:, :, None])
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, _LOWEST)  # (B, T, length)
        arrays = [value.numpy() for value in (inputs, cosines[:, None], sines[:, None], mask[:, None])]
        order = np.arange(len(inputs), dtype=np.int32)
        logits = self.request.infer([*arrays, order], share_inputs=True)[0]  # (B, 1, V)
        return torch.from_numpy(logits[:, 0])


class _Graph:
    """A Llama as an OpenVINO graph, in the patterns for which the CPU has fused kernels."""

    def __init__(self, model: Any, int8: bool) -> None:
        from openvino import opset13

        config = model.config
        self.op, self.model, self.int8 = opset13, model, int8
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width, self.eps = config.hidden_size, config.rms_norm_eps
        self.head_width = getattr(config, "head_dim", None) or self.width // self.heads
        self.states: list[Any] = []
        self.shared: list[np.ndarray] = []
        """The memory of its constants, which must outlive it."""

    def build(self) -> Any:
        """Return the graph from embeddings, cosines, sines, mask and the order of rows to logits (B, 1, V)."""
        import openvino
        from openvino import Type

        op = self.op
        x = op.parameter([-1, -1, self.width], Type.f32)
        self.cosines, self.sines = (op.parameter([-1, 1, -1, self.head_width], Type.f32) for _ in range(2))
        self.mask = op.parameter([-1, 1, -1, -1], Type.f32)
        self.order = op.parameter([-1], Type.i32)
        inputs = [x, self.cosines, self.sines, self.mask, self.order]
        batch = op.gather(op.shape_of(x), _ints(0), _int(0))
        empty = op.concat([batch, _ints(self.groups, 0, self.head_width)], 0)
        self.nothing = op.broadcast(_float(0), empty)
        for number, block in enumerate(self.model.model.layers):
            q, k, v, o, gate, up, down = _linear_maps(block)
            normed = self._norm(x, block.input_layernorm)
            q, k, v = self._linears(normed, q, k, v)
            queries = self._turn(self._heads(q, self.heads))
            keys = self._kept(self._turn(self._heads(k, self.groups)), f"keys{number}")
            values = self._kept(self._heads(v, self.groups), f"values{number}")
            mixed = op.scaled_dot_product_attention(queries, self._repeat(keys), self._repeat(values), self.mask)
            joined = op.reshape(op.transpose(mixed, _ints(0, 2, 1, 3)), _ints(0, 0, -1), True)
            x = op.add(x, self._product(joined, o.weight))
            normed = self._norm(x, block.post_attention_layernorm)
            gates, ups = self._linears(normed, gate, up)
            x = op.add(x, self._product(op.multiply(op.swish(gates), ups), down.weight))
        last = op.slice(x, _ints(-1), _ints(np.iinfo(np.int64).max), _ints(1), _ints(1))
        logits = self._product(self._norm(last, self.model.model.norm), self.model.lm_head.weight)
        return openvino.Model([op.result(logits)], self.states, inputs, "llama")

    def _linears(self, x: Any, *layers: nn.Linear) -> list[Any]:
        """Apply several maps to one input; in int8 as one product, which makes a step a tenth faster."""
        if not self.int8:  # where joined weights would be copies
            return [self._product(x, layer.weight) for layer in layers]
        sizes = _ints(*(layer.out_features for layer in layers))
        product = self._product(x, torch.cat([layer.weight for layer in layers]))
        return list(self.op.variadic_split(product, _int(2), sizes).outputs())

    def _product(self, x: Any, weight: Tensor) -> Any:
        return self.op.matmul(x, self._weight(weight.detach()), False, True)

    def _weight(self, weight: Tensor) -> Any:
        """Return a weight (out, in) as float32 values, stored in fewer bits if they fit."""
        op = self.op
        if self.int8:
            rounded, scales = _rounded(weight)
            values = op.multiply(op.convert(self._constant(rounded, "i8"), "f32"), _float(scales.numpy()))
            return op.reshape(values, _ints(*weight.shape), False)
        for dtype in (torch.bfloat16, torch.float16):
            if _is_exact(weight[:8], dtype) and _is_exact(weight, dtype):
                narrow = weight.to(dtype)
                wide = op.convert(self._constant(narrow.view(torch.int16), _HALVES[dtype]), "f32")
                wide.get_rt_info()["decompression_0"] = ""
                return wide
        return self._constant(weight.float(), "f32")

    def _constant(self, values: Tensor, kind: str) -> Any:
        """Return a constant that shares the memory of a tensor of equal width."""
        from openvino import Tensor as Shared
        from openvino import Type

        array = values.contiguous().numpy()
        self.shared.append(array)
        return self.op.constant(Shared(array, list(array.shape), getattr(Type, kind)))

    def _norm(self, x: Any, norm: Any) -> Any:
        op = self.op
        square = op.reduce_mean(op.power(x, _float([[[2]]])), _ints(-1), True)
        scale = op.divide(_float([[[1]]]), op.sqrt(op.add(square, _float([[[self.eps]]]))))
        return op.multiply(_float(norm.weight.detach().float().numpy()[None, None]), op.multiply(x, scale))

    def _heads(self, x: Any, count: int) -> Any:
        """Return (B, T, count · head_width) as (B, count, T, head_width)."""
        split = self.op.reshape(x, _ints(0, 0, count, self.head_width), True)
        return self.op.transpose(split, _ints(0, 2, 1, 3))

    def _turn(self, x: Any) -> Any:
        """Rotate the halves of each head by the positions."""
        op, half = self.op, self.head_width // 2
        first = op.slice(x, _ints(0), _ints(half), _ints(1), _ints(3))
        second = op.slice(x, _ints(half), _ints(np.iinfo(np.int64).max), _ints(1), _ints(3))
        turned = op.concat([op.multiply(second, _float([[[[-1]]]])), first], -1)
        return op.add(op.multiply(x, self.cosines), op.multiply(turned, self.sines))

    def _kept(self, x: Any, name: str) -> Any:
        """Append keys or values (B, groups, T, head_width) to those of earlier tokens."""
        from openvino import PartialShape, Type, opset6

        shape = PartialShape([-1, self.groups, -1, self.head_width])
        past = self.op.gather(opset6.read_value(self.nothing, name, Type.f32, shape), self.order, _int(0))
        whole = self.op.concat([past, x], 2)
        self.states.append(opset6.assign(whole, name))
        return whole

    def _repeat(self, x: Any) -> Any:
        """Repeat keys or values for the heads of their group."""
        if self.heads == self.groups:
            return x
        op, shape = self.op, self.op.shape_of(x)
        start, end = (op.gather(shape, _ints(*at), _int(0)) for at in ((0, 1), (2, 3)))
        target = op.concat([start, _ints(self.heads // self.groups), end], 0)
        copies = op.broadcast(op.unsqueeze(x, _int(2)), target, broadcast_spec="BIDIRECTIONAL")
        return op.reshape(copies, _ints(0, self.heads, -1, self.head_width), True)


def _linear_maps(block: Any) -> tuple[Any, ...]:
    """Return the linear layers of a Llama's block: queries, keys, values, output; gate, up, down."""
    q, k, v, o = (getattr(block.self_attn, f"{name}_proj") for name in "qkvo")
    return q, k, v, o, block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (out, in) in 8 bits (out, in / n, n), and the factor of each n (out, in / n, 1)."""
    count = WEIGHTS_TOGETHER if weight.shape[1] % WEIGHTS_TOGETHER == 0 else weight.shape[1]
    parts = weight.unflatten(1, (-1, count))
    rounded, scales = torch.empty(parts.shape, dtype=torch.int8), torch.empty(*parts.shape[:2], 1)
    for rows, out, scale in zip(parts.split(_ROWS), rounded.split(_ROWS), scales.split(_ROWS), strict=True):
        values = rows.float()
        scale.copy_(values.abs().amax(2, keepdim=True) / 127)
        scale[scale == 0] = 1
        out.copy_((values / scale).round_())
    return rounded, scales


def _is_exact(values: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(values.to(dtype).to(values.dtype), values)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _int(value: int) -> np.ndarray:
    return np.array(value, dtype=np.int64)


def _float(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)
