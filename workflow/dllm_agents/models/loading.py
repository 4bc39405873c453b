"""Reading a checkpoint directory: config.json and safetensors in, a network of transformers' names out.

No remote code is run and no pickle is opened. What is wrong with a directory is said in one line that names the file or key.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dllm_agents.errors import StageError
from dllm_agents.models import sentencepiece
from dllm_agents.models.adapters import Adapter
from dllm_agents.models.checkpoints import ADAPTER_CONFIG
from dllm_agents.models.families import Attention, Family, family_of, read_json
from dllm_agents.models.network import Layers
from dllm_agents.models.parameters import DEFAULTS, Network, NetworkConfig, Rotary

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float32}
# One of them is there where a tokenizer is; without any, transformers makes an empty one for some families.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "tekken.json", "vocab.json", "vocab.txt", "spiece.model")
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
# A text, "false" among them, would be taken for true.
FLAGS = ("tie_word_embeddings", "weight_tying", "attention_bias", "mlp_bias", "bias", "use_sliding_window")
# Keys that say nothing of the network, and of which `num_labels` makes transformers build tables of that length.
IGNORED_KEYS = ("num_labels", "id2label", "label2id", "problem_type", "task_specific_params")
# Sizes no published checkpoint comes near; beyond them a config is a mistake, and building it would eat the machine.
LIMITS = {
    "hidden_size": 65536,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 4096,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 27,
}


@dataclass(eq=False)
class Model:
    """A checkpoint ready to be run: the network and what its family says of it.

    `network` holds the weights under transformers' names, `layers` is how this package runs them. `shift` is True where the row at
    position i predicts position i + 1. `mask_id` is None for AR models.
    """

    network: nn.Module = field(repr=False)
    directory: Path
    """Of weights and tokenizer; for adapters their base's."""
    attention: Attention
    strategy: str
    mask_id: int | None
    stop_ids: tuple[int, ...]
    shift: bool
    block_length: int | None
    context_length: int
    config: dict[str, Any] = field(repr=False)

    @property
    def vocab_size(self) -> int:
        return int(self.network.config.vocab_size)  # type: ignore[union-attr,arg-type]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @cached_property
    def layers(self) -> Layers:
        """The network as this package runs it."""
        return Layers(self.network)

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, read on first use. Raises StageError when the directory has none that transformers can read."""
        return read_tokenizer(self.directory)


def read_tokenizer(directory: Path) -> Any:
    """The tokenizer in a checkpoint directory; no code that comes with it is run. Raises StageError when there is none that can be read."""
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise StageError(f"{directory}: no readable tokenizer; copy tokenizer.json, or what stands in its place, into it")
    raw = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    if str(raw.get("model_type")).lower() == "panguembedded" and not (directory / "tokenizer.json").is_file():
        family, end = family_of(raw), raw.get("eos_token_id")
        return sentencepiece.converted(directory, family.mask_id, end if isinstance(end, int) else next(iter(family.stop_ids), None))
    # One written here is what its tokenizer.json says; to look up its class, transformers would import that of the model.
    plain = "dllm" in raw and _tokenizer_config(directory).get("tokenizer_class") == "TokenizersBackend"
    try:
        reader = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
        return reader.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizer file is foreign data, and every reader fails in its own way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StageError(f"{directory}: no readable tokenizer ({reason})") from None


def load(
    directory: str | Path, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None, trainable: bool = False
) -> Model:
    """The checkpoint in `directory`, in evaluation mode; its network one of transformers' own where it is `trainable`.

    `dtype` is float32 or bfloat16 (default: the one the config names, else float32), `device` a torch device (default: cpu). Raises
    StageError with one line when the directory has no weights, a file is truncated, a key is missing, unknown or of the wrong
    shape, or the config makes no sense.
    """
    directory = Path(directory)
    raw = read_json(directory / "config.json")
    try:
        family = family_of(raw)
        values = _network_values(family, raw)
        config = _network_config(family.architecture, values)
    except StageError as error:
        raise StageError(f"{directory / 'config.json'}: {error}") from None
    adapter = Adapter(directory) if (directory / ADAPTER_CONFIG).is_file() else None
    weights = directory if adapter is None else adapter.base
    names = _weight_names(weights, family)
    make = partial(_trainable, family.architecture, values) if trainable else partial(Network, config)
    network = _build(weights, family, config.num_hidden_layers, make, names)
    _fill(weights, network, names, _dtype(dtype, raw), torch.device(device or "cpu"))
    mask_id, stop_ids = _special_ids(directory, family, raw, config.vocab_size)
    if adapter is not None:
        adapter.merge(network, mask_id)
    return Model(
        network=network,
        directory=weights,
        attention=family.attention,
        strategy=family.strategy,
        mask_id=mask_id,
        stop_ids=stop_ids,
        shift=family.logit_shift or family.attention == "causal",
        block_length=_block_length(family, raw),
        context_length=int(config.max_position_embeddings),
        config=raw,
    )


def load_model(directory: Path, dtype: str | None) -> Model:
    """The checkpoint in `directory`, on the first GPU where there is one, and there by default in bfloat16. Raises StageError as `load`
    does."""
    if not torch.cuda.is_available():
        return load(directory, dtype, "cpu")
    if dtype != "float32" and not torch.cuda.is_bf16_supported():
        print("dllm-agents: this GPU has no bfloat16; the model runs in float32", file=sys.stderr, flush=True)
        dtype = "float32"
    return load(directory, dtype or "bfloat16", "cuda")


def _dtype(dtype: str | torch.dtype | None, raw: dict[str, Any]) -> torch.dtype:
    text = raw.get("text_config", {}) if isinstance(raw.get("text_config"), dict) else {}
    name = str(dtype or raw.get("dtype") or raw.get("torch_dtype") or text.get("dtype") or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise StageError(f"dtype {name!r}: choose float32 or bfloat16")
    return DTYPES[name]


def _network_values(family: Family, raw: dict[str, Any]) -> dict[str, Any]:
    """The keys of a config.json as transformers has them. Raises StageError naming the first that makes no sense."""
    for key in FLAGS:
        if raw.get(key) not in (True, False, None):
            raise StageError(f"{key} is {raw[key]!r}; it must be true or false")
    values = family.configure(raw)
    for key in ("rms_norm_eps", "rope_theta"):
        value = values.get(key, 1)
        elsewhere = value is None and key == "rope_theta"  # in rope_parameters
        if not elsewhere and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise StageError(f"{key} is {value!r}; it must be a number above 0")
    for key in ("auto_map", "architectures", "quantization_config", "model_type", "dllm"):
        if key == "quantization_config" and values.get(key):
            raise StageError("quantization_config: quantised checkpoints are not read; take the bf16 one")
        values.pop(key, None)
    for key in IGNORED_KEYS:
        values.pop(key, None)
    for key, most in LIMITS.items():
        value = values.get(key)
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most):
            raise StageError(f"{key} is {value!r}; it must be a whole number from 1 to {most}")
    _block_length(family, raw)
    return values


def _network_config(architecture: str, values: dict[str, Any]) -> NetworkConfig:
    """What the values say of the network. Raises StageError where they make no sense, or say what is not computed here."""
    try:
        config = NetworkConfig(**{**deepcopy(DEFAULTS[architecture]), **values, "architecture": architecture})
    except Exception as error:  # transformers validates with many exception types
        reason = " ".join(str(error).split()).rpartition("Error: ")[2]
        raise StageError(f"not a {architecture} config ({reason[:300]})") from None
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or 1
    if heads % kv_heads:
        raise StageError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    # Llama does not read these keys, and Qwen has a switch beside them.
    windowed = architecture == "Ministral3" or (architecture != "Llama" and values.get("use_sliding_window"))
    window = windowed and values.get("sliding_window", 4096 if values.get("use_sliding_window") else None)
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []) or window:
        raise StageError("sliding-window attention is not supported")
    if config.hidden_act not in ("silu", "swish"):
        raise StageError(f"hidden_act {config.hidden_act!r} is not supported; models whose activation is silu are")
    kind = (config.rope_parameters or {}).get("rope_type")
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise StageError(
            f"rope_type {kind!r} is not supported; default, linear, llama3 and yarn are, which turn keys by their positions alone"
        )
    return config


def _trainable(architecture: str, values: dict[str, Any]) -> nn.Module:
    """An empty network of transformers' own."""
    config = getattr(transformers, f"{architecture}Config")(**values)
    return getattr(transformers, f"{architecture}ForCausalLM")(config)  # type: ignore[no-any-return]


