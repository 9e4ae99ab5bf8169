"""A causal language model on this machine with LoRA weights (transformers and peft)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError, MissingLibraryError
from ..scoring.prompts import Message
from ..settings import Bounds, Settings
from .labels import padded, prompt_ids

TRAINED, REFERENCE = "default", "reference"


def import_libraries() -> tuple[Any, Any]:
    """Return the modules transformers and peft.

    Raises
    ------
    MissingLibraryError
        If one is not installed.
    """
    try:
        import peft
        import transformers
    except ImportError as error:
        raise MissingLibraryError(
            f"tuning needs transformers and peft, of which one cannot be imported ({error}). Run `pip install "
            "'sllmr-plugin[llm]'`."
        ) from error
    return transformers, peft


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Settings):
    """Low-rank weights beside frozen ones (Hu et al., 2021); the defaults are those of RecLM's authors.

    Parameters
    ----------
    all_linear : bool, default=False
        Beside every linear layer but the output's, and not beside those of attention alone that peft names for the
        architecture (queries and values).
    rank : int, default=8
    alpha : float, default=16
        The low-rank product is multiplied by alpha / rank.
    lora_dropout : float, default=0.1
        Of the product's input, in supervised training; never in policy steps, whose ratios it would disturb.
    """

    all_linear: bool = False
    rank: Annotated[int, Bounds(least=1)] = 8
    alpha: Annotated[float, Bounds(above=0)] = 16.0
    lora_dropout: Annotated[float, Bounds(least=0, below=1)] = 0.1


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How answers are sampled.

    Parameters
    ----------
    max_new_tokens : int, default=256
        Longest answer.
    temperature : float, default=1.0
        1 samples from the model itself, of which the ratios of a policy step speak.
    """

    max_new_tokens: Annotated[int, Bounds(least=1)] = 256
    temperature: Annotated[float, Bounds(above=0)] = 1.0


