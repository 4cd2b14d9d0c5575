"""Models of the transformers library: built from a configuration with random weights, or read from a local folder.

Nothing is downloaded and no code of a checkpoint is run; weights are read from safetensors (or GGUF) files alone.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import BadReferenceError, unknown_name
from isometry.nn._options import read_options
from isometry.tape import Inputs, as_inputs

__all__ = [
    "PREFIX",
    "default_data",
    "is_foreign",
    "is_pretrained",
    "named_inputs",
    "positions_reference",
    "tokenizer_of",
    "transformers_model",
]

PREFIX = "transformers:"
_REFERENCE = "isometry_reference"  # holds the reference that a model was made from
_READ = "isometry_read_weights"  # marks a model whose weights were read here
_LOADED = "_is_hf_initialized"  # how the transformers library marks a parameter that it has read from a checkpoint
# The head of a model, by the word in a reference: the library's class, and the table of configurations that it knows.
_HEADS = {
    "causal-lm": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING"),
    "masked-lm": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING"),
    "image-classification": ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING"),
    "sequence-classification": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"),
    "none": ("AutoModel", "MODEL_MAPPING"),
}


def transformers_model(reference: str, *, in_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the model that a reference names.

    Args:
        reference: ``transformers:NAME`` for an architecture with random weights (``gpt2``, ``bert``, ``llama``,
            ``resnet``, ``convnext``, ``vit``, ...), or ``transformers:FOLDER`` for a saved model; then, after commas,
            ``head=...`` (causal-lm, masked-lm, image-classification, sequence-classification, none) and, for an
            architecture, any field of its configuration (``n_layer=2``); for a folder ``gguf_file=NAME``. Sizes that
            the data decide (vocabulary, labels, image size, channels) are taken from them unless they are given.
        in_shape: Shape of one input, without the batch.
        classes: Number of outputs.

    Returns:
        The model, in evaluation mode if it was read from a folder.

    Raises:
        BadReferenceError: If the library is not installed, or the reference names nothing that it knows.
    """
    library = _library()
    target, *parts = reference.removeprefix(PREFIX).split(",")
    options = read_options(parts, reference)
    head = options.pop("head", None)
    if head is not None and head not in _HEADS:
        raise BadReferenceError(f"MODEL {reference!r}: {unknown_name('head', head, _HEADS)}")
    if not target.strip():  # as a path it would be the current folder
        raise BadReferenceError(
            f"MODEL {reference!r} names no model; write transformers:gpt2, say, or transformers:FOLDER."
        )
    folder = Path(target).expanduser()
    try:
        if folder.is_dir():
            return _noted(_read(library, folder, head, options), reference)
        if "/" in target or target in (".", ".."):
            raise BadReferenceError(
                f"MODEL {reference!r}: there is no folder {target!r} (nothing is downloaded); save the model there "
                "with save_pretrained, or name an architecture, such as transformers:gpt2."
            )
        return _noted(_random(library, target, head, options, in_shape, classes), reference)
    except BadReferenceError:
        raise
    except Exception as error:
        damaged = _damaged(folder) if type(error).__name__ == "SafetensorError" else None
        if damaged is not None:
            raise BadReferenceError(
                f"MODEL {reference!r}: {str(damaged)!r} is damaged ({error}); copy or save the weights again."
            ) from error
        raise BadReferenceError(f"MODEL {reference!r}: {type(error).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Give an error's first line, with the next ones where it ends at a colon and leaves the reason to them.

    Returns:
        One line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = next((i for i, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    return " ".join(lines[: last + 1]) or "no message"


def _damaged(folder: Path) -> Path | None:
    """Find the file of weights that cannot be opened, whose name the library does not tell.

    Returns:
        The first one; None if all can.
    """
    safetensors = importlib.import_module("safetensors")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safetensors.safe_open(path, framework="pt"):
                pass
        except safetensors.SafetensorError:
            return path
    return None


def _noted(model: nn.Module, reference: str) -> nn.Module:
    setattr(model, _REFERENCE, reference)
    return model


def positions_reference(model: nn.Module) -> str | None:
    """Spell the reference of the same model with an output at each position, as labels at each position need it.

    Args:
        model: A model that ``transformers_model`` made.

    Returns:
        The reference; None where the model was made otherwise, or its architecture has no such head.
    """
    reference = getattr(model, _REFERENCE, None)
    if reference is None:
        return None
    library = _library()
    tables, config = library.models.auto.modeling_auto, type(model.config)
    masked = config in tables.MODEL_FOR_MASKED_LM_MAPPING and _is_encoder(library, config)
    if not masked and config not in tables.MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    parts = [part for part in str(reference).split(",") if part.partition("=")[0].strip() != "head"]
    return ",".join([*parts, "head=masked-lm" if masked else "head=causal-lm"])


def _library() -> Any:
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise BadReferenceError(
            "MODEL transformers:... needs the transformers library, which is not installed; pip install isometry[hf]."
        ) from error
    library.logging.set_verbosity_error()
    return library


def _read(library: Any, folder: Path, head: str | None, options: dict[str, Any]) -> nn.Module:
    gguf = {"gguf_file": str(options.pop("gguf_file"))} if "gguf_file" in options else {}
    if options:
        raise BadReferenceError(
            f"MODEL {PREFIX}{folder}: {next(iter(options))!r} cannot be set for a saved model; only head and gguf_file."
        )
    local = {"local_files_only": True, "trust_remote_code": False, **gguf}
    config = library.AutoConfig.from_pretrained(str(folder), **local)
    word = head or _saved_head(library, config)
    safe = {} if gguf else {"use_safetensors": True}
    made = _auto(library, word).from_pretrained(str(folder), config=config, dtype=torch.float32, **local, **safe)
    setattr(made, _READ, True)  # copies keep it, saved states do not have it
    return _quiet(made).eval()


def _saved_head(library: Any, config: Any) -> str:
    saved = (getattr(config, "architectures", None) or [None])[0]
    if saved is None:  # GGUF files do not say
        return _fitting_head(library, type(config), images=False)
    for ending, word in (
        ("ForCausalLM", "causal-lm"),
        ("LMHeadModel", "causal-lm"),
        ("ForMaskedLM", "masked-lm"),
        ("ForImageClassification", "image-classification"),
        ("ForSequenceClassification", "sequence-classification"),
    ):
        if saved.endswith(ending):
            return word
    return "none"


def _random(
    library: Any, name: str, head: str | None, options: dict[str, Any], in_shape: tuple[int, ...], classes: int
) -> nn.Module:
    known = sorted(library.models.auto.configuration_auto.CONFIG_MAPPING.keys())
    if name not in known:
        raise BadReferenceError(f"MODEL {PREFIX}{name}: {unknown_name('architecture', name, known)}")
    blank = library.AutoConfig.for_model(name)
    word = head or _fitting_head(library, type(blank), images=len(in_shape) == 3)
    strangers = [key for key in options if not hasattr(blank, key)]
    if strangers:
        fields = [k for k in blank.to_dict() if not k.startswith("_")]
        raise BadReferenceError(f"MODEL {PREFIX}{name}: {unknown_name('configuration field', strangers[0], fields)}")
    if getattr(blank, "is_encoder_decoder", False) and word != "causal-lm":
        raise BadReferenceError(
            f"MODEL {PREFIX}{name} has an encoder and a decoder, each with an input of its own, which data of one "
            "input cannot feed; build it in a file (path/to/file.py:build) and give data with both, {'input_ids': ..., "
            "'decoder_input_ids': ...}."
        )
    wanted = {**_from_data(blank, word, in_shape, classes), **options}
    return _quiet(_auto(library, word).from_config(library.AutoConfig.for_model(name, **wanted)))


def _fitting_head(library: Any, config: type, *, images: bool) -> str:
    order = ("image-classification",) if images else ("causal-lm", "sequence-classification", "masked-lm")
    for word in order:
        table = getattr(library.models.auto.modeling_auto, _HEADS[word][1])
        # Encoders are in the table of causal models too, as decoders that nobody trains.
        if config in table and not (word == "causal-lm" and _is_encoder(library, config)):
            return word
    return "none"


def _is_encoder(library: Any, config: type) -> bool:
    tables = library.models.auto.modeling_auto
    return config in tables.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config(), "is_encoder_decoder", False)


def _from_data(blank: Any, head: str, in_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if len(in_shape) == 3:
        found |= {"num_channels": in_shape[0], "image_size": in_shape[1]}
    if head.endswith("-lm"):
        found["vocab_size"] = classes
        found |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # they number other tokens
    elif head.endswith("classification"):
        found["num_labels"] = classes
    return {k: v for k, v in found.items() if hasattr(blank, k)}


def _auto(library: Any, word: str) -> Any:
    return getattr(library, _HEADS[word][0])


def _quiet(model: nn.Module) -> nn.Module:
    config: Any = model.config
    if hasattr(config, "use_cache"):
        config.use_cache = False  # keys and values of past tokens are of no use to a measurement
    return model


def default_data(reference: str) -> str:
    """Name the data set that suits a reference, where the user names none.

    Args:
        reference: A MODEL reference of any kind.

    Returns:
        "shakespeare" for models of the transformers library that read tokens, "digits" otherwise.

    Raises:
        BadReferenceError: If the library is not installed or does not know the architecture.
    """
    if not reference.startswith(PREFIX):
        return "digits"
    library, target = _library(), reference.removeprefix(PREFIX).partition(",")[0]
    folder = Path(target).expanduser()
    if target.strip() and folder.is_dir():
        gguf = read_options(reference.partition(",")[2].split(","), reference) if "gguf_file=" in reference else {}
        if gguf:
            return "shakespeare"
        kind = type(library.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False))
    else:
        mapping = library.models.auto.configuration_auto.CONFIG_MAPPING
        if target not in mapping:
            return "digits"  # the reference itself will be refused
        kind = mapping[target]
    images = library.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return "digits" if kind in images else "shakespeare"


def is_foreign(model: object) -> bool:
    """Tell whether a model is one of the transformers library's, without importing it.

    Returns:
        Whether one of its classes is defined there.
    """
    return any(kind.__module__.partition(".")[0] == "transformers" for kind in type(model).__mro__)


def is_pretrained(model: nn.Module) -> bool:
    """Tell a model whose weights, or some of them, were read from a checkpoint of the transformers library.

    What other code has loaded (``load_state_dict``) cannot be told from what was drawn, and counts as drawn.

    Args:
        model: Any module, also one that has such a model inside.

    Returns:
        Whether weights were read. A model that was built from a saved configuration alone has random ones.
    """
    marked = any(getattr(module, _READ, False) is True for module in model.modules())
    return marked or any(getattr(parameter, _LOADED, False) is True for parameter in model.parameters())


def named_inputs(model: nn.Module, x: Tensor | Inputs | Mapping[str, Any]) -> Inputs:
    """Give a model of the transformers library its inputs by name, with positions and segments spelt out.

    Such a model makes the numbers of positions itself where it is not given any, once for the whole batch; then no
    sample has a share of its own in their embedding. Spelling them out changes no value.

    Args:
        model: The model; any other one gets its inputs as they are.
        x: The batch.

    Returns:
        The inputs.
    """
    inputs = as_inputs(x)
    if not is_foreign(model) or inputs.whole:
        return inputs
    names = list(inspect.signature(model.forward).parameters)
    kwargs = {**dict(zip(names, inputs.args, strict=False)), **inputs.kwargs}
    tokens = kwargs.get("input_ids")
    if isinstance(tokens, Tensor) and tokens.ndim == 2 and not tokens.is_floating_point():
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        mask = kwargs.get("attention_mask")
        if "position_ids" in names and (mask is None or bool((mask[:, 0] == 1).all())):  # padded behind, if at all
            kwargs.setdefault("position_ids", positions)
        if "token_type_ids" in names and getattr(model.config, "type_vocab_size", None):  # their default there is zero
            kwargs.setdefault("token_type_ids", torch.zeros_like(tokens))
    return Inputs(kwargs=kwargs, output=inputs.output, mask=inputs.mask, class_dim=inputs.class_dim)


def tokenizer_of(reference: str) -> tuple[Callable[[str], Sequence[int]], int] | None:
    """Find the tokenizer that lies beside a saved model.

    Args:
        reference: ``transformers:FOLDER``, with options.

    Returns:
        The tokenizer, which turns text into token numbers without special ones, and the size of its vocabulary; None
        where the reference names no folder, or the folder holds no tokenizer.
    """
    target, *parts = reference.removeprefix(PREFIX).split(",")
    folder = Path(target).expanduser()
    if not reference.startswith(PREFIX) or not folder.is_dir():
        return None
    options = read_options(parts, reference)
    gguf = {"gguf_file": str(options["gguf_file"])} if "gguf_file" in options else {}
    if not gguf and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    library = _library()
    tokenizer = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **gguf)
    return (lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]), len(tokenizer)