def _block_length(family: Family, raw: dict[str, Any]) -> int | None:
    """Tokens per block: SDAR names it block_size, Fast-dLLM v2 bd_size."""
    if family.attention not in ("block_causal", "context_causal"):
        return None
    key = next((key for key in ("block_size", "bd_size") if key in raw), "dllm.block_length")
    value = raw.get(key, family.block_length)
    if not isinstance(value, int) or not 1 <= value <= 65536:
        raise StageError(f"{key} is {value!r}; it must be a whole number from 1 to 65536")
    return value


@dataclass(frozen=True)
class _Stored:
    file: Path
    key: str
    shape: tuple[int, ...]


def _weight_names(directory: Path, family: Family) -> dict[str, _Stored]:
    """Our parameter name -> where it is stored, over all shards."""
    names: dict[str, _Stored] = {}
    for file in _shards(directory):
        try:
            with safe_open(file, framework="pt") as weights:
                for key in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                    name = family.rename(key)
                    if name is not None and not name.endswith("rotary_emb.inv_freq"):
                        if name in names:
                            raise StageError(f"{file}: {key} stands in {names[name].file.name} too; remove the file that is not meant")
                        names[name] = _Stored(file, key, tuple(weights.get_slice(key).get_shape()))
        except (SafetensorError, OSError) as error:
            raise StageError(f"{file}: truncated or not safetensors ({error}); copy the checkpoint again") from None
    return names