class LocalModel:
    """A language model and its tokenizer, with LoRA weights that are trained.

    Parameters
    ----------
    network : peft.PeftModel
    tokenizer : transformers tokenizer

    Attributes
    ----------
    network, tokenizer
        As given.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network, self.tokenizer = network, tokenizer

    @classmethod
    def load(
        cls,
        base: str,
        *,
        adapter: str | Path | None = None,
        reference: bool = False,
        lora: LoraSettings | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> LocalModel:
        """Load a model for training.

        Parameters
        ----------
        base : str
            Folder of a model in the form of transformers, a ``.gguf`` file (needs the package gguf; its weights are
            read in full precision), or a name on the Hugging Face hub.
        adapter : path, optional
            Folder with LoRA weights that an earlier tuning has written: training goes on with them.
        reference : bool, default=False
            Keep a frozen copy of the LoRA weights as they are now, for `reference`.
        lora : LoraSettings, optional
            Of new LoRA weights; those of `adapter` keep theirs.
        device : str, default="cpu"
        seed : int, default=0
            Of new weights.

        Raises
        ------
        ConfigError
            If there is no such model or adapter.
        MissingLibraryError
            If transformers or peft is not installed.
        """
        transformers, peft = import_libraries()
        where = {"pretrained_model_name_or_path": base}
        if base.endswith(".gguf"):
            where = {"pretrained_model_name_or_path": str(Path(base).parent), "gguf_file": Path(base).name}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
            network = transformers.AutoModelForCausalLM.from_pretrained(**where)
        except ImportError as error:  # such as gguf
            raise MissingLibraryError(
                f"the model {base} needs a library that cannot be imported ({_first_line(error)}). Install it; a .gguf "
                "file needs `pip install gguf`."
            ) from error
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the model {base} cannot be loaded ({_first_line(error)}). Give the folder of a causal language model "
                "as transformers saves it, a .gguf file, or its name on the hub."
            ) from error
        # Its own way to sample, such as a penalty for repetition, would be another model than the one that is tuned.
        network.generation_config = transformers.GenerationConfig(eos_token_id=network.generation_config.eos_token_id)
        lora = lora or LoraSettings()
        wanted = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.lora_dropout,
            target_modules="all-linear" if lora.all_linear else None,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                network = (
                    peft.get_peft_model(network, wanted)
                    if adapter is None
                    else peft.PeftModel.from_pretrained(network, str(adapter), is_trainable=True)
                )
            except ValueError as error:
                raise ConfigError(f"no LoRA weights fit {base} from {adapter or 'peft'} ({error}). Give others.") from (
                    error
                )
        model = cls(network.to(device).eval(), tokenizer)
        if reference:
            network.add_adapter(REFERENCE, network.peft_config[TRAINED])
            for name, weight in model.trained().items():
                copy = network.get_parameter(name.replace(f".{TRAINED}.", f".{REFERENCE}."))
                copy.data.copy_(weight.data)
            network.set_adapter(TRAINED)
            network.eval()  # the copy's dropout, too
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(self.network.parameters()).device
        return found

    @property
    def fill(self) -> int:
        """The token that pads sequences; masked wherever it does, so any will do."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return int(next(token for token in known if token is not None))

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: the tokenizer's, and those that the model's own settings name.

        Models such as Gemma's end a turn with another token than the end of a sequence.
        """
        named = getattr(self.network.get_base_model().generation_config, "eos_token_id", None)
        found = {self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
        return frozenset(token for token in found if token is not None)

    @property
    def context(self) -> int | None:
        """Most tokens that a question and its answer may have together; None where the model does not say it."""
        found = getattr(self.network.get_base_model().config, "max_position_embeddings", None)
        return None if found is None else int(found)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the LoRA weights that are trained, by name."""
        return {name: weight for name, weight in self.network.named_parameters() if f".{TRAINED}." in name}

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Answer with the frozen copy of the LoRA weights, or without any where there is no copy."""
        if REFERENCE not in self.network.peft_config:
            with self.network.disable_adapter():
                yield
            return
        self.network.set_adapter(REFERENCE, inference_mode=True)
        try:
            yield
        finally:
            self.network.set_adapter(TRAINED)

    def sample(self, messages: Sequence[Message], count: int, settings: SamplingSettings) -> list[list[int]]:
        """Sample answers to one conversation.

        Parameters
        ----------
        messages : sequence of Message
            The last is the user's.
        count : int
            How many answers.
        settings : SamplingSettings

        Returns
        -------
        list of list of int
            Token ids of each answer, with the token of `ends` that it came to, if any.

        Raises
        ------
        DataError
            If the question leaves no room for the answer.
        """
        prompt, ends = prompt_ids(self.tokenizer, messages), self.ends
        if self.context is not None and len(prompt) + settings.max_new_tokens > self.context:
            raise DataError(
                f"a question of {len(prompt)} tokens and an answer of {settings.max_new_tokens} are more than the "
                f"{self.context} that the model can read. Show fewer titles (history_length, titles, neighbours), or "
                "allow shorter answers (max_new_tokens)."
            )
        asked = torch.tensor([prompt], device=self.device)
        with torch.no_grad():
            found = self.network.generate(
                input_ids=asked,
                attention_mask=torch.ones_like(asked),
                do_sample=True,
                temperature=settings.temperature,
                top_k=0,
                top_p=1.0,
                num_return_sequences=count,
                max_new_tokens=settings.max_new_tokens,
                eos_token_id=sorted(ends) or None,
                pad_token_id=self.fill,
            )
        answers = [row[asked.shape[1] :].tolist() for row in found]
        lengths = [next((n for n, token in enumerate(each, 1) if token in ends), len(each)) for each in answers]
        return [answer[:length] for answer, length in zip(answers, lengths, strict=True)]

    def logits(self, rows: Tensor, attended: Tensor, places: Tensor) -> Tensor:
        """Return the logits at some places of sequences: of the next token, (n, len(places), vocabulary).

        Those of a whole question would be most of the memory, for nothing. Architectures that cannot leave them out
        compute all.

        Parameters
        ----------
        rows, attended : Tensor
            (n, longest) token ids and mask, on any device.
        places : Tensor
            (k,) int64, the same of all sequences.
        """
        inputs = {"input_ids": rows.to(self.device), "attention_mask": attended.to(self.device)}
        places = places.to(self.device)
        if "logits_to_keep" in inspect.signature(self.network.get_base_model().forward).parameters:
            found: Tensor = self.network(**inputs, logits_to_keep=places).logits
            return found
        every: Tensor = self.network(**inputs).logits
        return every[:, places]

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer's token ids, without special tokens."""
        return str(self.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()

    def log_probabilities(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each token of answers to one prompt.

        Parameters
        ----------
        prompt : sequence of int
            Token ids.
        answers : sequence of sequence of int
            n answers, the longest of T tokens.

        Returns
        -------
        values : Tensor
            (n, T) float32 or more exact, 0 behind an answer's end.
        mask : Tensor
            (n, T) of the same type, 1 at tokens of an answer.
        """
        rows, attended = padded([[*prompt, *answer] for answer in answers], self.fill)
        logits = self.logits(rows, attended, torch.arange(len(prompt) - 1, rows.shape[1] - 1))  # (n, T, V)
        exact = torch.promote_types(logits.dtype, torch.float32)
        said = rows[:, len(prompt) :, None].to(self.device)
        values = logits.log_softmax(dim=2, dtype=exact).gather(2, said)[:, :, 0]
        mask = attended[:, len(prompt) :].to(self.device, exact)
        return values * mask, mask

    def save(self, folder: str | Path) -> None:
        """Write the trained LoRA weights (safetensors) and the tokenizer into a folder, as peft and vLLM read them."""
        self.network.save_pretrained(str(folder), selected_adapters=[TRAINED])
        self.tokenizer.save_pretrained(str(folder))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
