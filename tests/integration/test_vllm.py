"""vLLM in process, on a small Llama made here and on the model that ships: the same answers as `transformers` gives."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from promptailor.app.backends import resolve_model
from promptailor.app.backends.ranking_chat import READOUTS, Readout
from promptailor.app.settings import Settings
from promptailor.evals.datasets import load_dataset, load_spec
from promptailor.evals.protocol import make_cases
from promptailor.prompts.assemble import assemble
from promptailor.prompts.errors import DataError, InputError, SpecError
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'promptailor[vllm]'")

from promptailor.app.backends.local import LocalChat
from promptailor.app.backends.vllm import VllmChat

pytestmark = pytest.mark.slow

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 768


def labels_to(n: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(1, n + 1))


def prompt(user: str) -> list[BaseMessage]:
    return [SystemMessage("You recommend films."), HumanMessage(f"{user} has seen Film {user}. Rank the candidates.")]


@contextmanager
def loaded(folder: Path, options: str = "") -> Iterator[VllmChat]:
    """Load a model for as little memory as will do; the fraction is of the whole machine's where there is no GPU."""
    settings = "dtype=float32&gpu_memory_utilization=0.1&max_new_tokens=24"
    chat = resolve_model(f"vllm:{folder}?{settings}{options}", Settings())
    assert isinstance(chat, VllmChat)
    with closing(chat):
        yield chat


def reading(chat: VllmChat, readout: Readout) -> VllmChat:
    return chat.model_copy(update={"readout": readout})


def reference(folder: Path, readout: Readout, options: str = "") -> LocalChat:
    chat = resolve_model(f"transformers:{folder}?device=cpu&max_new_tokens=24&readout={readout}{options}", Settings())
    assert isinstance(chat, LocalChat)
    return chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights that reads bytes, so that labels from 10 are two tokens, and writes ASCII."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("byte-llama")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate((*SPECIAL, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>")  # type: ignore[no-untyped-call]
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[2:])})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    written = {vocabulary[token] for token in alphabet if token.isascii()} | {tokenizer.eos_token_id}
    with torch.no_grad():
        model.lm_head.weight[[n for n in range(len(tokenizer)) if n not in written]] = 0.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def chat(folder: Path) -> Iterator[VllmChat]:
    with loaded(folder) as chat:
        yield chat


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def same_log_probs(one: AIMessage, other: AIMessage) -> bool:
    ours, theirs = (answer.response_metadata["label_log_probs"] for answer in (one, other))
    return ours.keys() == theirs.keys() and all(abs(ours[label] - theirs[label]) < 2.5e-4 for label in ours)


def test_first_token_ranks_as_transformers_does(chat: VllmChat, folder: Path) -> None:
    other = reference(folder, "first_token")
    for user in "ABCD":
        ours, theirs = (model.invoke(prompt(user), labels=labels_to(9)) for model in (chat, other))
        assert same_log_probs(ours, theirs)
        assert ours.text == theirs.text
        assert ours.response_metadata["readout"] == "first_token"
        assert ours.usage_metadata is not None
        assert ours.usage_metadata["output_tokens"] == 1


@pytest.mark.parametrize("n_labels", [1, 2, 10, 20, 50])
def test_structured_answers_are_permutations_as_transformers_finds_them(
    chat: VllmChat, folder: Path, n_labels: int
) -> None:
    labels = labels_to(n_labels)
    other = reference(folder, "structured")
    for user in "ABC":
        answer = reading(chat, "structured").invoke(prompt(user), labels=labels)
        assert sorted(answer.text.split("\n")) == sorted(labels)
        assert answer.text == other.invoke(prompt(user), labels=labels).text


def test_labels_of_several_tokens_fall_back_to_a_permutation_and_say_so_once(
    chat: VllmChat, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "promptailor.app.backends.vllm"):
        answers = [chat.invoke(prompt(user), labels=labels_to(12)) for user in "AB"]
    for answer in answers:
        assert sorted(answer.text.split("\n")) == sorted(labels_to(12))
        assert answer.response_metadata["readout"] == "structured"
        assert "label 10" in answer.response_metadata["fallback"]
        assert "label_log_probs" not in answer.response_metadata
    assert [record.message.count("label 10") for record in caplog.records] == [1]


def test_text_is_what_transformers_writes(chat: VllmChat, folder: Path) -> None:
    other = reference(folder, "text")
    texts = [reading(chat, "text").invoke(prompt(user), labels=labels_to(5)).text for user in "ABCD"]
    assert texts == [other.invoke(prompt(user)).text for user in "ABCD"]
    assert len(set(texts)) > 1