def _shards(directory: Path) -> list[Path]:
    """The files that hold the weights: what the index names, model.safetensors, or else all there are. What lies beside them is ignored,
    as transformers does."""
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise StageError(f"{index}: weight_map is missing; copy the checkpoint again")
        files = [directory / Path(name).name for name in sorted(set(shards.values()))]
    else:
        files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if files and all(file.name.startswith("adapter_") for file in files):
        raise StageError(f"{directory}: holds an adapter, not a checkpoint; merge it into its base model first")
    if not files:
        pickled = any(directory.glob("*.bin")) or any(directory.glob("*.pt"))
        hint = "pickled weights are not opened, convert them to safetensors" if pickled else "copy *.safetensors beside config.json"
        raise StageError(f"{directory}: no weights; {hint}")
    for file in files:
        if len(file.name) > 255 or not file.is_file():
            raise StageError(f"{directory / file.name[:255]}: missing shard, named in {index.name}; copy the checkpoint again")
    return files


def _build(directory: Path, family: Family, expected: int, make: Callable[[], Any], names: dict[str, _Stored]) -> nn.Module:
    """An empty network whose parameters are those of the checkpoint, no more, no less, in name and shape."""
    layers = 1 + max((int(match[1]) for name in names if (match := re.match(r"model\.layers\.(\d{1,6})\.", name))), default=-1)
    if layers != expected:
        raise StageError(f"{directory}: the weights have {layers} layers, config.json says {expected}")
    with torch.device("meta"):
        network = make()
    config = network.config
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if config.tie_word_embeddings:
        config.tie_word_embeddings = _tied(directory, family, names)
    if config.tie_word_embeddings:
        shapes.pop(HEAD, None)
    _complain(directory, "missing keys", [_stored_name(family, name, names) for name in shapes if name not in names])
    _complain(directory, "unknown keys", [stored.key for name, stored in names.items() if name not in shapes])
    for name, shape in shapes.items():
        if names[name].shape != shape:
            raise StageError(
                f"{names[name].file}: {names[name].key} has shape {list(names[name].shape)}, config.json makes it {list(shape)}"
            )
    return network  # type: ignore[no-any-return]


def _tied(directory: Path, family: Family, names: dict[str, _Stored]) -> bool:
    """Whether head and embeddings are one, where the config says so: not when the checkpoint has two that differ (as transformers has it).

    LLaDA's own code takes the config's word. `names` loses what is not loaded.
    """
    if HEAD not in names or EMBEDDINGS not in names:
        if HEAD in names:
            names[EMBEDDINGS] = names.pop(HEAD)
        return True
    if not family.keeps_stored_head or _equal(directory, names[HEAD], names[EMBEDDINGS]):
        del names[HEAD]
        return True
    return False


