"""How many held-out questions the demo's model answers: `python bench/chat_demo.py runs/smoke`. A minute on a CPU.

The questions are those that the generator's conversations ask with no seed (`sllm.data.embedded.questions.held_out`).
An answer is right if it is the text of the generator's, letter by letter; all is greedy. It is asked for from Python
(`TextGenerator.chat`) and, with `--transformers`, from the exported model as anybody would load it there.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from sllm.data.embedded.questions import Messages, held_out
from sllm.inference.generator import TextGenerator

REPLY_TOKENS = 40

Chat = Callable[[Messages], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a run with a tuned model")
    parser.add_argument("--questions", type=int, default=200, help="of each language")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--wrong", type=int, default=0, help="wrong answers to print, of each language")
    parser.add_argument("--transformers", action="store_true", help="also the exported model in Transformers")
    arguments = parser.parse_args()
    model = arguments.run / "finetune" / "best"
    ways = {"Python": python(model)}
    if arguments.transformers:
        ways["Transformers"] = transformers(model)
    for way, chat in ways.items():
        for language in ("ko", "en"):
            asked = held_out(language, arguments.seed, arguments.questions)
            wrong = [(messages, answer, found) for messages, answer in asked if (found := chat(messages)) != answer]
            right = len(asked) - len(wrong)
            print(f"{way:<12}  {language}  {right}/{len(asked)} right, {right / len(asked):.1%}")
            for messages, answer, found in wrong[: arguments.wrong]:
                print(f"    {messages[-1]['content']}\n      {found}\n      not: {answer}")


def python(model: Path) -> Chat:
    generator = TextGenerator(model)
    return lambda messages: generator.chat(messages, temperature=0, reply_tokens=REPLY_TOKENS)


def transformers(model: Path) -> Chat:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sllm.export.transformers import export

    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "model")
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "model")
        theirs = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()

    def chat(messages: Messages) -> str:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        room = min(REPLY_TOKENS, theirs.config.max_position_embeddings - inputs["input_ids"].shape[1])
        out = theirs.generate(**inputs, max_new_tokens=room, do_sample=False)
        text: str = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    return chat


if __name__ == "__main__":
    main()