def test_stop_and_a_limit_cut_the_answer(chat: VllmChat) -> None:
    whole = chat.invoke(prompt("A")).text
    middle = whole[len(whole) // 2]
    assert chat.invoke(prompt("A"), stop=[middle]).text == whole.split(middle, 1)[0]
    assert chat.invoke(prompt("A"), max_new_tokens=3).text == whole[:3]


@pytest.mark.parametrize("readout", ["text", "structured", "first_token"])
def test_calls_at_once_are_answered_as_alone(chat: VllmChat, readout: Readout) -> None:
    model, users = reading(chat, readout), [str(n) for n in range(24)]
    alone = [model.invoke(prompt(user), labels=labels_to(9)).text for user in users]
    with ThreadPoolExecutor(12) as pool:
        threads = list(pool.map(lambda user: model.invoke(prompt(user), labels=labels_to(9)).text, users))

    async def at_once() -> list[AIMessage]:
        return await asyncio.gather(*(model.ainvoke(prompt(user), labels=labels_to(9)) for user in users))

    assert threads == alone
    assert [answer.text for answer in asyncio.run(at_once())] == alone


def test_a_shared_beginning_is_computed_once(chat: VllmChat) -> None:
    shared = SystemMessage("You recommend films. " * 25)
    first, second = ([shared, HumanMessage(f"Rank for {user}.")] for user in ("Ann", "Bob"))
    reused = [_cached(chat.invoke(messages, labels=labels_to(5))) for messages in (first, second)]
    assert reused[0] == 0
    assert reused[1] >= 128


def _cached(answer: AIMessage) -> int:
    assert answer.usage_metadata is not None
    return answer.usage_metadata["input_token_details"]["cache_read"]


def test_tokens_are_counted_exactly_and_special_tokens_in_messages_are_text(chat: VllmChat) -> None:
    answer = chat.invoke(prompt("A"), labels=labels_to(5))
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == chat.count_tokens(prompt("A"))
    empty, hostile = (chat.count_tokens([HumanMessage(text)]) for text in ("", "<|end|>"))
    assert hostile - empty == len("< |end|>")


def test_a_prompt_that_is_too_long_is_refused_in_one_line_and_the_worker_lives_on(chat: VllmChat) -> None:
    for readout in ("text", "structured", "first_token"):
        with pytest.raises(InputError, match=rf"longer than the model's context of {CONTEXT}; show less history"):
            reading(chat, readout).invoke(prompt("A" * CONTEXT), labels=labels_to(5))
    assert chat.invoke(prompt("A"), labels=labels_to(5)).text


def test_unknown_labels_and_messages_of_tools_are_refused(chat: VllmChat) -> None:
    assert chat.max_candidates == 50
    with pytest.raises(InputError, match="label '51'"):
        chat.invoke(prompt("A"), labels=("1", "51"))
    with pytest.raises(InputError, match="tool"):
        chat.invoke([ToolMessage("b", tool_call_id="1")])


def test_an_adapter_changes_the_answers_as_it_does_in_transformers(folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_alpha=12, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(model, config, low_cpu_mem_usage=False).save_pretrained(str(tmp_path))

    option = f"&adapter={tmp_path}"
    with loaded(folder, option) as chat:
        ranked = chat.invoke(prompt("A"), labels=labels_to(9))
        written = chat.invoke(prompt("A")).text
    assert same_log_probs(ranked, reference(folder, "first_token", option).invoke(prompt("A"), labels=labels_to(9)))
    assert not same_log_probs(ranked, reference(folder, "first_token").invoke(prompt("A"), labels=labels_to(9)))
    assert written == reference(folder, "text", option).invoke(prompt("A")).text
    assert written != reference(folder, "text").invoke(prompt("A")).text


def test_the_model_that_ships_answers_as_embedded_does() -> None:
    settings = Settings()
    if not settings.data:
        pytest.skip("PROMPTAILOR_DATA names no folder of data sets")
    try:
        dataset = load_dataset(load_spec("ml-100k"), settings.data_dir)
    except DataError as error:
        pytest.skip(str(error))
    from promptailor.app.backends.embedded import finished_folder

    catalogue = load_catalogue()
    prompts = [
        assemble(case.request, catalogue.manual_prompt, catalogue, seed=0)
        for case in make_cases(dataset, list(dataset.sequences)[:48], seed=0)
    ]
    shipped = finished_folder("ml-100k", models_dir=settings.models_dir, data_dir=settings.data_dir)

    def answers(chat: VllmChat | LocalChat) -> Sequence[AIMessage]:
        with ThreadPoolExecutor(16) as pool:
            asked = [([SystemMessage(p.system), HumanMessage(p.user)], p.labels) for p in prompts]
            return list(pool.map(lambda call: chat.invoke(call[0], labels=call[1]), asked))

    with loaded(shipped, "&max_new_tokens=256") as vllm:
        for readout in READOUTS:
            embedded = resolve_model(f"embedded:ml-100k?readout={readout}", settings)
            assert isinstance(embedded, LocalChat)
            pairs = list(zip(answers(reading(vllm, readout)), answers(embedded), strict=True))
            assert [ours.text for ours, _ in pairs] == [theirs.text for _, theirs in pairs]
            assert all(same_log_probs(ours, theirs) for ours, theirs in pairs if readout == "first_token")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("FOLDER?temperature=1", "unknown option 'temperature'"),
        ("FOLDER?dtype=int8", "dtype is auto or float32"),
        ("FOLDER?adapter=FOLDER", "adapter_config.json; give the folder of a LoRA adapter"),
        ("FOLDER/nothing", "vLLM cannot load it"),
    ],
)
def test_a_model_string_that_makes_no_sense_is_refused_in_one_line(folder: Path, model: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason) as refused:
        resolve_model(f"vllm:{model.replace('FOLDER', str(folder))}", Settings())
    assert "\n" not in str(refused.value)
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"