def _equal(directory: Path, first: _Stored, second: _Stored) -> bool:
    try:
        with safe_open(first.file, framework="pt") as ones, safe_open(second.file, framework="pt") as others:
            return torch.equal(ones.get_tensor(first.key), others.get_tensor(second.key))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise StageError(f"{directory}: weights cannot be read ({' '.join(str(error).split())[:200]})") from None


def _stored_name(family: Family, name: str, names: dict[str, _Stored]) -> str:
    """A missing parameter under the name the checkpoint's own layout gives it, where a sibling layer shows that name."""
    pattern = re.sub(r"layers\.\d+\.", "layers.N.", name)
    for other, stored in names.items():
        if re.sub(r"layers\.\d+\.", "layers.N.", other) == pattern:
            number = re.search(r"layers\.(\d+)\.", name)
            return re.sub(r"\.(\d+)\.", f".{number[1]}.", stored.key, count=1) if number else stored.key
    return name


def _complain(directory: Path, what: str, keys: Iterable[str]) -> None:
    listed = list(keys)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise StageError(f"{directory}: {what} {', '.join(listed[:3])}{more}; the weights do not fit config.json")


def _fill(directory: Path, network: nn.Module, names: dict[str, _Stored], dtype: torch.dtype, device: torch.device) -> None:
    state: dict[str, Tensor] = {}
    try:
        for file in {stored.file for stored in names.values()}:
            with safe_open(file, framework="pt", device=str(device)) as weights:
                for name, stored in names.items():
                    if stored.file == file:
                        state[name] = weights.get_tensor(stored.key).to(dtype)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise StageError(f"{directory}: weights cannot be read ({' '.join(str(error).split())[:200]})") from None
    network.load_state_dict(state, strict=False, assign=True)
    config: Any = network.config
    if config.tie_word_embeddings:
        network.lm_head.weight = network.model.embed_tokens.weight  # type: ignore[union-attr]
    # The rotary frequencies are no parameters: computed here from the config, on the real device.
    rotary: Any = Rotary if isinstance(network, Network) else type(network.model.rotary_emb)  # type: ignore[union-attr]
    try:
        network.model.rotary_emb = rotary(config).to(device)  # type: ignore[union-attr]
    except Exception as error:  # a table of factors of another length, and whatever else stands in the config
        raise StageError(f"{directory / 'config.json'}: rope settings make no sense ({' '.join(str(error).split())[:200]})") from None
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.eval()


def _special_ids(directory: Path, family: Family, raw: dict[str, Any], vocab_size: int) -> tuple[int | None, tuple[int, ...]]:
    """Mask and stop ids: the checkpoint's files first, then the table; stop ids are the table's, those of generation_config.json or else of
    config.json, and the tokenizer's end token. Ids outside the vocabulary are dropped."""
    mask_id = raw.get("mask_token_id")
    if not isinstance(mask_id, int):
        mask_id = family.mask_id
    if family.attention == "causal" or mask_id is None or not 0 <= mask_id < vocab_size:
        mask_id = None
    generation = directory / "generation_config.json"
    text: dict[str, Any] = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw
    named = read_json(generation).get("eos_token_id") if generation.exists() else None
    named = named if named is not None else text.get("eos_token_id")
    ids: list[Any] = [*family.stop_ids, *(named if isinstance(named, list) else [named]), _tokenizer_end(directory)]
    return mask_id, tuple(dict.fromkeys(i for i in ids if type(i) is int and 0 <= i < vocab_size))


def _tokenizer_end(directory: Path) -> int | None:
    """The id of the end token that the tokenizer's files name."""
    config = _tokenizer_config(directory)
    named = config.get("eos_token")
    text = named.get("content") if isinstance(named, dict) else named
    if not isinstance(text, str):
        return None
    decoder = config.get("added_tokens_decoder")
    added = [(key, entry) for key, entry in decoder.items() if isinstance(entry, dict)] if isinstance(decoder, dict) else []
    if not added and (directory / "tokenizer.json").is_file():
        listed = read_json(directory / "tokenizer.json").get("added_tokens")
        added = [(entry.get("id"), entry) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return next((int(key) for key, entry in added if entry.get("content") == text and str(key).isdecimal()), None)


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}
